"""Convolutions that train as several branches and run as one.

A sum of linear branches is linear, so the branches and their batch normalisations fold into one
kernel and one bias. Training has the easier landscape, the daemon the cheaper network.

Legend: B batch, C channels, H W pixels, k side of the kernel.

Source: Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", arXiv 2101.03697.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Branches", "fused"]

Net = TypeVar("Net", bound=nn.Module)


class Branches(nn.Module):
    """A k x k and a 1 x 1 convolution and, where the shape allows it, the input itself.

    Each is normalised on its own; their sum is returned.

    Args:
        c_in, c_out: channels.
        kernel: k, odd.
        stride, dilation, padding_mode: as of ``nn.Conv2d``; the output keeps the size at stride 1.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding_mode: Literal["zeros", "replicate", "reflect"] = "zeros",
    ) -> None:
        super().__init__()
        self._padding_mode = padding_mode
        self.wide = nn.Conv2d(
            c_in,
            c_out,
            kernel,
            stride,
            dilation * (kernel // 2),
            dilation=dilation,
            bias=False,
            padding_mode=padding_mode,
        )
        self.wide_norm = nn.BatchNorm2d(c_out)
        self.point = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        self.point_norm = nn.BatchNorm2d(c_out)
        same = c_in == c_out and stride == 1
        self.self_norm = nn.BatchNorm2d(c_in) if same else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, c_out, H / stride, W / stride)."""
        y: Tensor = self.wide_norm(self.wide(x_BCHW)) + self.point_norm(self.point(x_BCHW))
        return y if self.self_norm is None else y + self.self_norm(x_BCHW)

    @torch.no_grad()
    def one(self) -> nn.Conv2d:
        """Return the one convolution that gives the same in evaluation mode."""
        weight, bias = _folded(self.wide.weight, self.wide_norm)
        middle = self.wide.kernel_size[0] // 2
        point, more = _folded(self.point.weight, self.point_norm)
        weight[:, :, middle, middle] += point[:, :, 0, 0]
        bias = bias + more
        if self.self_norm is not None:
            unit = torch.eye(len(weight))[:, :, None, None]
            itself, more = _folded(unit, self.self_norm)
            weight[:, :, middle, middle] += itself[:, :, 0, 0]
            bias = bias + more
        old = self.wide
        out = nn.Conv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size[0],
            old.stride[0],
            old.dilation[0] * middle,
            dilation=old.dilation[0],
            padding_mode=self._padding_mode,
        )
        out.weight.copy_(weight)
        if out.bias is not None:
            out.bias.copy_(bias)
        return out


def fused(net: Net) -> Net:
    """Return a copy for evaluation in which every ``Branches`` is one convolution."""
    out = copy.deepcopy(net).eval()
    for module in list(out.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Branches):
                setattr(module, name, child.one())
    return out


def _folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of a convolution with the normalisation behind it taken in."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight / (variance + norm.eps).sqrt()
    return weight * scale[:, None, None, None], norm.bias - mean * scale
