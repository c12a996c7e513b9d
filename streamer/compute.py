"""The compute loop: takes every camera's newest due frame and runs the pipeline over them.

One thread. It sleeps until a frame is due; while it computes, newer frames replace older ones in
the mailboxes, so the busier it is, the larger its batches are and nothing ever queues. When it is
late for long it gives up something, see ``streamer.throttle``.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from streamer.events import CameraOffline, Event
from streamer.metrics import DropReason
from streamer.pace import Pace
from streamer.threads import show_name
from streamer.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.events import CameraOnline
    from streamer.mailbox import Mailbox
    from streamer.metrics import Metrics
    from streamer.stages import Clock, Sink
    from streamer.types import Frame

__all__ = ["Analysis", "ComputeLoop"]

log = structlog.get_logger(__name__)
NS: Final = 1_000_000_000
_IDLE_S = 0.5  # without any frame the loop still shows progress twice a second


class Analysis(Protocol):
    """What the loop runs: ``streamer.pipeline.Pipeline``."""

    def process(self, frames: Sequence[Frame], *, frugal: bool = False) -> None:
        """Analyse the newest frames of some cameras, at most one a camera."""
        ...

    def lose(self, camera: str) -> None:
        """End every track of a camera that stopped delivering."""
        ...

    def forget(self, camera: str) -> None:
        """Drop a camera that is no longer configured."""
        ...


class ComputeLoop:
    """Owns the pipeline and its thread.

    Args:
        pipeline: what is run; used by this thread alone once started.
        fps: how often each camera is analysed; 0: every frame it can take.
        sink: takes the events about cameras, in order with those about their faces.
        metrics: counts the frames left over.
        clock: shows progress.
    """

    def __init__(
        self, pipeline: Analysis, *, fps: float, sink: Sink, metrics: Metrics, clock: Clock
    ) -> None:
        self._pipeline = pipeline
        self._fps = fps
        self._sink = sink
        self._metrics = metrics
        self._clock = clock
        self.ready = threading.Condition()
        self._mailboxes: dict[str, Mailbox] = {}
        self._paces: dict[str, Pace] = {}
        self._throttle = Throttle()
        self._orders: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self.last_progress_ns = clock.monotonic_ns()

    def attach(self, camera: str, mailbox: Mailbox) -> None:
        """Analyse a camera's frames from now on; from any thread."""
        self._order(lambda: self._attach(camera, mailbox))

    def detach(self, camera: str, *, forget: bool, timeout_s: float) -> bool:
        """Let go of a camera whose feed has stopped, and end its tracks; from any other thread.

        Args:
            camera: its name.
            forget: it will not come back; else its tracks' numbers go on when it does.
            timeout_s: how long to wait until that is done, seconds.

        Returns:
            Whether it was done within the time.
        """
        done = threading.Event()
        self._order(lambda: self._detach(camera, forget=forget))
        self._order(done.set)
        return done.wait(timeout_s)

    def tell(self, notice: CameraOnline | CameraOffline) -> None:
        """Tell a camera's change of state, in order with its faces; from any thread."""
        self._order(lambda: self._tell(notice))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop after the batch in hand; say whether it did in time."""
        with self.ready:
            self._stopping.set()
            self.ready.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        show_name()
        while not self._stopping.is_set():
            with self.ready:
                self.ready.wait_for(self._has_work, _IDLE_S)
            self._obey()
            frames = self._take_due()
            if frames:
                self._process(frames)
            self.last_progress_ns = self._clock.monotonic_ns()
        self._obey()
        for camera in list(self._mailboxes):
            self._detach(camera, forget=True)

    def _process(self, frames: list[Frame]) -> None:
        began_ns = self._clock.monotonic_ns()
        self._pipeline.process(frames, frugal=self._throttle.level.frugal)
        now_ns = self._clock.monotonic_ns()
        # A file that is read as fast as possible keeps the loop busy, and has no haste.
        lags_s = [
            (now_ns - frame.monotonic_ns) / NS
            for frame in frames
            if not self._mailboxes[frame.camera].patient
        ]
        if self._throttle.note(now_ns / NS, (now_ns - began_ns) / NS, lags_s):
            level = self._throttle.level
            log.info(
                "overload_level_changed",
                level=self._throttle.index,
                analysed_share=level.share,
                detector_small=level.frugal,
            )
            for camera in self._mailboxes:
                self._metrics.camera(camera).overload_level.set(self._throttle.index)

    def _has_work(self) -> bool:
        return bool(
            self._orders
            or self._stopping.is_set()
            or any(mailbox.due for mailbox in self._mailboxes.values())
        )

    def _take_due(self) -> list[Frame]:
        frames = []
        for camera, mailbox in self._mailboxes.items():
            with self.ready:  # a reader must not see the slot free before it is known what is due
                frame = mailbox.take() if mailbox.due else None
                if frame is None:
                    continue
                pace = self._paces[camera]
                pace.stretch(1.0 if mailbox.patient else 1.0 / self._throttle.level.share)
                pace.take(frame.media_s)
                mailbox.due_s, mailbox.put_off_s = pace.due_s, pace.put_off_s
            frames.append(frame)
        return frames

    def _order(self, order: Callable[[], None]) -> None:
        with self.ready:
            self._orders.append(order)
            self.ready.notify_all()

    def _obey(self) -> None:
        while self._orders:
            self._orders.popleft()()

    def _attach(self, camera: str, mailbox: Mailbox) -> None:
        self._mailboxes[camera] = mailbox
        self._paces[camera] = Pace(self._fps)
        self._metrics.camera(camera).overload_level.set(self._throttle.index)

    def _tell(self, notice: CameraOnline | CameraOffline) -> None:
        if isinstance(notice, CameraOffline):
            self._pipeline.lose(notice.camera)
            self._discard(notice.camera)
        self._sink.emit(Event(data=notice))

    def _detach(self, camera: str, *, forget: bool) -> None:
        (self._pipeline.forget if forget else self._pipeline.lose)(camera)
        self._discard(camera)
        self._mailboxes.pop(camera, None)
        self._paces.pop(camera, None)

    def _discard(self, camera: str) -> None:
        """Count what was captured and will not be analysed any more."""
        mailbox = self._mailboxes.get(camera)
        if mailbox is not None and mailbox.take() is not None:
            self._metrics.camera(camera).dropped[DropReason.STOPPED].inc()
