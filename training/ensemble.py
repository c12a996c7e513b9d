"""Stacking: a second model that learns how to weigh several networks' opinions.

The stacker is trained on logits of pictures that no member trained on (the validation split, in
cross-validation by group), so that it cannot reward a member for having learned by heart.

Source: Wolpert 1992, "Stacked Generalization".

Legend: N faces, M members, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training.data.cache import recut
from training.data.labels import majority
from training.data.splits import folds
from training.evaluate import softmax
from training.recipes import config_from
from training.train import averaged_model, predict

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.types import F32
    from training.data.faces import FaceSet

__all__ = ["Stacked", "members_logits", "out_of_fold", "reread", "stack"]

_FOLDS = 5
_STRENGTH = 0.1  # inverse L2 strength; weak enough for 8 M inputs on some thousand pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacked:
    """What stacking is worth on pictures held out of it.

    Attributes:
        faces: how many.
        members: accuracy of each member alone.
        averaged: accuracy of the mean of their probabilities.
        stacked: accuracy of the stacker, out of fold.
    """

    faces: int
    members: list[float]
    averaged: float
    stacked: float


def members_logits(checkpoint_paths: list[Path], faces: FaceSet) -> F32:
    """Return each member's logits, prior included, on the daemon's crops, (M, N, K).

    Raises:
        ConfigError: when there are fewer than two members.
    """
    if len(checkpoint_paths) < 2:  # noqa: PLR2004 - one opinion cannot be weighed
        raise ConfigError("stacking needs at least two checkpoints")
    crops, _ = recut(faces)
    out = []
    for path in checkpoint_paths:
        state = checkpoints.load(path)
        net = averaged_model(config_from(state.config), state.average["state"])
        out.append(predict(net, crops)[1] + np.log(state.prior_K.numpy()))
    return np.asarray(out, np.float32)


def out_of_fold(
    logits_MNK: F32, labels_N: NDArray[np.int64], groups_N: NDArray[np.str_], *, seed: int = 0
) -> F32:
    """Return the stacker's probabilities, each row by a stacker that did not see its group.

    Args:
        logits_MNK: of the members.
        labels_N: true classes.
        groups_N: what must not be cut.
        seed: of the folds.

    Returns:
        float32 (N, K).
    """
    k = logits_MNK.shape[2]
    inputs = _inputs(logits_MNK)
    out: F32 = np.zeros((len(labels_N), k), np.float32)
    few = min(_FOLDS, len(np.unique(groups_N)))
    for train, held in folds(groups_N, few, seed):
        model = _fitted(inputs[train], labels_N[train])
        out[np.ix_(held, model.classes_)] = model.predict_proba(inputs[held])
    return out


def reread(logits_MNK: F32, labels_N: NDArray[np.int64], others_MLK: F32) -> F32:
    """Return what a stacker that has learned from all of one set says of another one.

    Args:
        logits_MNK: of the members, on the set to learn from.
        labels_N: its true classes.
        others_MLK: of the members, on the set to read.

    Returns:
        float32 (L, K), probabilities.
    """
    out: F32 = np.zeros(others_MLK.shape[1:], np.float32)
    model = _fitted(_inputs(logits_MNK), labels_N)
    out[:, model.classes_] = model.predict_proba(_inputs(others_MLK))
    return out


def stack(checkpoint_paths: list[Path], faces: FaceSet) -> Stacked:
    """Measure members, their mean and the stacker on one split's clearly labelled pictures.

    Args:
        checkpoint_paths: of the members.
        faces: a split that none of them trained on.
    """
    labels, clear = majority(faces)
    kept, labels = faces.rows(clear), labels[clear]
    logits = members_logits(checkpoint_paths, kept)
    mean = np.mean([softmax(z) for z in logits], axis=0)
    stacked = out_of_fold(logits, labels, kept.group_N)
    return Stacked(
        faces=len(labels),
        members=[_accuracy(z, labels) for z in logits],
        averaged=_accuracy(mean, labels),
        stacked=_accuracy(stacked, labels),
    )


def _accuracy(scores_NK: F32, labels_N: NDArray[np.int64]) -> float:
    return float((scores_NK.argmax(axis=1) == labels_N).mean())


def _inputs(logits_MNK: F32) -> F32:
    """Return the members' log-probabilities side by side, (N, M K)."""
    logs = [np.log(np.maximum(softmax(z), 1e-6)) for z in logits_MNK]
    return np.concatenate(logs, axis=1)


def _fitted(inputs: F32, labels: NDArray[np.int64]) -> Any:
    # Log-probabilities reach -14: unscaled, the solver does not arrive.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=1000))
    return model.fit(inputs, labels)
