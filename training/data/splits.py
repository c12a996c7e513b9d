"""Splits that never cut a person, a video or a set of duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError
from training.data.faces import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["by_group", "folds"]


def by_group(
    groups_N: NDArray[np.str_],
    labels_N: NDArray[np.integer],
    shares: tuple[float, float, float],
    seed: int,
) -> NDArray[np.str_]:
    """Assign whole groups to train, valid and test, keeping the classes' shares alike.

    Groups are taken from the largest to the smallest; each goes where the classes it holds are
    most wanting, ties by a seeded shuffle.

    Args:
        groups_N: what must not be cut.
        labels_N: class indices.
        shares: of train, valid and test; they sum to 1.
        seed: of the shuffle.

    Returns:
        The split of each row.

    Raises:
        ConfigError: when the shares do not sum to 1.
    """
    if abs(sum(shares) - 1.0) > 1e-6 or min(shares) < 0.0:  # noqa: PLR2004 - rounding of a sum
        raise ConfigError(f"split shares are {shares}; give three that sum to 1")
    _, group = np.unique(groups_N, return_inverse=True)
    counts = np.zeros((int(group.max()) + 1, int(labels_N.max()) + 1))
    np.add.at(counts, (group, labels_N), 1.0)
    wanted = np.outer(shares, counts.sum(axis=0))
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    place = np.zeros(len(counts), np.int64)
    for g in order:
        # What each split still wants of the classes of this group, as a share of its own want.
        gain = ((wanted / np.maximum(wanted.sum(axis=1, keepdims=True), 1e-9)) * counts[g]).sum(1)
        lack = (wanted * (counts[g] > 0)).sum(axis=1)
        place[g] = int(np.lexsort((-gain, -lack))[0])
        wanted[place[g]] -= counts[g]
    return np.array(SPLITS, np.str_)[place[group]]


def folds(
    groups_N: NDArray[np.str_], count: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (train rows, held-out rows) of each fold; no group is on both sides.

    Raises:
        ConfigError: when there are fewer groups than folds.
    """
    names, group = np.unique(groups_N, return_inverse=True)
    if len(names) < count:
        raise ConfigError(f"{len(names)} groups cannot make {count} folds; ask for fewer")
    fold = np.random.default_rng(seed).permutation(len(names)) % count
    for k in range(count):
        held = fold[group] == k
        yield np.flatnonzero(~held), np.flatnonzero(held)
