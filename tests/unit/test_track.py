"""The tracker's ages, gates and arithmetic, with expected values by hand or by SciPy."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from streamer.track import FaceTracker, TrackOptions
from streamer.types import Detections, TrackEnd
from tests.synth import (
    RATES,
    STORIES,
    frame_times,
    noisy_detections,
    plain_cutout,
    score_tracker,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.types import Tracks
    from tests.synth import Truth

BOX = (100.0, 100.0, 160.0, 180.0)


def faces(*boxes: tuple[float, float, float, float], score: float = 0.9) -> Detections:
    """Return detections of these boxes, their eyes at a third of the height."""
    boxes_N4 = np.array(boxes, np.float32).reshape(-1, 4)
    x0, y0, x1, y1 = boxes_N4.T
    eye_y = y0 + (y1 - y0) / 3
    left, right = x0 + (x1 - x0) / 4, x1 - (x1 - x0) / 4
    return Detections(
        boxes_N4=boxes_N4,
        scores_N=np.full(len(boxes_N4), score, np.float32),
        eyes_N22=np.stack(
            [np.stack([left, eye_y], axis=1), np.stack([right, eye_y], axis=1)], axis=1
        ),
    )


def moved(x: float, y: float = 0.0) -> tuple[float, float, float, float]:
    """Return BOX moved by so many pixels."""
    return (BOX[0] + x, BOX[1] + y, BOX[2] + x, BOX[3] + y)


def test_expects_faces_where_their_motion_takes_them() -> None:
    """A face that walks 100 pixels a second is ahead by ten after a tenth, and nothing changes."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.2))
    assert len(tracker.expect(1.0)) == 0
    for i in range(30):
        tracker.update(faces(moved(10.0 * i), (400.0, 50.0, 440.0, 100.0)), i / 10)
    for _ in range(2):
        expected = tracker.expect(3.0)
        np.testing.assert_allclose(expected.boxes_M4[0], moved(300.0), atol=3.0)
        np.testing.assert_allclose(expected.boxes_M4[1], (400.0, 50.0, 440.0, 100.0), atol=0.5)
        assert expected.hidden_s_M.tolist() == [0.0, 0.0]
    tracker.update(faces(moved(300.0)), 3.0)
    tracker.update(faces(moved(310.0)), 3.1)
    np.testing.assert_allclose(tracker.expect(3.2).hidden_s_M, [0.0, 0.2])
    assert len(tracker.expect(2.0)) == 0


@pytest.mark.parametrize("fps", [5.0, 10.0, 25.0, 60.0])
def test_confirms_after_seconds_whatever_the_frame_rate(fps: float) -> None:
    """A track appears with the first frame that is 0.2 s after the first sighting."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.2))
    for i in itertools.count():
        tracks = tracker.update(faces(BOX), 50.0 + i / fps)
        if tracks.appeared:
            break
        assert len(tracks) == 0
    assert i == pytest.approx(np.ceil(0.2 * fps))
    assert tracks.appeared == (1,)
    assert tracks.ids_N.tolist() == [1]
    again = tracker.update(faces(BOX), 50.0 + (i + 1) / fps)
    assert again.ids_N.tolist() == [1]
    assert again.appeared == ()


def test_confirms_at_once_when_told_to() -> None:
    """With confirm_s = 0 one sighting is enough."""
    tracks = FaceTracker(TrackOptions(confirm_s=0.0)).update(faces(BOX, moved(200)), 0.0)
    assert tracks.appeared == (1, 2)
    assert tracks.ids_N.tolist() == [1, 2]


def test_one_sighting_is_never_a_track() -> None:
    """A face seen once and not again leaves no number and no end behind."""
    tracker = FaceTracker(TrackOptions())
    tracker.update(faces(BOX), 0.0)
    ended = [tracker.update(faces(), 0.1 * i).ended for i in range(1, 40)]
    assert not any(ended)
    assert not tracker.end_all()


@pytest.mark.parametrize("fps", [4.0, 10.0, 30.0])
def test_ends_after_seconds_whatever_the_frame_rate(fps: float) -> None:
    """A track ends with the first frame that is more than lost_s after its last sighting."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.2, lost_s=1.0))
    seen = int(fps)
    for i in range(seen + 1):
        tracker.update(faces(BOX), i / fps)
    for i in itertools.count(seen + 1):
        tracks = tracker.update(faces(), i / fps)
        if tracks.ended:
            break
    assert tracks.ended == (TrackEnd(track=1, first_s=0.0, last_s=seen / fps),)
    assert i / fps - seen / fps == pytest.approx(1.0 + 1.0 / fps)


def test_a_walk_behind_a_pillar_keeps_its_number() -> None:
    """A face at 2 face widths a second, hidden for 0.8 s, is found where it must be."""
    tracker = FaceTracker(TrackOptions())
    numbers: set[int] = set()
    for i in range(60):
        hidden = 25 <= i < 45
        boxes = () if hidden else (moved(120.0 * i / 25),)
        numbers |= set(tracker.update(faces(*boxes), i / 25).ids_N.tolist())
    assert numbers == {1}


def test_a_face_elsewhere_is_another_face() -> None:
    """Ten face widths away after one frame is not the same person."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.0))
    tracker.update(faces(BOX), 0.0)
    assert tracker.update(faces(moved(600)), 0.04).ids_N.tolist() == [2]


def test_a_weak_detection_continues_but_does_not_start() -> None:
    """Below start_score a detection is good enough for a known face only."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.0, start_score=0.6))
    assert len(tracker.update(faces(BOX, score=0.5), 0.0)) == 0
    assert tracker.update(faces(BOX, score=0.7), 0.1).ids_N.tolist() == [1]
    assert tracker.update(faces(BOX, score=0.5), 0.2).ids_N.tolist() == [1]


def test_rows_are_the_detections_own() -> None:
    """Boxes, scores and eyes come back unchanged and row for row."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.0, first_id=40))
    tracker.update(faces(moved(300), BOX), 0.0)
    detections = faces(moved(2), moved(303))
    tracks = tracker.update(detections, 0.1)
    assert tracks.ids_N.tolist() == [41, 40]
    assert tracks.ids_N.dtype == np.int64
    np.testing.assert_array_equal(tracks.boxes_N4, detections.boxes_N4)
    np.testing.assert_array_equal(tracks.eyes_N22, detections.eyes_N22)
    np.testing.assert_array_equal(tracks.scores_N, detections.scores_N)


@pytest.mark.parametrize("then", [9.0, 12.5])
def test_a_jump_in_time_ends_everything(then: float) -> None:
    """Backward, or further than lost_s forward: the same place is no longer the same face."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.0, lost_s=1.5))
    tracker.update(faces(BOX), 10.0)
    tracks = tracker.update(faces(BOX), then)
    assert tracks.ended == (TrackEnd(track=1, first_s=10.0, last_s=10.0),)
    assert tracks.appeared == (2,)


def test_the_same_instant_twice_is_no_jump() -> None:
    """Some containers repeat a time stamp."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.0))
    tracker.update(faces(BOX), 1.0)
    assert tracker.update(faces(moved(1)), 1.0).ids_N.tolist() == [1]


def test_end_all_ends_all_and_numbers_go_on() -> None:
    """After a camera came back no number is used again."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.0))
    tracker.update(faces(BOX, moved(300)), 5.0)
    assert [end.track for end in tracker.end_all()] == [1, 2]
    assert tracker.end_all() == ()
    assert tracker.update(faces(BOX), 1.0).ids_N.tolist() == [3]


def test_a_face_in_view_wins_against_one_hidden_for_long() -> None:
    """Where two tracks could claim one detection, the one that was just there gets it."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.0))
    tracker.update(faces(BOX, moved(70)), 0.0)
    for i in range(1, 11):
        tracker.update(faces(moved(70)), 0.1 * i)
    assert tracker.update(faces(moved(56)), 1.1).ids_N.tolist() == [2]


def test_prediction_is_the_stochastic_process_it_claims_to_be() -> None:
    """Mean and covariance after a step equal those by the matrix exponential (Van Loan 1978)."""
    options = TrackOptions(fade_s=0.7, speed=3.0, speed_size=0.4)
    tracker = FaceTracker(options)
    tracker.update(faces(BOX), 0.0)
    table = tracker._table
    table.velocity_M4 = np.array([[60.0, -20.0, 5.0, 1.0]])
    area = 60.0 * 80.0
    for axis, speed in enumerate((3.0, 3.0, 0.4, 0.4)):
        drift = np.array([[0.0, 1.0], [0.0, -1 / 0.7]])
        noise = np.array([[0.0, 0.0], [0.0, 2 * speed**2 * area / 0.7]])
        loan = expm(np.block([[-drift, noise], [np.zeros((2, 2)), drift.T]]) * 0.3)
        move = loan[2:, 2:].T
        before = np.array(
            [
                [table.pp_M4[0, axis], table.pv_M4[0, axis]],
                [table.pv_M4[0, axis], table.vv_M4[0, axis]],
            ]
        )
        mean = move @ [table.state_M4[0, axis], table.velocity_M4[0, axis]]
        covariance = move @ before @ move.T + move @ loan[:2, 2:]
        other = FaceTracker(options)
        other.update(faces(BOX), 0.0)
        other._table.velocity_M4 = table.velocity_M4.copy()
        other._predict(0.3)
        got = other._table
        assert got.state_M4[0, axis] == pytest.approx(mean[0])
        assert got.velocity_M4[0, axis] == pytest.approx(mean[1])
        assert got.pp_M4[0, axis] == pytest.approx(covariance[0, 0])
        assert got.pv_M4[0, axis] == pytest.approx(covariance[0, 1])
        assert got.vv_M4[0, axis] == pytest.approx(covariance[1, 1])


_coordinate = st.floats(-1e4, 1e4, allow_nan=False, width=32)
_box = st.tuples(_coordinate, _coordinate, _coordinate, _coordinate)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(_box, max_size=6), st.floats(-1.0, 3.0), st.floats(0.0, 1.0)),
        max_size=12,
    )
)
def test_any_detections_at_any_time_keep_the_books(
    frames: list[tuple[list[tuple[float, float, float, float]], float, float]],
) -> None:
    """Numbers are unique in a frame, each appears once before it is seen and ends once."""
    tracker = FaceTracker(TrackOptions(confirm_s=0.1))
    now, appeared, ended = 0.0, set[int](), set[int]()
    for boxes, step, score in frames:
        now += step
        tracks: Tracks = tracker.update(faces(*boxes, score=score), now)
        assert not appeared & set(tracks.appeared)
        appeared |= set(tracks.appeared)
        numbers = tracks.ids_N.tolist()
        assert len(set(numbers)) == len(numbers) <= len(boxes)
        assert set(numbers) <= appeared - ended - {end.track for end in tracks.ended}
        assert not ended & {end.track for end in tracks.ended}
        ended |= {end.track for end in tracks.ended}
        assert ended <= appeared
    assert ended | {end.track for end in tracker.end_all()} == appeared


def test_identities_on_scenes_with_known_truth(capsys: pytest.CaptureFixture[str]) -> None:
    """Over crossings, hidings and milling at four frame rates numbers stay with their faces.

    Detections are the truth with the noise of a detector; three runs a cell. The floors are what
    was measured (2026-11) less a margin of one unlucky run.
    """
    lines, idf1, switches = [], [], 0
    for name, story in STORIES.items():
        cells = []
        for rate in RATES:
            scene = story.scene((plain_cutout,))
            truths = [(t, scene.truth(t)) for t in frame_times(story, rate)]
            scores = [
                score_tracker(FaceTracker(TrackOptions()), _noisy(truths, seed))
                for seed in range(3)
            ]
            mean = float(np.mean([score.idf1 for score in scores]))
            swapped = sum(score.switches for score in scores)
            cells.append(f"{rate} {mean:.3f} /{swapped:2d}")
            assert mean > 0.65, f"{name} at {rate}: {scores}"
            idf1.append(mean)
            switches += swapped
        lines.append(f"{name:22} {'   '.join(cells)}")
    lines.append(f"mean IDF1 {np.mean(idf1):.3f}, {switches} switches in {3 * len(idf1)} runs")
    with capsys.disabled():
        sys.stdout.write(
            "\n  ".join(["\nIDF1 / switches, noisy truth, 3 runs a cell:", *lines, ""])
        )
    assert np.mean(idf1) > 0.91
    assert switches <= 18


def _noisy(
    truths: list[tuple[float, Truth]], seed: int
) -> Iterator[tuple[float, Truth, Detections]]:
    rng = np.random.default_rng(seed)
    for t, truth in truths:
        yield t, truth, noisy_detections(truth, rng)
