"""What several runs of one recipe have in common: mean, spread and range of each figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from training.evaluate import Measured, Scores

__all__ = ["Summary", "summarise"]

_FIGURES = ("accuracy", "uar", "macro_f1", "ece", "nll")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One figure over several runs.

    Attributes:
        dataset, split, framing, view: of what.
        figure: its name.
        runs: how many.
        mean: of them.
        deviation: between them; NaN for one.
        low, high: 95 % interval of the mean by Student's t; it holds the spread between runs and
            not that between pictures.
        least, most: of them.
    """

    dataset: str
    split: str
    framing: str
    view: str
    figure: str
    runs: int
    mean: float
    deviation: float
    low: float
    high: float
    least: float
    most: float


def summarise(runs: list[list[Measured]]) -> list[Summary]:
    """Summarise the same measurements of several checkpoints.

    Args:
        runs: for each checkpoint what ``release.measure_all`` returns.
    """
    out = []
    for same in zip(*runs, strict=True):
        for figure in _FIGURES:
            values = np.array([_value(m.scores, figure) for m in same])
            out.append(_summary(same[0], figure, values))
    return out


def _summary(first: Measured, figure: str, values: np.ndarray) -> Summary:
    n, mean = len(values), float(values.mean())
    deviation = float(values.std(ddof=1)) if n > 1 else float("nan")
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / n**0.5 if n > 1 else float("nan")
    return Summary(
        dataset=first.dataset,
        split=first.split,
        framing=first.framing,
        view=first.view,
        figure=figure,
        runs=n,
        mean=mean,
        deviation=deviation,
        low=mean - half,
        high=mean + half,
        least=float(values.min()),
        most=float(values.max()),
    )


def _value(scores: Scores, figure: str) -> float:
    found = getattr(scores, figure)
    return float(found if isinstance(found, float) else found.value)
