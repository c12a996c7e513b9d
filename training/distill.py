"""Teach a small network by the averaged opinion of several teachers.

Each teacher reads every training picture in both framings; its opinion, softened by a temperature,
is mixed into the votes. The student then trains as any other run does, on targets that tell more
than votes, and never more slowly. Faces that nobody has labelled can be added: there the teachers'
opinion is all there is to learn. A teacher of another kind, which knows the shape of the face alone
(``geometry``), can be heard beside them.

Sources: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531;
Xie et al. 2020, "Self-training with Noisy Student", arXiv 1911.04252, for faces without labels.

Legend: N faces, K classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training.data.cache import recut
from training.data.duplicates import near_duplicates
from training.data.faces import MISSING, concatenate
from training.data.labels import targets
from training.evaluate import log_softmax, softmax
from training.recipes import config_from
from training.train import averaged_model, predict

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.types import F32
    from training.data.faces import FaceSet
    from training.data.labels import LabelConfig
    from training.geometry import Geometry

__all__ = ["TEACHER", "opinion", "taught", "with_unlabelled"]

TEACHER = "teacher"
"""With this the names begin under which a checkpoint keeps the sha256 of its teachers."""

_VOTES = 1000.0
"""Taught targets are kept as this many votes, so that no rule about lone votes touches them."""


def opinion(
    teachers: list[Path],
    faces: FaceSet,
    temperature: float,
    *,
    geometry: Geometry | None = None,
    weight: float = 0.25,
) -> F32:
    """Return the teachers' mean probabilities, prior included, over both framings.

    Args:
        teachers: checkpoints.
        faces: pictures to be read.
        temperature: above 1 tells more about the classes that come second.
        geometry: what the shapes of the same faces tell; it is mixed with each teacher's opinion
            as logarithms of probabilities are, so that either can rule a class out.
        weight: of it, 0..1.

    Returns:
        float32 (N, K), each row sums to 1.

    Raises:
        ConfigError: when there is no teacher or one is not a checkpoint.
    """
    if not teachers:
        raise ConfigError("distilling needs at least one teacher; name checkpoints of other runs")
    views = (faces.images_NHW, recut(faces)[0])
    total: F32 = np.zeros(faces.votes_NK.shape, np.float32)
    for path in teachers:
        state = checkpoints.load(path)
        net = averaged_model(config_from(state.config), state.average["state"])
        log_prior = np.log(state.prior_K.numpy())
        for crops in views:
            _, logits = predict(net, crops)
            if geometry is not None:
                logits = _with_shapes(logits, geometry, weight)
            total += softmax((logits + log_prior) / np.float32(temperature))
    return np.asarray(total / (len(teachers) * len(views)), np.float32)


def _with_shapes(logits_NK: F32, geometry: Geometry, weight: float) -> F32:
    share = np.where(geometry.known_N, weight, 0.0).astype(np.float32)[:, None]
    both = (1.0 - share) * log_softmax(logits_NK) + share * log_softmax(geometry.logits_NK)
    return np.asarray(both, np.float32)


def with_unlabelled(faces: FaceSet, others: FaceSet) -> FaceSet:
    """Return the set with more training faces, of which no vote counts.

    Left out is what shows the same photograph as a validation or test picture.

    Args:
        faces: the labelled set.
        others: any set; its labels and splits are not looked at.

    Raises:
        ConfigError: when the pictures are of another size.
    """
    if others.images_NHW.shape[1:] != faces.images_NHW.shape[1:]:
        sizes = [
            f"{part.images_NHW.shape[2]} x {part.images_NHW.shape[1]}" for part in (others, faces)
        ]
        raise ConfigError(f"unlabelled pictures are {sizes[0]}, the labelled ones {sizes[1]}")
    held = faces.rows(faces.split_N != "train")
    pairs = near_duplicates(np.concatenate([held.images_NHW, others.images_NHW]))
    seen = [b - len(held) for a, b in pairs if a < len(held) <= b]
    fresh = others.rows(np.setdiff1d(np.arange(len(others)), np.array(seen, np.int64)))
    blank = replace(
        fresh,
        votes_NK=np.zeros_like(fresh.votes_NK),
        other_N=np.zeros_like(fresh.other_N),
        second_N=np.full_like(fresh.second_N, MISSING),
        split_N=np.full(len(fresh), "train"),
        leak_N=np.zeros_like(fresh.leak_N),
    )
    return concatenate([faces, blank])


def taught(
    faces: FaceSet,
    teachers: list[Path],
    labels: LabelConfig,
    *,
    share: float = 0.5,
    temperature: float = 2.0,
    geometry: Geometry | None = None,
    weight: float = 0.25,
) -> FaceSet:
    """Return the set with the teachers' opinion mixed into the targets of its train split.

    Validation and test keep their votes, so that scores mean what they did before. Pictures whose
    votes are not usable are learned from the teachers alone.

    Args:
        faces: the set.
        teachers: checkpoints.
        labels: how the votes become targets before they are mixed.
        share: of the teachers' opinion, 0..1.
        temperature: of that opinion.
        geometry: what the shapes of the training faces tell, see ``opinion``.
        weight: of it.

    Raises:
        ConfigError: when a share is not within 0..1, or there is no teacher.
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"the teachers' share is {share}; give one from 0 to 1")
    if not 0.0 <= weight <= 1.0:
        raise ConfigError(f"the meshes' share is {weight}; give one from 0 to 1")
    in_train = faces.split_N == "train"
    part = faces.rows(in_train)
    wanted, usable = targets(part, labels)
    told = opinion(teachers, part, temperature, geometry=geometry, weight=weight)
    mixed = np.where(usable[:, None], share * told + (1.0 - share) * wanted, told)
    votes, other, second = faces.votes_NK.copy(), faces.other_N.copy(), faces.second_N.copy()
    votes[in_train], other[in_train], second[in_train] = _VOTES * mixed, 0.0, -1
    return replace(faces, votes_NK=votes, other_N=other, second_N=second)
