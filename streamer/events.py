"""The events that the daemon publishes, as typed data; a subscriber gets the same structs back.

The pipeline hands over an ``Event``: the data and when it was captured. ``streamer.envelope`` then
numbers it and completes it at the moment it is sent. Structs only grow: a new field has a default.
"""

from __future__ import annotations

import functools
import time
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.types import F32

__all__ = [
    "DATA_TYPES",
    "UNKNOWN",
    "Box",
    "CameraData",
    "CameraOffline",
    "CameraOnline",
    "DaemonStarted",
    "DaemonStopping",
    "EmotionChanged",
    "EmotionSample",
    "Event",
    "EventData",
    "FaceAppeared",
    "FaceLost",
    "FrameInfo",
    "Sighting",
    "TrackData",
    "named_probabilities",
    "parse_time",
    "pixel_box",
    "rfc3339",
]

UNKNOWN = "unknown"
"""The label of a face whose best class stays under the confidence threshold."""
_PROBABILITY_DIGITS = 5  # finer than the 1e-3 to which two runtimes of one bundle have to agree
_PIXEL_DIGITS = 1  # a tenth of a pixel; no detector is that exact

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the original frame."""


class FrameInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The frame an observation was made in: its number and its size in pixels."""

    seq: int
    width: int
    height: int


class EventData(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every kind of data has: the name of its type."""

    TYPE: ClassVar[str] = ""

    @property
    def subject(self) -> str | None:
        """What the event is about, within its source; None when it is the source itself."""
        return None


class CameraData(EventData, frozen=True, kw_only=True, gc=False):
    """Data about one camera, by its configured name."""

    camera: str


class TrackData(CameraData, frozen=True, kw_only=True, gc=False):
    """Data about one followed face; ``track`` is unique a camera for the life of the daemon."""

    track: int

    @property
    def subject(self) -> str:
        """The track, within its camera."""
        return f"tracks/{self.track}"


class Sighting(TrackData, frozen=True, kw_only=True, gc=False):
    """A face seen in one frame.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the original frame; may reach outside it.
        frame: the frame's number and size.
        captured_at: when the frame was captured, RFC 3339 UTC; see ``rfc3339``.
        clock: where that time comes from: ``host``, ``rtcp`` or ``pts``.
        latency_ms: from capture to sending; filled in by whoever sends.
    """

    box: Box
    frame: FrameInfo
    captured_at: str
    clock: str
    latency_ms: float = 0.0


class FaceAppeared(Sighting, frozen=True, kw_only=True, gc=False):
    """A track is confirmed."""

    TYPE: ClassVar[str] = "face.appeared"


class EmotionSample(Sighting, frozen=True, kw_only=True, gc=False):
    """The reading of one face in one analysed frame.

    Attributes:
        label: the most probable class, or ``unknown`` under the confidence threshold.
        confidence: the probability of the most probable class.
        probabilities: of each class; they sum to 1 but for rounding.
        bundle: the model bundle's identity.
    """

    TYPE: ClassVar[str] = "emotion.sample"

    label: str
    confidence: float
    probabilities: dict[str, float]
    bundle: str


class EmotionChanged(EmotionSample, frozen=True, kw_only=True, gc=False):
    """The label changed and held; ``label`` is the new one and ``previous`` the old."""

    TYPE: ClassVar[str] = "emotion.changed"

    previous: str


class FaceLost(TrackData, frozen=True, kw_only=True, gc=False):
    """A track has ended.

    Attributes:
        duration_s: from its first to its last sighting in media time, seconds.
        samples: how many readings the mean is taken of.
        label: the most probable class of the mean, or ``unknown``.
        confidence: its mean probability; 0 without a sample.
        mean_probabilities: mean of each class over the track; empty without a sample.
        bundle: the model bundle's identity.
    """

    TYPE: ClassVar[str] = "face.lost"

    duration_s: float
    samples: int
    label: str
    confidence: float
    mean_probabilities: dict[str, float]
    bundle: str


class CameraOnline(CameraData, frozen=True, kw_only=True, gc=False):
    """A camera delivers frames.

    Attributes:
        reason: ``connected`` at first, ``reconnected`` after it had been offline.
        width: of its pictures, pixels.
        height: of its pictures, pixels.
    """

    TYPE: ClassVar[str] = "camera.online"

    reason: str
    width: int
    height: int


class CameraOffline(CameraData, frozen=True, kw_only=True, gc=False):
    """A camera does not deliver frames.

    Attributes:
        reason: a ``streamer.errors.SourceReason``; a plain string here, since newer publishers may
            name reasons that an older subscriber does not know.
        detail: one line for a person, free of credentials.
    """

    TYPE: ClassVar[str] = "camera.offline"

    reason: str
    detail: str = ""


class DaemonStarted(EventData, frozen=True, kw_only=True, gc=False):
    """The daemon is ready.

    Attributes:
        versions: of the daemon (``streamer``) and of the libraries that matter, by name.
        bundle: the model bundle's identity.
        engine: runtime and device in words.
        cameras: the configured names.
        purpose: what the operator declared the analysis to be for; may be empty.
    """

    TYPE: ClassVar[str] = "daemon.started"

    versions: dict[str, str]
    bundle: str
    engine: str
    cameras: tuple[str, ...]
    purpose: str


class DaemonStopping(EventData, frozen=True, kw_only=True, gc=False):
    """The daemon is going to stop; ``reason`` says why, for instance ``SIGTERM``."""

    TYPE: ClassVar[str] = "daemon.stopping"

    reason: str


DATA_TYPES: dict[str, type[EventData]] = {
    data.TYPE: data
    for data in (
        FaceAppeared,
        FaceLost,
        EmotionSample,
        EmotionChanged,
        CameraOnline,
        CameraOffline,
        DaemonStarted,
        DaemonStopping,
    )
}
"""Every type that is published, by the name it has in the envelope."""


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the pipeline hands over: data, not yet numbered or sent.

    Attributes:
        data: one of ``DATA_TYPES``.
        captured_monotonic_ns: ``Frame.monotonic_ns`` of the frame it comes from; latency is taken
            from it. None for events that come from no frame.
    """

    data: EventData
    captured_monotonic_ns: int | None = None

    @property
    def type(self) -> str:
        """The type's name, for instance ``emotion.sample``."""
        return self.data.TYPE

    @property
    def camera(self) -> str | None:
        """The camera it comes from; None for the daemon's own events."""
        return self.data.camera if isinstance(self.data, CameraData) else None


def rfc3339(time_ns: int) -> str:
    """Write nanoseconds since the epoch as UTC, always with six digits of microseconds.

    >>> rfc3339(1769860800123456789)
    '2026-01-31T12:00:00.123456Z'
    """
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{_second_text(seconds)}.{rest_ns // 1000:06d}Z"


@functools.lru_cache(maxsize=16)  # all events of a second share the text: 0.4 µs instead of 2 µs
def _second_text(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def parse_time(text: str) -> datetime:
    """Read ``time`` or ``captured_at`` of an event as an aware datetime.

    Raises:
        ValueError: if it is not an RFC 3339 time.
    """
    return datetime.fromisoformat(text)


def pixel_box(box_4: Sequence[float] | F32) -> Box:
    """Round a box, xyxy in pixels, to what an event carries."""
    x1, y1, x2, y2 = (round(float(value), _PIXEL_DIGITS) for value in box_4)
    return x1, y1, x2, y2


def named_probabilities(
    probabilities_K: Sequence[float] | F32, classes: Sequence[str]
) -> dict[str, float]:
    """Name the probabilities of one face by class, rounded to what an event carries.

    Raises:
        ValueError: if there are more or fewer probabilities than classes.
    """
    return {
        name: round(float(value), _PROBABILITY_DIGITS)
        for name, value in zip(classes, probabilities_K, strict=True)
    }
