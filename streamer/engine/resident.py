"""The states of all tracks, kept on the GPU between the steps.

Legend: N faces of this step, H W pixels.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.engine.gpu import GpuEngine
    from streamer.types import F32, I64

__all__ = ["ResidentStates"]


class ResidentStates:
    """Rows of a GPU's table of states, behind ``streamer.stages.Stepper``.

    Several may share one engine, each with rows of its own; they go back with the object.

    Args:
        engine: the reader, see ``streamer.engine.graphs``; what is stepped are faces (N, 1, H, W).
    """

    def __init__(self, engine: GpuEngine) -> None:
        self._engine = engine
        self._rows = np.zeros(0, np.int64)  # of each slot
        self._return = weakref.finalize(self, engine.give, self._rows)

    def step(self, rows: F32, slots_N: I64, fresh_N: NDArray[np.bool_]) -> F32:
        """Advance the slots by one observation each; see ``streamer.stages.Stepper``.

        Raises:
            EngineError: when the GPU fails; the states must then be taken as lost.
        """
        out = self._engine.run({"faces": rows, "slots": self._rows[slots_N], "kept": ~fresh_N})
        return out["logits"]

    def reserve(self, slots: int) -> None:
        """Have room for so many slots and keep the states."""
        missing = slots - len(self._rows)
        if missing > 0:
            self._rows = np.concatenate([self._rows, self._engine.take(missing)])
            self._return.detach()
            self._return = weakref.finalize(self, self._engine.give, self._rows)
