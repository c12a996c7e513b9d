"""The worker process: a station whose events, state and pictures go to the parent.

It obeys its parent alone: signals that a terminal sends to the whole group are blocked, and when
the parent has gone, it goes too.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections import Counter, deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NoReturn

import structlog
from prometheus_client import CollectorRegistry

from streamer import logs
from streamer.clock import SystemClock
from streamer.errors import StreamerError
from streamer.memory import Trim
from streamer.metrics import Metrics
from streamer.station import Station
from streamer.supervisor import GRACE_S, block_signals, catch_failures, leave
from streamer.threads import show_name
from streamer.web.live import LiveView, Wanted
from streamer.workers.link import (
    Busy,
    Cameras,
    Changed,
    Events,
    Family,
    Link,
    Loaded,
    More,
    Open,
    Picture,
    Refused,
    Renew,
    Report,
    Start,
    Stop,
    Unwatch,
    Watch,
    packed,
)

if TYPE_CHECKING:
    import queue
    from types import TracebackType

    from streamer.config import Camera
    from streamer.events import Event
    from streamer.stages import Clock
    from streamer.workers.link import Said

__all__ = ["main"]

log = structlog.get_logger(__name__)
_LOOK_S: Final = 0.25  # how soon a broken thread is noticed
_REPORT_S: Final = 0.5  # between two signs of life
_COUNTS_S: Final = 5.0
"""Between two reports with every metric: what a crash loses of them."""
_WAITING: Final = 10_000
"""Events that may wait for the parent, as in ``streamer.publish``: many seconds of them."""
_START_S: Final = 30.0  # for the parent's first message


def main() -> NoReturn:
    """Run until the parent says so or has gone: ``python -m streamer.workers DESCRIPTOR``."""
    block_signals()
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    start = link.receive(_START_S)
    if not isinstance(start, Start):
        leave(1)
    clock = SystemClock()
    config = start.config
    logs.configure(config.log.level, config.log.format, clock=clock)
    logs.redact_tracebacks()
    failures = catch_failures()
    sys.excepthook = _told
    threading.current_thread().name = "worker"
    show_name()
    worker = _Worker(start, link, clock)
    try:
        worker.start()
    except StreamerError as error:
        link.send(Refused(error=str(error), exit_code=error.exit_code))
        leave(error.exit_code)
    leave(worker.run(failures))


class _Worker:
    """The station of this process, and the parent's orders to it."""

    def __init__(self, start: Start, link: Link, clock: Clock) -> None:
        self._link = link
        self._cameras = start.config.cameras
        self._opened = False
        self._metrics = Metrics(CollectorRegistry())
        self._live = LiveView(
            clock=clock, metrics=self._metrics, pictures=start.config.http.pictures
        )
        self._relay = _Relay(self._live, link)
        self._outlet = _Outlet(link, self._metrics)
        self._station = Station(
            start.config,
            sink=self._outlet,
            metrics=self._metrics,
            onlooker=self._live,
            clock=clock,
            past=start.past,
        )
        self._reported_s = self._counted_s = time.monotonic()

    def start(self) -> None:
        """Load the networks and say so.

        Raises:
            StreamerError: when they cannot be had.
        """
        self._outlet.start()
        self._link.send(Loaded(about=self._station.load(self._progressed)))

    def _progressed(self) -> None:
        """Say that an engine is being compiled, from whatever thread does it."""
        now_s = time.monotonic()
        if now_s - self._reported_s >= _REPORT_S:
            self._reported_s = now_s
            self._link.send(Busy())

    def run(self, failures: queue.SimpleQueue[str]) -> int:
        """Obey until it is time to go; return the exit code."""
        trim = Trim()
        while failures.empty():
            try:
                order = self._link.receive(_LOOK_S)
            except EOFError:
                log.warning("parent_gone")
                order = Stop(deadline_s=GRACE_S)
            if isinstance(order, Stop):
                return self._stop(order.deadline_s)
            if order is not None:
                self._obey(order)
            now_s = time.monotonic()
            if now_s - self._reported_s >= _REPORT_S:
                self._report(counts=now_s - self._counted_s >= _COUNTS_S)
            trim.when_due()
        log.error("worker_failed", thread=failures.get())
        return 1

    def _obey(self, order: Said) -> None:
        if isinstance(order, Renew):
            self._report(counts=True)
        elif isinstance(order, Watch | More | Unwatch):
            self._relay.obey(order)
        elif isinstance(order, Open) and not self._opened:
            self._opened = True
            self._open()
        elif isinstance(order, Cameras):
            self._change(order.cameras)

    def _open(self) -> None:
        for camera in self._cameras:
            try:
                self._station.open((camera,))
            except StreamerError as error:  # right when the parent looked, and not any more
                log.error("camera_refused", camera=camera.name, error=str(error))  # noqa: TRY400
        self._report(counts=True)

    def _change(self, cameras: tuple[Camera, ...]) -> None:
        self._cameras = cameras
        error = ""
        if self._opened:
            try:
                self._station.reload(cameras)
            except StreamerError as refused:
                error = str(refused)
        self._report(counts=True)
        self._link.send(Changed(error=error))

    def _report(self, *, counts: bool) -> None:
        self._reported_s = time.monotonic()
        if counts:
            self._counted_s = self._reported_s
        views = list(self._station.cameras())
        self._link.send(
            Report(
                liveness=dict(self._station.liveness()),
                cameras=views,
                tracks={view.name: self._live.tracks(view.name) for view in views},
                families=_families(self._metrics.registry) if counts else None,
            )
        )

    def _stop(self, deadline_s: float) -> int:
        end_s = time.monotonic() + deadline_s
        overrun = self._station.stop(0.8 * deadline_s)
        flushed = self._outlet.stop(max(0.05, end_s - time.monotonic()))
        self._report(counts=True)
        self._link.close()
        return 1 if overrun or not flushed else 0


class _Outlet:
    """The sink of this process: sends events to the parent, who numbers them.

    What waits is bounded; an event that finds no room takes the place of the oldest, which is
    counted here and whose number the parent leaves out, so that subscribers see the hole.
    """

    def __init__(self, link: Link, metrics: Metrics) -> None:
        self._link = link
        self._metrics = metrics
        self._changed = threading.Condition()
        self._waiting: deque[Event] = deque()
        self._lost: Counter[tuple[str, str | None]] = Counter()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)

    def start(self) -> None:
        """Start the thread that sends."""
        self._thread.start()

    def emit(self, *events: Event) -> None:
        """Hand over events; see ``streamer.stages.Sink``."""
        with self._changed:
            self._waiting.extend(events)
            while len(self._waiting) > _WAITING:
                oldest = self._waiting.popleft()
                self._lost[oldest.type, oldest.camera] += 1
                self._metrics.events_dropped.labels(oldest.type).inc()
            self._changed.notify()

    def stop(self, timeout_s: float) -> bool:
        """Send what waits; False if time ran out first."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        show_name()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                events, self._waiting = self._waiting, deque()
                lost, self._lost = self._lost, Counter()
            losses = [(kind, camera, count) for (kind, camera), count in lost.items()]
            self._link.send(Events(events=packed(events), lost=losses))


class _Relay:
    """The live view of this process for the parent's watchers; its loop starts with the first."""

    def __init__(self, live: LiveView, link: Link) -> None:
        self._live = live
        self._link = link
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._room: dict[int, asyncio.Semaphore] = {}

    def obey(self, order: Watch | More | Unwatch) -> None:
        """Do in the loop what a watcher wants."""
        if self._loop is None:
            loop = self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._run, args=(loop,), name="web", daemon=True).start()
        self._loop.call_soon_threadsafe(self._take, order)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        show_name()
        asyncio.set_event_loop(loop)
        loop.call_soon(self._live.open)
        loop.run_forever()

    def _take(self, order: Watch | More | Unwatch) -> None:
        watcher = order.watcher
        if isinstance(order, More):
            if watcher in self._room:
                self._room[watcher].release()
        elif isinstance(order, Unwatch):
            self._room.pop(watcher, None)
            if task := self._tasks.pop(watcher, None):
                task.cancel()
        else:
            self._room[watcher] = asyncio.Semaphore()
            self._tasks[watcher] = asyncio.get_running_loop().create_task(self._watch(order))

    async def _watch(self, order: Watch) -> None:
        """Send one picture whenever the watcher has room for it."""
        room = self._room[order.watcher]
        wanted = Wanted(cameras=order.cameras, pictures=order.pictures, width_px=order.width_px)
        await room.acquire()
        async with aclosing(self._live.watch(wanted, None)) as messages:
            async for message in messages:
                self._link.send(Picture(watcher=order.watcher, message=message))
                await room.acquire()


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what ends the process, free of credentials as every line."""
    log.critical("worker_failed", exc_info=(kind, error, trace))


def _families(registry: CollectorRegistry) -> list[Family]:
    return [
        Family(
            name=metric.name,
            kind=metric.type,
            text=metric.documentation,
            samples=[(s.name, s.labels, s.value) for s in metric.samples],
        )
        for metric in registry.collect()
    ]
