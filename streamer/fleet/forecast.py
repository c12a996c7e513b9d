"""A simulated day in figures: what it is given, what it was like, and the tables that say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from rich.table import Table

from streamer.backoff import FIRST_S
from streamer.fleet.settings import Fleet

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GOAL_S", "Report", "Span", "Times", "Unrest", "span", "tables"]

GOAL_S: Final = 15.0
_NODES: Final = 60  # whose unrest the figures of ``Unrest`` are


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """What passes until a camera is analysed again; seconds.

    Measured on 2026-11-23 on two cores with a load of 3 to 6 from other work, which is why they
    are too long rather than too short.

    Attributes:
        start: shortest and longest start of a daemon, until it is ready; measured.
        reload: of a daemon, for each of its cameras, until all are analysed; measured.
        picture: longest time to a camera's first clean picture; estimated, two seconds a keyframe.
        again: longest wait before a daemon that has ended is started again; as built.
        beat: between two signs of life of a node; as built. Orders do not wait for one.
        lease: so long after a node's last sign of life its cameras are given away; as configured,
            with the margin that makes it end on the node first.
    """

    start: tuple[float, float] = (3.3, 5.4)
    reload: float = 0.13
    picture: float = 2.0
    again: float = FIRST_S
    beat: float = 1.0
    lease: float = Fleet().lease_s + 1.0


class Unrest(msgspec.Struct, frozen=True, kw_only=True):
    """What happens in a day, at random times: a bad day of 60 nodes, so that there is much to see.

    Attributes:
        failures: nodes that fail, back after ``outage_s`` in the mean.
        switches: times that a twelfth of the nodes fails at once.
        crashes: daemons that end while their machine goes on.
        drains: nodes that are drained for ``drain_s`` and then given back.
        joins: nodes that come in addition, and stay.
        cameras: changes of the configuration, half of them additions and half removals.
        outage_s: mean length of an outage.
        drain_s: length of a drain.
    """

    failures: float = 60
    switches: float = 2
    crashes: float = 60
    drains: float = 12
    joins: float = 2
    cameras: float = 48
    outage_s: float = 900
    drain_s: float = 1800

    @staticmethod
    def of(nodes: int, share: float) -> Unrest:
        """Return what happens to so many nodes, and to what share of it."""
        usual, times = Unrest(), share * nodes / _NODES
        return Unrest(
            failures=usual.failures * times,
            switches=usual.switches * share,
            crashes=usual.crashes * times,
            drains=usual.drains * times,
            joins=usual.joins * share,
            cameras=usual.cameras * share,
        )


class Span(msgspec.Struct, frozen=True):
    """The middle, the 95th percentile and the largest of some values; 0 without any."""

    p50: float
    p95: float
    most: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated time was like.

    Attributes:
        cameras, nodes, hours, seed: what was simulated.
        capacity: of all nodes at the start.
        times, unrest: with which figures.
        events: how often each thing happened.
        placements: how often cameras were placed.
        placement_s: CPU time of one placement on this machine.
        moves: cameras sent from a living node to another, by what happened.
        takeovers: cameras given to another node after theirs was lost.
        bystanders: moves of cameras that a failure or a drain itself had not touched.
        unevenness: the fullest node's relative load less that of the whole fleet, after each
            placement.
        takeover_s: from a node's failure to its camera's analysis elsewhere, waiting left out.
        takeovers_in_time: share of those within 15 s.
        move_s: without analysis in a move.
        waiting_most: cameras that had no place at once.
        dark_s: seconds without analysis a camera, by cause.
        dark_camera_s: seconds without analysis of each camera, all causes together.
        analysed: share of the time that cameras were analysed.
    """

    cameras: int
    nodes: int
    hours: float
    seed: int
    capacity: float
    times: Times
    unrest: Unrest
    events: dict[str, int]
    placements: int
    placement_s: Span
    moves: dict[str, int]
    takeovers: int
    bystanders: int
    unevenness: Span
    takeover_s: Span
    takeovers_in_time: float
    move_s: Span
    waiting_most: int
    dark_s: dict[str, float]
    dark_camera_s: Span
    analysed: float


def span(values: Sequence[float]) -> Span:
    """Return the middle, the 95th percentile and the largest."""
    if not values:
        return Span(0.0, 0.0, 0.0)
    p50, p95, most = np.percentile(values, (50, 95, 100))
    return Span(float(p50), float(p95), float(most))


def tables(report: Report) -> list[Table]:
    """Return a report as tables for a terminal."""
    what = Table(
        title=f"{report.cameras:,} cameras on {report.nodes} nodes that carry "
        f"{report.capacity:,.0f}, {report.hours:g} hours, seed {report.seed} (simulated)"
    )
    for title in ("", "p50", "p95", "most"):
        what.add_column(title, justify="left" if not title else "right")
    rows: dict[str, tuple[Span, float, str]] = {
        "placement, ms of CPU (measured here)": (report.placement_s, 1000, ".0f"),
        "fullest node above the fleet, %": (report.unevenness, 100, ".1f"),
        "takeover after a node's failure, s": (report.takeover_s, 1, ".1f"),
        "without analysis in a move, s": (report.move_s, 1, ".1f"),
        "without analysis, s a camera": (report.dark_camera_s, 1, ".0f"),
    }
    for name, (values, factor, form) in rows.items():
        what.add_row(name, *(f"{v * factor:{form}}" for v in (values.p50, values.p95, values.most)))
    sums = Table()
    sums.add_column("")
    sums.add_column("", justify="right")
    for event, times_ in report.events.items():
        sums.add_row(event, f"{times_:,}")
    sums.add_row("placements", f"{report.placements:,}")
    for why, moved in report.moves.items():
        sums.add_row(f"moves, after: {why}", f"{moved:,}")
    sums.add_row("moves of cameras not touched by a failure or drain", f"{report.bystanders:,}")
    sums.add_row("takeovers", f"{report.takeovers:,}")
    sums.add_row(f"takeovers within {GOAL_S:g} s", f"{report.takeovers_in_time:.1%}")
    sums.add_row("cameras without a place at once, at most", f"{report.waiting_most:,}")
    for cause, dark_s in report.dark_s.items():
        sums.add_row(f"camera-seconds without analysis: {cause}", f"{dark_s:,.0f}")
    sums.add_row("cameras analysed, of the time", f"{report.analysed:.3%}")
    return [what, sums]
