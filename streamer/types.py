"""Values that travel between the stages: frozen structs of parallel arrays, checked once.

Shape suffixes: N faces, M faces expected, H W pixels, D features, L LSTM layers, U units, K
classes; digits are literal, so ``boxes_N4`` has shape (N, 4). Boxes are xyxy in pixels of the
original frame; an empty result has zero rows and is never None. Units are in the names:
``_s _ms _ns _px``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BGR",
    "F32",
    "F64",
    "I64",
    "U8",
    "ClockName",
    "CropBatch",
    "Detections",
    "Expected",
    "Frame",
    "Picture",
    "Predictions",
    "TrackEnd",
    "Tracks",
]

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
BGR = NDArray[np.uint8]
"""A colour picture, (H, W, 3) uint8 in OpenCV's channel order."""

ClockName = Literal["host", "rtcp", "pts"]


def _expect(name: str, array: NDArray[np.generic], shape: tuple[int | None, ...]) -> None:
    got = array.shape
    if got == shape:
        return  # nearly always, and thirteen times a frame
    if len(got) != len(shape) or any(
        w is not None and w != g for w, g in zip(shape, got, strict=True)
    ):
        want = tuple("any" if w is None else w for w in shape)
        raise ValueError(f"{name} has shape {got}, expected {want}")


class Picture(Protocol):
    """A decoded picture that can still be had in colour, for a person who asks to see it."""

    def bgr(self) -> BGR:
        """Convert to colour, (H, W, 3) uint8; costs about 2 ms at 1080p, so only on request."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One decoded picture of one camera.

    Attributes:
        camera: the camera's configured name.
        seq: counts the camera's decoded frames from 1, over reconnects too.
        luma_HW: the luma plane, uint8, read-only, a view of the decoder's own buffer.
        captured_ns: wall-clock time of capture, nanoseconds since the epoch.
        monotonic_ns: arrival on the host's monotonic clock, nanoseconds; ages are taken from it.
        media_s: media time on the monotonic clock, seconds; steps by the true frame distance even
            when a file is read faster than real time, so trackers and the LSTM count in it.
        clock: where ``captured_ns`` comes from.
        picture: the same picture in colour on request, None where a source has no colour.
    """

    camera: str
    seq: int
    luma_HW: U8
    captured_ns: int
    monotonic_ns: int
    media_s: float
    clock: ClockName = "host"
    picture: Picture | None = None

    def __post_init__(self) -> None:
        _expect("luma_HW", self.luma_HW, (None, None))
        if self.luma_HW.dtype != np.uint8:
            raise ValueError(f"luma_HW is {self.luma_HW.dtype}, expected uint8")

    @property
    def width(self) -> int:
        """Width of the picture in pixels."""
        return int(self.luma_HW.shape[1])

    @property
    def height(self) -> int:
        """Height of the picture in pixels."""
        return int(self.luma_HW.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """The faces found in one frame.

    Attributes:
        boxes_N4: xyxy float32 in pixels of the original frame; may reach outside it.
        scores_N: the detector's confidence, float32 in 0..1.
        eyes_N22: eye centres (x, y) float32 in pixels, the eye left in the picture first.
    """

    boxes_N4: F32
    scores_N: F32
    eyes_N22: F32

    def __post_init__(self) -> None:
        n = len(self.scores_N)
        _expect("scores_N", self.scores_N, (n,))
        _expect("boxes_N4", self.boxes_N4, (n, 4))
        _expect("eyes_N22", self.eyes_N22, (n, 2, 2))

    def __len__(self) -> int:
        return len(self.scores_N)

    @staticmethod
    def empty() -> Detections:
        """No face at all: arrays with zero rows."""
        return Detections(
            boxes_N4=np.zeros((0, 4), np.float32),
            scores_N=np.zeros(0, np.float32),
            eyes_N22=np.zeros((0, 2, 2), np.float32),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Where the faces that are known should be in the next frame.

    Attributes:
        boxes_M4: xyxy float32 in pixels of the original frame; may reach outside it.
        hidden_s_M: for how long each was not seen, seconds, float64; 0: it was, in the last frame.
    """

    boxes_M4: F32
    hidden_s_M: F64

    def __post_init__(self) -> None:
        _expect("boxes_M4", self.boxes_M4, (len(self.hidden_s_M), 4))

    def __len__(self) -> int:
        return len(self.hidden_s_M)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackEnd:
    """A track that has ended.

    Attributes:
        track: its number.
        first_s: media time of its first sighting, seconds.
        last_s: media time of its last sighting, seconds.
    """

    track: int
    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracks:
    """The confirmed tracks seen in one frame, and which began or ended with it.

    Attributes:
        ids_N: track numbers, int64; unique a camera for the life of the process.
        boxes_N4: xyxy float32 in pixels of the original frame.
        scores_N: detector confidence of this sighting, float32.
        eyes_N22: eye centres as in ``Detections``.
        appeared: ids confirmed with this frame.
        ended: tracks given up with this frame.
    """

    ids_N: I64
    boxes_N4: F32
    scores_N: F32
    eyes_N22: F32
    appeared: tuple[int, ...] = ()
    ended: tuple[TrackEnd, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.ids_N)
        _expect("ids_N", self.ids_N, (n,))
        _expect("boxes_N4", self.boxes_N4, (n, 4))
        _expect("scores_N", self.scores_N, (n,))
        _expect("eyes_N22", self.eyes_N22, (n, 2, 2))

    def __len__(self) -> int:
        return len(self.ids_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class CropBatch:
    """Face crops of all cameras, ready for the CNN.

    Attributes:
        faces_N1HW: float32, normalised as the bundle's manifest says.
        keys: for each row the camera and the track that it belongs to.
    """

    faces_N1HW: F32
    keys: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        _expect("faces_N1HW", self.faces_N1HW, (len(self.keys), 1, None, None))

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Emotion probabilities, row for row with the batch they were computed from.

    Attributes:
        probabilities_NK: float32, each row sums to 1, classes in the manifest's order.
        keys: for each row the camera and the track that it belongs to.
    """

    probabilities_NK: F32
    keys: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        _expect("probabilities_NK", self.probabilities_NK, (len(self.keys), None))

    def __len__(self) -> int:
        return len(self.keys)
