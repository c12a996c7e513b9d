"""How long to wait before the next attempt: full jitter keeps cameras from coming all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backoff"]

FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0
HEALTHY_S: Final = 30.0


class Backoff:
    """Waits drawn from 0 to a bound that doubles from 1 s to 60 s with each failure.

    Args:
        random: draws from [0, 1).

    Source: M. Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog: full jitter
    has the least contention and nearly the shortest time of the variants compared.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._bound_s = FIRST_S

    @property
    def bound_s(self) -> float:
        """The longest that the next wait can be, seconds."""
        return self._bound_s

    def next_s(self, healthy_s: float = 0.0) -> float:
        """Return how long to wait now, and double the bound.

        Args:
            healthy_s: how long the source delivered before it failed, seconds; from 30 s on the
                bound starts again at 1 s.
        """
        if healthy_s >= HEALTHY_S:
            self._bound_s = FIRST_S
        wait_s = self._random() * self._bound_s
        self._bound_s = min(LONGEST_S, 2 * self._bound_s)
        return wait_s
