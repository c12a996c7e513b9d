"""Measure: accuracy, recall, F1, confusion, likelihood, calibration, with bootstrap intervals.

Everything is computed from probabilities and labels alone, so that any classifier can be judged.

Legend: N faces, K classes, G groups, R bootstrap draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.types import F32, I64

__all__ = [
    "Interval",
    "Measured",
    "Scores",
    "confusion",
    "expected_calibration_error",
    "fit_temperature",
    "from_confusion",
    "intervals",
    "log_softmax",
    "score",
    "softmax",
]

_BINS = 15  # of the calibration error, as in Guo 2017
_DRAWS = 2000  # bootstrap draws; the ends of a 95 % interval then move by under 0.2 points


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What was measured on one set.

    Attributes:
        n: faces.
        groups: subjects, videos or sets of duplicates that the intervals draw from.
        accuracy, uar, macro_f1: over the classes that occur among the labels.
        recall, f1: a class; classes that do not occur are left out.
        support: labels a class.
        confusion: rows are true classes, columns what was said; counts.
        nll, brier, ece: negative log-likelihood (nats), Brier score, calibration error.
    """

    n: int
    groups: int
    accuracy: Interval
    uar: Interval
    macro_f1: Interval
    recall: dict[str, float]
    f1: dict[str, float]
    support: dict[str, int]
    confusion: list[list[int]]
    nll: float
    brier: float
    ece: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Scores of one set in one framing.

    Attributes:
        dataset, split, framing: of what.
        scores: what was measured.
        ece_before: calibration error without the temperature.
        left_out: a class whose pictures and whose answer are left out; empty: none. Corpora that
            differ in their classes, and networks with fewer, are compared in such a view alone.
    """

    dataset: str
    split: str
    framing: str
    scores: Scores
    ece_before: float
    left_out: str = ""

    @property
    def view(self) -> str:
        """Return in words what there was to choose from."""
        return f"7, no {self.left_out}" if self.left_out else "8"


def softmax(logits_NK: F32) -> F32:
    """Turn logits into probabilities, row by row."""
    z = logits_NK - logits_NK.max(axis=1, keepdims=True)
    e = np.exp(z)
    return np.asarray(e / e.sum(axis=1, keepdims=True), np.float32)


def log_softmax(logits_NK: F32) -> F32:
    """Turn logits into logarithms of probabilities, row by row."""
    z = logits_NK - logits_NK.max(axis=1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)), np.float32)


def confusion(labels_N: I64, guesses_N: I64, classes: int) -> NDArray[np.int64]:
    """Count (true, said) pairs, (K, K)."""
    pairs = np.bincount(labels_N * classes + guesses_N, minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


def from_confusion(counts_KK: NDArray[np.number]) -> tuple[NDArray[np.float64], ...]:
    """Return accuracy, recall a class, F1 a class; works on a stack (..., K, K) too.

    A class without labels has NaN for recall and F1, so that a mean over classes leaves it out.
    """
    counts = counts_KK.astype(np.float64)
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    true, said = counts.sum(axis=-1), counts.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = hit.sum(axis=-1) / counts.sum(axis=(-2, -1))
        recall = np.where(true > 0, hit / true, np.nan)
        f1 = np.where(true > 0, 2 * hit / (true + said), np.nan)
    return accuracy, recall, f1


def intervals(
    labels_N: I64, guesses_N: I64, groups_N: NDArray[np.generic], classes: int, *, seed: int = 0
) -> dict[str, Interval]:
    """Bootstrap accuracy, UAR and macro F1 by drawing whole groups with replacement.

    Args:
        labels_N: true class indices.
        guesses_N: what was said.
        groups_N: what belongs together: frames of one person are not independent.
        classes: K.
        seed: of the draws.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", percentile interval.
    """
    _, group = np.unique(groups_N, return_inverse=True)
    g = int(group.max()) + 1
    cells = np.zeros((g, classes * classes), np.float64)
    np.add.at(cells, (group, labels_N * classes + guesses_N), 1.0)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(g, np.full(g, 1.0 / g), size=_DRAWS).astype(np.float64) @ cells
    whole = _means(cells.sum(axis=0).reshape(1, classes, classes))
    spread = _means(drawn.reshape(_DRAWS, classes, classes))
    out = {}
    for name, values in spread.items():
        low, high = np.nanpercentile(values, [2.5, 97.5])
        out[name] = Interval(value=float(whole[name][0]), low=float(low), high=float(high))
    return out


def _means(counts_RKK: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    accuracy, recall, f1 = from_confusion(counts_RKK)
    return {
        "accuracy": accuracy,
        "uar": np.nanmean(recall, axis=-1),
        "macro_f1": np.nanmean(f1, axis=-1),
    }


def expected_calibration_error(probabilities_NK: F32, labels_N: I64) -> float:
    """Return the mean gap of confidence and accuracy over 15 equal bins.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599.
    """
    confidence = probabilities_NK.max(axis=1).astype(np.float64)
    hit = probabilities_NK.argmax(axis=1) == labels_N
    place = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gap = np.bincount(place, confidence - hit, minlength=_BINS)
    return float(np.abs(gap).sum() / len(labels_N))


def fit_temperature(logits_NK: F32, labels_N: I64) -> float:
    """Return the temperature that makes the labels likeliest; fit on validation, never on test.

    Source: Guo et al. 2017, section 4.2.
    """
    rows = np.arange(len(labels_N))

    def nll(log_t: float) -> float:
        p = softmax((logits_NK / np.exp(log_t)).astype(np.float32))[rows, labels_N]
        return float(-np.log(np.maximum(p, 1e-12)).mean())

    return float(np.exp(minimize_scalar(nll, bounds=(-2.0, 2.0), method="bounded").x))


def score(
    probabilities_NK: F32,
    labels_N: I64,
    groups_N: NDArray[np.generic],
    classes: tuple[str, ...],
) -> Scores:
    """Measure one set of predictions.

    Args:
        probabilities_NK: each row sums to 1.
        labels_N: true class indices.
        groups_N: see ``intervals``.
        classes: names, in the order of K.

    Raises:
        ValueError: when there is no row.
    """
    n, k = len(labels_N), len(classes)
    if n == 0:
        raise ValueError("nothing to score: no labelled row")
    guesses = probabilities_NK.argmax(axis=1).astype(np.int64)
    counts = confusion(labels_N, guesses, k)
    _, recall, f1 = from_confusion(counts)
    spread = intervals(labels_N, guesses, groups_N, k)
    present = [i for i in range(k) if counts[i].sum() > 0]
    p = np.maximum(probabilities_NK[np.arange(n), labels_N].astype(np.float64), 1e-12)
    truth = np.eye(k)[labels_N]
    return Scores(
        n=n,
        groups=len(np.unique(groups_N)),
        accuracy=spread["accuracy"],
        uar=spread["uar"],
        macro_f1=spread["macro_f1"],
        recall={classes[i]: float(recall[i]) for i in present},
        f1={classes[i]: float(f1[i]) for i in present},
        support={classes[i]: int(counts[i].sum()) for i in present},
        confusion=counts.tolist(),
        nll=float(-np.log(p).mean()),
        brier=float(((probabilities_NK - truth) ** 2).sum(axis=1).mean()),
        ece=expected_calibration_error(probabilities_NK, labels_N),
    )
