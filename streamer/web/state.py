"""What the web server asks of the daemon, and the shape in which it tells it to others."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec resolves a struct's annotations
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client import Metric

__all__ = [
    "About",
    "CameraState",
    "CameraView",
    "Reading",
    "Series",
    "TrackView",
    "WebState",
    "WorkerHealth",
]


class Series(Protocol):
    """What an exposition is made of, as ``prometheus_client.CollectorRegistry`` is."""

    def collect(self) -> Iterable[Metric]:
        """Return every metric with its samples as of now."""
        ...


CameraState = Literal["connecting", "online", "offline"]


class Reading(Protocol):
    """One face as it was read in one frame."""

    @property
    def track(self) -> int:
        """The track's number."""
        ...

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Where it is: xyxy in pixels of the original frame."""
        ...

    @property
    def label(self) -> str:
        """The expression, or ``unknown``."""
        ...

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Probability of each class; empty for a face that was not read."""
        ...


class TrackView(msgspec.Struct, frozen=True, kw_only=True):
    """One face in ``/api/cameras`` and on the live page; fields as in ``Reading``."""

    track: int
    box: tuple[float, float, float, float]
    label: str
    probabilities: dict[str, float]

    @staticmethod
    def of(reading: Reading) -> TrackView:
        """Copy what a reading says."""
        return TrackView(
            track=reading.track,
            box=reading.box,
            label=reading.label,
            probabilities=dict(reading.probabilities),
        )


class CameraView(msgspec.Struct, frozen=True, kw_only=True):
    """One camera as the daemon sees it.

    Attributes:
        name: its configured name.
        url: its address, free of credentials.
        state: whether it delivers.
        since: when it came into that state, UTC.
        reason: why it does not deliver; None while it does.
        codec: of the stream; None before the first connection, as the next two.
        width: of the picture in pixels.
        height: of the picture in pixels.
        fps: measured rate of captured frames per second.
        analysed_fps: measured rate of analysed frames per second.
        overload: what is given up to keep up, see the metric ``overload_level``; 0: nothing.
        latency_ms: capture to send of the last event; None before the first.
        captured: frames since start.
        analysed: frames since start.
        dropped: frames since start by reason.
    """

    name: str
    url: str
    state: CameraState
    since: datetime
    reason: str | None = None
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float = 0.0
    analysed_fps: float = 0.0
    overload: int = 0
    latency_ms: float | None = None
    captured: int = 0
    analysed: int = 0
    dropped: dict[str, int] = {}


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What runs here.

    Attributes:
        version: of the program.
        bundle: name of the model bundle.
        engines: runtime and device in words, a network.
        classes: names of the expressions.
        purpose: why faces are read here, as configured; may be empty.
    """

    version: str
    bundle: str
    engines: dict[str, str]
    classes: tuple[str, ...]
    purpose: str = ""


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How long ago a worker made progress, and how long it may take.

    Attributes:
        age_s: seconds since its last progress.
        limit_s: beyond this it counts as stuck.
    """

    age_s: float
    limit_s: float

    @property
    def stuck(self) -> bool:
        """Whether it is over its limit."""
        return self.age_s > self.limit_s


class WebState(Protocol):
    """The daemon as the web server needs it; called from the web thread, must not block."""

    def about(self) -> About:
        """Tell what runs."""
        ...

    def liveness(self) -> Mapping[str, WorkerHealth]:
        """Tell every worker's progress by its name."""
        ...

    def readiness(self) -> Mapping[str, bool]:
        """Tell what the daemon needs to be ready, and whether it has it."""
        ...

    def cameras(self) -> Sequence[CameraView]:
        """Tell about every configured camera, in the order of the configuration."""
        ...

    def series(self) -> Series:
        """Return every metric."""
        ...

    async def renew(self) -> None:
        """Bring what is told up to date where other processes know it; within a second."""
        ...
