"""The states of all tracks, kept on the GPU between the steps.

Legend: N faces of this step, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.engine.graphs import PADDING_SLOT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamer.engine.gpu import GpuEngine
    from streamer.types import F32, I64

__all__ = ["ResidentStates"]

_FIRST = PADDING_SLOT + 1  # the row of the table that is a head's slot 0


class ResidentStates:
    """The states of all tracks on the GPU, behind ``streamer.stages.Stepper``.

    Args:
        engine: the reader, see ``streamer.engine.graphs``; rows are faces (N, 1, H, W).
    """

    def __init__(self, engine: GpuEngine) -> None:
        self._engine = engine

    def step(self, rows: F32, slots_N: I64, fresh_N: NDArray[np.bool_]) -> F32:
        """Advance the slots by one observation each; see ``streamer.stages.Stepper``."""
        out = self._engine.run({"faces": rows, "slots": slots_N + _FIRST, "kept": ~fresh_N})
        return out["logits"]

    def reserve(self, slots: int) -> None:
        """Have room for so many slots and keep the states."""
        if slots + _FIRST > self._engine.slots:
            self._engine.grow(max(slots + _FIRST, 2 * self._engine.slots))
