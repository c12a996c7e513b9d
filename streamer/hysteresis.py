"""From probabilities to labels that hold: a threshold for one reading, hysteresis over a track.

Pure: time is the media time that is given, so a file gives the same changes at any speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.events import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.types import F32

__all__ = ["Change", "Hysteresis", "label_of"]

_PROBABILITY_DIGITS = 5  # as events carry them, so that a label agrees with what is published


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The label of a track changed and held.

    Attributes:
        previous: the label until now.
        label: the label from now on.
    """

    previous: str
    label: str


class Hysteresis:
    """Decides when the label of one track has changed; one object a track.

    A class takes over when its probability exceeds ``enter``; the label falls back to ``unknown``
    when its own probability is under ``exit`` and no other class exceeds ``enter``. Either has to
    hold for ``min_dwell_s`` without a break. In between, the label stays.

    Args:
        enter: probability above which another class takes over, 0..1.
        exit: probability under which a label is given up, at most ``enter``.
        min_dwell_s: how long a change has to hold in media time, seconds; 0 changes at once.

    Raises:
        ValueError: if the thresholds are not 0 <= exit <= enter <= 1 or the dwell is negative.

    Source: Schmitt 1938, "A thermionic trigger": two thresholds keep noise from toggling.
    """

    def __init__(self, *, enter: float, exit: float, min_dwell_s: float) -> None:  # noqa: A002 the name of the threshold in the configuration
        if not 0 <= exit <= enter <= 1:
            raise ValueError(f"expected 0 <= exit <= enter <= 1, got exit={exit}, enter={enter}")
        if not min_dwell_s >= 0:
            raise ValueError(f"expected min_dwell_s >= 0, got {min_dwell_s}")
        self.label = UNKNOWN
        self._enter = enter
        self._exit = exit
        self._min_dwell_s = min_dwell_s
        self._candidate = UNKNOWN
        self._since_s = 0.0

    def update(self, media_s: float, probabilities: Mapping[str, float]) -> Change | None:
        """Take one reading; return the change that it completes, once, else None.

        Args:
            media_s: when, in media time, seconds.
            probabilities: of each class by name.
        """
        candidate = self._wanted(probabilities)
        if candidate == self.label:
            self._candidate = candidate
            return None
        if candidate != self._candidate or media_s < self._since_s:
            self._candidate, self._since_s = candidate, media_s
        if media_s - self._since_s < self._min_dwell_s:
            return None
        change = Change(previous=self.label, label=candidate)
        self.label = candidate
        return change

    def _wanted(self, probabilities: Mapping[str, float]) -> str:
        best = max(probabilities, key=probabilities.__getitem__)
        if probabilities[best] > self._enter:
            return best
        if self.label != UNKNOWN and probabilities[self.label] < self._exit:
            return UNKNOWN
        return self.label


def label_of(
    probabilities_K: Sequence[float] | F32, classes: Sequence[str], threshold: float
) -> tuple[str, float]:
    """Return the label of one face and its confidence, the probability of the best class.

    Args:
        probabilities_K: of each class, in the order of ``classes``; at least one.
        classes: the names.
        threshold: under it the label is ``unknown``.
    """
    best = max(range(len(classes)), key=lambda index: float(probabilities_K[index]))
    confidence = round(float(probabilities_K[best]), _PROBABILITY_DIGITS)
    return (classes[best] if confidence >= threshold else UNKNOWN), confidence
