"""One camera's thread: opens, reads, retries for ever; the only place where anything is retried."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from streamer.backoff import Backoff
from streamer.errors import SourceError, SourceReason
from streamer.metrics import DropReason
from streamer.source import Continuity
from streamer.threads import give_way, show_name
from streamer.timeline import FrameRate

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.burst import Times
    from streamer.mailbox import Mailbox
    from streamer.source import CaptureOptions, DiscardReason, SourceInfo
    from streamer.stages import Clock
    from streamer.types import Frame

__all__ = ["CameraFeed", "FeedObserver", "FeedState", "OpenedSource", "Opener"]

NS: Final = 1_000_000_000
_LOOK_S: Final = 0.5  # how soon a reader that waits for the compute loop sees that it should stop


class OpenedSource(Protocol):
    """What the feed needs of an opened source."""

    @property
    def info(self) -> SourceInfo:
        """What was found."""
        ...

    @property
    def last_packet_ns(self) -> int:
        """When data came last, on the monotonic clock, nanoseconds."""
        ...

    def read(self) -> Frame:
        """Return the next frame within the deadline, or raise SourceError."""
        ...

    def close(self) -> None:
        """Release everything; may be called twice."""
        ...


class Opener(Protocol):
    """``streamer.capture.open_source``."""

    def __call__(
        self,
        options: CaptureOptions,
        clock: Clock,
        *,
        interrupt: threading.Event | None,
        continuity: Continuity | None,
        on_discard: Callable[[DiscardReason], None],
        wanted_s: Callable[[], float],
        on_passed: Callable[[Times], None],
    ) -> OpenedSource:
        """Open a source or raise SourceError."""
        ...


class FeedObserver(Protocol):
    """What becomes of a camera, told from its thread: where metrics and events hang on.

    Captured = analysed + dropped + in flight: each captured frame is passed over, or dropped by the
    feed, or waits in the mailbox, or was taken from it.
    """

    def captured(self) -> None:
        """A clean frame was decoded."""
        ...

    def dropped(self, reason: DropReason) -> None:
        """A captured frame will not be analysed: a later one was there first."""
        ...

    def discarded(self, reason: DiscardReason) -> None:
        """A picture was thrown away before it counted as captured."""
        ...

    def online(self, info: SourceInfo) -> None:
        """The first clean frame of a connection is there."""
        ...

    def offline(self, reason: SourceReason, detail: str) -> None:
        """The camera stopped delivering, never began to, or is down for another reason now."""
        ...

    def reconnecting(self, reason: SourceReason) -> None:
        """It is about to be opened again, after having been lost for this reason."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedState:
    """How a camera is; replaced as a whole, so that any thread may look.

    Attributes:
        online: whether clean frames arrive.
        since_ns: since when, on the monotonic clock, nanoseconds.
        reason: why it is offline; None while it is online or opened for the first time.
        detail: the same for a person, free of credentials.
        info: what was found at the last opening, None before it.
        finished: a file that ended and is not looped: it stays offline.
    """

    online: bool
    since_ns: int
    reason: SourceReason | None = None
    detail: str = ""
    info: SourceInfo | None = None
    finished: bool = False


class CameraFeed:
    """Keeps one camera's newest frame in a mailbox, whatever happens to the camera.

    A source that fails, stalls or ends is opened again for ever, after a wait with full jitter. The
    one exception is a file on this machine without ``loop``: when it has ended it stays offline
    with the reason ``ended``, for nothing more can come.

    Args:
        options: what to open.
        mailbox: where frames go.
        observer: told of everything.
        clock: gives the times.
        opener: ``streamer.capture.open_source``.
        random: draws from [0, 1); jitters the waits.
        continuity: of an earlier feed of this camera, whose numbers go on.
    """

    def __init__(
        self,
        options: CaptureOptions,
        *,
        mailbox: Mailbox,
        observer: FeedObserver,
        clock: Clock,
        opener: Opener,
        random: Callable[[], float],
        continuity: Continuity | None = None,
    ) -> None:
        self._options = options
        self._mailbox = mailbox
        self._observer = observer
        self._clock = clock
        self._open = opener
        self._backoff = Backoff(random)
        self._continuity = replace(continuity) if continuity else Continuity()
        self._rate = FrameRate()
        self._stop = threading.Event()
        self._waiting = False
        self._source: OpenedSource | None = None
        self._progress_ns = clock.monotonic_ns()
        self._state = FeedState(online=False, since_ns=self._progress_ns)
        self._thread = threading.Thread(
            target=self._run, name=f"feed-{options.camera}", daemon=True
        )

    @property
    def options(self) -> CaptureOptions:
        """What it was told to open."""
        return self._options

    @property
    def continuity(self) -> Continuity:
        """Number and media time of the last frame."""
        return self._continuity

    @property
    def camera(self) -> str:
        """The camera's configured name."""
        return self._options.camera

    @property
    def state(self) -> FeedState:
        """How the camera is now."""
        return self._state

    @property
    def fps(self) -> float:
        """Measured frames a second over the last ten seconds."""
        return self._rate.per_second(self._clock.monotonic_ns())

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends by ``stop``, with a finished file, or by a bug."""
        return self._thread.is_alive()

    @property
    def last_progress_ns(self) -> int:
        """When the thread last got on, on the monotonic clock, nanoseconds.

        A camera that is down is progress: its opens fail within their deadline, and waiting for the
        next attempt counts as progress throughout. So this falls behind only when a call into
        FFmpeg overruns: by more than three times ``open_timeout_s``, or ``read_timeout_s``.
        """
        if self._waiting or self._state.finished:
            return self._clock.monotonic_ns()
        source = self._source
        return max(self._progress_ns, source.last_packet_ns if source else 0)

    def start(self) -> None:
        """Begin, in a thread of its own; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end: every wait of ours at once, a call into FFmpeg at its deadline."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended; False if it has not within ``timeout_s`` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        show_name()
        give_way()
        while not self._stop.is_set():
            failure, healthy_s = self._session()
            if failure.reason is SourceReason.STOPPED or self._stop.is_set():
                break  # who stopped it tells the rest; the name may be another feed's by now
            self._lost(failure)
            if self._state.finished:
                break
            self._waiting = True
            stopped = self._stop.wait(self._backoff.next_s(healthy_s))
            self._progress_ns = self._clock.monotonic_ns()
            self._waiting = False
            if not stopped:
                self._observer.reconnecting(failure.reason)
        if self._stop.is_set() and self._mailbox.take() is not None:
            self._observer.dropped(DropReason.STOPPED)

    def _session(self) -> tuple[SourceError, float]:
        """Open and read until it fails; return why, and how long it delivered, seconds."""
        online_ns: int | None = None
        source: OpenedSource | None = None
        try:
            source = self._source = self._open(
                self._options,
                self._clock,
                interrupt=self._stop,
                continuity=self._continuity,
                on_discard=self._observer.discarded,
                wanted_s=lambda: self._mailbox.due_s,
                on_passed=self._passed,
            )
            self._progress_ns = self._clock.monotonic_ns()
            first = source.read()
            online_ns = self._clock.monotonic_ns()
            self._state = FeedState(online=True, since_ns=online_ns, info=source.info)
            self._observer.online(source.info)  # before its frame can become a face's event
            self._deliver(first)
            while True:
                self._deliver(source.read())
        except SourceError as error:
            now_ns = self._clock.monotonic_ns()
            return error, 0.0 if online_ns is None else (now_ns - online_ns) / NS
        finally:
            self._source = None
            self._progress_ns = self._clock.monotonic_ns()
            if source is not None:
                source.close()

    def _passed(self, times: Times) -> None:
        """Count a picture that no frame was made of: most cameras send more than is analysed."""
        self._captured(times.arrival_ns)
        self._observer.dropped(self._mailbox.passed(times.media_s))

    def _captured(self, arrival_ns: int) -> None:
        self._progress_ns = arrival_ns
        self._rate.tick(arrival_ns)
        self._observer.captured()

    def _deliver(self, frame: Frame) -> None:
        self._captured(frame.monotonic_ns)
        self._mailbox.patient = not self._keeps_up
        displaced = self._mailbox.put(frame)
        if displaced is not None:
            self._observer.dropped(displaced)
        while not (self._keeps_up or self._stop.is_set()):
            if self._mailbox.wait_taken(_LOOK_S):
                break
            self._progress_ns = self._clock.monotonic_ns()

    @property
    def _keeps_up(self) -> bool:
        """Whether frames come at their own pace; an unpaced file waits for the compute loop."""
        source = self._source
        return self._options.realtime or source is None or source.info.live

    def _lost(self, failure: SourceError) -> None:
        """Go offline; said again only when it comes from being online or for another reason."""
        before = self._state
        info = before.info
        ended = failure.reason is SourceReason.ENDED and info is not None and info.regular_file
        changed = before.online or before.reason is not failure.reason
        self._state = FeedState(
            online=False,
            since_ns=self._clock.monotonic_ns() if changed else before.since_ns,
            reason=failure.reason,
            detail=failure.detail,
            info=info,
            finished=ended and not self._options.loop,
        )
        if changed:
            self._observer.offline(failure.reason, failure.detail)
