"""What the pipeline needs of each stage: Protocols of one or two methods, no base classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from streamer.events import Event
    from streamer.types import F32, I64, U8, Detections, Frame, Tracks

__all__ = ["Clock", "Detector", "Engine", "ScalingDetector", "Sink", "Source", "Stepper", "Tracker"]


class Clock(Protocol):
    """Time, injected so that tests own it."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never jump."""
        ...

    def time_ns(self) -> int:
        """Nanoseconds since the epoch; may jump when the clock is set."""
        ...


class Source(Protocol):
    """A camera or file, opened; it raises SourceError and never retries by itself."""

    def read(self) -> Frame:
        """Return the next frame within the configured deadline.

        Raises:
            SourceError: when the stream failed, stalled or ended; the source is then unusable.
        """
        ...

    def close(self) -> None:
        """Release the decoder and the connection; may be called twice."""
        ...


class Detector(Protocol):
    """Finds the faces of one frame; may be called from several threads."""

    def detect(self, luma_HW: U8) -> Detections:
        """Return the faces found, best first, in pixels of the picture given."""
        ...

    def close(self) -> None:
        """Release the network; may be called twice."""
        ...


class ScalingDetector(Protocol):
    """A detector that can be told how closely to look."""

    @property
    def windowed(self) -> bool:
        """Whether a part of a picture is cheaper to look at than all of it."""
        ...

    def detect(self, luma_HW: U8, *, input_px: int | None = None) -> Detections:
        """Return the faces found, best first, in pixels of the picture given.

        Args:
            luma_HW: luma plane, uint8; not modified.
            input_px: longer side of the picture as the network sees it, where that is free; None:
                as configured.
        """
        ...

    def close(self) -> None:
        """Release the network; may be called twice."""
        ...


class Tracker(Protocol):
    """Follows the faces of one camera; pure: no clock, no thread."""

    def update(self, detections: Detections, media_s: float) -> Tracks:
        """Advance to ``media_s`` seconds with what was detected then."""
        ...


class Engine(Protocol):
    """A batched network in some runtime."""

    @property
    def name(self) -> str:
        """Runtime and device in words, for logs and the ``engine_info`` metric."""
        ...

    def run(self, inputs: Mapping[str, F32]) -> dict[str, F32]:
        """Compute all outputs for one batch; every input carries the same N.

        Raises:
            EngineError: when the runtime fails; the message names the network.
        """
        ...

    def close(self) -> None:
        """Free the runtime's memory; may be called twice."""
        ...


class Stepper(Protocol):
    """The temporal network with one state a slot, kept wherever it computes."""

    def step(self, rows: F32, slots_N: I64, fresh_N: NDArray[np.bool_]) -> F32:
        """Advance some slots by one observation each.

        Args:
            rows: what the network reads, float32: features (N, D), or faces (N, 1, H, W) where the
                CNN is part of it.
            slots_N: the slot of each row, int64; none twice.
            fresh_N: rows whose slot starts from zeros, whatever it holds.

        Returns:
            logits_NK: float32.

        Raises:
            EngineError: when the runtime fails.
        """
        ...

    def reserve(self, slots: int) -> None:
        """Have room for so many slots and keep their states."""
        ...


class Sink(Protocol):
    """Takes events; never blocks the caller."""

    def emit(self, *events: Event) -> None:
        """Hand over events, in order; thread-safe; what cannot be kept is dropped and counted."""
        ...
