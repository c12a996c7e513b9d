"""A soup: one network whose weights are the mean of several runs' that began with the same weights.

Runs that go on from one network stay in one valley of the loss, so that the mean of their weights
lies in it too, where it is flatter. Unlike an ensemble, it costs what one network costs.

Source: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time"; the greedy recipe of its section 2.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from streamer.bundle import file_sha256
from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training.checkpoint import Checkpoint
from training.origin import BEGUN, CHECKPOINT, MEAN
from training.recipes import config_from
from training.train import Validation, averaged_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from training.data.faces import FaceSet

__all__ = ["Soup", "cook", "mean_weights"]

_APART = 0.4
"""How far the logarithms of class shares may lie apart: other targets moved a rare one by 0.23."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Soup:
    """A mean of networks, and what speaks for it.

    Attributes:
        checkpoint: the mean, as that of a run; it can be evaluated, exported and gone on from.
        kept: the members in it, in the order in which they were tried.
        alone: every member's score on validation, see ``Validation.score``.
        score: of the mean.
    """

    checkpoint: Checkpoint
    kept: list[Path]
    alone: dict[Path, float]
    score: float


def mean_weights(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of state dictionaries; counters are taken from the first.

    Statistics of batch normalisation are averaged with the weights: runs that began together differ
    so little that these describe the mean's activations, too.
    """
    first = states[0]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in first.items()
    }


def cook(
    members: Sequence[Path],
    valid: FaceSet,
    *,
    greedy: bool = True,
    report: Callable[[Path, float, bool], None] = lambda _path, _score, _kept: None,
) -> Soup:
    """Mean the averaged weights of runs that began with the same network.

    Args:
        members: their checkpoints, two or more.
        valid: the validation split.
        greedy: the best member first, and each other one, in the order of their scores, only if the
            mean with it scores no less; otherwise all of them.
        report: told of each member: its file, the mean's score with it, whether it is in.

    Raises:
        ConfigError: when there are fewer than two, one is no checkpoint, or their networks differ
            in shape or in what they began with.
    """
    if len(members) < 2:  # noqa: PLR2004 - the mean of one is itself
        raise ConfigError("a soup needs at least two checkpoints")
    states = {path: checkpoints.load(path) for path in members}
    first = states[members[0]]
    for path, state in states.items():
        _related(members[0], first, path, state)
    judge, model = Validation.of(valid), config_from(first.config)

    def scored(paths: Sequence[Path]) -> float:
        chosen = [states[path] for path in paths]
        mean = mean_weights([state.average["state"] for state in chosen])
        return judge.score(averaged_model(model, mean), _prior(chosen).numpy())["score"]

    alone = {path: scored([path]) for path in states}
    ranked = sorted(alone, key=lambda path: -alone[path])
    kept: list[Path] = []
    score = float("-inf")
    for path in ranked:
        with_it = scored([*kept, path]) if kept else alone[path]
        taken = not greedy or with_it >= score
        if taken:
            kept, score = [*kept, path], with_it
        report(path, with_it, taken)
    return Soup(
        checkpoint=_checkpoint([states[path] for path in kept], kept, score),
        kept=kept,
        alone=alone,
        score=score,
    )


def _related(first_path: Path, first: Checkpoint, path: Path, state: Checkpoint) -> None:
    """Refuse a mean of networks that lie in different valleys."""
    shapes = [
        {name: tuple(value.shape) for name, value in one.average["state"].items()}
        for one in (first, state)
    ]
    models = [config_from(one.config).model for one in (first, state)]
    if shapes[0] != shapes[1] or models[0] != models[1]:
        raise ConfigError(f"{path} has another network than {first_path}; they have no mean")
    if (state.prior_K / first.prior_K).log().abs().max() > _APART:
        raise ConfigError(
            f"{path} learned from other class shares than {first_path}; name runs on the same faces"
        )
    if not _ancestors(first_path, first) & _ancestors(path, state):
        raise ConfigError(
            f"{path} and {first_path} did not begin with the same weights, so their mean is no "
            "network; begin both with --from the same checkpoint"
        )


def _prior(states: Sequence[Checkpoint]) -> Tensor:
    """Return the prior that the mean is balanced against: logits are linear in its logarithm."""
    mean_K = torch.stack([state.prior_K.double().log() for state in states]).mean(0).exp()
    return (mean_K / mean_K.sum()).float()


def _ancestors(path: Path, state: Checkpoint) -> set[str]:
    """Return the hashes of what a run began with, and of itself: others may go on from it."""
    return {file_sha256(path)} | {
        digest
        for name, digest in state.data.items()
        if name.startswith((BEGUN, MEAN)) and name.endswith(CHECKPOINT)
    }


def _checkpoint(states: Sequence[Checkpoint], kept: Sequence[Path], score: float) -> Checkpoint:
    """Return the mean as a run's checkpoint; its record names every member."""
    best, mean = states[0], mean_weights([state.average["state"] for state in states])
    data: dict[str, str] = {}
    for state in reversed(states):
        data |= state.data
    places = [path.resolve() for path in kept]
    above = os.path.commonpath([place.parent for place in places])
    data |= {f"{MEAN} {place.relative_to(above)}": file_sha256(place) for place in places}
    return Checkpoint(
        config=best.config,
        epoch=best.epoch,
        model=mean,
        average={"steps": 0, "state": mean},
        optimizer={},
        prior_K=_prior(states),
        best=score,
        data=data,
        faces=best.faces,
        seeds=sorted({state.config["seed"] for state in states}),
    )
