"""What a step minimises: the network and its loss as one module, as several processes need it.

Legend: B batch, H W pixels, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from training.losses import inconsistency

if TYPE_CHECKING:
    from training.losses import Loss
    from training.model import FaceNet

__all__ = ["Objective"]


class Objective(nn.Module):
    """A network with its loss.

    Args:
        model: the network.
        loss: of its logits.
        bfloat16: compute in bfloat16 where that is safe.
    """

    def __init__(self, model: FaceNet, loss: Loss, *, bfloat16: bool) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self._bfloat16 = bfloat16

    def forward(self, x_B1HW: Tensor, wanted_BK: Tensor) -> Tensor:
        """Return the loss of a batch, a single number.

        Args:
            x_B1HW: faces, float32 in 0..1.
            wanted_BK: target distributions.
        """
        weight, other = self.loss.config.consistency, torch.zeros(())
        with torch.autocast(x_B1HW.device.type, torch.bfloat16, enabled=self._bfloat16):
            if weight == 0.0:
                _, logits = self.model(x_B1HW)
            else:
                # Each face is followed by its mirror picture, so that one share of a batch holds
                # the same pairs in one process as in several.
                both = torch.stack([x_B1HW, x_B1HW.flip(3)], dim=1).flatten(0, 1)
                maps = self.model.maps(both.contiguous(memory_format=torch.channels_last))
                _, logits = self.model.read(maps[0::2])
        if weight > 0.0:
            looks = self.model.attention(maps.float())
            other = weight * inconsistency(looks[0::2], looks[1::2])
        loss: Tensor = self.loss(logits.float(), wanted_BK) + other + self.loss.penalty(self.model)
        return loss
