"""Dead channels are given a new life while training goes on.

A channel inside a block that hardly answers to anything gets fresh weights before it and none
behind it, so that the network says the same as before and the channel can be of use again.

Legend: B batch, C channels, H W pixels.

Source: Sokar et al. 2023, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning" (ReDo),
arXiv 2302.12902.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn, optim
from torch.nn.modules.batchnorm import _BatchNorm

from training.model import Block
from training.workers import mean_over_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from training.model import FaceNet

__all__ = ["Recycling"]


class Recycling:
    """Looks for dormant channels in some steps, and renews them.

    Args:
        model: blocks of "plain" or "depthwise" convolutions.
        threshold: a channel is dormant when its mean activity is at most this share of the mean
            over its layer; the source takes 0.1 down to 0.025. 0: nothing is ever done.
        every: steps between two looks.
    """

    def __init__(self, model: FaceNet, *, threshold: float, every: int) -> None:
        self._blocks = [m for m in model.modules() if isinstance(m, Block)]
        self._threshold, self._every = threshold, every
        self._activity: dict[Block, Tensor] = {}

    def due(self, step: int) -> bool:
        """Tell whether this step of an epoch, counted from 0, is one to look in."""
        return self._threshold > 0.0 and (step + 1) % self._every == 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record how active the channels inside the blocks are in the passes of this context."""

        def keep(block: Block, out: Tensor) -> None:
            own_C = out.detach().float().abs().mean(dim=(0, 2, 3))
            self._activity[block] = mean_over_workers(own_C)

        hooks = [
            block.act1.register_forward_hook(lambda _, __, out, block=block: keep(block, out))
            for block in self._blocks
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def renew(self, optimizer: optim.Optimizer) -> int:
        """Renew the dormant channels; return how many there were.

        Args:
            optimizer: forgets what it knew about them.
        """
        count = 0
        for block, activity_C in self._activity.items():
            dormant_C = activity_C <= self._threshold * activity_C.mean()
            if bool(dormant_C.any()):
                count += int(dormant_C.sum())
                _renew(block, dormant_C, optimizer)
        self._activity.clear()
        return count


def _renew(block: Block, dormant_C: Tensor, optimizer: optim.Optimizer) -> None:
    before, behind = _last(block.conv1), block.conv2
    fresh = torch.empty_like(before.weight)
    nn.init.kaiming_uniform_(fresh, a=5**0.5)  # as torch begins its convolutions
    before.weight[dormant_C] = fresh[dormant_C]
    _forget(before.weight, (dormant_C,), optimizer)
    if isinstance(block.norm1, _BatchNorm | nn.GroupNorm):
        block.norm1.weight[dormant_C], block.norm1.bias[dormant_C] = 1.0, 0.0
        _forget(block.norm1.weight, (dormant_C,), optimizer)
        _forget(block.norm1.bias, (dormant_C,), optimizer)
    if isinstance(block.norm1, _BatchNorm):
        block.norm1.get_buffer("running_mean")[dormant_C] = 0.0
        block.norm1.get_buffer("running_var")[dormant_C] = 1.0
    last = _last(behind)
    last.weight[:, dormant_C] = 0.0
    _forget(last.weight, (slice(None), dormant_C), optimizer)


def _last(convolution: nn.Module) -> nn.Conv2d:
    """Return the convolution that mixes the channels."""
    last = convolution[-1] if isinstance(convolution, nn.Sequential) else convolution
    if not isinstance(last, nn.Conv2d):
        raise TypeError(f"cannot recycle channels of {type(last).__name__}")
    return last


def _forget(weight: Tensor, where: tuple[slice | Tensor, ...], optimizer: optim.Optimizer) -> None:
    for name, value in optimizer.state.get(weight, {}).items():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            # Schedule-free methods keep a second copy of the weight under this name.
            value[where] = weight[where] if name == "z" else 0.0
