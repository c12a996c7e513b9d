"""Labels: the threshold of one reading and the hysteresis over a track."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.hysteresis import Change, Hysteresis, label_of


def changes(machine: Hysteresis, readings: list[tuple[float, float]]) -> list[tuple[float, Change]]:
    """Feed (media time, probability of joy); fear has the rest. Return when what changed."""
    out = []
    for media_s, joy in readings:
        change = machine.update(media_s, {"joy": joy, "fear": 1 - joy})
        if change is not None:
            out.append((media_s, change))
    return out


def test_a_label_has_to_hold_for_the_dwell() -> None:
    """Joy above 0.6 from 0.0 s is reported at 0.5 s, once, and fear later likewise."""
    machine = Hysteresis(enter=0.6, exit=0.4, min_dwell_s=0.5)

    got = changes(
        machine,
        [(0.0, 0.9), (0.25, 0.9), (0.5, 0.9), (0.75, 0.9), (1.0, 0.1), (1.25, 0.1), (1.5, 0.1)],
    )

    assert got == [
        (0.5, Change(previous="unknown", label="joy")),
        (1.5, Change(previous="joy", label="fear")),
    ]


def test_flicker_never_changes_the_label() -> None:
    """Classes that alternate faster than the dwell start it anew each time."""
    machine = Hysteresis(enter=0.6, exit=0.4, min_dwell_s=0.5)

    readings = [(0.25 * step, 0.9 if step % 2 else 0.1) for step in range(40)]

    assert changes(machine, readings) == []
    assert machine.label == "unknown"


def test_between_the_thresholds_the_label_stays() -> None:
    """From joy, 0.5 against 0.5 changes nothing: neither under exit nor above enter."""
    machine = Hysteresis(enter=0.6, exit=0.4, min_dwell_s=0.0)

    got = changes(machine, [(0.0, 0.7), (1.0, 0.5), (2.0, 0.4), (3.0, 0.6)])

    assert got == [(0.0, Change(previous="unknown", label="joy"))]


def test_an_uncertain_face_falls_back_to_unknown() -> None:
    """Joy under exit, with nothing else above enter, becomes unknown after the dwell."""
    machine = Hysteresis(enter=0.7, exit=0.4, min_dwell_s=1.0)

    got = changes(machine, [(0.0, 0.9), (1.0, 0.9), (2.0, 0.35), (3.0, 0.35)])

    assert got == [
        (1.0, Change(previous="unknown", label="joy")),
        (3.0, Change(previous="joy", label="unknown")),
    ]


def test_a_break_starts_the_dwell_again() -> None:
    """A single reading that does not support the candidate resets its clock."""
    machine = Hysteresis(enter=0.6, exit=0.4, min_dwell_s=1.0)

    got = changes(machine, [(0.0, 0.9), (0.9, 0.5), (1.0, 0.9), (1.9, 0.9), (2.0, 0.9)])

    assert got == [(2.0, Change(previous="unknown", label="joy"))]


def test_media_time_that_jumps_back_starts_the_dwell_again() -> None:
    """A time before the candidate's start counts as its new start."""
    machine = Hysteresis(enter=0.6, exit=0.4, min_dwell_s=1.0)

    assert changes(machine, [(10.0, 0.9), (0.0, 0.9), (0.5, 0.9)]) == []
    assert changes(machine, [(1.0, 0.9)]) == [(1.0, Change(previous="unknown", label="joy"))]


@given(
    joys=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    enter=st.floats(0.5, 1),
    exit_=st.floats(0, 0.5),
    dwell_steps=st.integers(0, 5),
)
def test_changes_form_a_chain_and_keep_their_distance(
    joys: list[float], enter: float, exit_: float, dwell_steps: int
) -> None:
    """Each change starts from the label before it, and no two are closer than the dwell."""
    machine = Hysteresis(enter=enter, exit=exit_, min_dwell_s=float(dwell_steps))

    got = changes(machine, [(float(step), joy) for step, joy in enumerate(joys)])

    label, last_s = "unknown", -math.inf
    for at_s, change in got:
        assert change.previous == label
        assert change.label != label
        assert at_s - last_s > dwell_steps - 1e-9
        label, last_s = change.label, at_s
    assert machine.label == label


@pytest.mark.parametrize(
    ("enter", "exit_", "dwell_s"),
    [(0.4, 0.5, 0.0), (1.1, 0.5, 0.0), (0.5, -0.1, 0.0), (0.5, 0.4, -1.0), (0.5, math.nan, 0.0)],
)
def test_impossible_thresholds_are_refused(enter: float, exit_: float, dwell_s: float) -> None:
    """Thresholds out of order or range cannot be built."""
    with pytest.raises(ValueError, match="expected"):
        Hysteresis(enter=enter, exit=exit_, min_dwell_s=dwell_s)


@pytest.mark.parametrize(
    ("threshold", "label"), [(0.5, "fear"), (0.6, "fear"), (0.61, "unknown"), (0.0, "fear")]
)
def test_label_is_unknown_under_the_threshold(threshold: float, label: str) -> None:
    """The label is the best class from the threshold on, and the confidence is kept either way."""
    row_K = np.array([0.4, 0.6], np.float32)

    assert label_of(row_K, ("neutral", "fear"), threshold) == (label, 0.6)
