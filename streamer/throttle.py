"""What is given up when the machine cannot keep up, in which order, and when it is taken back.

Frames are analysed less often, evenly over the cameras; then the detector sees a smaller picture;
then they are analysed less often still. A pure state machine: the compute loop tells it how late it
is, and asks it how far to go.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Final

__all__ = ["LEVELS", "Level", "Throttle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One step of the order.

    Attributes:
        share: of the configured rate of analysis.
        frugal: whole pictures are looked at by the detector's smaller input alone.
    """

    share: float
    frugal: bool = False


LEVELS: Final = (
    Level(share=1.0),
    Level(share=0.9),
    Level(share=0.8),
    Level(share=0.65),
    Level(share=0.5),
    Level(share=0.5, frugal=True),
    Level(share=0.35, frugal=True),
    Level(share=0.25, frugal=True),
    Level(share=0.15, frugal=True),
)
"""The order, least first. What even the last one cannot bear is dropped frame by frame."""
_WINDOW_S: Final = 1.0
_LATE_S: Final = 0.1
"""A median lag above this leaves no room under the goal of 0.15 s for the 95th percentile (the two
were 54 and 129 ms at 14 cameras, and 123 and 167 ms at 16)."""
_VERY_LATE_S: Final = 0.2
"""A median lag above this goes two levels on: the sooner it is over, the better."""
_LATE_WINDOWS: Final = 2
"""So many late windows one after the other go a level on: a hiccup of a second does not."""
_BUSY: Final = 0.75
"""A level is taken back when the loop would then be busy for less than this share of the time."""
_CALM_WINDOWS: Final = 5
_MOST_CALM_WINDOWS: Final = 80
"""Longest wait for taking a level back: it doubles each time that this was too early."""


class Throttle:
    """Decides the level; one object a compute loop.

    Attributes:
        index: of ``LEVELS``; 0: nothing is given up.
    """

    def __init__(self) -> None:
        self.index = 0
        self._began_s: float | None = None
        self._busy_s = 0.0
        self._lags_s: list[float] = []
        self._late = self._calm = 0
        self._patience = _CALM_WINDOWS
        self._held: int | None = None  # windows since a level was taken back, while that holds

    @property
    def level(self) -> Level:
        """What is in force."""
        return LEVELS[self.index]

    def note(self, now_s: float, busy_s: float, lags_s: list[float]) -> bool:
        """Take note of one round of the loop.

        Args:
            now_s: when it ended, on a monotonic clock, seconds.
            busy_s: how long it took, seconds.
            lags_s: of each frame analysed in it, the time from its arrival to now, seconds.

        Returns:
            Whether the level is another one now.
        """
        if self._began_s is None:
            self._began_s = now_s - busy_s
        self._busy_s += busy_s
        self._lags_s += lags_s
        passed_s = now_s - self._began_s
        if passed_s < _WINDOW_S:
            return False
        lag_s = median(self._lags_s) if self._lags_s else 0.0
        busy = self._busy_s / passed_s
        self._began_s, self._busy_s, self._lags_s = now_s, 0.0, []
        return self._judge(busy, lag_s)

    def _judge(self, busy: float, lag_s: float) -> bool:
        """Count late and calm windows; change the level when there were enough of them."""
        late = lag_s > _LATE_S
        if self._held is not None:
            self._held += 1
            if self._held > _MOST_CALM_WINDOWS:
                self._held, self._patience = None, _CALM_WINDOWS
        self._late = self._late + 1 if late else 0
        calm = not late and self.index > 0 and busy * self._growth() < _BUSY
        self._calm = self._calm + 1 if calm else 0
        if self._late >= _LATE_WINDOWS and self.index < len(LEVELS) - 1:
            if self._held is not None:  # it was taken back too early
                self._held, self._patience = None, min(2 * self._patience, _MOST_CALM_WINDOWS)
            return self._go(self.index + (2 if lag_s > _VERY_LATE_S else 1))
        if self._calm >= self._patience:
            self._held = 0
            return self._go(self.index - 1)
        return False

    def _growth(self) -> float:
        """Return how much more work the level before this one is."""
        return LEVELS[self.index - 1].share / self.level.share

    def _go(self, index: int) -> bool:
        self.index = min(index, len(LEVELS) - 1)
        self._late = self._calm = 0
        return True
