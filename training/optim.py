"""Optimisers and learning-rate schedules by name.

A schedule is any function from the share of training done, 0..1, to a factor of the learning
rate; it keeps no state, so that a resumed run continues exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn, optim

from streamer.errors import ConfigError
from training.muon import Muon

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "SCHEDULES",
    "Average",
    "OptimConfig",
    "at_average",
    "build_optimizer",
    "climb",
    "factor",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """How weights move.

    Attributes:
        name: "sgd" (with momentum), "nesterov", "rmsprop", "adam", "adamw", "muon" (see ``muon``)
            or "schedule_free": AdamW that averages its own weights instead of lowering the rate
            (Defazio 2024, arXiv 2405.15682); with it, schedule = "constant" and average = 0.
        lr: learning rate at its highest.
        momentum: of the methods that have one; Adam's first beta.
        decay: weight decay, never on norms and biases; decoupled in adamw, muon and schedule_free,
            an L2 term of the loss in the others.
        schedule: a key of ``SCHEDULES``.
        warmup: share of training over which the rate rises from nothing.
        clip: largest accepted gradient norm; 0: not clipped.
        average: decay of the moving average of the weights; 0: none is kept.
        sharpness: radius rho of sharpness-aware minimisation, which takes each step's gradient at
            the worst point nearby (Foret 2020, arXiv 2010.01412); doubles the time; 0: off.
        recycle: share of its layer's mean activity under which a channel counts as dead and is
            renewed (see ``recycle``); 0: never.
        recycle_every: steps between two looks for dead channels.
    """

    name: str = "adamw"
    lr: float = 2e-3
    momentum: float = 0.9
    decay: float = 0.05
    schedule: str = "cosine"
    warmup: float = 0.03
    clip: float = 2.0
    average: float = 0.999
    sharpness: float = 0.0
    recycle: float = 0.0
    recycle_every: int = 50


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "exponential": lambda t: math.exp(-5.0 * t),
    "step": lambda t: 0.1 ** (int(t >= 0.5) + int(t >= 0.8)),  # noqa: PLR2004 - halves, fifths
    "cosine": lambda t: 0.5 * (1.0 + math.cos(math.pi * t)),
    "linear": lambda t: 1.0 - t,
    "one_cycle": lambda t: 0.04 + 0.96 * t / 0.3 if t < 0.3 else (1.0 - (t - 0.3) / 0.7),  # noqa: PLR2004
    "stable_decay": lambda t: 1.0 if t < 0.7 else (1.0 - t) / 0.3,  # noqa: PLR2004
}
"""Factor of the rate at share t of training; add any function of your own."""


def factor(config: OptimConfig, done: float) -> float:
    """Return the factor of the learning rate after a share ``done`` of training."""
    schedule = SCHEDULES.get(config.schedule)
    if schedule is None:
        known = ", ".join(SCHEDULES)
        raise ConfigError(f"optim.schedule is {config.schedule!r}; choose one of {known}")
    rise = min(1.0, done / config.warmup) if config.warmup > 0.0 else 1.0
    return rise * schedule(min(max(done, 0.0), 1.0))


def build_optimizer(  # noqa: PLR0911 - one line a method
    model: nn.Module, config: OptimConfig
) -> optim.Optimizer:
    """Return the optimiser, with weight decay on matrices and kernels alone.

    Raises:
        ConfigError: when the name is not a known one.
    """
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for _, p in learned if p.ndim > 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.decay},
        {"params": [p for _, p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    lr, m = config.lr, config.momentum
    match config.name:
        case "sgd":
            return optim.SGD(groups, lr=lr, momentum=m)
        case "nesterov":
            return optim.SGD(groups, lr=lr, momentum=m, nesterov=True)
        case "rmsprop":
            return optim.RMSprop(groups, lr=lr, momentum=m)
        case "adam":
            return optim.Adam(groups, lr=lr, betas=(m, 0.999))
        case "adamw":
            return optim.AdamW(groups, lr=lr, betas=(m, 0.999))
        case "schedule_free":
            free: optim.Optimizer = AdamWScheduleFree(groups, lr=lr, betas=(m, 0.999))
            return free
        case "muon":
            # The first and the last layer and kernels of one channel are no maps between spaces
            # of like size; the source leaves them to AdamW.
            ends = ("stem.", "classifier.")
            ended = {id(p) for name, p in learned if name.startswith(ends)}
            inner = [p for p in matrices if p.shape[1] > 1 and id(p) not in ended]
            kept = {id(p) for p in inner}
            groups[0]["params"] = [p for p in matrices if id(p) not in kept]
            groups[0]["orthogonal"] = groups[1]["orthogonal"] = False
            hidden: dict[str, Any] = {"params": inner, "weight_decay": config.decay}
            return Muon([*groups, hidden], lr=lr, momentum=m)
        case _:
            raise ConfigError(
                f"optim.name is {config.name!r}; choose sgd, nesterov, rmsprop, adam, adamw, muon "
                "or schedule_free"
            )


def at_average(optimizer: optim.Optimizer, *, average: bool) -> None:
    """Put the weights of a schedule-free method at their average, to be used, or back, to learn.

    Does nothing to other methods.
    """
    if isinstance(optimizer, AdamWScheduleFree):
        if average:
            optimizer.eval()
        else:
            optimizer.train()


@torch.no_grad()
def climb(model: nn.Module, radius: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Move the weights up their gradient by ``radius`` in all; return the moves, to be undone.

    Source: Foret et al. 2020, arXiv 2010.01412, equation 2.
    """
    moved = [(p, p.grad) for p in model.parameters() if p.grad is not None]
    norm = torch.stack([g.norm() for _, g in moved]).norm() + 1e-12
    moves = []
    for weight, gradient in moved:
        move = gradient * (radius / norm)
        weight.add_(move)
        moves.append((weight, move))
    return moves


class Average:
    """A moving average of a model's weights and statistics (Polyak & Juditsky 1992)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self.state: dict[str, Tensor] = {
            k: v.detach().clone() for k, v in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model; faster at first, so that the start is forgotten."""
        self._steps += 1
        decay = min(self._decay, (1.0 + self._steps) / (10.0 + self._steps))
        for name, value in model.state_dict().items():
            kept = self.state[name]
            if kept.dtype.is_floating_point:
                kept.lerp_(value, 1.0 - decay)
            else:
                kept.copy_(value)

    def settle(self, model: nn.Module) -> None:
        """Take the model as it is where no average is kept."""
        if self._decay == 0.0:
            self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint needs."""
        return {"steps": self._steps, "state": self.state}

    def load_state_dict(self, saved: dict[str, object]) -> None:
        """Continue from a checkpoint."""
        steps, state = saved["steps"], saved["state"]
        if not isinstance(steps, int) or not isinstance(state, dict):
            raise TypeError("not the state of an average")
        self._steps, self.state = steps, state
