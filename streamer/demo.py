"""``streamer demo``: the main job with no configuration, its events printed beside it."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from streamer import logs, systemd
from streamer.app import Service
from streamer.client import Subscriber
from streamer.clock import SystemClock
from streamer.config import Camera, Config, Http, Publish, Purpose
from streamer.errors import ConfigError
from streamer.events import EmotionSample
from streamer.showreel import showreel
from streamer.supervisor import heard_signals, supervise
from streamer.watch import describe

if TYPE_CHECKING:
    from rich.console import Console

    from streamer.client import Received

__all__ = ["run"]

_SAMPLE_EVERY_S = 1.0  # samples come ten times a second a face; nobody could read them
_EVENTS, _SNAPSHOT, _HTTP = 5556, 5557, 9108
_JOIN_S = 2.0


def run(console: Console, notes: Console, *, seconds: float, camera: str) -> int:
    """Run the daemon on one camera and print its events until Ctrl-C.

    Args:
        console: gets the events.
        notes: gets what is said about the demo.
        seconds: stop by itself after so long; 0: never.
        camera: a camera or file; empty: the built-in feed.

    Returns:
        The exit code of the daemon.
    """
    clock = SystemClock()
    logs.configure("error", "console", clock=clock)
    with heard_signals():  # Ctrl-C ends the rendering of the feed at once
        config = _config(camera or str(showreel(notes)), name="camera" if camera else "demo")
    demo = _Demo(Service(config, clock=clock, reread=lambda: config), console, notes)
    end_s = time.monotonic() + seconds if seconds else float("inf")
    return supervise(
        demo,
        notifier=systemd.Notifier(clock),
        watchdog_s=systemd.watchdog_interval_s(),
        until=lambda: demo.unread.is_set() or time.monotonic() >= end_s,
    )


class _Demo:
    """The daemon together with a subscriber of its own, which prints.

    Attributes:
        unread: set when nobody reads what is printed any more.
    """

    def __init__(self, service: Service, console: Console, notes: Console) -> None:
        self._service = service
        self._console = console
        self._notes = notes
        self._done = threading.Event()
        self.unread = threading.Event()
        self._printer: threading.Thread | None = None

    def start(self) -> None:
        """Start the daemon, then listen to it and say where to look."""
        self._service.start()
        events, snapshot = self._service.events
        subscriber = Subscriber(connect=events, snapshot=snapshot)
        self._printer = threading.Thread(
            target=self._print, args=(subscriber,), name="printer", daemon=True
        )
        self._printer.start()
        watch = f"{_program()} watch"
        if (events, snapshot) != (f"tcp://127.0.0.1:{_EVENTS}", f"tcp://127.0.0.1:{_SNAPSHOT}"):
            watch += f" --connect {events} --snapshot {snapshot}"
        for name, what in (
            ("The live page", self._service.page),
            ("A live table", f"{watch}    (in another terminal)"),
            ("The metrics", f"{self._service.page}metrics"),
            ("Your camera", f"{_program()} demo --camera /dev/video0    (or rtsp://…)"),
            ("The end", "Ctrl-C"),
        ):
            self._notes.print(
                Text.assemble((f"{name:<15}", "bold"), what), highlight=False, soft_wrap=True
            )
        self._notes.print()

    def stop(self, reason: str, deadline_s: float) -> tuple[str, ...]:
        """Stop the daemon, then the subscriber, which has heard it stop."""
        self._notes.print("\nStopping")  # begins after what the terminal shows of Ctrl-C
        overrun = self._service.stop(reason, deadline_s)
        self._done.set()
        if self._printer is not None:
            self._printer.join(_JOIN_S)
        return overrun

    def reload(self) -> None:
        """There is no configuration to read again."""

    def stuck(self) -> tuple[str, ...]:
        """Name the workers that make no progress."""
        return self._service.stuck()

    def status(self) -> str:
        """Describe the state in one line."""
        return self._service.status()

    def pinged(self) -> None:
        """Count a sign of life sent to the service manager."""
        self._service.pinged()

    def _print(self, subscriber: Subscriber) -> None:
        shown_s: dict[tuple[str, int], float] = {}
        with subscriber:
            while not self._done.is_set():
                event = subscriber.receive(0.2)
                if event is None or not _worth_a_line(event, shown_s):
                    continue
                try:
                    self._console.print(describe(event), soft_wrap=True)
                except (BrokenPipeError, SystemExit):  # rich's way to say the same
                    self.unread.set()  # the reader of a pipe has gone, as `head` does
                    return


def _worth_a_line(event: Received, shown_s: dict[tuple[str, int], float]) -> bool:
    """Let one sample a second and face through, and everything else."""
    data = event.data
    if not isinstance(data, EmotionSample):
        return True
    now_s = time.monotonic()
    key = (data.camera, data.track)
    if now_s - shown_s.get(key, 0.0) < _SAMPLE_EVERY_S:
        return False
    shown_s[key] = now_s
    return True


def _config(url: str, *, name: str) -> Config:
    """Build the demo's configuration; a port that something else holds gives way to a free one."""
    if "://" not in url and not Path(url).exists():
        raise ConfigError(f"--camera: there is no {url}; name a file, a device or a stream")
    return Config(
        cameras=(Camera(name=name, url=url, loop=True),),
        publish=Publish(
            bind=f"tcp://127.0.0.1:{_free(_EVENTS)}",
            snapshot=f"tcp://127.0.0.1:{_free(_SNAPSHOT)}",
        ),
        http=Http(bind=f"127.0.0.1:{_free(_HTTP)}"),
        purpose=Purpose(declared="demonstration"),
    )


def _program() -> str:
    """Return what to type for this program: its name where the shell finds it, else its path."""
    called = sys.argv[0]
    if called.endswith("__main__.py"):
        return "python -m streamer"
    name = Path(called).name
    return name if shutil.which(name) else called


def _free(port: int) -> int:
    """Return the port if it can be bound now, else 0: any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port
