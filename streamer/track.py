"""Follows the faces of one camera from frame to frame; ages are seconds, never frames.

The published trackers count in frames (norfair, supervision's ByteTrack) and so break at low and
uneven frame rates, or are no longer maintained with the libraries they need (filterpy); what fits
is SciPy for the assignment. The rest is here: a Kalman filter whose velocity fades, association by
likelihood, and confident detections first as in ByteTrack. A further search round the place where
a face was seen last, as in OC-SORT, was measured on tests/synth.py and gained nothing.

Legend: N faces detected, M tracks; digits are literal. A state is (centre x, centre y, width,
height) with a velocity each; the four are independent, so a covariance is three numbers.

Sources: Bewley et al. 2016, "SORT"; Zhang et al. 2022, "ByteTrack"; Bar-Shalom, Li & Kirubarajan
2001, "Estimation with Applications to Tracking and Navigation".
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from streamer.types import Detections, Expected, TrackEnd, Tracks

if TYPE_CHECKING:
    from streamer.types import I64

__all__ = ["FaceTracker", "TrackOptions"]

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_UNCONFIRMED = -1
_FORBIDDEN = 1e6
"""Cost of a pair outside the gate: larger than any sum of allowed ones, which are below 100."""
_SLACK_S = 1e-3
"""Frame times are rounded to a millisecond by some containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackOptions:
    """What the tracker believes about faces; lengths are in face sizes, sqrt(width x height).

    The defaults are the middle of a plateau: on the scenes of tests/synth.py at 25, 10, 5 and
    uneven frames a second, speeds and noises half or twice as large cost at most 0.02 of IDF1.

    Attributes:
        confirm_s: a face becomes a track when it was seen twice over so long; 0: at once.
        lost_s: a track that is not seen for longer has ended.
        start_score: least confidence of a detection that may start a track; a lower one can only
            continue one.
        first_id: number of the first track; they count up from it.
        measure: standard deviation of a detection's centre. It has room for a nod, which is no
            steady motion: with 0.05 a walker who looked down lost his number in a real crowd.
        measure_size: standard deviation of a detection's width and height.
        speed: standard deviation of a face's speed, sizes a second.
        speed_size: the same of its width and height.
        fade_s: how fast a speed is forgotten: a hidden face coasts about so many seconds' way.
        gate: a detection further than so many standard deviations is another face.
    """

    confirm_s: float = 0.2
    lost_s: float = 2.0
    start_score: float = 0.6
    first_id: int = 1
    measure: float = 0.12
    measure_size: float = 0.14
    speed: float = 2.0
    speed_size: float = 0.3
    fade_s: float = 2.0
    gate: float = 3.0


@dataclass(slots=True)
class _Table:
    """All tracks, row for row."""

    state_M4: F64 = field(default_factory=lambda: np.zeros((0, 4)))
    velocity_M4: F64 = field(default_factory=lambda: np.zeros((0, 4)))
    # Covariance of state with state, state with velocity, velocity with velocity.
    pp_M4: F64 = field(default_factory=lambda: np.zeros((0, 4)))
    pv_M4: F64 = field(default_factory=lambda: np.zeros((0, 4)))
    vv_M4: F64 = field(default_factory=lambda: np.zeros((0, 4)))
    ids_M: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    first_s_M: F64 = field(default_factory=lambda: np.zeros(0))
    last_s_M: F64 = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.ids_M)

    def keep(self, rows_M: Bool) -> None:
        """Drop the other rows."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name)[rows_M])

    def append(self, other: _Table) -> None:
        """Add rows at the end."""
        for one in fields(self):
            both = (getattr(self, one.name), getattr(other, one.name))
            setattr(self, one.name, np.concatenate(both))


class FaceTracker:
    """Follows the faces of one camera; pure: no clock, no thread.

    Args:
        options: what to believe about faces and time.
    """

    def __init__(self, options: TrackOptions) -> None:
        self._options = options
        self._next_id = options.first_id
        self._now_s = -np.inf
        self._table = _Table()
        spread = np.array([options.measure, options.measure, *[options.measure_size] * 2])
        speed = np.array([options.speed, options.speed, *[options.speed_size] * 2])
        self._measure_var_4, self._speed_var_4 = spread**2, speed**2

    def update(self, detections: Detections, media_s: float) -> Tracks:
        """Advance to ``media_s`` with what was detected then.

        Args:
            detections: the faces of this frame, in its pixels.
            media_s: the frame's media time, seconds. If it went backward, or further than
                ``lost_s``, no face can be the same: every track ends.

        Returns:
            The confirmed tracks seen in this frame, with the detections' own boxes and eyes; which
            were confirmed and which ended with it.
        """
        ended = self._advance(media_s)
        seen_N4 = _to_state(detections.boxes_N4)
        track_N = self._associate(seen_N4, detections.scores_N >= self._options.start_score)
        old_N = np.flatnonzero(track_N >= 0)
        self._correct(track_N[old_N], seen_N4[old_N], media_s)
        new_N = np.flatnonzero((track_N < 0) & (detections.scores_N >= self._options.start_score))
        track_N[new_N] = len(self._table) + np.arange(len(new_N))
        self._start(seen_N4[new_N], media_s)
        appeared = self._confirm(media_s)

        shown_N = np.flatnonzero(track_N >= 0)
        ids_N = self._table.ids_M[track_N[shown_N]]
        shown_N, ids_N = shown_N[ids_N != _UNCONFIRMED], ids_N[ids_N != _UNCONFIRMED]
        return Tracks(
            ids_N=ids_N,
            boxes_N4=detections.boxes_N4[shown_N],
            scores_N=detections.scores_N[shown_N],
            eyes_N22=detections.eyes_N22[shown_N],
            appeared=appeared,
            ended=ended,
        )

    def expect(self, media_s: float) -> Expected:
        """Return where the faces followed should be by then, confirmed or not; changes nothing.

        Args:
            media_s: media time of the frame to come, seconds; if it went back, nothing is expected.
        """
        table = self._table
        step_s = media_s - self._now_s
        if not len(table) or step_s < 0.0:
            return Expected(boxes_M4=np.zeros((0, 4), np.float32), hidden_s_M=np.zeros(0))
        tau = self._options.fade_s
        state_M4 = table.state_M4 + tau * (1.0 - np.exp(-step_s / tau)) * table.velocity_M4
        half_M2 = state_M4[:, 2:] / 2.0
        return Expected(
            boxes_M4=np.concatenate(
                [state_M4[:, :2] - half_M2, state_M4[:, :2] + half_M2], axis=1
            ).astype(np.float32),
            hidden_s_M=self._now_s - table.last_s_M,
        )

    def end_all(self) -> tuple[TrackEnd, ...]:
        """End every track, as when the camera is gone; return those that were confirmed."""
        ended = self._ends(np.ones(len(self._table), np.bool_))
        self._table = _Table()
        self._now_s = -np.inf
        return ended

    def _advance(self, media_s: float) -> tuple[TrackEnd, ...]:
        """Predict every track to the new time; drop those not seen for too long."""
        step_s, self._now_s = media_s - self._now_s, media_s
        if step_s < 0.0:
            ended = self.end_all()
            self._now_s = media_s
            return ended
        table = self._table
        unseen_s_M = media_s - table.last_s_M
        # One sighting may be a detector's whim; it is forgotten as soon as it could be confirmed.
        patience_s_M = np.where(
            table.ids_M == _UNCONFIRMED, max(step_s, self._options.confirm_s), self._options.lost_s
        )
        patience_s_M = np.minimum(patience_s_M, self._options.lost_s)
        lost_M = unseen_s_M > patience_s_M + _SLACK_S
        ended = self._ends(lost_M)
        if lost_M.any():
            table.keep(~lost_M)
        if len(table) and step_s > 0.0:
            self._predict(step_s)
        return ended

    def _predict(self, step_s: float) -> None:
        """Move every track on: a velocity that fades and is driven by noise.

        The velocity is an Ornstein-Uhlenbeck process with time constant tau, so a step of dt and
        two of dt / 2 give the same: the frame rate does not matter.
        """
        table, tau = self._table, self._options.fade_s
        ratio = step_s / tau
        fade = np.exp(-ratio)
        way = tau * (1.0 - fade)
        speed_M4 = self._speed_var_4 * _area(table.state_M4)
        table.state_M4 = table.state_M4 + way * table.velocity_M4
        table.velocity_M4 = fade * table.velocity_M4
        pp, pv, vv = table.pp_M4, table.pv_M4, table.vv_M4
        driven = tau * tau * (2.0 * ratio - 3.0 + 4.0 * fade - fade * fade)
        table.pp_M4 = pp + 2.0 * way * pv + way * way * vv + speed_M4 * driven
        table.pv_M4 = fade * (pv + way * vv) + speed_M4 * (tau * (1.0 - fade) ** 2)
        table.vv_M4 = fade * fade * vv + speed_M4 * (1.0 - fade * fade)

    def _associate(self, seen_N4: F64, confident_N: Bool) -> I64:
        """Return the track of each detection, or -1; confident detections choose first."""
        track_N = np.full(len(seen_N4), -1, np.int64)
        free_M = np.ones(len(self._table), np.bool_)
        for candidates_N in (confident_N, ~confident_N):
            rows, columns = np.flatnonzero(candidates_N), np.flatnonzero(free_M)
            if not len(rows) or not len(columns):
                continue
            cost_NM = self._cost(seen_N4[rows], columns)
            row_K, column_K = linear_sum_assignment(cost_NM)
            allowed_K = cost_NM[row_K, column_K] < _FORBIDDEN
            taken = columns[column_K[allowed_K]]
            track_N[rows[row_K[allowed_K]]] = taken
            free_M[taken] = False
        return track_N

    def _cost(self, seen_N4: F64, columns: I64) -> F64:
        """Return the negative log-likelihood of each pair, (N, M), forbidden outside the gate.

        The logarithm of the variance lets a face in plain view win against one that has been
        hidden for long and could be anywhere.
        """
        expected_M4 = self._table.state_M4[columns]
        area_M1 = _area(expected_M4)
        variance_M4 = self._table.pp_M4[columns] + self._measure_var_4 * area_M1
        square_NM4 = (seen_N4[:, None] - expected_M4) ** 2 / variance_M4
        gate = self._options.gate**2
        place_NM, size_NM = square_NM4[..., :2].sum(axis=2), square_NM4[..., 2:].sum(axis=2)
        cost_NM: F64 = place_NM + size_NM + np.log(variance_M4 / area_M1).sum(axis=1)
        cost_NM[(place_NM > gate) | (size_NM > gate)] = _FORBIDDEN
        return cost_NM

    def _correct(self, track_N: I64, seen_N4: F64, media_s: float) -> None:
        """Take one detection each into the tracks given."""
        if not len(track_N):
            return
        table = self._table
        pp, pv = table.pp_M4[track_N], table.pv_M4[track_N]
        total = pp + self._measure_var_4 * _area(seen_N4)
        gain, gain_v = pp / total, pv / total
        error_N4 = seen_N4 - table.state_M4[track_N]
        table.state_M4[track_N] += gain * error_N4
        table.velocity_M4[track_N] += gain_v * error_N4
        table.pp_M4[track_N] -= gain * pp
        table.pv_M4[track_N] -= gain * pv
        table.vv_M4[track_N] -= gain_v * pv
        table.last_s_M[track_N] = media_s

    def _start(self, seen_N4: F64, media_s: float) -> None:
        """Begin an unconfirmed track with each detection."""
        count = len(seen_N4)
        if not count:
            return
        area = _area(seen_N4)
        self._table.append(
            _Table(
                state_M4=seen_N4,
                velocity_M4=np.zeros((count, 4)),
                pp_M4=self._measure_var_4 * area,
                pv_M4=np.zeros((count, 4)),
                vv_M4=self._speed_var_4 * area,
                ids_M=np.full(count, _UNCONFIRMED, np.int64),
                first_s_M=np.full(count, media_s),
                last_s_M=np.full(count, media_s),
            )
        )

    def _confirm(self, media_s: float) -> tuple[int, ...]:
        """Number the tracks seen now that have been seen for long enough."""
        table = self._table
        age_s_M = media_s - table.first_s_M
        due_M = (table.ids_M == _UNCONFIRMED) & (table.last_s_M == media_s)
        due_M &= age_s_M >= self._options.confirm_s - _SLACK_S
        if self._options.confirm_s > 0.0:
            due_M &= age_s_M > 0.0  # seen twice
        ids = range(self._next_id, self._next_id + int(due_M.sum()))
        table.ids_M[due_M] = ids
        self._next_id = ids.stop
        return tuple(ids)

    def _ends(self, rows_M: Bool) -> tuple[TrackEnd, ...]:
        """Describe the confirmed tracks among the rows."""
        table = self._table
        return tuple(
            TrackEnd(
                track=int(table.ids_M[row]),
                first_s=float(table.first_s_M[row]),
                last_s=float(table.last_s_M[row]),
            )
            for row in np.flatnonzero(rows_M & (table.ids_M != _UNCONFIRMED))
        )


def _to_state(boxes_N4: NDArray[np.float32]) -> F64:
    """Turn xyxy boxes into centres and sizes, float64."""
    low, high = boxes_N4[:, :2].astype(np.float64), boxes_N4[:, 2:].astype(np.float64)
    return np.concatenate([(low + high) / 2.0, high - low], axis=1)


def _area(state_M4: F64) -> F64:
    """Return the square of the face size, (M, 1), at least a pixel."""
    area_M1: F64 = np.maximum(state_M4[:, 2:3] * state_M4[:, 3:4], 1.0)
    return area_M1
