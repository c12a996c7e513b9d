"""Which pictures an epoch shows, and how often: four ways against imbalance.

Legend: N faces, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer.errors import ConfigError
from training.data.duplicates import first_of_alike

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.types import F32, U8

__all__ = ["BalanceConfig", "draw_rates", "epoch_order", "thinned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceConfig:
    """How classes are balanced by choice of pictures.

    Attributes:
        kind: "natural"; "power": a class of n pictures gets a share of n ** ``power``; "under":
            large classes are cut to ``ratio`` times the smallest; "cyclic": large classes are split
            into parts, one part an epoch, while small ones are repeated whole.
        power: 1 natural, 0 all classes alike.
        ratio: for "under" and "cyclic", largest class over smallest within an epoch.
        alike: before all this, of the pictures of a large class that look alike only the first is
            kept: the correlation from which they do; 0.9 is the same photograph; 0: all are kept.
        length: of an epoch, as a share of what it would be; under 1, pictures take turns.
    """

    kind: str = "power"
    power: float = 0.5
    ratio: float = 4.0
    alike: float = 0.0
    length: float = 1.0


def draw_rates(targets_NK: F32, config: BalanceConfig) -> F32:
    """Return how often each picture is shown in an epoch, on average.

    Args:
        targets_NK: target distributions.
        config: how.

    Returns:
        float32 (N,); for "power" the mean is ``length``, so that an epoch keeps it.
    """
    return _rates(targets_NK, config) * np.float32(config.length)


def _rates(targets_NK: F32, config: BalanceConfig) -> F32:
    mass = np.maximum(targets_NK.sum(axis=0), 1e-6)
    present = mass > 1.0
    if config.kind == "natural":
        return np.ones(len(targets_NK), np.float32)
    if config.kind == "power":
        per_class = np.where(present, mass ** (config.power - 1.0), 0.0)
        rates = targets_NK @ per_class.astype(np.float32)
        return np.asarray(rates / rates.mean(), np.float32)
    smallest = float(mass[present].min())
    if config.kind == "under":
        keep = np.minimum(1.0, config.ratio * smallest / mass)
    elif config.kind == "cyclic":
        middle = float(np.median(mass[present]))
        top = max(middle, config.ratio * smallest)
        keep = np.where(mass > top, top / mass, np.minimum(top / config.ratio / mass, config.ratio))
        keep = np.where(mass > top, keep, np.maximum(keep, 1.0))
    else:
        raise ConfigError(
            f"balance.kind is {config.kind!r}; choose natural, power, under or cyclic"
        )
    top_class = targets_NK.argmax(axis=1)
    return np.asarray(keep[top_class], np.float32)


def thinned(targets_NK: F32, images_NHW: U8, config: BalanceConfig) -> NDArray[np.bool_]:
    """Return which pictures stay where look-alikes of large classes go.

    A class is large when it has more pictures than the median class. A picture is of its likeliest
    class.

    Args:
        targets_NK: target distributions.
        images_NHW: the pictures.
        config: how; with ``alike`` 0 all stay.
    """
    kept = np.ones(len(targets_NK), np.bool_)
    if config.alike == 0.0:
        return kept
    top_class = targets_NK.argmax(axis=1)
    sizes = np.bincount(top_class, minlength=targets_NK.shape[1])
    for k in np.flatnonzero(sizes > np.median(sizes[sizes > 0])):
        rows = np.flatnonzero(top_class == k)
        kept[rows] = first_of_alike(images_NHW[rows], config.alike)
    return kept


def epoch_order(rates_N: F32, epoch: int, seed: int) -> NDArray[np.int64]:
    """Return the shuffled rows of one epoch.

    A picture of rate r is shown floor(r) or ceil(r) times. The rounding walks through a fixed
    order by the epoch's number, so that over 1/r epochs a picture of rate r < 1 is shown once: the
    parts of a large class follow one another and nothing is left out by chance.

    Args:
        rates_N: from ``draw_rates``.
        epoch: number of the epoch, from 0.
        seed: of the run.
    """
    fixed = torch.Generator().manual_seed(seed)
    phase = torch.rand(len(rates_N), generator=fixed, dtype=torch.float64).numpy()
    rates = rates_N.astype(np.float64)
    count = np.floor(phase + rates * (epoch + 1)) - np.floor(phase + rates * epoch)
    rows = np.repeat(np.arange(len(rates_N), dtype=np.int64), count.astype(np.int64))
    shuffle = torch.Generator().manual_seed(seed * 100_003 + epoch + 1)
    return np.asarray(rows[torch.randperm(len(rows), generator=shuffle).numpy()], np.int64)
