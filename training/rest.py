"""Neurons that fire too much take a rest, as the theory asks.

A channel that has fired on almost every place of every picture for a while carries no information
and crowds out its neighbours; it is silenced for some steps, in training only, so that the others
take over its part.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.workers import mean_over_workers

__all__ = ["Rest"]


class Rest(nn.Module):
    """Silence over-active channels for a while; the identity in evaluation.

    Args:
        channels: C.
        ceiling: share of firing places, averaged over about ``memory`` steps, from which a channel
            is over-active.
        steps: length of a rest.
        memory: steps that the average looks back.
        most: largest share of the channels that rest at a time; the most active go first.
    """

    def __init__(
        self,
        channels: int,
        *,
        ceiling: float,
        steps: int = 50,
        memory: int = 50,
        most: float = 0.25,
    ) -> None:
        super().__init__()
        self._ceiling, self._steps, self._memory = ceiling, steps, memory
        self._most = int(most * channels)
        # Buffers, so that a checkpoint keeps who is resting.
        self.register_buffer("share", torch.full((channels,), 0.5))
        self.register_buffer("left", torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the maps, with the resting channels at zero while training."""
        if not self.training:
            return x_BCHW
        share, left = self.get_buffer("share"), self.get_buffer("left")
        with torch.no_grad():
            fired = mean_over_workers((x_BCHW > 0).float().mean(dim=(0, 2, 3)))
            awake = left <= 0.0
            # A resting channel forgets at the same pace, so that it does not rest for ever.
            share.lerp_(torch.where(awake, fired, torch.full_like(fired, 0.5)), 1.0 / self._memory)
            left.sub_(1.0).clamp_(min=0.0)
            tired = (share > self._ceiling) & (left <= 0.0)
            room = self._most - int((left > 0.0).sum())
            if room > 0 and bool(tired.any()):
                order = torch.argsort(torch.where(tired, share, share - 2.0), descending=True)
                left[order[: min(room, int(tired.sum()))]] = float(self._steps)
            mask = (left <= 0.0).to(x_BCHW.dtype)
        return x_BCHW * mask[None, :, None, None]
