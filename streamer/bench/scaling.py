"""``streamer bench --scale``: what many cameras need, from the constants of a saved report.

A node is simulated with those constants: cameras with phases of their own, one compute loop a
process that takes every due frame at once, decoding on the same cores, Python's lock over what is
not inside a library. The report's own loads are simulated first, so that everyone sees how far the
simulation can be believed. What is not in the report is estimated, and the tables say so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from rich.table import Table

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

__all__ = ["Constants", "Node", "Simulated", "capacity", "constants_of", "scale", "simulate"]

_SECONDS: Final = 5.0  # simulated; the first fifth is left out
_GOAL_MS: Final = 150.0
_MISSED: Final = 0.01
_MOST: Final = 4096
_LEAST_CORES: Final = 0.1  # what the scheduler leaves a compute loop beside any number of decoders
_TOGETHER_S: Final = 0.005
"""Cameras that start together send their frames together: the worst case, and that of the bench."""
_SEND_MS: Final = 1.0  # estimated: outbox, socket and subscriber

# Estimated, for one 640 × 360 H.264 camera at 25 frames a second.
_STREAM_MBIT: Final = 1.0
_FRAME_BYTES: Final = 640 * 360 * 1.5
_BUS_PASSES: Final = 4.0
"""A decoded frame is written once, read twice as a reference and once by the detector."""
_EVENT_BYTES: Final = 700.0  # an emotion.sample with eight classes is 640 to 760 bytes
_GPU_PROCESS_MB: Final = 500.0  # a CUDA context with its engines; the order of what vendors say
_NODE_CORES: Final = 16
_LAYOUTS: Final = (1, 2, 4, 8, 16)  # processes
_NEARLY: Final = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What one camera costs; milliseconds of one core.

    Attributes:
        captured_fps: frames that a camera delivers a second.
        analysed_fps: frames of it that are due a second.
        faces: read in an analysed frame.
        decode: a captured frame.
        spread: an analysed frame's detection and CNN, which several threads can share.
        alone: all else of an analysed frame, at most: one thread at a time, under Python's lock.
        spent: everything for an analysed frame, decoding included, as measured.
        usable: largest share of the cores that was in use; the rest waits for one another.
        process_mb: of a process without cameras.
        camera_mb: of each camera.
    """

    captured_fps: float
    analysed_fps: float
    faces: float
    decode: float
    spread: float
    alone: float
    spent: float
    usable: float
    process_mb: float
    camera_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine and how its processes are laid out."""

    cores: int
    workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """How cameras were served.

    Attributes:
        p50_ms: median of the latency from arrival to receipt.
        p95_ms: 95th percentile.
        missed: share of due frames that were not analysed.
    """

    p50_ms: float
    p95_ms: float
    missed: float

    @property
    def served(self) -> bool:
        """Whether the goal of ``streamer bench`` is met."""
        return self.p95_ms <= _GOAL_MS and self.missed < _MISSED


def constants_of(report: dict[str, Any]) -> Constants:
    """Return the constants of a report of ``streamer bench``.

    Raises:
        KeyError: if it is no such report.
    """
    raw, loads = report["raw_ms"], report["loads"]
    capacity = report["capacity"]["cameras"]
    best = next((one for one in loads if one["cameras"] == capacity), loads[-1])
    frames = max(1.0, best["analysed_fps"] * best["seconds"])
    faces = best["samples"] / frames
    a_face = raw["crop"] + raw["temporal"] + raw["event"]
    over = max(0.0, report["spent_ms_per_analysed"] - report["least_ms_per_analysed"])
    alone = raw["track"] + faces * a_face + over
    slope, base = _line([(one["cameras"], one["memory_mb"]) for one in loads])
    busy = max(sum(one["cpu_s"].values()) / one["seconds"] for one in loads)
    return Constants(
        captured_fps=best["captured_fps"] / best["cameras"],
        analysed_fps=report["analysis_fps"] or best["captured_fps"] / best["cameras"],
        faces=faces,
        decode=raw["decode"],
        spread=raw["detect"] + faces * min(raw["features"].values()),
        alone=alone,
        spent=report["spent_ms_per_analysed"],
        usable=min(1.0, busy / report["machine"]["cores"]),
        process_mb=base,
        camera_mb=slope,
    )


def simulate(constants: Constants, node: Node, cameras: int, *, seed: int = 0) -> Simulated:
    """Serve cameras on a node for a while.

    Each process has its share of the cores: its decoders take theirs first, and its compute loop
    spreads what can be spread over the rest. All processes are alike, so one is simulated.

    Args:
        constants: what a camera costs.
        node: where.
        cameras: of the whole node.
        seed: of the cameras' phases.
    """
    share = -(-cameras // node.workers)
    cores = constants.usable * node.cores / node.workers
    decoding = share * constants.captured_fps * constants.decode / 1e3
    threads = max(1, node.cores // node.workers)
    free = min(float(threads), max(_LEAST_CORES, cores - decoding))
    frame_s = (constants.spread / free + constants.alone / min(1.0, free)) / 1e3
    period_s, between_s = 1 / constants.analysed_fps, 1 / constants.captured_fps
    phases_N = np.random.default_rng(seed).random(share) * _TOGETHER_S
    due_N = phases_N.copy()
    now_s, analysed = 0.0, 0
    latencies_ms: list[float] = []
    while now_s < _SECONDS:
        # The newest frame that has arrived, and whether it is due.
        newest_N = phases_N + np.floor((now_s - phases_N) / between_s) * between_s
        ready_N = (newest_N >= due_N - 1e-9) & (newest_N >= 0)
        count = int(ready_N.sum())
        if count == 0:
            steps_N = np.ceil((due_N - phases_N) / between_s - 1e-9)
            now_s = max(now_s + 1e-6, float((phases_N + steps_N * between_s).min()) + 1e-9)
            continue
        done_s = now_s + count * frame_s
        if now_s >= _SECONDS / 5:
            analysed += count
            latencies_ms.extend(1e3 * (done_s - newest_N[ready_N]) + _SEND_MS)
        late_N = newest_N - due_N > period_s
        due_N = np.where(ready_N, np.where(late_N, newest_N, due_N) + period_s, due_N)
        now_s = done_s
    due = share * constants.analysed_fps * _SECONDS * 4 / 5
    p50, p95 = np.percentile(latencies_ms or [np.inf], (50, 95))
    return Simulated(p50_ms=float(p50), p95_ms=float(p95), missed=max(0.0, 1 - analysed / due))


def capacity(constants: Constants, node: Node) -> int:
    """Return the most cameras that a node serves within the goal."""
    good, bad = 0, node.workers
    while bad <= _MOST and simulate(constants, node, bad).served:
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if simulate(constants, node, middle).served else (good, middle)
    return good


def scale(path: Path, console: Console, cameras: Sequence[int] = (100, 1000)) -> None:
    """Print how far the simulation can be believed, what nodes carry, what many cameras need.

    Args:
        path: a report of ``streamer bench --json``.
        console: takes the tables.
        cameras: how many.

    Raises:
        ConfigError: if the file is no report.
    """
    try:
        report = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        constants = constants_of(report)
    except (OSError, msgspec.DecodeError, KeyError, TypeError, StopIteration) as error:
        raise ConfigError(f"--scale: {path} is no report of streamer bench: {error}") from None
    _print_constants(console, constants, report)
    _print_check(console, constants, report)
    _print_nodes(console, constants)
    _print_needs(console, constants, cameras)


def _print_constants(console: Console, constants: Constants, report: dict[str, Any]) -> None:
    machine = report["machine"]
    console.print(
        f"measured on {machine['cpu']}, {machine['cores']} cores, {report['date'][:10]}: "
        f"decode {constants.decode:.2f} ms a frame at {constants.captured_fps:.0f} a second; an "
        f"analysed frame with {constants.faces:.1f} faces {constants.spread:.1f} ms that spread "
        f"over cores and {constants.alone:.1f} ms that do not; {constants.spent:.1f} ms in all",
        soft_wrap=True,
    )


def _print_check(console: Console, constants: Constants, report: dict[str, Any]) -> None:
    table = Table(title="the simulation beside what was measured", title_justify="left")
    for column in ("cameras", "p50", "simulated", "p95", "simulated", "missed", "simulated"):
        table.add_column(column, justify="right")
    for one in report["loads"]:
        node = Node(cores=report["machine"]["cores"], workers=one.get("workers", 1))
        found = simulate(constants, node, one["cameras"])
        missed = max(0.0, 1 - one["analysed_fps"] / one["due_fps"])
        table.add_row(
            str(one["cameras"]),
            f"{one['latency_ms']['p50']:.0f} ms",
            f"{found.p50_ms:.0f} ms",
            f"{one['latency_ms']['p95']:.0f} ms",
            f"{found.p95_ms:.0f} ms",
            f"{missed:.1%}",
            f"{found.missed:.1%}",
        )
    console.print(table)


def _print_nodes(console: Console, constants: Constants) -> None:
    table = Table(title="cameras that a node carries (simulated)", title_justify="left")
    for column in ("cores", *(f"{n} process{'es' * (n > 1)}" for n in _LAYOUTS)):
        table.add_column(column, justify="right")
    for cores in (2, 4, 8, 16, 32, 64):
        table.add_row(
            str(cores),
            *(
                str(capacity(constants, Node(cores=cores, workers=workers)))
                if workers <= cores
                else "–"
                for workers in _LAYOUTS
            ),
        )
    console.print(table)


def _print_needs(console: Console, constants: Constants, cameras: Sequence[int]) -> None:
    table = Table(title="what many cameras need", title_justify="left")
    table.add_column("")
    for count in cameras:
        table.add_column(f"{count:,}", justify="right")
    table.add_column("from")
    carried = {workers: max(1, capacity(constants, _node(workers))) for workers in _LAYOUTS}
    # The fewest processes that carry nearly as much as the most could: each costs memory.
    best = min(n for n in _LAYOUTS if carried[n] >= _NEARLY * max(carried.values()))
    fits = carried[best]
    bus = _bus_gb_s()
    samples_s = constants.analysed_fps * constants.faces

    def row(name: str, source: str, values: Sequence[str]) -> None:
        table.add_row(name, *values, source)

    cores = [n * constants.analysed_fps * constants.spent / 1e3 for n in cameras]
    row("cores busy", "measured", [f"{value:.0f}" for value in cores])
    decoding = [n * constants.captured_fps * constants.decode / 1e3 for n in cameras]
    row("  of them decoding", "measured", [f"{value:.0f}" for value in decoding])
    row(
        "cores to have",
        f"measured: {constants.usable:.0%} could be used",
        [f"{value / constants.usable:.0f}" for value in cores],
    )
    locked = [n * constants.analysed_fps * constants.alone / 1e3 for n in cameras]
    row("Python's lock, if one process", "measured, at most", [f"{v:.0%}" for v in locked])
    row(
        "processes that halve it",
        "simulated",
        [str(max(1, -(-int(200 * v) // 100))) for v in locked],
    )
    row(
        "nodes of 16 cores",
        f"simulated, {best} processes each",
        [str(-(-n // fits)) for n in cameras],
    )
    memory = [
        -(-n // fits) * best * constants.process_mb + n * constants.camera_mb for n in cameras
    ]
    row("memory", "measured", [f"{value / 1e3:.1f} GB" for value in memory])
    bytes_s = _FRAME_BYTES * _BUS_PASSES * constants.captured_fps
    row(
        "memory bus, decoded frames",
        f"estimated; one core copies {bus:.0f} GB/s here, measured",
        [f"{n * bytes_s / 1e9:.1f} GB/s" for n in cameras],
    )
    row(
        "network in",
        "estimated: 1 Mbit/s a camera",
        [f"{n * _STREAM_MBIT:.0f} Mbit/s" for n in cameras],
    )
    row(
        "events out, each subscriber",
        "measured rate, 700 bytes each",
        [f"{n * samples_s * _EVENT_BYTES * 8 / 1e6:.0f} Mbit/s" for n in cameras],
    )
    row(
        "GPU memory, if it is used",
        "estimated: 0.5 GB a process",
        [f"{-(-n // fits) * best * _GPU_PROCESS_MB / 1e3:.0f} GB" for n in cameras],
    )
    console.print(table)


def _node(workers: int) -> Node:
    return Node(cores=_NODE_CORES, workers=workers)


def _bus_gb_s() -> float:
    """Return what one core copies here, both ways counted, GB a second; twice a cache's size."""
    source = np.zeros(64 << 20, np.uint8)
    target = np.empty_like(source)
    spent_s = []
    for _ in range(5):
        start_s = time.perf_counter()
        np.copyto(target, source)
        spent_s.append(time.perf_counter() - start_s)
    return 2 * len(source) / min(spent_s) / 1e9


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return slope and intercept of the line through points; flat where there is one."""
    if len({x for x, _ in points}) < 2:  # noqa: PLR2004 a line has two
        return 0.0, points[0][1]
    xs, ys = np.array(points, float).T
    slope, base = np.polyfit(xs, ys, 1)
    return float(slope), float(base)
