"""A fleet on a real Ray cluster of several nodes: what becomes of its cameras when things break."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.daemon import wait_for
from tests.fleet.cluster import Cluster
from tests.fleet.running import Fleet
from tests.fleet.witness import Seen, overlaps, seen, untold

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pytest.importorskip("ray", reason="needs Ray: pip install 'emotion-streamer[fleet]'")


def measured(name: str, fleet: Fleet, begun_s: float) -> float:
    """Wait for a reading of every camera, and tell how long there was none of one."""
    now_s = time.time()
    fleet.wait_readings(now_s)
    silence_s = fleet.silence_s(begun_s - 5, time.time())
    print(f"{name}: {silence_s:.1f} s without a reading, {now_s - begun_s:.1f} s in all")  # noqa: T201 - pytest -s
    return silence_s


def check(events: list[Seen]) -> None:
    """No camera was read by two daemons, each takeover was told, and nothing was missed."""
    assert overlaps(events) == []
    assert untold(events) == set()
    assert sum(event.missing for event in events) == 0


def test_cameras_survive_their_nodes_and_none_is_read_twice(shared: Path, tmp_path: Path) -> None:
    """One node drained, one killed, one added: the events tell."""
    with Cluster(tmp_path) as cluster:
        cluster.start_head()
        for name in "abc":
            cluster.start(name, site=name)
        with Fleet(tmp_path, cluster.address, shared / "models") as fleet:
            fleet.wait_running(a=4, b=4, c=4)
            fleet.wait_readings(time.time())

            begun_s = time.time()
            fleet.type("drain", "b")
            fleet.wait_running(a=6, c=6)
            drained_s = measured("drained", fleet, begun_s)

            daemon = cluster.daemon("c")
            assert daemon is not None
            begun_s = time.time()
            cluster.kill("c", but=daemon)
            wait_for(lambda: not daemon.is_running(), 5, "the end of the daemon of a killed node")
            fleet.wait_running(a=12)
            killed_s = measured("killed", fleet, begun_s)

            begun_s = time.time()
            cluster.start("d")
            fleet.wait_running(a=6, d=6)
            measured("added", fleet, begun_s)
            wait_for(lambda: not untold(seen(fleet.seen)), 10, "camera.online of every takeover")

            command = [sys.executable, "-m", "streamer", "fleet", "stop"]
            subprocess.run([*command, "--config", fleet.config], check=True)
            assert fleet.process is not None
            assert fleet.process.wait(20) == 0
            wait_for(lambda: cluster.daemon("a") is None, 10, "the end of a daemon")
            check(seen(fleet.seen))
    # under 13 s at a load of 26 on two cores; the rest is for what nobody can foresee
    assert max(drained_s, killed_s) < 40


def test_cameras_go_on_while_the_head_is_away(shared: Path, tmp_path: Path) -> None:
    """It is killed, away for longer than a lease, and back with what it knew."""
    with Cluster(tmp_path) as cluster:
        cluster.start_head()
        cluster.start("a")
        with Fleet(tmp_path, cluster.address, shared / "models") as fleet:
            fleet.wait_running(a=12)
            fleet.wait_readings(time.time())
            daemon = cluster.daemon("a")

            begun_s = time.time()
            cluster.kill("head")
            time.sleep(8)
            assert fleet.running() == Counter(a=12)
            fleet.wait_readings(time.time())
            cluster.start_head()
            wait_for(
                lambda: fleet.type("status")["cluster"] == "1 nodes in the cluster",
                120,
                "the cluster again",
            )
            assert fleet.running() == Counter(a=12)
            measured("head", fleet, begun_s)
            assert cluster.daemon("a") == daemon
            check(seen(fleet.seen))
