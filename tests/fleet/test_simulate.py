"""The simulated day: its books balance, and it says what a change of its figures has to change."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from streamer.fleet.forecast import Report, Span, Times, Unrest
from streamer.fleet.simulate import simulate

CALM = Unrest(failures=0, switches=0, crashes=0, drains=0, joins=0, cameras=0)


def day(unrest: Unrest, *, cameras: int = 60, times: Times | None = None) -> Report:
    """Return six hours of a small fleet: 7 nodes that carry 148, of which 5 have to do."""
    return simulate(cameras=cameras, nodes=7, hours=6, times=times, unrest=unrest)


def test_a_day_on_which_nothing_happens_has_nothing_to_tell() -> None:
    """Cameras are placed once, none moves, all are analysed all the time."""
    report = day(CALM)
    assert (report.placements, report.moves, report.takeovers) == (1, {}, 0)
    assert (report.analysed, report.dark_s) == (1.0, {})


def test_the_seed_decides_everything_but_the_speed() -> None:
    """Anybody gets the same table, and another seed gives another day."""
    unrest = Unrest(failures=40)
    first, again = (
        msgspec.structs.replace(day(unrest), placement_s=Span(0, 0, 0)) for _ in range(2)
    )
    assert first == again
    other = simulate(cameras=60, nodes=7, hours=6, seed=1, unrest=unrest)
    assert other.dark_s != first.dark_s


def test_a_takeover_takes_the_lease_and_the_start_and_no_more() -> None:
    """Each is within the bounds that the times set, by hand, and is in the books as dark time."""
    times = Times(reload=0.1)
    report = day(msgspec.structs.replace(CALM, failures=20), times=times)
    assert report.events == {"nodes failed": 5}
    assert report.takeovers > 20
    # 7 s less up to a beat, a reload of 0.1 s a camera on a node that has 28 at most, a picture
    assert 6 < report.takeover_s.p50 <= report.takeover_s.most < 7 + 2.8 + 2
    assert report.takeovers_in_time == 1
    lost_s = report.dark_s["node lost"]
    assert report.takeovers * 6 < lost_s < report.takeovers * (7 + 2.8 + 2)
    assert report.analysed == pytest.approx(
        1 - sum(report.dark_s.values()) / (60 * 6 * 3600), rel=1e-9
    )


def test_a_daemon_that_ends_moves_nobody() -> None:
    """Its cameras come back where they were, after its start."""
    report = day(msgspec.structs.replace(CALM, crashes=20))
    assert report.events == {"daemons ended": 5}
    assert (report.moves, report.takeovers) == ({}, 0)
    assert set(report.dark_s) == {"daemon ended"}


def test_a_fleet_without_room_says_who_waits() -> None:
    """With more cameras than all carry, the rest waits from the first second to the last."""
    report = day(CALM, cameras=160)
    assert report.capacity == 148
    assert report.waiting_most >= 12
    assert report.dark_s == {"waiting": report.waiting_most * 6 * 3600.0}


def test_a_report_is_json() -> None:
    """What is written can be read again, with every figure it was made with."""
    report = day(msgspec.structs.replace(CALM, drains=8, cameras=8))
    text = msgspec.json.encode(report)
    assert msgspec.json.decode(text, type=Report) == report
    assert json.loads(text)["times"]["start"] == [3.3, 5.4]
    assert report.moves["drain"] > 0


def test_the_command_prints_what_was_asked_for() -> None:
    """JSON for programs, with nodes of the sizes that were given."""
    words = ["fleet", "simulate", "--cameras", "20", "--nodes", "3", "--hours", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "streamer", *words, "--capacity", "8", "--capacity", "12"],
        capture_output=True,
        check=True,
    )
    report = msgspec.json.decode(done.stdout, type=Report)
    assert (report.cameras, report.nodes, report.capacity) == (20, 3, 28)
