"""Hands a daemon's events on to another system, in a process of its own: the loop of every bridge.

It is an ordinary subscriber: it may be started before the daemon and outlives its restarts, counts
and tells what it missed, and on SIGTERM delivers what it has received before it ends.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from streamer.errors import SourceReason
from streamer.events import CameraData, CameraOffline
from streamer.logs import Repeated
from streamer.supervisor import STOP_SIGNALS

if TYPE_CHECKING:
    from streamer.client import Received, Subscriber
    from streamer.stages import Clock

__all__ = ["Destination", "Tally", "relay"]

_TURN_S = 0.2  # how soon a signal is heard and a due batch is written while nothing arrives
_DRAIN_S = 0.3  # a stop takes 2 s at most: this, the destination's share and the interpreter's exit
_SILENCE_S = 0.05  # nothing for so long: all that was under way in this host's sockets has arrived
CLOSE_S = 0.8
"""Deadline of a destination's last delivery."""

log = structlog.get_logger(__name__)


class Destination(Protocol):
    """Where events go."""

    def take(self, event: Received) -> None:
        """Accept an event; it is delivered from here on, or counted as lost.

        Raises:
            StreamerError: if nothing more can be delivered.
        """
        ...

    def tick(self, *, connected: bool) -> None:
        """Do what is due; called after each event and several times a second.

        Args:
            connected: whether the daemon is there.
        """
        ...

    def close(self, deadline_s: float) -> int:
        """Deliver what was taken, within a deadline; return how many events were not."""
        ...


@dataclass(slots=True)
class Tally:
    """What went through, for the log.

    Attributes:
        clock: times the summing of repeated gaps.
        taken: events handed to the destination.
        missed: events that the daemon sent and that never arrived here.
        restarts: how often a daemon was started anew meanwhile: a run that had no camera took one
            over from another. In a fleet each daemon's events are of its own run, and a camera that
            moves to one that has others already is no restart.
    """

    clock: Clock
    taken: int = 0
    missed: int = 0
    restarts: int = 0
    _runs: dict[str, str] = field(default_factory=dict)  # by camera: who spoke for it last
    _told: int = 0
    _repeated: Repeated = field(init=False)

    def __post_init__(self) -> None:
        self._repeated = Repeated(self.clock)

    def count(self, event: Received) -> None:
        """Count an event and what its gap says, and log the latter at most once in ten seconds."""
        self.taken += 1
        if isinstance(event.data, CameraData):
            self._take_note(event.data, event.epoch)
        if event.gap is not None and event.gap.missing:
            self.missed += event.gap.missing
            if self._repeated.offer("gap") is not None:
                log.warning("events_missed", count=self.missed - self._told, topic=event.topic)
                self._told = self.missed

    def _take_note(self, data: CameraData, run: str) -> None:
        """Count a restart, and log it at most once in ten seconds."""
        if isinstance(data, CameraOffline) and data.reason == SourceReason.NODE_LOST:
            return  # the fleet's own word: nobody has the camera now
        before = self._runs.get(data.camera, run)
        if before != run and run not in self._runs.values():
            self.restarts += 1
            if self._repeated.offer("restarted") is not None:
                log.info("daemon_restarted", epoch=run, camera=data.camera)
        self._runs[data.camera] = run

    def refused(self, address: str) -> None:
        """Log that the daemon refuses this client, at most once in ten seconds."""
        if self._repeated.offer("refused") is not None:
            log.error("connection_refused", address=address, do="check the keys on both sides")


def relay(subscriber: Subscriber, destination: Destination, *, clock: Clock) -> int:
    """Hand events on until SIGTERM or SIGINT; both must be blocked, see ``block_signals``.

    Args:
        subscriber: where they come from.
        destination: where they go; closed at the end in any case.
        clock: times the log.

    Returns:
        The exit code: 0 when everything received was delivered, else 1.

    Raises:
        StreamerError: if the destination can take no more.
    """
    tally = Tally(clock)
    unsaved = 0
    try:
        reason = _pass_on(subscriber, destination, tally)
        _drain(subscriber, destination, tally)
    finally:
        unsaved = destination.close(CLOSE_S)
        if unsaved:
            log.error("events_not_delivered", count=unsaved)
    log.info(
        "relay_stopped",
        reason=reason,
        taken=tally.taken,
        missed=tally.missed,
        malformed=subscriber.malformed,
        restarts=tally.restarts,
    )
    return 1 if unsaved else 0


def _pass_on(subscriber: Subscriber, destination: Destination, tally: Tally) -> str:
    """Hand on until asked to stop; return the signal's name."""
    connected = False
    asked_s = 0.0
    while True:
        got = signal.sigtimedwait(STOP_SIGNALS, 0)
        if got is not None:
            return signal.Signals(got.si_signo).name
        event = subscriber.receive(_TURN_S)
        if event is not None:
            tally.count(event)
            destination.take(event)
        now_s = time.monotonic()
        if event is None or now_s - asked_s > _TURN_S:
            asked_s = now_s
            if subscriber.connected != connected:
                connected = not connected
                log.info("daemon_found" if connected else "daemon_gone", address=subscriber.address)
            if subscriber.refused:
                tally.refused(subscriber.address)
        destination.tick(connected=connected)


def _drain(subscriber: Subscriber, destination: Destination, tally: Tally) -> None:
    """Hand on what has arrived already; a publisher that never pauses is left after a while."""
    end_s = time.monotonic() + _DRAIN_S
    while time.monotonic() < end_s:
        malformed = subscriber.malformed
        event = subscriber.receive(_SILENCE_S)
        if event is not None:
            tally.count(event)
            destination.take(event)
        elif subscriber.malformed == malformed:
            return
