"""The gate for synthetic data: it stays only if training with it is proved to be better.

Real validation pictures alone judge; runs with and without are paired by seed; at least three
seeds. An honest "rejected" is a result.

Legend: S seeds, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from streamer.errors import ConfigError
from training.data.cache import recut
from training.data.faces import CLASSES, concatenate
from training.data.labels import majority
from training.evaluate import confusion, from_confusion
from training.train import averaged_model, fit, predict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from training.data.faces import FaceSet
    from training.recipes import TrainConfig

__all__ = ["Figures", "Verdict", "at_length", "gate", "judge"]

LEAST_SEEDS = 3
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one run reaches on real pictures.

    Attributes:
        macro_f1: on validation.
        unseen_f1: macro F1 on a corpus never trained on.
        recall_K: on validation, NaN for a class that does not occur.
    """

    macro_f1: float
    unseen_f1: float
    recall_K: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the synthetic data stays, and why.

    Attributes:
        accepted: all conditions hold.
        reasons: one line a condition that does not.
        gain, gain_low: mean gain of macro F1 on validation and its one-sided 95 % lower bound.
        unseen_gain, unseen_gain_low: the same on the unseen corpus.
        plain, helped: figures of each seed, without the synthetic pictures and with them.
    """

    accepted: bool
    reasons: list[str]
    gain: float
    gain_low: float
    unseen_gain: float
    unseen_gain_low: float
    plain: list[Figures]
    helped: list[Figures]


def gate(
    config: TrainConfig,
    faces: FaceSet,
    synthetic: FaceSet,
    unseen: FaceSet,
    out: Path,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    report: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Train with and without synthetic pictures and decide.

    Args:
        config: of every run; an epoch with more pictures is cut to the length of one without, so
            that both take the same number of steps.
        faces: real pictures, with splits "train" and "valid".
        synthetic: pictures for the train split.
        unseen: a corpus never trained on.
        out: a directory a run.
        seeds: of the pairs.
        report: told each run.

    Raises:
        ConfigError: when there are fewer than three seeds, or a synthetic picture is not meant
            for training.
    """
    if len(set(seeds)) < LEAST_SEEDS:
        raise ConfigError(f"{len(set(seeds))} seeds prove nothing; give at least {LEAST_SEEDS}")
    if (synthetic.split_N != "train").any():
        raise ConfigError("synthetic pictures may be in the split 'train' alone")
    both = concatenate([faces, synthetic])
    plain, helped = [], []
    for seed in seeds:
        run = replace(config, seed=seed)
        plain.append(_figures(run, faces, faces, unseen, out / f"real-{seed}"))
        report(_line(f"seed {seed}, real alone", plain[-1]))
        more = at_length(run, len(faces.part("train")), len(synthetic))
        helped.append(_figures(more, both, faces, unseen, out / f"synthetic-{seed}"))
        report(_line(f"seed {seed}, with synthetic", helped[-1]))
    return judge(plain, helped)


def at_length(config: TrainConfig, real: int, made: int) -> TrainConfig:
    """Return a run over real and made pictures whose epochs are as long as of the real alone."""
    share = real / (real + made)
    balance = replace(config.balance, length=config.balance.length * share)
    return replace(config, balance=balance)


def judge(plain: list[Figures], helped: list[Figures]) -> Verdict:
    """Decide from paired figures.

    Accepted when the lower bound of the gain is above zero on validation and on the unseen corpus,
    and no class's recall is worse with the same confidence.

    Source of the bound: Student's t on paired differences.
    """
    pairs = list(zip(plain, helped, strict=True))
    gain, low = _bound(np.array([h.macro_f1 - p.macro_f1 for p, h in pairs]))
    unseen_gain, unseen_low = _bound(np.array([h.unseen_f1 - p.unseen_f1 for p, h in pairs]))
    reasons = []
    if low <= 0.0:
        reasons.append(f"macro F1 on validation: gain {gain:+.4f}, lower bound {low:+.4f}")
    if unseen_low <= 0.0:
        reasons.append(f"macro F1 unseen: gain {unseen_gain:+.4f}, lower bound {unseen_low:+.4f}")
    for k, name in enumerate(CLASSES):
        loss = np.array([p.recall_K[k] - h.recall_K[k] for p, h in pairs])
        if np.isfinite(loss).all() and _bound(loss)[1] > 0.0:
            reasons.append(f"recall of {name} is worse by {loss.mean():.4f}")
    return Verdict(
        accepted=not reasons,
        reasons=reasons,
        gain=gain,
        gain_low=low,
        unseen_gain=unseen_gain,
        unseen_gain_low=unseen_low,
        plain=plain,
        helped=helped,
    )


def _line(what: str, found: Figures) -> str:
    return f"{what}: macro F1 {found.macro_f1:.4f}, unseen {found.unseen_f1:.4f}"


def _bound(gains_S: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean and its one-sided lower confidence bound."""
    n, mean = len(gains_S), float(gains_S.mean())
    error = float(gains_S.std(ddof=1)) / n**0.5
    return mean, mean - float(stats.t.ppf(_CONFIDENCE, n - 1)) * error


def _figures(
    config: TrainConfig, train: FaceSet, real: FaceSet, unseen: FaceSet, place: Path
) -> Figures:
    state = fit(config, train, place, resume=True)
    net = averaged_model(config, state.average["state"])
    scores = []
    for faces in (real.part("valid"), unseen):
        labels, clear = majority(faces)
        # Balanced logits, as trained: the prior of neither corpus is given back.
        _, logits = predict(net, recut(faces)[0][clear])
        counts = confusion(labels[clear], logits.argmax(axis=1).astype(np.int64), len(CLASSES))
        scores.append(from_confusion(counts))
    (_, recall, f1), (_, _, unseen_f1) = scores
    return Figures(
        macro_f1=float(np.nanmean(f1)), unseen_f1=float(np.nanmean(unseen_f1)), recall_K=recall
    )
