"""Written stand-ins for the stages: small, checked by mypy against the Protocols, able to fail."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamer.types import Detections, Frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.events import Event
    from streamer.types import F32, U8

__all__ = ["CollectingSink", "FakeClock", "FakeDetector", "FakeEngine", "frame_of"]


class FakeClock:
    """Time that stands still until it is moved."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self._now_ns = int(now_s * 1e9)
        self._epoch_ns = 1_770_000_000 * 1_000_000_000

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now_ns += int(seconds * 1e9)

    def monotonic_ns(self) -> int:
        """Return the time set."""
        return self._now_ns

    def time_ns(self) -> int:
        """Return the time set, as nanoseconds since the epoch."""
        return self._epoch_ns + self._now_ns


class CollectingSink:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._lock = threading.Lock()

    def emit(self, *events: Event) -> None:
        """Keep them."""
        with self._lock:
            self.events.extend(events)

    @property
    def types(self) -> list[str]:
        """The types in order."""
        return [event.type for event in self.events]


@dataclass
class FakeDetector:
    """Reads faces out of the picture: each pixel of value 255 is the eyes' middle of a 40 px face.

    So that a test can draw faces, and that what is found depends on the frame alone.
    """

    calls: int = 0
    fail: Exception | None = None
    threads: set[str] = field(default_factory=set)
    windowed: bool = False
    looks: list[tuple[int, int, int | None]] = field(default_factory=list)
    meet: threading.Barrier | None = None

    def detect(self, luma_HW: U8, *, input_px: int | None = None) -> Detections:
        """Return a face for each white pixel."""
        self.looks.append((*luma_HW.shape, input_px))
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        if self.meet is not None:
            self.meet.wait(5)
        if self.fail is not None:
            raise self.fail
        rows, columns = np.nonzero(luma_HW == 255)
        centres = np.stack([columns, rows], axis=1).astype(np.float32).reshape(-1, 2)
        size = np.array([20, 16, 20, 24], np.float32)
        boxes = np.concatenate([centres - size[:2], centres + size[2:]], axis=1)
        apart = np.array([8, 0], np.float32)
        eyes = np.stack([centres - apart, centres + apart], axis=1)
        return Detections(
            boxes_N4=boxes.astype(np.float32),
            scores_N=np.full(len(centres), 0.9, np.float32),
            eyes_N22=eyes.astype(np.float32).reshape(-1, 2, 2),
        )

    def close(self) -> None:
        """Nothing to release."""


class FakeEngine:
    """Computes outputs by the function it is given, and remembers the batch sizes."""

    def __init__(self, outputs: Mapping[str, object], name: str = "fake") -> None:
        self._outputs = outputs
        self._name = name
        self.batches: list[int] = []
        self.fail: Exception | None = None

    @property
    def name(self) -> str:
        """The name given."""
        return self._name

    def run(self, inputs: Mapping[str, F32]) -> dict[str, F32]:
        """Compute every output from the inputs."""
        if self.fail is not None:
            raise self.fail
        self.batches.append(len(next(iter(inputs.values()))))
        return {key: function(inputs) for key, function in self._outputs.items()}  # type: ignore[operator]

    def close(self) -> None:
        """Nothing to release."""


def frame_of(
    camera: str, seq: int, faces: Sequence[tuple[int, int]] = (), *, fps: float = 10.0
) -> Frame:
    """Make a 320 x 240 frame with a white pixel where each face is; media time is seq / fps."""
    luma_HW = np.zeros((240, 320), np.uint8)
    for x, y in faces:
        luma_HW[y, x] = 255
    luma_HW.flags.writeable = False
    media_s = seq / fps
    return Frame(
        camera=camera,
        seq=seq,
        luma_HW=luma_HW,
        captured_ns=1_770_000_000_000_000_000 + int(media_s * 1e9),
        monotonic_ns=int(media_s * 1e9),
        media_s=media_s,
    )
