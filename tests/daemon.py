"""The daemon as its users have it: a process of its own, with sockets, signals and an exit code."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from streamer.client import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from streamer.client import Received

__all__ = ["DaemonProcess", "collect", "free_port", "wait_for"]


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], timeout_s: float, what: str) -> float:
    """Wait until a condition holds and return how long that took, seconds; fail with ``what``."""
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - start_s


@dataclass
class DaemonProcess:
    """Runs ``python -m streamer run`` on a configuration whose ports are free ones.

    Args:
        folder: where the configuration and the log go.
        body: the configuration without ``[publish]`` and ``[http]``.
        publish: further keys of ``[publish]``.
    """

    folder: Path
    body: str
    ports: tuple[int, int, int] = field(
        default_factory=lambda: (free_port(), free_port(), free_port())
    )
    process: subprocess.Popen[bytes] | None = None
    publish: str = ""

    def __enter__(self) -> Self:
        config = self.configure()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamer", "run", "--config", str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def configure(self) -> Path:
        """Write the configuration and return where it is."""
        events, snapshot, http = self.ports
        config = self.folder / "streamer.toml"
        config.write_text(
            f"{self.body}\n"
            f'[publish]\nbind = "tcp://127.0.0.1:{events}"\n'
            f'snapshot = "tcp://127.0.0.1:{snapshot}"\n{self.publish}'
            f'[http]\nbind = "127.0.0.1:{http}"\n'
        )
        config.chmod(0o600)
        return config

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._running()
        if process.poll() is None:
            process.kill()
        process.wait(10)

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self.folder / "streamer.log"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._running().pid

    def subscriber(self, *topics: str) -> Subscriber:
        """Return a connected subscriber."""
        events, snapshot, _ = self.ports
        subscriber = Subscriber(
            connect=f"tcp://127.0.0.1:{events}",
            snapshot=f"tcp://127.0.0.1:{snapshot}",
            topics=topics or ("",),
        )
        assert subscriber.wait_connected(20), self.log.read_text()
        return subscriber

    def get(self, path: str) -> Any:
        """Return what its web server answers, as JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[2]}{path}", timeout=5) as reply:
            return json.load(reply)

    def metric(self, name: str) -> dict[str, float]:
        """Return every series of a metric: its labels as text, and its value."""
        address = f"http://127.0.0.1:{self.ports[2]}/metrics"
        with urllib.request.urlopen(address, timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        return {
            line.rpartition(" ")[0].removeprefix(name): float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((name + "{", name + " "))
        }

    def stop(self, timeout_s: float = 5.0) -> tuple[int, float]:
        """Send SIGTERM; return the exit code and how long it took, seconds."""
        process = self._running()
        start_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout_s + 5)
        return code, time.monotonic() - start_s

    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process


def collect(
    subscriber: Subscriber, until: Callable[[list[Received]], bool], timeout_s: float
) -> list[Received]:
    """Receive events until a condition holds over all of them; fail when time runs out."""
    events: list[Received] = []
    end_s = time.monotonic() + timeout_s
    while not until(events):
        assert time.monotonic() < end_s, [(e.type, e.source) for e in events[-30:]]
        event = subscriber.receive(0.5)
        if event is not None:
            events.append(event)
    return events
