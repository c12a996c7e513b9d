"""Judge a reading over time: accuracy, flicker and lag, and the moving average it has to beat.

Legend: M clips, T steps of a clip, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.types import F32, I64

__all__ = [
    "EMA_WEIGHTS",
    "Each",
    "Steadiness",
    "TemporalResult",
    "best_average",
    "ema",
    "judge",
    "judge_each",
]

EMA_WEIGHTS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2)
"""Weights of the newest frame that are tried as the baseline; 1 is no smoothing."""
_APEX = 3  # frames at a clip's end that show the apex, as CK+'s users take them


@dataclass(frozen=True, slots=True, kw_only=True)
class Steadiness:
    """How a reading behaves over labelled clips from neutral to apex.

    Attributes:
        clips: how many.
        apex_accuracy: share of apex frames (the last three) read as the clip's label.
        uar: the same, averaged over classes.
        final_accuracy: share of clips whose last frame is read right.
        flicker_hz: label changes a second beyond the one change that a clip contains.
        lag_s: mean time from a clip's start until the label is right for good; a clip that never
            gets there counts with its whole length.
    """

    clips: int
    apex_accuracy: float
    uar: float
    final_accuracy: float
    flicker_hz: float
    lag_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Each:
    """The same, a clip: arrays of M rows, float64.

    Attributes:
        apex_M: share of its apex frames read right.
        final_M: 1 where its last frame is read right.
        changes_M: label changes beyond the one that it contains.
        seconds_M: its length.
        lag_M: seconds until the label is right for good.
    """

    apex_M: NDArray[np.float64]
    final_M: NDArray[np.float64]
    changes_M: NDArray[np.float64]
    seconds_M: NDArray[np.float64]
    lag_M: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalResult:
    """The head against frames alone and against a moving average of equal lag, on real clips."""

    dataset: str
    step_s: float
    head: Steadiness
    frames: Steadiness
    average: Steadiness
    average_weight: float


def ema(probabilities_TK: F32, weight: float) -> F32:
    """Return the causal exponential moving average; its first value is the first frame.

    Args:
        probabilities_TK: of one clip.
        weight: of the newest frame, 0..1.
    """
    out = probabilities_TK.astype(np.float32, copy=True)
    for t in range(1, len(out)):
        out[t] = weight * probabilities_TK[t] + (1.0 - weight) * out[t - 1]
    return out


def judge_each(clips: list[F32], labels_M: I64, step_s: float) -> Each:
    """Measure one way of reading, clip by clip.

    Args:
        clips: probabilities (T, K) of each clip.
        labels_M: class index of each clip's expression.
        step_s: seconds between two steps.
    """
    rows = []
    for probabilities_TK, label in zip(clips, labels_M, strict=True):
        said = probabilities_TK.argmax(axis=1)
        right = said == label
        wrong = np.flatnonzero(~right)
        rows.append(
            (
                right[-_APEX:].mean(),
                right[-1],
                max(0, int((said[1:] != said[:-1]).sum()) - 1),
                len(said) * step_s,
                step_s * (wrong[-1] + 1 if len(wrong) else 0),
            )
        )
    apex, final, changes, seconds, lag = np.array(rows, np.float64).T
    return Each(apex_M=apex, final_M=final, changes_M=changes, seconds_M=seconds, lag_M=lag)


def judge(clips: list[F32], labels_M: I64, step_s: float) -> Steadiness:
    """Measure one way of reading over all clips; the arguments are those of ``judge_each``."""
    each = judge_each(clips, labels_M, step_s)
    return Steadiness(
        clips=len(clips),
        apex_accuracy=float(each.apex_M.mean()),
        uar=float(np.mean([each.apex_M[labels_M == k].mean() for k in np.unique(labels_M)])),
        final_accuracy=float(each.final_M.mean()),
        flicker_hz=float(each.changes_M.sum() / each.seconds_M.sum()),
        lag_s=float(each.lag_M.mean()),
    )


def best_average(
    frames: list[F32], labels_M: I64, step_s: float, lag_s: float
) -> tuple[float, Steadiness]:
    """Return the moving average that a head with this lag has to beat.

    Args:
        frames: the frame classifier's probabilities of each clip.
        labels_M: class index of each clip.
        step_s: seconds between two steps.
        lag_s: the head's.

    Returns:
        The strongest smoothing that does not lag more (no smoothing, if all lag more), and how it
        does.
    """
    best = (1.0, judge(frames, labels_M, step_s))
    for weight in EMA_WEIGHTS[1:]:
        tried = judge([ema(f, weight) for f in frames], labels_M, step_s)
        if tried.lag_s <= lag_s + 1e-9:
            best = (weight, tried)
    return best
