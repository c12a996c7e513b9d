"""What the tests of the recorder and the bridges share: a publisher that restarts, a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamer.client import Received
from streamer.events import DaemonStopping
from streamer.publish import PublishOptions
from tests.daemon import free_port
from tests.publish_fixtures import event, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamer.envelope import Numbered
    from streamer.events import EventData
    from streamer.publish import Publisher

__all__ = ["RelayProcess", "addresses", "logged", "received", "relaying", "until_heard"]

STOP_S = 2.0
"""How long the commands may take to stop after SIGTERM."""


def received(numbered: Numbered) -> Received:
    """Return a numbered event as a subscriber gets it."""
    body = numbered.encode(time_ns=time.time_ns(), monotonic_ns=time.monotonic_ns())
    return Received(
        topic=numbered.topic,
        id=f"{numbered.epoch}-{numbered.topic}{numbered.sequence}",
        source=numbered.source,
        type=numbered.event.type,
        subject=None,
        time="2026-01-31T12:00:00.123456Z",
        sequence=numbered.sequence,
        epoch=numbered.epoch,
        data=numbered.event.data,
        gap=None,
        raw=body,
    )


def addresses() -> PublishOptions:
    """Return addresses that a publisher can come back to."""
    return PublishOptions(
        bind=f"tcp://127.0.0.1:{free_port()}", snapshot=f"tcp://127.0.0.1:{free_port()}"
    )


@dataclass(slots=True)
class RelayProcess:
    """A ``streamer`` command in a process of its own, and what it logs."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> int:
        """Send SIGTERM, expect the end within two seconds, and return the exit code."""
        start_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        assert time.monotonic() - start_s < STOP_S, self.log.read_text()
        return code

    def lines(self) -> list[dict[str, Any]]:
        """Return what it logged so far; a last line that is not complete is left out."""
        whole = self.log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Return every log line of an event."""
        return [line for line in self.lines() if line["event"] == name]


def logged(process: RelayProcess, name: str) -> dict[str, Any]:
    """Wait for a log line and return it."""
    wait_until(lambda: bool(process.logged(name)), 20)
    return process.logged(name)[0]


@contextmanager
def relaying(folder: Path, *arguments: str) -> Iterator[RelayProcess]:
    """Run ``streamer ARGUMENTS``; killed at the end if it still runs."""
    log = folder / "relay.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "streamer", *arguments], stdout=out, stderr=out
        ) as process,
    ):
        try:
            yield RelayProcess(process=process, log=log)
        finally:
            if process.poll() is None:
                process.kill()


def until_heard(
    source: Publisher, heard: Callable[[], bool], kind: type[EventData] = DaemonStopping
) -> None:
    """Emit an event again and again until it has come through.

    A subscription travels for a moment after the handshake, and what is sent before is lost.
    """
    end_s = time.monotonic() + 30
    while not heard():
        assert time.monotonic() < end_s, "nobody hears the publisher"
        source.emit(event(kind))
        time.sleep(0.05)
