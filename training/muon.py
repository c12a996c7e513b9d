"""Muon: a matrix moves by orthogonal steps, so that no direction is favoured; the rest by AdamW.

torch.optim.Muon takes matrices alone; here a kernel of a convolution counts as the matrix of its
output channels, and what is no such matrix goes by AdamW within the same optimiser.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale of
its steps from Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv 2502.16982.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, optim

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Muon", "orthogonal"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz polynomial, from the source: steep at zero, near one after five steps."""
_STEPS = 5
_RMS = 0.2
"""Root mean square of a step at rate 1: that of AdamW's steps, so that one rate serves both."""
_EPSILON = 1e-8


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about the nearest matrix with singular values of one (0.7 to 1.2 in truth)."""
    a, b, c = _COEFFICIENTS
    x: Tensor
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(optim.Optimizer):
    """Orthogonal steps for groups with ``orthogonal`` set, AdamW for the others.

    Args:
        groups: parameter groups; each may set ``orthogonal`` (default True) and ``weight_decay``.
        lr: learning rate.
        momentum: Nesterov's of the orthogonal groups, and AdamW's first beta.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, momentum: float) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            move = self._orthogonal if group["orthogonal"] else self._adam
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                    move(weight, weight.grad, group)
        return loss

    def _orthogonal(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        m = group["momentum"]
        state["momentum"].lerp_(gradient, 1.0 - m)
        ahead = gradient.lerp(state["momentum"], m)
        step = orthogonal(ahead.flatten(1))
        scale = _RMS * math.sqrt(max(step.shape))
        weight.sub_(step.view_as(ahead), alpha=group["lr"] * scale)

    def _adam(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state |= {
                "steps": 0,
                "mean": torch.zeros_like(weight),
                "square": torch.zeros_like(weight),
            }
        state["steps"] += 1
        first, second = group["momentum"], 0.999
        state["mean"].lerp_(gradient, 1.0 - first)
        state["square"].lerp_(gradient * gradient, 1.0 - second)
        mean = state["mean"] / (1.0 - first ** state["steps"])
        root = (state["square"] / (1.0 - second ** state["steps"])).sqrt()
        weight.sub_(mean / (root + _EPSILON), alpha=group["lr"])
