"""The temporal head: features of many tracks in, emotion probabilities out, one LSTM state a track.

Legend: N faces of this step, D features, L layers, U units, K classes, C slots of the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.bundle import softmax

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamer.stages import Engine
    from streamer.types import F32

__all__ = ["Key", "TemporalHead"]

Key = tuple[str, int]
"""A track: its camera and its number."""

_FIRST_SLOTS = 64  # doubles when full; 64 tracks of 1 x 128 units take 64 kB


class TemporalHead:
    """Steps all tracks in one batch; the states live in one table, a slot a track.

    Not thread-safe: the compute loop owns it.

    Args:
        engine: one step of the network, see ``streamer.bundle``.
        layers: LSTM layers of the network.
        units: units a layer.
        gap_reset_s: a track not stepped for longer starts again from zeros, because the state
            speaks of a face that may have changed unseen.
    """

    def __init__(self, engine: Engine, *, layers: int, units: int, gap_reset_s: float) -> None:
        self._engine = engine
        self._gap_reset_s = gap_reset_s
        self._slots: dict[Key, int] = {}
        self._free = list(range(_FIRST_SLOTS - 1, -1, -1))
        self._h_LCU = np.zeros((layers, _FIRST_SLOTS, units), np.float32)
        self._c_LCU = np.zeros_like(self._h_LCU)
        self._last_s = np.full(_FIRST_SLOTS, -np.inf)

    def __len__(self) -> int:
        """How many tracks have a state."""
        return len(self._slots)

    def step(self, features_ND: F32, keys: Sequence[Key], media_s: Sequence[float]) -> F32:
        """Advance each track by one observation.

        Args:
            features_ND: CNN features, float32, one row a track; not normalised.
            keys: the track of each row; none twice.
            media_s: media time of each row's frame, seconds.

        Returns:
            probabilities_NK: float32, each row sums to 1 within 1e-5.

        Raises:
            ValueError: if row counts differ or a track is named twice.
            EngineError: when the runtime fails; the states are then as before.

        Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory".
        """
        if not len(features_ND) == len(keys) == len(media_s):
            raise ValueError(f"{len(features_ND)} rows, {len(keys)} tracks, {len(media_s)} times")
        if len(set(keys)) != len(keys):
            raise ValueError("a track is named twice in one step")
        slots = np.array([self._slot(key) for key in keys], np.intp)
        times = np.asarray(media_s, np.float64)
        gap = times - self._last_s[slots]
        stale = slots[(gap > self._gap_reset_s) | (gap < 0.0)]
        self._h_LCU[:, stale] = 0.0
        self._c_LCU[:, stale] = 0.0
        out = self._engine.run(
            {"features": features_ND, "h": self._h_LCU[:, slots], "c": self._c_LCU[:, slots]}
        )
        self._h_LCU[:, slots] = out["h_out"]
        self._c_LCU[:, slots] = out["c_out"]
        self._last_s[slots] = times
        return softmax(out["logits"])

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
        layers, slots, units = self._h_LCU.shape
        more = np.zeros((layers, slots, units), np.float32)
        self._h_LCU = np.concatenate([self._h_LCU, more], axis=1)
        self._c_LCU = np.concatenate([self._c_LCU, more], axis=1)
        self._last_s = np.concatenate([self._last_s, np.full(slots, -np.inf)])
        self._free.extend(range(2 * slots - 1, slots - 1, -1))
