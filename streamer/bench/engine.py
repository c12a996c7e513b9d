"""``streamer bench --engine``: a tick of the networks alone, by batch size, on every runtime here.

A tick is what the daemon does with the faces of all cameras: the CNN, then one step of the temporal
network with the states of their tracks. Legend: N faces.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from rich.table import Table

from streamer import __version__
from streamer import bundle as bundles
from streamer.cores import usable_cores
from streamer.engine.accelerator import Accelerator
from streamer.engine.cache import EngineCache, folder_of
from streamer.engine.graphs import BUCKETS
from streamer.errors import StreamerError
from streamer.reading import CpuReading, GpuReading, largest_difference, network_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from streamer.bundle import Bundle
    from streamer.config import Config
    from streamer.reading import Reading

__all__ = ["EngineReport", "Missing", "Row", "Shares", "bench", "measure"]

_LEAST_ROUNDS: Final = 20  # a median of fewer says little
_WARM_ROUNDS: Final = 3
_SHARE_ROUNDS: Final = 50


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a tick goes, on a GPU; shares of the whole, 0 to 1.

    Attributes:
        transfer: copies to and from the device.
        launch: filling, launching, waiting and reading on the host.
        compute: the networks on the device.
    """

    transfer: float
    launch: float
    compute: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One batch size on one runtime.

    Attributes:
        engine: runtime and device in words.
        batch: faces of a tick.
        ticks: how many were timed.
        median_ms: of a tick, on the wall clock.
        p95_ms: 95th percentile.
        faces_s: faces a second, by the median.
        shares: on a GPU; None where the runtime does not tell them apart.
    """

    engine: str
    batch: int
    ticks: int
    median_ms: float
    p95_ms: float
    faces_s: float
    shares: Shares | None = None


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime that was not measured, and why."""

    engine: str
    why: str


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured.

    Attributes:
        version: of the program.
        bundle: whose networks.
        cores: that the process may use.
        rows: one a runtime and batch size.
        missing: runtimes that did not load.
        differences: largest difference of a probability from the first runtime, by runtime.
    """

    version: str
    bundle: str
    cores: int
    rows: list[Row]
    missing: list[Missing]
    differences: dict[str, float]


def bench(
    config: Config, *, seconds: float, console: Console, batches: Sequence[int] = BUCKETS
) -> EngineReport:
    """Measure every runtime that loads, and print them side by side.

    Args:
        config: bundle, threads and cache.
        seconds: of each runtime, spread over the batch sizes.
        console: takes the table.
        batches: faces of a tick.

    Raises:
        BundleError: when the bundle is damaged.
        EngineError: when a runtime fails while it is measured.
    """
    bundle = bundles.load(bundles.path_of(config.bundle.path))
    cores = config.engine.threads or usable_cores()
    readings: dict[str, Reading] = {}
    for threads in sorted({1, cores}):
        cpu = CpuReading(bundle, threads=threads)
        readings[f"{cpu.name}, {threads} thread{'s' * (threads > 1)}"] = cpu
    missing = _add_gpu(readings, bundle, EngineCache(folder_of(config.engine.cache)))
    first = next(iter(readings.values()))
    faces = bundle.parity.faces_N1HW
    report = EngineReport(
        version=__version__,
        bundle=bundle.identity,
        cores=cores,
        rows=[
            measure(
                name,
                reading,
                batch,
                size_px=bundle.manifest.input.size_px,
                seconds=seconds / len(batches),
            )
            for batch in batches
            for name, reading in readings.items()
        ],
        missing=missing,
        differences={n: largest_difference(first, r, faces) for n, r in readings.items()},
    )
    for reading in readings.values():
        reading.close()
    _print(report, console)
    return report


def measure(name: str, reading: Reading, batch: int, *, size_px: int, seconds: float) -> Row:
    """Time ticks of one size for so many seconds.

    Raises:
        EngineError: when the runtime fails.
    """
    rng = np.random.default_rng(0)
    faces = rng.random((batch, 1, size_px, size_px), np.float32)
    states = reading.states()
    states.reserve(batch)
    slots, kept = np.arange(batch), np.zeros(batch, np.bool_)
    took_s: list[float] = []
    end_s = time.perf_counter() + seconds
    while len(took_s) < _LEAST_ROUNDS + _WARM_ROUNDS or time.perf_counter() < end_s:
        start_s = time.perf_counter()
        rows = faces
        if reading.features is not None:
            rows = reading.features.run({"faces": rows})["features"]
        states.step(rows, slots, kept)
        took_s.append(time.perf_counter() - start_s)
    took_ms = np.array(took_s[_WARM_ROUNDS:]) * 1e3
    median_ms = float(np.median(took_ms))
    return Row(
        engine=name,
        batch=batch,
        ticks=len(took_ms),
        median_ms=round(median_ms, 4),
        p95_ms=round(float(np.quantile(took_ms, 0.95)), 4),
        faces_s=round(batch / median_ms * 1e3, 1),
        shares=_shares(reading, batch, size_px),
    )


def _shares(reading: Reading, batch: int, size_px: int) -> Shares | None:
    if not isinstance(reading, GpuReading):
        return None
    shares = reading.measure(batch, size_px=size_px, rounds=_SHARE_ROUNDS)
    return Shares(
        transfer=round(shares.transfer_s / shares.total_s, 3),
        launch=round(shares.launch_s / shares.total_s, 3),
        compute=round(shares.compute_s / shares.total_s, 3),
    )


def _add_gpu(readings: dict[str, Reading], bundle: Bundle, cache: EngineCache) -> list[Missing]:
    """Open TensorRT in every precision that the bundle has; return what did not load."""
    try:
        accelerator = Accelerator(cache)
    except StreamerError as error:
        return [Missing(engine="tensorrt", why=str(error))]
    missing = []
    for precision in ("fp32", "fp16"):
        try:
            engine = accelerator.open(network_of(bundle, precision))
            reading = GpuReading(engine, size_px=bundle.manifest.input.size_px)
        except StreamerError as error:
            missing.append(Missing(engine=f"tensorrt {precision}", why=str(error)))
        else:
            readings[reading.name] = reading
    accelerator.keep()
    return missing


def _print(report: EngineReport, console: Console) -> None:
    engines = list(dict.fromkeys(row.engine for row in report.rows))
    table = Table(
        title=f"A tick of the networks of {report.bundle}: median ms (95 %), faces a second"
    )
    table.add_column("faces", justify="right")
    for engine in engines:
        table.add_column(engine, justify="right")
    for batch in dict.fromkeys(row.batch for row in report.rows):
        table.add_row(str(batch), *(_cell(report.rows, batch, engine) for engine in engines))
    console.print(table)
    for name, difference in report.differences.items():
        if name != engines[0]:
            console.print(f"{name}: largest difference of a probability {difference:.1e}")
    for one in report.missing:
        console.print(f"{one.engine}: not measured: {one.why}", soft_wrap=True)


def _cell(rows: Sequence[Row], batch: int, engine: str) -> str:
    row = next(row for row in rows if row.batch == batch and row.engine == engine)
    text = f"{row.median_ms:.3f} ({row.p95_ms:.3f})\n{row.faces_s:.0f}/s"
    if row.shares is None:
        return text
    parts = row.shares
    return (
        f"{text}\ntransfer {parts.transfer:.0%}, launch {parts.launch:.0%}, "
        f"compute {parts.compute:.0%}"
    )
