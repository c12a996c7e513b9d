"""Look inside a network: gradients a layer over training, and neurons that never or always fire.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.labels import targets
from training.model import FaceNet

if TYPE_CHECKING:
    from training.data.faces import FaceSet
    from training.recipes import TrainConfig

__all__ = [
    "Firing",
    "GradientTrace",
    "firing",
    "firing_after",
    "gradient_trace",
    "vanishing_ratio",
]

_DEAD = 1e-4
"""A channel that fires on a smaller share of all places of all pictures is dead."""
_FEW = 32
_ALWAYS = 0.99
"""One that fires on a larger share tells pictures no longer apart: it never rests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """How often the channels behind one activation fire.

    Attributes:
        layer: its name in the network.
        share_C: share of places and pictures with a value above zero, a channel.
        dead: share of channels that practically never fire.
        always: share of channels that practically always fire.
    """

    layer: str
    share_C: list[float]
    dead: float
    always: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientTrace:
    """Gradient norms over the first steps of training.

    Attributes:
        layers: names of the convolutions, from the picture to the classifier.
        norms: a row a step, a column a layer: norm of the gradient over norm of the weight.
        losses: a value a step.
        skip: whether the network had residual connections.
    """

    layers: list[str]
    norms: list[list[float]]
    losses: list[float]
    skip: bool


@torch.no_grad()
def firing(net: FaceNet, crops_B1HW: Tensor) -> list[Firing]:
    """Count how often each channel fires.

    Args:
        net: any network; put into evaluation mode.
        crops_B1HW: float32 in 0..1, some hundred faces.
    """
    seen: dict[str, Tensor] = {}

    def record(name: str) -> object:
        def hook(_: nn.Module, __: object, out: Tensor) -> None:
            seen[name] = (out > 0).float().mean(dim=(0, 2, 3))

        return hook

    kinds = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Tanh)
    hooks = [
        m.register_forward_hook(record(name))  # type: ignore[arg-type]
        for name, m in net.named_modules()
        if isinstance(m, kinds) and not name.startswith("neck")
    ]
    net.eval()(crops_B1HW)
    for hook in hooks:
        hook.remove()
    return [
        Firing(
            layer=name,
            share_C=share.tolist(),
            dead=float((share < _DEAD).float().mean()),
            always=float((share > _ALWAYS).float().mean()),
        )
        for name, share in seen.items()
    ]


def firing_after(
    net: FaceNet, config: TrainConfig, faces: FaceSet, steps: int, *, rest: float
) -> list[Firing]:
    """Train on for some steps with or without the rest of tireless neurons; count who fires.

    Args:
        net: where to start; left as it is.
        config: of its run; learning rate and seed are taken from it.
        faces: with splits "train" and "valid".
        steps: of 32 faces each; a neuron is found tireless after some 50.
        rest: see ``ModelConfig.rest``; 0: none.
    """
    torch.manual_seed(config.seed)
    on = FaceNet(replace(net.config, rest=rest))
    on.load_state_dict(net.state_dict(), strict=False)  # the rest keeps counts of its own
    train = faces.part("train")
    wanted, usable = targets(train, config.labels)
    pixels = torch.from_numpy(train.images_NHW[usable])[:, None].float() / 255.0
    wanted_NK = torch.from_numpy(wanted[usable])
    optimizer = torch.optim.SGD(on.parameters(), lr=config.optim.lr, momentum=0.9)
    random = torch.Generator().manual_seed(config.seed)
    on.train()
    for _ in range(steps):
        rows = torch.randint(len(pixels), (_FEW,), generator=random)
        loss = F.cross_entropy(on(pixels[rows])[1], wanted_NK[rows])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(on.parameters(), 2.0)
        optimizer.step()
    some = faces.part("valid").images_NHW[:512]
    return firing(on, torch.from_numpy(some)[:, None].float() / 255.0)


def gradient_trace(
    config: TrainConfig, faces: FaceSet, steps: int, *, skip: bool = True
) -> GradientTrace:
    """Train a fresh network for some steps and record the gradients of its convolutions.

    Args:
        config: model, optimiser's learning rate, batch and seed are taken from it.
        faces: its train split is used, unaugmented.
        steps: how many.
        skip: with or without residual connections.
    """
    torch.manual_seed(config.seed)
    net = FaceNet(replace(config.model, skip=skip)).train()
    train = faces.part("train")
    wanted, usable = targets(train, config.labels)
    pixels = torch.from_numpy(train.images_NHW[usable])[:, None].float() / 255.0
    wanted_NK = torch.from_numpy(wanted[usable])
    layers = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    optimizer = torch.optim.SGD(net.parameters(), lr=config.optim.lr, momentum=0.9)
    random = torch.Generator().manual_seed(config.seed)
    norms, losses = [], []
    for _ in range(steps):
        rows = torch.randint(len(pixels), (config.batch,), generator=random)
        loss = F.cross_entropy(net(pixels[rows])[1], wanted_NK[rows])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norms.append([_relative(m.weight) for _, m in layers])
        losses.append(float(loss.detach()))
        optimizer.step()
    return GradientTrace(layers=[n for n, _ in layers], norms=norms, losses=losses, skip=skip)


def vanishing_ratio(trace: GradientTrace) -> float:
    """Return the gradient that reaches the first convolution over that of the last one.

    Both relative to their weights, as geometric means over the steps; far below 1 the gradient
    vanishes on its way back.
    """
    norms = torch.tensor(trace.norms).clamp(min=1e-12).log()
    return float((norms[:, 0] - norms[:, -1]).mean().exp())


def _relative(weight: Tensor) -> float:
    if weight.grad is None:
        return 0.0
    return float(weight.grad.norm() / weight.detach().norm().clamp(min=1e-12))
