"""Several processes that train one network: who does what, and what they must agree on.

Under ``torchrun`` every process takes its share of each batch. Statistics of batch normalisation,
the masks of dropout and the gradients are those of the whole batch, so that any number of
processes walks the same curve.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Rows", "Workers", "joined", "mean_over_workers", "share_statistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which rows of a whole batch are here: ``start`` to ``stop`` of ``total``."""

    start: int
    stop: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The processes of a run, and which one this is."""

    rank: int = 0
    count: int = 1

    @staticmethod
    def now() -> Workers:
        """Return the group that this process is in; alone outside ``joined``."""
        if not dist.is_initialized():
            return Workers()
        return Workers(rank=dist.get_rank(), count=dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the one that measures, writes and prints."""
        return self.rank == 0

    def together(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients averaged over all processes after each backward."""
        if self.count == 1:
            return module
        # What batches leave in buffers is equal everywhere already.
        return DistributedDataParallel(module, broadcast_buffers=False)

    def told(self, value: float) -> float:
        """Return what the first process calls this with; the others wait for it."""
        if self.count == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        if dist.get_backend() == "nccl":
            box = box.cuda()
        dist.broadcast(box, 0)
        return float(box)


@contextmanager
def joined(device: str) -> Iterator[Workers]:
    """Join the processes that ``torchrun`` has started; alone without it.

    Args:
        device: "cpu" joins by gloo, anything else by NCCL on the GPU of this process' local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers()
        return
    if device == "cpu":
        dist.init_process_group("gloo")
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    try:
        yield Workers.now()
    finally:
        dist.destroy_process_group()


def mean_over_workers(value: Tensor, share: float | None = None) -> Tensor:
    """Return the mean over all processes; no gradient.

    Args:
        value: this process' own.
        share: its weight; None: all weigh the same.
    """
    if not dist.is_initialized():
        return value
    value = value * (1.0 / dist.get_world_size() if share is None else share)
    dist.all_reduce(value)
    return value


class _Shared(_BatchNorm):
    """Batch normalisation over the batches of all processes, also without a GPU.

    torch.nn.SyncBatchNorm does this on GPUs alone.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.load_state_dict(norm.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C) or (B, C, H, W)."""
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        if not self.training:
            return nn.functional.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
        shape = (1, -1, *[1] * (x.ndim - 2))
        over = [d for d in range(x.ndim) if d != 1]
        x_float = x.float()
        count = torch.tensor(float(x.numel() // x.shape[1]))
        dist.all_reduce(count)
        n = float(count)
        mean_C = _summed(x_float.sum(dim=over)) / n
        centred = x_float - mean_C.view(shape)
        variance_C = _summed((centred * centred).sum(dim=over)) / n
        with torch.no_grad():
            pace = self.momentum or 0.1
            mean.lerp_(mean_C.detach(), pace)
            variance.lerp_(variance_C.detach() * (n / max(1.0, n - 1.0)), pace)
            self.get_buffer("num_batches_tracked").add_(1)
        scale = self.weight * (variance_C + self.eps).rsqrt()
        out: Tensor = centred * scale.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)


def share_statistics(model: nn.Module, device: str) -> nn.Module:
    """Let batch normalisations see the whole batch; the names of weights stay what they are."""
    if device != "cpu":
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return shared
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, _Shared(child))
    return model


def _summed(value: Tensor) -> Tensor:
    """Return the sum over all processes; its gradient is summed likewise."""
    total: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]
    return total
