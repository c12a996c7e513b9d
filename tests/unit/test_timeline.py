"""Media time: jitter, drift, jumps, resets and holes; expected values by hand."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.timeline import FileTimeline, FrameRate, LiveTimeline, Pacer, RtcpClock

S = 1_000_000_000


def steps(values: list[float]) -> list[float]:
    """Return the distances between neighbours."""
    return [b - a for a, b in itertools.pairwise(values)]


def test_network_jitter_does_not_reach_media_time() -> None:
    """Frames 40 ms apart that arrive up to 30 ms late are placed 40 ms apart, within 1 ms."""
    jitter = random.Random(3)
    line = LiveTimeline()
    line.place(0.0, 100 * S)  # the quickest of all
    media_s = [
        line.place(n * 0.04, int((100 + n * 0.04 + jitter.uniform(0, 0.03)) * S))
        for n in range(1, 500)
    ]
    assert line.jumps == 0
    assert max(abs(step - 0.04) for step in steps(media_s)) < 1e-3


def test_media_time_is_never_later_than_the_arrival() -> None:
    """A burst of frames that were held back moves the offset, never into the future."""
    line = LiveTimeline()
    arrivals_s = [50.0 + n * 0.001 for n in range(25)] + [51.0 + n * 0.04 for n in range(25)]
    for n, arrival_s in enumerate(arrivals_s):
        assert line.place(n * 0.04, int(arrival_s * S)) <= arrival_s + 1e-5
    assert line.jumps == 0


@pytest.mark.parametrize("jump_s", [100.0, 3600.0, -0.5, -90_000.0])
def test_a_jump_of_the_time_stamps_is_seen_and_bridged(jump_s: float) -> None:
    """The frame after a jump is placed by its arrival, and the next ones by their distance."""
    line = LiveTimeline()
    for n in range(10):
        before_s = line.place(1000 + n * 0.04, int((10 + n * 0.04) * S))
    after = [line.place(1000 + jump_s + n * 0.04, int((10 + n * 0.04) * S)) for n in range(10, 20)]
    assert line.jumps == 1
    assert after[0] - before_s == pytest.approx(0.04, abs=1e-4)
    assert steps(after) == pytest.approx([0.04] * 9, abs=1e-4)


def test_a_stall_with_its_backlog_is_no_jump() -> None:
    """Three seconds of silence, then all the frames at once: their distances are kept."""
    line = LiveTimeline()
    media_s = [line.place(n * 0.04, int((10 + n * 0.04) * S)) for n in range(25)]
    # frames 25..99 were due from 11.0 s to 14.0 s and all arrive at 14 s
    media_s += [line.place(n * 0.04, int((14 + n * 1e-4) * S)) for n in range(25, 100)]
    media_s += [line.place(n * 0.04, int((10 + n * 0.04) * S)) for n in range(101, 110)]
    assert line.jumps == 0
    assert max(abs(step - 0.04) for step in steps(media_s[:99])) < 0.005


def test_a_stream_that_stays_behind_starts_anew() -> None:
    """Time stamps that lost two seconds for good are believed for five seconds, then laid anew."""
    line = LiveTimeline()
    for n in range(10):
        line.place(n * 0.1, int((10 + n * 0.1) * S))
    for n in range(10, 100):
        arrival_s = 12 + n * 0.1
        media_s = line.place(n * 0.1, int(arrival_s * S))
    assert line.jumps == 1
    assert media_s == pytest.approx(arrival_s, abs=0.01)


def test_slow_clocks_drift_without_a_jump() -> None:
    """A camera whose clock loses 100 ppm stays within 20 ms over three hours."""
    line = LiveTimeline()
    for n in range(3 * 3600):
        media_s = line.place(n * (1 - 1e-4), (10 + n) * S)
    assert line.jumps == 0
    assert 10 + n - media_s < 0.02


def test_missing_time_stamps_are_filled_by_arrival() -> None:
    """Without time stamps media time steps as the frames arrive."""
    line = LiveTimeline()
    media_s = [line.place(None, int(t * S)) for t in (5.0, 5.2, 5.5)]
    assert media_s == pytest.approx([5.0, 5.2, 5.5])
    assert line.place(7.0, int(5.6 * S)) == pytest.approx(5.6)
    assert line.place(None, int(5.7 * S)) == pytest.approx(5.7)
    assert line.place(7.2, int(5.8 * S)) == pytest.approx(5.8)


def test_equal_time_stamps_step_by_arrival() -> None:
    """A server that stamps every frame with zero is followed by its arrivals."""
    line = LiveTimeline()
    media_s = [line.place(0.0, int(t * S)) for t in (5.0, 5.2, 5.5)]
    assert media_s == pytest.approx([5.0, 5.2, 5.5])
    assert line.jumps == 0


times = st.one_of(st.none(), st.floats(-1e6, 1e6))


@given(st.lists(st.tuples(times, st.integers(0, 10 * S)), max_size=60))
def test_live_media_time_only_rises(frames: list[tuple[float | None, int]]) -> None:
    """Whatever time stamps a camera sends, media time rises and stays at or before the arrival."""
    line = LiveTimeline(after_s=1.0)
    now_ns, last_s = 2 * S, 1.0
    for pts_s, waited_ns in frames:
        now_ns += waited_ns + 1000
        media_s = line.place(pts_s, now_ns)
        assert last_s < media_s <= now_ns / S + 1e-3
        last_s = media_s


def test_a_file_is_placed_by_its_time_stamps_over_loops() -> None:
    """Distances of 0.1 s go on over the seam as if the file were longer."""
    line = FileTimeline(100.0)
    media_s = [line.place(t) for t in (3.0, 3.1, 3.2)]
    line.loop()
    media_s += [line.place(t) for t in (3.0, 3.1)]
    assert media_s == pytest.approx([100.0, 100.1, 100.2, 100.3, 100.4])
    assert line.jumps == 0


def test_faulty_time_stamps_of_a_file_step_as_before() -> None:
    """A step back, a hole of an hour and a missing stamp are each one usual step."""
    line = FileTimeline(0.0)
    media_s = [line.place(t) for t in (0.0, 0.2, 0.1, 3600.0, None, 3600.4)]
    assert media_s[:5] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert line.jumps == 2
    assert steps(media_s)[-1] == pytest.approx(0.2)


@given(st.lists(times, max_size=60))
def test_file_media_time_only_rises(stamps: list[float | None]) -> None:
    """Whatever time stamps a file has, media time rises."""
    line = FileTimeline(5.0)
    media_s = [line.place(t) for t in stamps]
    assert all(step > 0 for step in steps(media_s))


def test_paced_waits_do_not_drift() -> None:
    """Each wait is measured from the start, so that the time of decoding is not added up."""
    pacer = Pacer()
    assert pacer.wait_s(50.0, 10 * S) == 0
    assert pacer.wait_s(50.04, int(10.01 * S)) == pytest.approx(0.03)
    assert pacer.wait_s(51.0, int(10.5 * S)) == pytest.approx(0.5)
    assert pacer.wait_s(51.04, int(11.2 * S)) == pytest.approx(-0.16)


def test_a_pacer_that_overslept_does_not_race() -> None:
    """After an hour's sleep the next frame is due now, and the one after it a frame later."""
    pacer = Pacer()
    pacer.wait_s(0.0, 0)
    assert pacer.wait_s(0.04, 3600 * S) == 0
    assert pacer.wait_s(0.08, 3600 * S) == pytest.approx(0.04)


def test_the_camera_clock_is_used_while_it_is_plausible() -> None:
    """Sender reports date a frame; ten minutes off, or after a jump, the host's clock is better."""
    host_ns = 1_800_000_000 * S
    start_us = 1_799_999_990 * 1_000_000
    clock = RtcpClock()
    assert clock.captured_ns(None, 9.9, host_ns=host_ns, jumps=0) is None
    assert clock.captured_ns(start_us, None, host_ns=host_ns, jumps=0) is None
    captured_ns = clock.captured_ns(start_us, 9.5, host_ns=host_ns, jumps=0)
    assert captured_ns == host_ns - S // 2
    assert clock.captured_ns(start_us, 9.5, host_ns=host_ns, jumps=1) is None
    assert clock.captured_ns(start_us + 601_000_000, 10.0, host_ns=host_ns, jumps=1) is None
    assert clock.captured_ns(start_us + 599_000_000, 10.0, host_ns=host_ns, jumps=1) is not None


def test_the_rate_is_measured() -> None:
    """Frames 50 ms apart are 20 a second, whatever the stream declares."""
    rate = FrameRate()
    assert rate.per_second(0) == 0
    for n in range(400):
        rate.tick(n * S // 20)
    assert rate.per_second(399 * S // 20) == pytest.approx(20)


def test_the_rate_falls_while_nothing_comes() -> None:
    """Five silent seconds after ten full ones of 10 fps leave 100 steps in 14.9 s."""
    rate = FrameRate()
    for n in range(101):
        rate.tick(n * S // 10)
    assert rate.per_second(15 * S) == pytest.approx(100 / 14.9)
    assert rate.per_second(21 * S) == 0
