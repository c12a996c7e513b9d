"""``streamer bench``: measures in order, searches the capacity, and puts it all into one report."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.table import Table

from streamer import __version__
from streamer import config as configuration
from streamer.bench import load, raw
from streamer.cores import processes, usable_cores
from streamer.errors import ConfigError
from streamer.models import load_models
from streamer.showreel import EMPTY, LARGE, showreel, showreels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from streamer.bench.load import Load
    from streamer.bench.raw import Costs
    from streamer.config import Config

__all__ = ["Goal", "Plan", "bench", "compare", "saved", "settings"]

_FIRST: Final = 4
"""Cameras of the first load, at which the latency without contention is told."""
_MOST: Final = 128
_FIGURES: Final = (
    ("capacity, cameras", ("capacity", "cameras")),
    ("efficiency", ("efficiency",)),
    ("ms an analysed frame", ("spent_ms_per_analysed",)),
    *((f"latency {q}, ms", ("latency_ms", q)) for q in ("p50", "p95", "p99")),
    ("memory, MB", ("memory_mb",)),
)
"""What two reports are compared by, and where they have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """When so many cameras count as served.

    Attributes:
        p95_ms: highest 95th percentile of the latency from arrival to receipt.
        missed: highest share of due frames that were not analysed.
    """

    p95_ms: float = 150.0
    missed: float = 0.01

    def met(self, load: Load) -> bool:
        """Tell whether a load was served."""
        return load.latency_ms["p95"] <= self.p95_ms and load.missed < self.missed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        clips: what the cameras show; empty: the built-in feed.
        seconds: of each load.
        cameras: measure so many alone; 0: search the capacity.
        workers: measure the same with so many processes too; 1: only the one process.
        goal: when cameras count as served.
        inputs: also measure cameras that show nobody, and cameras of 1080p.
    """

    clips: Sequence[Path] = ()
    seconds: float = 15.0
    cameras: int = 0
    workers: int = 1
    goal: Goal = Goal()
    inputs: bool = False


def settings(path: Path | None, *, mirror: str) -> Config:
    """Return what to measure with: a daemon's configuration, or the defaults.

    Raises:
        ConfigError: if the file cannot be used.
    """
    if path is not None:
        return configuration.load(path)
    nobody = configuration.Camera(name="bench", url="bench")
    return configuration.Config(cameras=(nobody,), detector=configuration.Detector(mirror=mirror))


def bench(config: Config, plan: Plan, console: Console, notes: Console) -> dict[str, Any]:
    """Measure, print the tables and return the report.

    Args:
        config: the detector, its mirror and the analysis rate are taken from it.
        plan: what to measure.
        console: gets the tables.
        notes: gets what is going on.

    Raises:
        ConfigError: if a clip cannot be used.
        StreamerError: if the daemon does not start.
    """
    clips = list(plan.clips) or showreels(notes)
    for clip in clips:
        if not clip.is_file():
            raise ConfigError(f"--video: there is no file {clip}")
    with notes.status("raw costs: each stage alone"):
        models = load_models(config)
        costs = raw.measure(models, clips[0], input_px=config.detector.input_px)
        models.close()
    loads = _loads(config, plan, clips, notes)
    crewed = []
    if plan.workers > 1:
        daemon = configuration.Daemon(workers=plan.workers)
        crewed = _loads(msgspec.structs.replace(config, daemon=daemon), plan, clips, notes)
    fewest = loads[0].cameras
    with notes.status(f"{fewest} cameras while somebody watches the live page"):
        watched = load.measure(config, clips, fewest, plan.seconds, watched=True)
    served = [one for one in loads if plan.goal.met(one)]
    best = max(served or loads, key=lambda one: one.cameras)
    report = _report(config, plan, costs, loads, best, capacity=best.cameras if served else 0)
    report["watched"] = asdict(watched)
    if crewed:
        report["workers"] = {
            "processes": plan.workers,
            "capacity": max((one.cameras for one in crewed if plan.goal.met(one)), default=0),
            "loads": [asdict(one) for one in crewed],
        }
    _print(console, report, costs, [loads[0], watched, *loads[1:], *crewed], best)
    if plan.inputs:
        others = _inputs(config, plan, fewest, notes)
        report["inputs"] = {name: asdict(one) for name, one in others.items()}
        _print_inputs(console, {"as above": loads[0], **others})
    return report


def _loads(config: Config, plan: Plan, clips: list[Path], notes: Console) -> list[Load]:
    """Measure the cameras asked for, or double them until they are too many and then halve."""
    loads: list[Load] = []

    def met(cameras: int) -> bool:
        many = processes(config.daemon.workers, cameras)
        shared = f" in {many} processes" if many > 1 else ""
        with notes.status(f"{cameras} cameras{shared} for {plan.seconds:g} s"):
            loads.append(load.measure(config, clips, cameras, plan.seconds))
        return plan.goal.met(loads[-1])

    if plan.cameras:
        met(plan.cameras)
        return loads
    good, bad = 0, _FIRST
    while bad <= _MOST and met(bad):
        good, bad = bad, 2 * bad
    while bad - good > 1 and good >= 1:
        middle = (good + bad) // 2
        if met(middle):
            good = middle
        else:
            bad = middle
    return sorted(loads, key=lambda one: one.cameras)


def _inputs(config: Config, plan: Plan, cameras: int, notes: Console) -> dict[str, Load]:
    """Measure as many cameras on other cuts of the built-in feed."""
    found = {}
    for name, cut in (("nobody there", EMPTY), ("1080p", LARGE)):
        clip = showreel(notes, cut)
        with notes.status(f"{cameras} cameras, {name}"):
            found[name] = load.measure(config, [clip], cameras, plan.seconds)
    return found


def _print_inputs(console: Console, loads: dict[str, Load]) -> None:
    """Print what one camera costs, by what it shows."""
    table = Table(title="a camera, ms of CPU a second", title_justify="left")
    for column in ("shows", "decoding", "all else", "looks/s", "faces read/s", "p99"):
        table.add_column(column, justify="right")
    for name, one in loads.items():
        seconds = one.cameras * one.seconds
        decode_s = one.cpu_s.get("decode", 0.0)
        table.add_row(
            name,
            f"{1e3 * decode_s / seconds:.0f}",
            f"{1e3 * (sum(one.cpu_s.values()) - decode_s) / seconds:.0f}",
            ", ".join(f"{count / seconds:.1f} {kind}" for kind, count in one.looks.items()),
            f"{one.samples / seconds:.1f}",
            f"{one.latency_ms['p99']:.0f} ms",
        )
    console.print(table)


def _report(
    config: Config, plan: Plan, costs: Costs, loads: list[Load], best: Load, *, capacity: int
) -> dict[str, Any]:
    analysed = max(1.0, best.analysed_fps * best.seconds)
    least_ms = costs.analysed_ms(
        decoded=best.captured_fps / max(best.analysed_fps, 1e-9),
        faces=best.samples / analysed,
        looks={kind: count / analysed for kind, count in best.looks.items()},
    )
    spent_ms = best.cpu_per_analysed_ms
    return {
        "version": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_name(),
            "cores": usable_cores(),
            "python": platform.python_version(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "analysis_fps": config.analysis.fps,
        "detector": {
            "backend": config.detector.backend,
            "input_px": config.detector.input_px,
            "whole_s": config.detector.whole_s,
        },
        "goal": asdict(plan.goal),
        "capacity": {"cameras": capacity, "processes": best.workers},
        "efficiency": round(least_ms / spent_ms, 3),
        "latency_ms": loads[0].latency_ms,
        "raw_ms": asdict(costs),
        "cpu_ms": {
            group: round(1e3 * seconds / analysed, 3) for group, seconds in best.cpu_s.items()
        },
        "memory_mb": best.memory_mb,
        "least_ms_per_analysed": round(least_ms, 3),
        "spent_ms_per_analysed": round(spent_ms, 3),
        "loads": [asdict(one) for one in loads],
    }


def _print(
    console: Console, report: dict[str, Any], costs: Costs, loads: list[Load], best: Load
) -> None:
    table = Table(title="raw costs, one thread", title_justify="left")
    table.add_column("stage")
    table.add_column("ms of CPU", justify="right")
    for name, value in asdict(costs).items():
        if isinstance(value, dict):
            for batch, a_face in value.items():
                table.add_row(f"{name}, a face in a batch of {batch}", f"{a_face:.3f}")
        else:
            table.add_row(name, f"{value:.3f}")
    console.print(table)
    table = Table(title="the daemon", title_justify="left")
    columns = (
        "cameras",
        "analysed/s",
        "missed",
        "p50",
        "p95",
        "p99",
        "cores",
        "ms a frame",
        "MB",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for one in loads:
        table.add_row(
            f"{one.cameras}{', watched' if one.watched else ''}"
            f"{f', {one.workers} workers' if one.workers > 1 else ''}",
            f"{one.analysed_fps:.1f} of {one.due_fps:g}",
            f"{one.missed:.1%}",
            *(f"{one.latency_ms[q]:.0f} ms" for q in ("p50", "p95", "p99")),
            f"{sum(one.cpu_s.values()) / one.seconds:.2f}",
            f"{one.cpu_per_analysed_ms:.1f}",
            f"{one.memory_mb:.0f}",
        )
    console.print(table)
    spent = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(report["cpu_ms"].items()))
    console.print(f"CPU ms an analysed frame at {best.cameras} cameras, by thread: {spent}")
    console.print(
        f"capacity {report['capacity']['cameras']} cameras; efficiency {report['efficiency']:.2f}"
        f" (raw {report['least_ms_per_analysed']:.1f} of {report['spent_ms_per_analysed']:.1f} ms)"
    )
    if crew := report.get("workers"):
        console.print(f"capacity in {crew['processes']} processes {crew['capacity']} cameras")


def saved(path: Path) -> dict[str, Any]:
    """Read a report that was saved.

    Raises:
        ConfigError: if the file is none.
    """
    try:
        report = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        for _, keys in _FIGURES:
            float(_figure(report, keys))
    except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--compare: {path} is no report of streamer bench: {why}") from None
    return report


def compare(console: Console, title: str, before: dict[str, Any], report: dict[str, Any]) -> None:
    """Print what changed from one report to another."""
    table = Table(title=title, title_justify="left")
    for column in ("", "before", "now"):
        table.add_column(column, justify="right")
    for name, keys in _FIGURES:
        table.add_row(name, f"{_figure(before, keys):g}", f"{_figure(report, keys):g}")
    console.print(table)


def _figure(report: dict[str, Any], keys: tuple[str, ...]) -> float:
    found: Any = report
    for key in keys:
        found = found[key]
    return float(found)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
