"""One worker as its parent sees it: started, listened to, and started again when it ends."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import structlog

import streamer
from streamer.errors import StreamerError
from streamer.supervisor import STUCK_S
from streamer.threads import show_name
from streamer.web.state import WorkerHealth
from streamer.workers.link import (
    Busy,
    Cameras,
    Changed,
    Events,
    Link,
    Loaded,
    Open,
    Picture,
    Refused,
    Renew,
    Report,
    Start,
    Stop,
    unpacked,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.backoff import Backoff
    from streamer.camera import Past
    from streamer.config import Camera, Config
    from streamer.events import Event
    from streamer.web.state import About, TrackView
    from streamer.workers.link import Family, Said

__all__ = ["Parent", "Worker"]

log = structlog.get_logger(__name__)
_LOOK_S: Final = 0.5  # how soon a stuck worker is noticed
_START_S: Final = 120.0
"""Without a word while it loads, a worker is stuck; compiling an engine it says that it goes on."""
_LAST_S: Final = 1.0  # from the end of the link to the end of the process
_MANAGERS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What a service manager tells its own child alone."""


class Parent(Protocol):
    """Whom a worker's thread tells what it hears."""

    def past(self, camera: str) -> Past:
        """Return what was published of a camera."""
        ...

    def take(self, events: Sequence[Event], lost: Sequence[tuple[str, str | None, int]]) -> None:
        """Publish events."""
        ...

    def busy(self) -> None:
        """Take note that a start goes on."""
        ...

    def show(self, worker: Worker, picture: Picture) -> None:
        """Hand a picture to its watcher."""
        ...

    def begun(self, worker: Worker) -> None:
        """Take note that a worker is there, at first or again."""
        ...

    def ended(self, worker: Worker, *, why: str, stuck: bool) -> None:
        """Take note that a worker's process has ended; another one is about to be started."""
        ...


class Worker:
    """A process and the thread that listens to it.

    Args:
        number: from 1, in logs and health checks.
        config: what it runs, but for the cameras.
        parent: is told what it says.
        backoff: how long to wait before it is started again.
        program: what the interpreter runs; it is given the descriptor of its end of the link.

    Attributes:
        about: what it runs; None before it has loaded.
        report: the last one; None while there is no process that has reported.
        families: every metric, as told last.
    """

    def __init__(
        self,
        number: int,
        *,
        config: Config,
        parent: Parent,
        backoff: Backoff,
        program: Sequence[str] = ("-m", "streamer.workers"),
    ) -> None:
        self.number = number
        self.about: About | None = None
        self.report: Report | None = None
        self.families: list[Family] = []
        self._config = config
        self._cameras: tuple[Camera, ...] = ()
        self._parent = parent
        self._backoff = backoff
        self._program = program
        self._opened = threading.Event()
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._first: About | None = None
        self._refused: Refused | None = None
        self._why = ""
        self._link: Link | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._heard_s = time.monotonic()
        self._changes: queue.SimpleQueue[Changed] = queue.SimpleQueue()
        self._asked: list[Future[None]] = []
        self._asking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """Its share."""
        return self._cameras

    @property
    def started(self) -> bool:
        """Whether there is a process, or is to be one."""
        return self._thread.ident is not None

    @property
    def loaded(self) -> bool:
        """Whether its process runs and has loaded the networks."""
        return self._link is not None and self.about is not None

    def start(self, cameras: tuple[Camera, ...]) -> None:
        """Start a process for these cameras; they are watched after ``open``."""
        self._cameras = cameras
        self._heard_s = time.monotonic()
        self._thread.start()

    def wait_loaded(self) -> About:
        """Wait until the first process has loaded the networks.

        Raises:
            StreamerError: when it cannot, with the exit code that says whether a restart helps.
        """
        self._settled.wait()
        if self._first is not None:
            return self._first
        if self._refused is not None:
            error = StreamerError(self._refused.error)
            error.exit_code = self._refused.exit_code
            raise error
        raise StreamerError(f"worker {self.number}: {self._why} while it started")

    def open(self) -> None:
        """Have the cameras watched, by this process and by those that may follow."""
        self._opened.set()
        self._send(Open())

    def change(self, cameras: tuple[Camera, ...]) -> None:
        """Give it another share; returns when it has taken it.

        Raises:
            StreamerError: when it cannot take it.
        """
        self._cameras = cameras
        while not self._changes.empty():
            self._changes.get()
        end_s = time.monotonic() + STUCK_S
        if not self._send(Cameras(cameras=cameras)):
            return  # the next process starts with them
        while self._link is not None and time.monotonic() < end_s:
            try:
                answer = self._changes.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if answer.error:
                raise StreamerError(answer.error)
            return

    def tell(self, order: Said) -> None:
        """Send an order that needs no answer."""
        self._send(order)

    def renew(self) -> Future[None]:
        """Ask for a report; the future is done when it is there, or cannot come."""
        done: Future[None] = Future()
        with self._asking:
            first = not self._asked
            self._asked.append(done)
        if first and not self._send(Renew()):
            self._answer()
        return done

    def order_stop(self, deadline_s: float) -> None:
        """Have it stop for good."""
        self._stopping.set()
        self._send(Stop(deadline_s=deadline_s))

    def wait_stopped(self, timeout_s: float) -> bool:
        """Wait for its end, and make it end when time runs out; say whether it ended by itself."""
        if not self.started:
            return True
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        if self._process is not None:
            self._process.kill()
        return False

    def liveness(self) -> Mapping[str, WorkerHealth]:
        """Tell the progress of the process and of its parts."""
        name = f"worker {self.number}"
        if not self.started or self._link is None:  # waiting is no lack of progress
            return {name: WorkerHealth(age_s=0.0, limit_s=STUCK_S)}
        silent_s = max(0.0, time.monotonic() - self._heard_s)
        limit_s = STUCK_S if self.about is not None else _START_S
        found = {name: WorkerHealth(age_s=silent_s, limit_s=limit_s)}
        report = self.report
        if report is not None:
            for part, health in report.liveness.items():
                shown = part if part.startswith("camera ") else f"{name} {part}"
                found[shown] = msgspec.structs.replace(health, age_s=health.age_s + silent_s)
        return found

    def tracks(self, camera: str) -> tuple[TrackView, ...]:
        """Return the faces of a camera's newest frame."""
        return () if self.report is None else self.report.tracks.get(camera, ())

    # The thread

    def _run(self) -> None:
        show_name()
        while not self._stopping.is_set():
            begun_s = time.monotonic()
            stuck = self._serve()
            if self._stopping.is_set() or self._first is None:
                break  # asked to, or it never came up: ``wait_loaded`` says so
            log.error("worker_ended", worker=self.number, why=self._why, stuck=stuck)
            self._parent.ended(self, why=self._why, stuck=stuck)
            self._stopping.wait(self._backoff.next_s(time.monotonic() - begun_s))
        self._settled.set()

    def _serve(self) -> bool:
        """Run one process to its end; say whether it had to be killed."""
        process, link = self._spawn()
        self._process, self._link, self._heard_s = process, link, time.monotonic()
        past = {camera.name: self._parent.past(camera.name) for camera in self._cameras}
        link.send(
            Start(config=msgspec.structs.replace(self._config, cameras=self._cameras), past=past)
        )
        if self._stopping.is_set():
            link.send(Stop(deadline_s=0.0))
        stuck: tuple[str, ...] = ()
        looked_s = time.monotonic()
        try:
            while True:
                message = link.receive(_LOOK_S)
                if message is not None:
                    self._hear(message)
                if not stuck and time.monotonic() - looked_s >= _LOOK_S:
                    looked_s = time.monotonic()
                    stuck = tuple(part for part, one in self.liveness().items() if one.stuck)
                    if stuck:
                        log.error("worker_stuck", worker=self.number, parts=stuck)
                        process.kill()
        except EOFError:
            pass
        self._link = None
        link.close()
        self._why = _ended(process)
        self.about = self.report = None
        self._answer()
        return bool(stuck)

    def _spawn(self) -> tuple[subprocess.Popen[bytes], Link]:
        mine, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: S603 our own program
                [sys.executable, "-P", *self._program, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={
                    **{key: value for key, value in os.environ.items() if key not in _MANAGERS},
                    # The same program as this one, however this one was found.
                    "PYTHONPATH": str(Path(streamer.__file__).parents[1]),
                },
            )
        return process, Link(mine)

    def _hear(self, message: Said) -> None:
        self._heard_s = time.monotonic()
        if isinstance(message, Events):
            self._parent.take(unpacked(message.events), message.lost)
        elif isinstance(message, Report):
            self.report = message
            if message.families is not None:
                self.families = message.families
                self._answer()
        elif isinstance(message, Picture):
            self._parent.show(self, message)
        elif isinstance(message, Loaded):
            self.about = self._first = message.about
            self._settled.set()
            if self._opened.is_set():
                self._send(Open())
            self._parent.begun(self)
        elif isinstance(message, Changed):
            self._changes.put(message)
        elif isinstance(message, Busy):
            self._parent.busy()
        elif isinstance(message, Refused):
            self._refused = message

    def _send(self, message: Said) -> bool:
        link = self._link
        return link is not None and link.send(message)

    def _answer(self) -> None:
        with self._asking:
            asked, self._asked = self._asked, []
        for future in asked:
            future.set_result(None)


def _ended(process: subprocess.Popen[bytes]) -> str:
    """Wait for the end of a process whose link has ended, and tell it in words."""
    try:
        code = process.wait(_LAST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"
