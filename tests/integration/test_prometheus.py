"""A real Prometheus scrapes a running server and answers questions about it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from streamer.metrics import DropReason, Metrics
from streamer.web import LiveView, WebOptions, WebServer
from tests.fakes_web import FakeState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "correct-horse-battery"  # noqa: S105 - a test's own
CONFIG = """
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: streamer
    authorization:
      credentials: {token}
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus absent (Debian: apt install prometheus)"
)


@pytest.fixture
def metrics() -> Iterator[tuple[Metrics, int]]:
    """The metrics of a running server, and its port."""
    metrics = Metrics(CollectorRegistry())
    options = WebOptions(bind="127.0.0.1:0", token=TOKEN)
    live = LiveView(clock=time, metrics=metrics, pictures="omit")
    server = WebServer(
        options=options,
        state=FakeState(registry=metrics.registry),
        live=live,
        metrics=metrics,
        clock=time,
    )
    server.start()
    yield metrics, int(server.url.rstrip("/").rpartition(":")[2])
    assert server.stop(5.0)


@pytest.fixture
def prometheus(metrics: tuple[Metrics, int], tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus that scrapes that server every second."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "prometheus.yml").write_text(CONFIG.format(token=TOKEN, port=metrics[1]))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(20) == 0, (tmp_path / "log").read_text()


def answer(prometheus: str, query: str) -> list[dict[str, Any]]:
    """Ask until there is a result, at most thirty seconds."""
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - our own address
                result: list[dict[str, Any]] = json.load(reply)["data"]["result"]
        except urllib.error.URLError:
            result = []
        if result:
            return result
        time.sleep(0.2)
    return []


def test_prometheus_scrapes_and_answers(metrics: tuple[Metrics, int], prometheus: str) -> None:
    """Counters, gauges, quantiles of the latency and drops by reason can be asked for."""
    lobby = metrics[0].camera("lobby")
    lobby.captured.inc(250)
    lobby.dropped[DropReason.SUPERSEDED].inc(150)
    lobby.up.set(1)
    for latency_s in (0.04,) * 95 + (0.16,) * 5:
        metrics[0].event_latency_seconds.observe(latency_s)
    (up,) = answer(prometheus, 'up{job="streamer"} == 1')
    assert up["value"][1] == "1"
    (captured,) = answer(prometheus, "streamer_frames_captured_total == 250")
    assert captured["metric"]["camera"] == "lobby"
    (dropped,) = answer(prometheus, "sum by (reason) (streamer_frames_dropped_total) > 0")
    assert (dropped["metric"], dropped["value"][1]) == ({"reason": "superseded"}, "150")
    # 95 of 100 events are within the bucket that ends at 50 ms, all within the one at 175 ms.
    within = 'streamer_event_latency_seconds_bucket{le="0.15"} == 95'
    assert answer(prometheus, within)
    resident = answer(prometheus, 'process_resident_memory_bytes{job="streamer"}')
    assert float(resident[0]["value"][1]) > 1 << 20
