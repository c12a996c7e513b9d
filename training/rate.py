"""Find a learning rate: raise it step by step and see where the loss falls fastest.

Legend: S steps.

Source: Smith 2015, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure

from streamer.errors import ConfigError
from training.batches import Batches
from training.losses import Loss
from training.model import FaceNet, channels_last
from training.objective import Objective
from training.optim import at_average, build_optimizer
from training.report import Section, figure_svg
from training.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from training.batches import Batch
    from training.data.faces import FaceSet
    from training.recipes import TrainConfig

__all__ = ["Rates", "find_rate", "rate_section", "suggested"]

_LOW, _HIGH = 1e-5, 1.0
_MEMORY = 0.9  # of the average that smooths the losses
_BLOWN = 3.0  # times the least loss: the rate is too high, there is nothing more to see
_SETTLED = 10  # steps before which the average says little


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A search.

    Attributes:
        rates_S: learning rates, rising.
        losses_S: the smoothed loss after each.
        rate: the suggestion.
    """

    rates_S: list[float]
    losses_S: list[float]
    rate: float


def find_rate(
    config: TrainConfig,
    faces: FaceSet,
    *,
    steps: int = 150,
    tick: Callable[[float], None] = lambda _: None,
) -> Rates:
    """Train a fresh network with a rate that rises from 1e-5 to 1 until the loss blows up.

    Args:
        config: the run for which a rate is wanted.
        faces: its train split is used.
        steps: of the whole climb.
        tick: told the share that is done.

    Raises:
        ConfigError: when the loss never falls, or blows up at once.
    """
    torch.manual_seed(config.seed)
    batches = Batches(config, faces, Workers())
    model = channels_last(FaceNet(config.model).to(config.device)).train()
    loss_of = Loss(config.loss, batches.counts(head=False)).to(config.device)
    learner = Objective(model, loss_of, bfloat16=config.bfloat16)
    optimizer = build_optimizer(model, config.optim)
    at_average(optimizer, average=False)
    rates: list[float] = []
    losses: list[float] = []
    smooth = 0.0
    for step, batch in zip(range(steps), _forever(batches), strict=False):
        tick(step / steps)
        rate = _LOW * (_HIGH / _LOW) ** (step / max(1, steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = learner(batch.x_B1HW.to(config.device), batch.wanted_BK.to(config.device))
        torch.autograd.backward(loss)
        if config.optim.clip > 0.0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
        optimizer.step()
        smooth = _MEMORY * smooth + (1.0 - _MEMORY) * float(loss.detach())
        value = smooth / (1.0 - _MEMORY ** (step + 1))
        if not math.isfinite(value) or (losses and value > _BLOWN * min(losses)):
            break
        rates.append(rate)
        losses.append(value)
    return Rates(rates_S=rates, losses_S=losses, rate=suggested(rates, losses))


def suggested(rates_S: list[float], losses_S: list[float]) -> float:
    """Return the rate at which the loss falls fastest over the logarithm of the rate.

    Raises:
        ConfigError: when it never falls.
    """
    if len(losses_S) <= _SETTLED:
        raise ConfigError("the loss blew up at once; look at the data, or lower the other settings")
    slope = np.gradient(np.array(losses_S), np.log(np.array(rates_S)))[_SETTLED:]
    if slope.min() >= 0.0:
        raise ConfigError("the loss never fell; look at the data, or take more steps")
    return float(rates_S[_SETTLED + int(slope.argmin())])


def rate_section(found: Rates) -> Section:
    """Return the section with the plot."""
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    axes.semilogx(found.rates_S, found.losses_S)
    axes.axvline(found.rate, color="#b42318", linewidth=0.8)
    axes.set(xlabel="learning rate", ylabel="loss, smoothed")
    text = (
        f"The loss falls fastest at {found.rate:.2g}. Take that as the highest rate of a schedule "
        "that ends low; half of it for one that stays."
    )
    plot = ("Loss while the rate rises, a step at a time", figure_svg(figure))
    return Section(title="Learning rate", text=text, plots=[plot])


def _forever(batches: Batches) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches.epoch(epoch, head=False)
        epoch += 1
