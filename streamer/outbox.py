"""The hand-over to the thread that sends: numbered, bounded, and never blocking the caller."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from streamer.envelope import Numbered, Numbering
from streamer.events import rfc3339
from streamer.snapshot import LastState, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.events import Event

__all__ = ["Outbox"]


class Outbox:
    """Numbers events, keeps those that wait, and remembers what they said last.

    All of it happens under one lock, which is held for microseconds. An event that finds the queue
    full takes the place of the oldest one waiting. That one's number is never sent, so subscribers
    see the hole; what it said is in the snapshot all the same.

    Args:
        limit: how many events may wait.
        wake: called, under the lock, when something comes to wait where nothing did; must not
            block.
    """

    def __init__(self, *, limit: int, wake: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._limit = limit
        self._wake = wake
        self._numbering = Numbering()
        self._state = LastState()
        self._waiting: deque[Numbered] = deque()
        self._sending = False
        self._closed = False

    @property
    def epoch(self) -> str:
        """The name of this run."""
        return self._numbering.epoch

    def put(self, *events: Event) -> list[str]:
        """Number events and let them wait; return the types of those dropped for them.

        Several together cost one lock and one wake, and the thread that sends is not woken for each
        in turn, to take Python's lock from who has the next at hand.
        """
        dropped = []
        with self._lock:
            idle = not self._waiting
            for event in events:
                numbered = self._numbering.number(event)
                self._state.apply(numbered)
                if self._closed:
                    dropped.append(event.type)
                    continue
                self._waiting.append(numbered)
                if len(self._waiting) > self._limit:
                    dropped.append(self._waiting.popleft().event.type)
            if idle and self._waiting:
                self._wake()
        return dropped

    def configure(self, cameras: Sequence[str]) -> None:
        """Take which cameras there are from now on; see ``LastState.configure``."""
        with self._lock:
            self._state.configure(cameras)

    def skip(self, type_name: str, camera: str | None, count: int) -> None:
        """Leave numbers out for events that were lost before they came here."""
        with self._lock:
            self._numbering.skip(type_name, camera, count)

    def take(self) -> deque[Numbered]:
        """Take everything that waits; ``done`` says that it is sent."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
            self._sending = bool(taken)
            return taken

    def done(self) -> None:
        """Say that what was taken is sent."""
        with self._lock:
            self._sending = False
            if not self._waiting:
                self._idle.notify_all()

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until nothing waits and nothing is being sent; False if time ran out first."""
        with self._lock:
            return self._idle.wait_for(
                lambda: not self._waiting and not self._sending, timeout=timeout_s
            )

    def close(self) -> None:
        """Refuse events from now on; those that wait can still be taken."""
        with self._lock:
            self._closed = True

    def abandon(self) -> list[str]:
        """Close, and return the types of the events that nobody is going to take."""
        with self._lock:
            self._closed = True
            abandoned = [numbered.event.type for numbered in self._waiting]
            self._waiting.clear()
            self._sending = False
            self._idle.notify_all()
            return abandoned

    def snapshot(self, *, time_ns: int, monotonic_ns: int) -> Snapshot:
        """Return the state after the last event that was put."""
        with self._lock:
            cameras, tracks = self._state.copy(monotonic_ns=monotonic_ns)
            return Snapshot(
                epoch=self._numbering.epoch,
                time=rfc3339(time_ns),
                sequences=self._numbering.sequences(),
                daemon=self._state.daemon,
                cameras=cameras,
                tracks=tracks,
            )
