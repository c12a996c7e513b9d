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
from tests.fleet.witness import overlaps, seen

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pytest.importorskip("ray", reason="needs Ray: pip install 'emotion-streamer[fleet]'")


def test_cameras_survive_nodes_and_the_head_and_none_is_read_twice(
    shared: Path, tmp_path: Path
) -> None:
    """One node drained, one killed, one added, the head killed and back: the events tell."""
    told: dict[str, float] = {}

    def step(name: str, fleet: Fleet, begun_s: float) -> None:
        now_s = time.time()
        fleet.wait_readings(now_s)
        told[name] = round(fleet.silence_s(begun_s - 5, time.time()), 1)
        took_s = round(now_s - begun_s, 1)
        print(f"{name}: {told[name]} s without a reading, done in {took_s} s")  # noqa: T201 - pytest -s

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
            step("drained", fleet, begun_s)

            daemon = cluster.daemon("c")
            assert daemon is not None
            begun_s = time.time()
            cluster.kill("c", but=daemon)
            wait_for(lambda: not daemon.is_running(), 5, "the end of the daemon of a killed node")
            fleet.wait_running(a=12)
            step("killed", fleet, begun_s)

            begun_s = time.time()
            cluster.start("d")
            fleet.wait_running(a=6, d=6)
            step("added", fleet, begun_s)

            begun_s = time.time()
            cluster.kill("head")
            time.sleep(8)  # longer than a lease: the nodes go on without the head
            assert fleet.running() == Counter(a=6, d=6)
            cluster.start_head()
            wait_for(lambda: "nodes in" in fleet.type("status")["cluster"], 90, "the cluster again")
            fleet.wait_running(a=6, d=6)
            step("head", fleet, begun_s)

            subprocess.run(
                [sys.executable, "-m", "streamer", "fleet", "stop", "--config", fleet.config],
                check=True,
            )
            assert fleet.process is not None
            assert fleet.process.wait(15) == 0
            wait_for(lambda: cluster.daemon("a") is None, 10, "the end of a daemon")
            events = seen(fleet.seen)
    assert overlaps(events) == []
    assert sum(event.missing for event in events) == 0
    assert max(told.values()) < 40  # on a quiet machine it is under 15, see the README
