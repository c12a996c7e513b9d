"""How a variant of the ablation comes to its logits: by one training, or by what goes beyond one.

Every means ends in balanced logits, so that all choose their operating point in the same way.

Legend: F framings, N faces, M members, K classes.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from training.data.faces import CLASSES, concatenate
from training.data.labels import majority
from training.distill import taught
from training.ensemble import out_of_fold, reread
from training.evaluate import softmax
from training.gate import at_length
from training.synthesize import GanConfig, make
from training.train import LAST, averaged_model, fit, predict
from training.variants import AVERAGED, GAN, MORPHS, STACKED, TAUGHT
from training.yardstick import VALID

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.types import F32, I64
    from training.data.faces import FaceSet
    from training.recipes import TrainConfig
    from training.yardstick import Yardstick

__all__ = ["Reading", "read_by"]

_MEMBERS = 3
_APART = 1000  # between the seeds of an ensemble's members: none is the base's of another seed
_RARE = 3
_MADE = 500  # faces a class for a whole training split, as ``synthesize`` makes them
_WHOLE = 28_378  # usable training pictures of FER+
_GAN_STEPS = 1200

Reading = dict[str, list["F32"]]
"""Balanced logits, (N, K) a framing, by set."""


def read_by(
    means: str,
    config: TrainConfig,
    faces: FaceSet,
    sets: dict[str, Yardstick],
    place: Path,
) -> tuple[Reading, F32]:
    """Train what a means asks for and read every set with it.

    Args:
        means: of ``variants``.
        config: of each training.
        faces: pictures of this seed.
        sets: what is read; a stacker learns from ``VALID``.
        place: for checkpoints; none is left there, for hundreds of runs would fill a disk.

    Returns:
        The logits, and the logarithm of the class shares that they are balanced against, (K,).
    """
    if means in {AVERAGED, STACKED}:
        members = [
            _trained(replace(config, seed=config.seed + _APART * m), faces, sets, place)
            for m in range(_MEMBERS)
        ]
        log_prior = members[0][1]  # the same pictures: the same shares
        together = {
            name: [
                np.stack(framing) for framing in zip(*(m[0][name] for m in members), strict=True)
            ]
            for name in sets
        }
        if means == AVERAGED:
            return {k: [_mean(z, log_prior) for z in v] for k, v in together.items()}, log_prior
        return _stacked(together, log_prior, sets[VALID])
    if means == TAUGHT:
        fit(config, faces, place / "teacher")
        faces = taught(faces, [place / "teacher" / LAST], config.labels)
        shutil.rmtree(place / "teacher")
    if means in {MORPHS, GAN}:
        config, faces = _with_made(means, config, faces)
    return _trained(config, faces, sets, place)


def _trained(
    config: TrainConfig, faces: FaceSet, sets: dict[str, Yardstick], place: Path
) -> tuple[Reading, F32]:
    state = fit(config, faces, place)
    net = averaged_model(config, state.average["state"])
    for checkpoint in place.glob("*.pt"):
        checkpoint.unlink()
    read = {k: [predict(net, crops)[1] for crops in v.views_FNHW] for k, v in sets.items()}
    return read, np.log(state.prior_K.numpy())


def _mean(logits_MNK: F32, log_prior: F32) -> F32:
    """Return balanced logits of the members' mean probabilities, prior included."""
    return _log(np.mean([softmax(z + log_prior) for z in logits_MNK], axis=0)) - log_prior


def _stacked(together: Reading, log_prior: F32, valid: Yardstick) -> tuple[Reading, F32]:
    """Read validation out of fold, a framing at a time, and the other sets with all of it."""
    labels = valid.labels_N
    shares = np.bincount(labels, minlength=len(CLASSES)) / len(labels)
    balance = _log(shares)  # the stacker learns validation's shares, which are then taken away
    reading = {
        VALID: [
            _log(out_of_fold(z + log_prior, labels, valid.groups_N)) - balance
            for z in together[VALID]
        ]
    }
    learned = together[VALID][0] + log_prior  # as the daemon frames them
    for name, framings in together.items():
        if name != VALID:
            reading[name] = [
                _log(reread(learned, labels, z + log_prior)) - balance for z in framings
            ]
    return reading, balance


def _with_made(means: str, config: TrainConfig, faces: FaceSet) -> tuple[TrainConfig, FaceSet]:
    """Return the set with made faces of its rarest classes, and as many steps as before."""
    train = faces.part("train")
    labels, clear = majority(train)
    counts = np.bincount(labels[clear], minlength=len(CLASSES))
    there = np.flatnonzero(counts)
    rare: I64 = there[np.argsort(counts[there], kind="stable")][:_RARE]
    count = max(1, round(_MADE * len(train) / _WHOLE))
    made = make(
        "morph" if means == MORPHS else "gan",
        faces,
        [CLASSES[k] for k in rare],
        count=count,
        gan=GanConfig(steps=_GAN_STEPS, bfloat16=config.bfloat16, seed=config.seed),
    )
    return at_length(config, len(train), len(made)), concatenate([faces, made])


def _log(p_NK: np.ndarray) -> F32:
    return np.asarray(np.log(np.maximum(p_NK, 1e-6)), np.float32)
