"""The temporal head: features of many tracks in, emotion probabilities out, one state a track.

Which track owns which slot, and when a state is too old, is decided here; the states themselves lie
behind a ``Stepper``: in this process's memory, or on a GPU.

Legend: N faces of this step, D features, L rows of a state, U units, K classes, C slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.bundle import softmax

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from streamer.stages import Engine, Stepper
    from streamer.types import F32, I64

__all__ = ["HostStates", "Key", "TemporalHead"]

Key = tuple[str, int]
"""A track: its camera and its number."""

_FIRST_SLOTS = 64  # doubles when full; 64 tracks of 1 x 128 units take 64 kB


class TemporalHead:
    """Steps all tracks in one batch; every track has a slot of the stepper's table.

    Not thread-safe: the compute loop owns it.

    Args:
        states: the network with its table of states; nobody else may use it.
        gap_reset_s: a track not stepped for longer starts again from zeros, because the state
            speaks of a face that may have changed unseen.
    """

    def __init__(self, states: Stepper, *, gap_reset_s: float) -> None:
        self._states = states
        self._gap_reset_s = gap_reset_s
        self._slots: dict[Key, int] = {}
        self._free = list(range(_FIRST_SLOTS - 1, -1, -1))
        self._last_s = np.full(_FIRST_SLOTS, -np.inf)
        states.reserve(_FIRST_SLOTS)

    def __len__(self) -> int:
        """How many tracks have a state."""
        return len(self._slots)

    def step(self, rows: F32, keys: Sequence[Key], media_s: Sequence[float]) -> F32:
        """Advance each track by one observation.

        Args:
            rows: what the stepper reads, float32, one row a track: CNN features (N, D), or faces
                (N, 1, H, W) where the CNN is part of it.
            keys: the track of each row; none twice.
            media_s: media time of each row's frame, seconds.

        Returns:
            probabilities_NK: float32, each row sums to 1 within 1e-5.

        Raises:
            ValueError: if row counts differ or a track is named twice.
            EngineError: when the runtime fails.
        """
        if not len(rows) == len(keys) == len(media_s):
            raise ValueError(f"{len(rows)} rows, {len(keys)} tracks, {len(media_s)} times")
        if len(set(keys)) != len(keys):
            raise ValueError("a track is named twice in one step")
        slots_N = np.array([self._slot(key) for key in keys], np.int64)
        times_N = np.asarray(media_s, np.float64)
        gap_N = times_N - self._last_s[slots_N]
        logits_NK = self._states.step(rows, slots_N, (gap_N > self._gap_reset_s) | (gap_N < 0.0))
        self._last_s[slots_N] = times_N
        return softmax(logits_NK)

    def evict(self, keys: Iterable[Key]) -> None:
        """Forget tracks that have ended; unknown ones are ignored."""
        for key in keys:
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._last_s[slot] = -np.inf  # the next owner starts from zeros
                self._free.append(slot)

    def _slot(self, key: Key) -> int:
        slot = self._slots.get(key)
        if slot is None:
            if not self._free:
                self._grow()
            slot = self._slots[key] = self._free.pop()
        return slot

    def _grow(self) -> None:
        slots = len(self._last_s)
        self._states.reserve(2 * slots)
        self._last_s = np.concatenate([self._last_s, np.full(slots, -np.inf)])
        self._free.extend(range(2 * slots - 1, slots - 1, -1))


class HostStates:
    """The states in this process's memory, behind ``streamer.stages.Stepper``.

    A step that fails leaves them as they were.

    Args:
        engine: one step of the network, see ``streamer.bundle``.
        shapes: each state's name with its (L, U).
    """

    def __init__(self, engine: Engine, shapes: Mapping[str, tuple[int, int]]) -> None:
        self._engine = engine
        self._tables_LCU = {
            name: np.zeros((high, 0, units), np.float32) for name, (high, units) in shapes.items()
        }

    def step(self, rows: F32, slots_N: I64, fresh_N: NDArray[np.bool_]) -> F32:
        """Advance some slots by one observation each; see ``streamer.stages.Stepper``."""
        states_LNU = {name: table[:, slots_N] for name, table in self._tables_LCU.items()}
        for state_LNU in states_LNU.values():
            state_LNU[:, fresh_N] = 0.0
        out = self._engine.run({"features": rows, **states_LNU})
        for name, table in self._tables_LCU.items():
            table[:, slots_N] = out[f"{name}_out"]
        return out["logits"]

    def reserve(self, slots: int) -> None:
        """Have room for so many slots and keep their states."""
        for name, table in self._tables_LCU.items():
            high, have, units = table.shape
            if slots > have:
                more = np.zeros((high, slots - have, units), np.float32)
                self._tables_LCU[name] = np.concatenate([table, more], axis=1)
