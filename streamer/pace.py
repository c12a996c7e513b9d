"""Which frames of a camera are due: by media time, so that a file gives the same ones at any speed.

The daemon and ``streamer analyse`` both ask this class and nothing else; that is why the same file
gives the same events in both.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Pace"]

_EARLY: Final = 0.1
"""Share of a period by which a frame may come before its time: time stamps jitter."""
_USUAL_S: Final = 1 / 25
"""Period of a camera of which every frame is wanted, where it has to be stretched (PAL)."""
_TIE_S: Final = 1e-6
"""Media times are sums of floats on an arbitrary origin (1e-9 s off after an hour); a frame this
close to its time is due on every origin. No camera sends two frames within a microsecond."""


class Pace:
    """Says when the next frame of one camera is due; a pure state machine.

    Args:
        fps: how often a frame is wanted, by media time; 0: every frame.

    Attributes:
        due_s: media time from which on a frame is wanted, seconds.
        put_off_s: how much earlier it would have been without ``stretch``, seconds.
    """

    def __init__(self, fps: float) -> None:
        self._period_s = 1.0 / fps if fps else 0.0
        self._stretch = 1.0
        self._planned_s = float("-inf")
        self.due_s = float("-inf")
        self.put_off_s = 0.0

    def stretch(self, factor: float) -> None:
        """Want frames less often from the next one on: each period lasts so many times as long."""
        self._stretch = factor

    def due(self, media_s: float) -> bool:
        """Whether a frame of this media time, seconds, is wanted."""
        return media_s >= self.due_s

    def take(self, media_s: float) -> None:
        """Take note that the frame of this media time, seconds, is analysed."""
        period_s = self._period_s
        if self._stretch > 1.0:
            period_s = self._stretch * (period_s or _USUAL_S)
        self._planned_s += period_s
        if not media_s < self._planned_s - _TIE_S:  # at first, after a pause, from a slow camera
            self._planned_s = media_s + (1.0 - _EARLY) * period_s
        self.due_s = self._planned_s - _TIE_S
        self.put_off_s = period_s - self._period_s
