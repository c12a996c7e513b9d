"""How faces are read: by two networks on the CPU, or by one on a GPU; and the choice of which.

Legend: N faces, H W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import structlog

from streamer import bundle as bundles
from streamer.engine import average, graphs
from streamer.engine.accelerator import Accelerator
from streamer.engine.cache import EngineCache, folder_of
from streamer.engine.device import UnavailableError
from streamer.engine.onnx import OnnxEngine
from streamer.engine.resident import ResidentStates
from streamer.errors import BundleError, ConfigError, EngineError, StreamerError
from streamer.temporal import HostStates, TemporalHead

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamer.bundle import Bundle
    from streamer.config import Engine as EngineOptions
    from streamer.engine.gpu import GpuEngine, Shares
    from streamer.stages import Engine, Stepper
    from streamer.types import F32

__all__ = [
    "Choice",
    "CpuReading",
    "GpuReading",
    "Reading",
    "choose",
    "largest_difference",
    "network_of",
]

log = structlog.get_logger(__name__)

_STEPS = 4  # of the proof: enough that a state is read, kept and read again


class Accelerate(Protocol):
    """Opens TensorRT; raises UnavailableError."""

    def __call__(self, cache: EngineCache, *, progress: Callable[[], None]) -> Accelerator:
        """Return it with this cache."""
        ...


class Reading(Protocol):
    """The CNN and the temporal network, loaded."""

    @property
    def name(self) -> str:
        """Runtime and device in words."""
        ...

    @property
    def features(self) -> Engine | None:
        """The CNN; None where the stepper reads faces itself."""
        ...

    def states(self) -> Stepper:
        """Return a fresh table of states; each head has its own."""
        ...

    def close(self) -> None:
        """Free the networks; may be called twice."""
        ...


class CpuReading:
    """Both networks on onnxruntime, the states in memory.

    Args:
        bundle: whose networks.
        threads: of one call of the CNN.
        newest: read with a moving average instead of the bundle's temporal head; the weight of
            the newest frame.

    Raises:
        BundleError: when onnxruntime cannot read a network, or one does not compute what the
            bundle promises.
    """

    def __init__(self, bundle: Bundle, *, threads: int, newest: float | None = None) -> None:
        self._shapes = bundle.manifest.temporal.shapes
        self.features: Engine = OnnxEngine(bundle.features_path, threads=threads)
        # A step is too small to be split over threads.
        self._temporal = OnnxEngine(bundle.temporal_path, threads=1)
        self.difference = bundles.verify_parity(bundle, self.features, self._temporal)
        if newest is not None:
            classes = len(bundle.manifest.classes)
            step = average.average(classes, newest).SerializeToString()
            self._temporal.close()
            self._temporal = OnnxEngine(step, threads=1, label="average")
            self._shapes = average.shapes(classes)
            self.features = _FrameLogits(self.features)

    @property
    def name(self) -> str:
        """Runtime and device in words."""
        return self.features.name

    def states(self) -> Stepper:
        """Return a fresh table of states."""
        return HostStates(self._temporal, self._shapes)

    def close(self) -> None:
        """Free the networks."""
        self.features.close()
        self._temporal.close()


class _FrameLogits:
    """A CNN whose frame logits are what is read over time, in the place of its features."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        return self._engine.name

    def run(self, inputs: Mapping[str, F32]) -> dict[str, F32]:
        out = self._engine.run(inputs)
        return {**out, "features": out["logits"]}

    def close(self) -> None:
        self._engine.close()


class GpuReading:
    """Both networks as one on a GPU, the states there too.

    Args:
        engine: of ``graphs.reader``; owned from here on.
        size_px: side of a face.

    Raises:
        EngineError: when the GPU fails while the batch sizes are captured.
    """

    features = None

    def __init__(self, engine: GpuEngine, *, size_px: int) -> None:
        self._engine = engine
        face = np.zeros((1, 1, size_px, size_px), np.float32)
        engine.warm({"faces": face, "slots": np.zeros(1, np.int64), "kept": np.zeros(1, np.bool_)})

    @property
    def name(self) -> str:
        """Runtime and device in words."""
        return self._engine.name

    def states(self) -> Stepper:
        """Return a fresh table of states."""
        return ResidentStates(self._engine)

    def measure(self, batch: int, *, size_px: int, rounds: int) -> Shares:
        """Tell where the time of a tick goes; a row of nobody is stepped.

        Raises:
            EngineError: when the GPU fails.
        """
        rows = self._engine.take(batch)
        faces = np.zeros((batch, 1, size_px, size_px), np.float32)
        kept = np.zeros(batch, np.bool_)
        shares = self._engine.measure({"faces": faces, "slots": rows, "kept": kept}, rounds)
        self._engine.give(rows)
        return shares

    def close(self) -> None:
        """Free the network."""
        self._engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What reads faces, and what may compile further networks.

    Attributes:
        reading: chosen and proved.
        compiled: makes an engine of the face detector's network on the GPU; it returns None where
            that fails and falling back is allowed. None: everything is on the CPU.
        keep: to be called once everything is warm: what was finished meanwhile is stored for the
            next start.
    """

    reading: Reading
    compiled: Callable[[bytes], Engine | None] | None = None
    keep: Callable[[], None] = lambda: None


def choose(
    bundle: Bundle,
    options: EngineOptions,
    *,
    detector_px: int,
    threads: int,
    newest: float | None = None,
    progress: Callable[[], None] = lambda: None,
    accelerate: Accelerate = Accelerator,
) -> Choice:
    """Take TensorRT where it works, else onnxruntime, and log one line that says why.

    The CPU's networks are loaded in any case: they prove the bundle, and then the GPU.

    Args:
        bundle: what is read with.
        options: of ``[engine]``.
        detector_px: longer side of the detector's input.
        threads: of one call on the CPU.
        newest: of a moving average instead of the bundle's temporal head, see ``CpuReading``.
        progress: called while an engine is built, from any thread.
        accelerate: opens TensorRT on the GPU here.

    Raises:
        BundleError: when the bundle does not compute what it promises.
        ConfigError: when TensorRT is insisted on and cannot be had, or its cache not be written.
        EngineError: when TensorRT is insisted on and fails.
    """
    cpu = CpuReading(bundle, threads=threads, newest=newest)
    log.info(
        "bundle_verified",
        bundle=bundle.identity,
        engine=cpu.name,
        head=bundle.manifest.temporal.kind if newest is None else f"moving average {newest:g}",
        largest_difference=float(f"{cpu.difference:.1e}"),
    )
    if options.backend == "onnxruntime":
        return Choice(reading=cpu)
    insist = options.backend == "tensorrt"
    try:
        accelerator = accelerate(EngineCache(folder_of(options.cache)), progress=progress)
        reading = _on_gpu(accelerator, bundle, network_of(bundle, options.precision, newest), cpu)
    except StreamerError as error:
        if not insist:
            log.info("engine_fell_back", engine=cpu.name, why=str(error))
            return Choice(reading=cpu)
        cpu.close()
        if isinstance(error, UnavailableError):
            raise ConfigError(
                f"engine.backend is 'tensorrt', but {error}; choose 'auto' to fall back"
            ) from None
        raise
    cpu.close()

    def compiled(content: bytes) -> Engine | None:
        try:
            return accelerator.open(graphs.detector(content, detector_px))
        except StreamerError as error:
            if insist:
                raise
            log.info("engine_fell_back", stage="detect", why=str(error))
            return None

    return Choice(reading=reading, compiled=compiled, keep=accelerator.keep)


def network_of(bundle: Bundle, precision: str, newest: float | None = None) -> graphs.Network:
    """Return what a GPU reads faces with.

    Args:
        bundle: whose networks.
        precision: ``fp32`` or ``fp16``.
        newest: of a moving average instead of the bundle's temporal head, see ``CpuReading``.

    Raises:
        ConfigError: when the bundle does not have that precision.
        BundleError: when a file is damaged.
    """
    files = (bundle.features_path, bundle.temporal_path)
    if precision != "fp32":
        files = bundle.half_paths or files
    if precision != "fp32" and bundle.half_paths is None:
        raise ConfigError(
            f"engine.precision is {precision!r}, but bundle {bundle.path} has no "
            f"{bundles.FEATURES_HALF}; choose 'fp32' or export the bundle again"
        )
    if newest is None:
        return graphs.reader(*files)
    step = average.average(len(bundle.manifest.classes), newest)
    return graphs.reader(files[0], step, rows="logits")


def largest_difference(one: Reading, other: Reading, faces_N1HW: F32) -> float:
    """Step the same faces by two readings; return the largest difference of any probability.

    Raises:
        EngineError: when one of them fails.
    """
    heads = [(r, TemporalHead(r.states(), gap_reset_s=float("inf"))) for r in (one, other)]
    keys = [("parity", row) for row in range(len(faces_N1HW))]
    worst = 0.0
    for step in range(_STEPS):
        turned = np.roll(faces_N1HW, step, axis=0)
        a, b = (_read(reading, head, turned, keys, step) for reading, head in heads)
        difference = float(np.abs(a - b).max())
        if not difference <= worst:  # NaN is the worst of all, and stays
            worst = difference
    return worst


def _read(
    reading: Reading,
    head: TemporalHead,
    faces_N1HW: F32,
    keys: list[tuple[str, int]],
    step: int,
) -> F32:
    rows = faces_N1HW
    if reading.features is not None:
        rows = reading.features.run({"faces": rows})["features"]
    return head.step(rows, keys, [float(step)] * len(keys))


def _on_gpu(
    accelerator: Accelerator, bundle: Bundle, network: graphs.Network, cpu: CpuReading
) -> GpuReading:
    """Open the reader on the GPU and prove it against the CPU's."""
    engine = accelerator.open(network)
    try:
        reading = GpuReading(engine, size_px=bundle.manifest.input.size_px)
        worst = largest_difference(reading, cpu, bundle.parity.faces_N1HW)
    except EngineError:
        engine.close()
        raise
    accepted = bundles.PARITY_TOLERANCE if network.precision == "fp32" else bundles.HALF_TOLERANCE
    if not worst <= accepted:  # also true for NaN
        reading.close()
        raise BundleError(
            f"bundle {bundle.path}: {reading.name} differs from {cpu.name} by {worst:.2g} in a "
            f"probability, accepted is {accepted:g}; choose engine.backend 'onnxruntime'"
        )
    log.info("engine_verified", engine=reading.name, largest_difference=float(f"{worst:.1e}"))
    return reading
