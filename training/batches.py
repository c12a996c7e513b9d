"""Training pictures, ready to be drawn batch by batch.

Legend: B batch, N faces, H W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from streamer.errors import ConfigError
from training.augment import augment, framings, mix, pair_weights, reach
from training.data.balance import draw_rates, epoch_order, thinned
from training.data.labels import prior, targets
from training.workers import Rows, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.types import F32
    from training.data.faces import FaceSet
    from training.recipes import TrainConfig

__all__ = ["Batch", "Batches"]

_FAR_APART = 1_000_003
"""Between the seeds of two chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One step's pictures, or this process' share of them.

    Attributes:
        x_B1HW: augmented faces, float32 in 0..1.
        wanted_BK: target distributions.
        rows: which of the whole batch's rows these are.
        done: share of the epoch that lies before this step.
        steps: of the epoch.
    """

    x_B1HW: Tensor
    wanted_BK: Tensor
    rows: Rows
    done: float
    steps: int


class Batches:
    """The train split in memory, uint8, with targets and how often each picture is shown."""

    def __init__(self, config: TrainConfig, faces: FaceSet, workers: Workers) -> None:
        """Prepare the split "train".

        Raises:
            ConfigError: when it is empty, or the processes cannot share the chunks evenly.
        """
        if config.chunks % workers.count:
            raise ConfigError(
                f"{workers.count} processes cannot share chunks={config.chunks}; set a multiple, "
                f"e.g. --set chunks={workers.count}"
            )
        train = faces.part("train")
        targets_NK, usable_N = targets(train, config.labels)
        usable_N[usable_N] = thinned(
            targets_NK[usable_N], train.images_NHW[usable_N], config.balance
        )
        train, targets_NK = train.rows(usable_N), targets_NK[usable_N]
        if len(train) == 0:
            raise ConfigError("the face set has no usable picture in its split 'train'")
        self._config, self._workers = config, workers
        self._targets: F32 = targets_NK
        self._wanted_NK = torch.from_numpy(targets_NK)
        self._pixels_NHW = torch.from_numpy(train.images_NHW)
        self._framing_N23 = framings(train)
        self._far_N = reach(targets_NK, config.augment)
        self._weight_N = pair_weights(targets_NK, config.augment)
        self.prior_K = torch.from_numpy(prior(targets_NK))

    def counts(self, *, head: bool) -> Tensor:
        """Return the (soft) number of pictures of each class that an epoch shows, (K,)."""
        rates_N = self._rates(head=head)
        return torch.from_numpy(prior(self._targets, rates_N)) * float(rates_N.sum())

    def epoch(self, number: int, *, head: bool) -> Iterator[Batch]:
        """Yield the steps of an epoch; it depends on nothing but its number and the seed.

        Args:
            number: from 0.
            head: whether only the classifier is trained, with all classes alike.
        """
        config, workers = self._config, self._workers
        seed = config.seed * 100_003 + number
        per = config.chunks // workers.count
        mine = range(per * workers.rank, per * (workers.rank + 1))
        randoms = {c: torch.Generator().manual_seed(seed + c * _FAR_APART) for c in mine}
        rows_N = torch.from_numpy(epoch_order(self._rates(head=head), number, config.seed))
        steps = max(1, len(rows_N) // config.batch)
        for step, rows in enumerate(rows_N.tensor_split(steps)):
            chunks = rows.tensor_split(config.chunks)
            parts = [self._draw(chunks[c], randoms[c]) for c in mine]
            start = sum(len(c) for c in chunks[: mine.start])
            stop = start + sum(len(chunks[c]) for c in mine)
            yield Batch(
                x_B1HW=torch.cat([x for x, _ in parts]),
                wanted_BK=torch.cat([w for _, w in parts]),
                rows=Rows(start=start, stop=stop, total=len(rows)),
                done=step / steps,
                steps=steps,
            )

    def _draw(self, rows: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        how = self._config.augment
        far, weight = self._far_N[rows], self._weight_N[rows]
        x = augment(self._pixels_NHW[rows], self._framing_N23[rows], how, random, far)
        return mix(x, self._wanted_NK[rows], how, random, weight)

    def _rates(self, *, head: bool) -> F32:
        balance = self._config.balance
        if head:
            balance = replace(balance, kind="power", power=0.0)
        return np.asarray(draw_rates(self._targets, balance), np.float32)
