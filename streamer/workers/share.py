"""Which worker watches which camera: evenly, and a camera never moves while its worker is there."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["share"]


def share(names: Sequence[str], workers: int, held: Mapping[str, int]) -> dict[str, int]:
    """Return each camera's worker, 0 to ``workers`` - 1.

    Args:
        names: of all cameras.
        workers: how many there are.
        held: where cameras are now; these stay, since a move would end their tracks.
    """
    shares = {name: held[name] for name in names if name in held}
    load = Counter(shares.values())
    for name in names:
        if name not in shares:
            shares[name] = min(range(workers), key=lambda worker: load[worker])
            load[shares[name]] += 1
    return shares
