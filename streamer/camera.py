"""What is known of one camera: kept from what its feed and the pipeline report.

Metrics are counted here, and the compute loop is told of each change of state, so that a camera's
events stay in order with those of its faces.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from streamer.errors import SourceReason
from streamer.events import CameraOffline, CameraOnline
from streamer.timeline import FrameRate
from streamer.web.state import CameraView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client import Counter, Gauge

    from streamer.lane import Reading
    from streamer.metrics import DropReason, Metrics
    from streamer.source import DiscardReason, SourceInfo
    from streamer.stages import Clock
    from streamer.types import Frame
    from streamer.web.state import CameraState

__all__ = ["CameraRecord", "Past"]


log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Status:
    """What is known of a camera now; replaced under the lock."""

    state: CameraState
    since: datetime
    reason: str | None = None
    info: SourceInfo | None = None


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What was published of a camera by a process that has ended, so that no number comes twice.

    Attributes:
        track: the last number of a track.
        seq: the last number of a frame.
        seen: whether it has been online.
    """

    track: int = 0
    seq: int = 0
    seen: bool = False


class CameraRecord:
    """One camera: what its feed reports to, and what others ask.

    Args:
        name: its configured name.
        url: its address, free of credentials.
        metrics: counts for it.
        clock: dates its changes of state.
        tell: passes on what becomes an event.
        seen: whether it was online before, in a process that has ended.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        metrics: Metrics,
        clock: Clock,
        tell: Callable[[CameraOnline | CameraOffline], None],
        seen: bool = False,
    ) -> None:
        self.name = name
        self._url = url
        self._metrics = metrics
        self._series = metrics.camera(name)
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._seen_online = seen
        self._status = _Status("connecting", self._now())
        self._analysed = FrameRate()
        self._latency_ms: float | None = None

    @property
    def state(self) -> CameraState:
        """Whether it delivers."""
        return self._status.state

    def captured(self) -> None:
        """Count a frame handed over."""
        self._series.captured.inc()

    def dropped(self, reason: DropReason) -> None:
        """Count a captured frame that will not be analysed."""
        self._series.dropped[reason].inc()

    def discarded(self, reason: DiscardReason) -> None:
        """Count a picture that the source threw away before capture."""
        self._metrics.sources_discarded_frames.labels(self.name, reason.value).inc()

    def online(self, info: SourceInfo) -> None:
        """Take note that the camera delivers."""
        self._set(_Status("online", self._now(), None, info))
        self._series.up.set(1)
        reason = "reconnected" if self._seen_online else "connected"
        log.info("camera_online", camera=self.name, reason=reason, codec=info.codec)
        self._seen_online = True
        self._tell(
            CameraOnline(camera=self.name, reason=reason, width=info.width, height=info.height)
        )

    def offline(self, reason: SourceReason, detail: str) -> None:
        """Take note that it stopped delivering, or could not be opened."""
        log.warning("camera_offline", camera=self.name, reason=reason.value, detail=detail)
        info = self._status.info
        self._set(_Status("offline", self._now(), reason.value, info))
        self._series.up.set(0)
        self._tell(CameraOffline(camera=self.name, reason=reason.value, detail=detail))

    def removed(self) -> None:
        """Tell that it is no longer watched, or is about to be opened anew."""
        self._series.up.set(0)
        self._tell(
            CameraOffline(
                camera=self.name, reason=SourceReason.STOPPED.value, detail="configuration changed"
            )
        )

    def reconnecting(self, reason: SourceReason) -> None:
        """Count an attempt to open it again."""
        self._metrics.camera_reconnects.labels(self.name, reason.value).inc()

    def offer(self, frame: Frame, _readings: Sequence[Reading]) -> None:
        """Take note of an analysed frame; a ``streamer.pipeline.Viewer`` of this camera."""
        now_ns = self._clock.monotonic_ns()
        self._analysed.tick(now_ns)
        self._latency_ms = round((now_ns - frame.monotonic_ns) / 1e6, 1)

    def view(self) -> CameraView:
        """Return what the API and the live page show of it."""
        status, series = self._status, self._series
        info = status.info
        return CameraView(
            name=self.name,
            url=self._url,
            state=status.state,
            since=status.since,
            reason=status.reason,
            codec=info.codec if info else None,
            width=info.width if info else None,
            height=info.height if info else None,
            fps=round(_value(series.fps), 2),
            overload=int(_value(series.overload_level)),
            analysed_fps=round(self._analysed.per_second(self._clock.monotonic_ns()), 2),
            latency_ms=self._latency_ms if status.state == "online" else None,
            captured=int(_value(series.captured)),
            analysed=int(_value(series.analysed)),
            dropped={reason.value: int(_value(c)) for reason, c in series.dropped.items()},
        )

    def _set(self, status: _Status) -> None:
        with self._lock:
            self._status = status

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC)


def _value(series: Counter | Gauge) -> float:
    """Read a series as a scrape would."""
    return next(iter(series.collect())).samples[0].value
