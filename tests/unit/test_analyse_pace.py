"""Which frames are due, by media time alone: the same in the daemon and in a file's analysis."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from streamer.pace import Pace


def taken(pace: Pace, times_s: list[float]) -> list[int]:
    """Offer frames of these media times; return the indexes of those that were due."""
    found = []
    for index, media_s in enumerate(times_s):
        if pace.due(media_s):
            pace.take(media_s)
            found.append(index)
    return found


def test_ten_of_twenty_five_a_second() -> None:
    """Every second or third frame: due at 0, 90, 190, 290, 390 ms; frames come every 40 ms."""
    assert taken(Pace(10.0), [i * 0.04 for i in range(14)]) == [0, 3, 5, 8, 10, 13]


def test_zero_takes_every_frame() -> None:
    """With 0 nothing is passed over, not even frames a microsecond apart."""
    assert taken(Pace(0.0), [0.0, 1e-6, 0.04, 5.0]) == [0, 1, 2, 3]


def test_a_slow_camera_loses_nothing() -> None:
    """At 10 frames a second of 10 with jittering time stamps every frame is due."""
    jitter = itertools.cycle([0.0, 0.006, -0.004, 0.003])
    assert taken(Pace(10.0), [i * 0.1 + next(jitter) for i in range(50)]) == list(range(50))


def test_a_pause_is_not_caught_up() -> None:
    """After ten seconds of silence the plan starts anew: no burst of frames in a row."""
    times_s = [0.0, 0.1, *(10.0 + i * 0.02 for i in range(12))]
    assert taken(Pace(10.0), times_s) == [0, 1, 2, 7, 12]


@given(
    step_ms=st.integers(1, 200),
    fps=st.sampled_from([1.0, 5.0, 10.0, 12.5, 30.0]),
    origin_s=st.floats(0, 1e7),
)
def test_the_origin_of_time_does_not_matter(step_ms: int, fps: float, origin_s: float) -> None:
    """A file read twice, its media time starting anywhere, has the same frames due."""
    steps = [step_ms / 1000] * 300
    from_zero = list(itertools.accumulate(steps, initial=0.0))
    moved = list(itertools.accumulate(steps, initial=origin_s))
    assert taken(Pace(fps), from_zero) == taken(Pace(fps), moved)


def test_a_tie_is_due() -> None:
    """Frames every 30 ms fall exactly on 90 ms, the tenth of a period early that is allowed."""
    assert taken(Pace(10.0), [1000.0 + i * 0.03 for i in range(8)])[:2] == [0, 3]
    assert taken(Pace(10.0), [i * 0.03 for i in range(8)])[:2] == [0, 3]
