"""What Prometheus is told to scrape, by the function and by a fleet that runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import pytest

from streamer.fleet.discovery import CONTENT_TYPE, FLEET_JOB, Target, body
from tests.daemon import free_port, wait_for

TOKEN = "correct-horse-battery"  # noqa: S105 - a test's own


def test_labels_have_names_that_prometheus_takes_and_no_metric_has() -> None:
    """The fleet comes first with its own job, then the nodes by name; labels get a prefix."""
    told = json.loads(
        body(
            [
                Target(node="b", address="192.0.2.2:20002"),
                Target(node="a", address="[2001:db8::1]:20002", labels={"a.b/rack-no": "7"}),
            ],
            fleet="192.0.2.1:9108",
        )
    )
    assert told == [
        {"targets": ["192.0.2.1:9108"], "labels": {"job": FLEET_JOB}},
        {
            "targets": ["[2001:db8::1]:20002"],
            "labels": {"node": "a", "node_a_b_rack_no": "7"},
        },
        {"targets": ["192.0.2.2:20002"], "labels": {"node": "b"}},
    ]


def test_a_fleet_names_itself_as_it_was_asked_for(tmp_path: Path) -> None:
    """Bound to every address, it tells the one at which Prometheus has just reached it."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'emotion-streamer[fleet]'")
    token, http = tmp_path / "token", free_port()
    token.write_text(TOKEN)
    token.chmod(0o600)
    config = tmp_path / "fleet.toml"
    with tempfile.TemporaryDirectory(prefix="fleet-") as place:  # a socket needs a short path
        config.write_text(
            '[[cameras]]\nname = "lobby"\nurl = "rtsp://127.0.0.1:9/none"\n'
            f'[publish]\nbind = "tcp://127.0.0.1:{free_port()}"\n'
            f'snapshot = "tcp://127.0.0.1:{free_port()}"\n'
            f'[http]\nbind = "0.0.0.0:{http}"\nallow_remote = true\ntoken = "{token}"\n'
            f'[fleet]\nfolder = "{place}"\nlink = "tcp://127.0.0.1:{free_port()}"\n'
            'address = "127.0.0.1:1"\n'  # no cluster there, which it says and goes on
        )
        config.chmod(0o600)
        words = ["-m", "streamer", "fleet", "run", "--config", str(config)]
        with (
            (tmp_path / "log").open("wb") as log,
            subprocess.Popen([sys.executable, *words], stdout=log, stderr=log) as process,
        ):
            try:
                wait_for((Path(place) / "control").exists, 60, "the fleet's socket")
                asked = urllib.request.Request(f"http://localhost:{http}/discovery")
                asked.add_header("Authorization", f"Bearer {TOKEN}")
                with urllib.request.urlopen(asked, timeout=10) as reply:  # noqa: S310 - our own
                    assert reply.headers["content-type"] == CONTENT_TYPE
                    told = json.load(reply)
            finally:
                process.terminate()
            assert process.wait(30) == 0, (tmp_path / "log").read_text()
    assert told == [{"targets": [f"localhost:{http}"], "labels": {"job": FLEET_JOB}}]
