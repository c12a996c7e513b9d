"""From votes to training targets and to the one label a picture is scored by.

Legend: N faces, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.data.faces import CLASSES, MISSING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.types import F32
    from training.data.faces import FaceSet

__all__ = ["LabelConfig", "majority", "prior", "targets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """How votes become a target.

    Attributes:
        kind: "votes" keeps their distribution, "hard" the most voted class.
        drop_single: forget a class that one person of several chose (Barsoum 2016, section 3).
        second_votes: how many votes the second label counts as, for the classes in ``second``.
        second: the classes for which the second label is taken as further evidence: those that
            FER+'s voters often call neutral where FER2013's search word says otherwise.
        merge: declared merges of micro-classes, (from, into); the error this accepts is not
            removable afterwards, so scores are reported before and after it.
    """

    kind: str = "votes"
    drop_single: bool = True
    second_votes: float = 0.0
    second: tuple[str, ...] = ("sadness", "anger", "disgust", "fear")
    merge: tuple[tuple[str, str], ...] = ()


def targets(faces: FaceSet, config: LabelConfig) -> tuple[F32, NDArray[np.bool_]]:
    """Turn votes into target distributions.

    Args:
        faces: any set.
        config: how.

    Returns:
        targets_NK: float32, each usable row sums to 1.
        usable_N: False where most people saw no listed class; such a row is all zeros.

    Source: Barsoum et al. 2016, "Training deep networks for facial expression recognition with
    crowd-sourced label distribution", arXiv 1608.01041.
    """
    votes = faces.votes_NK.astype(np.float32, copy=True)
    usable = votes.max(axis=1) > np.maximum(faces.other_N - 1e-6, 0.0)
    if config.drop_single:
        crowd = votes.sum(axis=1, keepdims=True) > 2.0  # noqa: PLR2004 - a lone label stays
        votes[crowd & (votes <= 1.0)] = 0.0
    for name in config.second:
        k = CLASSES.index(name)
        votes[(faces.second_N == k) & (faces.second_N != MISSING), k] += config.second_votes
    for source, into in config.merge:
        votes[:, CLASSES.index(into)] += votes[:, CLASSES.index(source)]
        votes[:, CLASSES.index(source)] = 0.0
    if config.kind == "hard":
        votes = np.eye(len(CLASSES), dtype=np.float32)[votes.argmax(axis=1)] * (
            votes.max(axis=1, keepdims=True) > 0.0
        )
    total = votes.sum(axis=1, keepdims=True)
    usable &= total[:, 0] > 0.0
    out = np.divide(votes, total, out=np.zeros_like(votes), where=usable[:, None])
    return out, usable


def majority(faces: FaceSet) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the label a picture is scored by, and whether over half of all votes agree on it.

    Args:
        faces: any set; the second label plays no part.

    Returns:
        labels_N: int64 class indices.
        clear_N: True where the top class holds more than half of all votes, unknown included.
    """
    total = faces.votes_NK.sum(axis=1) + faces.other_N
    clear = faces.votes_NK.max(axis=1) > 0.5 * total
    return faces.votes_NK.argmax(axis=1).astype(np.int64), clear


def prior(targets_NK: F32, weights_N: F32 | None = None) -> F32:
    """Return the share of each class, (K,) float32, never exactly zero.

    Args:
        targets_NK: target distributions.
        weights_N: how often each row is drawn; None: once each.
    """
    mass = targets_NK.sum(axis=0) if weights_N is None else weights_N @ targets_NK
    mass = np.maximum(mass, 1e-6)
    return np.asarray(mass / mass.sum(), np.float32)
