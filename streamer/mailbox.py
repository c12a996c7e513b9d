"""Bounded newest-wins hand-over from a reader's thread to the compute loop: one slot a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.metrics import DropReason

if TYPE_CHECKING:
    from threading import Condition

    from streamer.types import Frame

__all__ = ["Mailbox"]


class Mailbox:
    """Holds the newest frame of one camera until it is taken; an older one gives way.

    All mailboxes of a compute loop share one condition, so that it can wait for any of them. Which
    frames are due is the taker's business: it sets ``due_s``, and only a due frame wakes it.

    Args:
        ready: notified with every due frame; its lock guards the slot.

    Attributes:
        due_s: media time from which on a frame is wanted, seconds; set by the taker.
        put_off_s: how much earlier it would be if nothing were given up, seconds; the same.
        patient: whether the reader waits until its frame is taken, see ``wait_taken``; set by it.
    """

    def __init__(self, ready: Condition) -> None:
        self._ready = ready
        self._frame: Frame | None = None
        self.due_s = float("-inf")
        self.put_off_s = 0.0
        self.patient = False

    @property
    def due(self) -> bool:
        """Whether a frame waits that is wanted."""
        frame = self._frame
        return frame is not None and frame.media_s >= self.due_s

    def put(self, frame: Frame) -> DropReason | None:
        """Leave a frame; return why the one that it displaced is dropped, None if there was none.

        A displaced frame that was due means that the compute loop is behind, and so does one that
        would have been due if frames had not been put off.
        """
        with self._ready:
            before = self._frame
            reason = None if before is None else self.passed(before.media_s)
            self._frame = frame
            if self.due:
                self._ready.notify_all()
        return reason

    def passed(self, media_s: float) -> DropReason:
        """Return why a frame of that media time, seconds, is not analysed once a later one came."""
        wanted = media_s >= self.due_s - self.put_off_s
        return DropReason.OVERLOAD if wanted else DropReason.SUPERSEDED

    def take(self) -> Frame | None:
        """Take the newest frame, None if there is none; each frame is given out once."""
        with self._ready:
            frame, self._frame = self._frame, None
            if frame is not None:
                self._ready.notify_all()  # for a reader that waits until it is taken
        return frame

    def wait_taken(self, timeout_s: float) -> bool:
        """Wait until no due frame is left, for a reader that must not run ahead; False if not."""
        with self._ready:
            return self._ready.wait_for(lambda: not self.due, timeout_s)
