"""The tracker behind the real detector, on clips of single faces moved over one another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from streamer.config import Detector
from streamer.detect.yunet import YuNet
from streamer.gaze import Gaze, GazeOptions
from streamer.track import FaceTracker, TrackOptions
from tests.synth import RATES, STORIES, clip_cutouts, frame_times, score_tracker, there_and_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamer.scene import Cutout, Scene
    from streamer.types import Detections
    from tests.synth import Truth

CLIPS = ("single_face.mp4", "head-pose-face-detection-male.gif", "thanks.mkv", "eat.mkv")
STORIES_PLAYED = ("fast crossing", "passing", "waiting behind", "milling")


@pytest.fixture(scope="module")
def model_path(shared: Path) -> Path:
    """Return YuNet's file."""
    return shared / "models" / "face_detection_yunet_2026may.onnx"


@pytest.fixture(scope="module")
def players(shared: Path, model_path: Path) -> tuple[Callable[[float], Cutout], ...]:
    """Return the heads of four people, from clips of each alone."""
    detector = YuNet(model_path, input_size=640, score_threshold=0.7)
    try:
        return tuple(
            there_and_back(clip_cutouts(shared / "video" / clip, detector, limit=50), fps=25.0)
            for clip in CLIPS
        )
    finally:
        detector.close()


def test_identities_on_composites(
    model_path: Path,
    players: tuple[Callable[[float], Cutout], ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Faces keep their numbers through crossings, seen as the daemon looks at them.

    The floors are what was measured (2026-11) less a margin.
    """
    detector = YuNet(model_path, input_size=480, score_threshold=0.4)
    lines, idf1, switches = [], [], 0
    for name in STORIES_PLAYED:
        scene, cells = STORIES[name].scene(players), []
        for rate in RATES:
            times = frame_times(STORIES[name], rate)
            tracker = FaceTracker(TrackOptions())
            gaze = Gaze(detector, GazeOptions(whole_s=Detector().whole_s))
            score = score_tracker(tracker, _seen(scene, times, gaze, tracker))
            cells.append(f"{rate} {score.idf1:.3f} /{score.switches:2d}")
            idf1.append(score.idf1)
            switches += score.switches
        lines.append(f"{name:16} {'   '.join(cells)}")
    detector.close()
    lines.append(f"mean IDF1 {np.mean(idf1):.3f}, {switches} switches in {len(idf1)} runs")
    with capsys.disabled():
        sys.stdout.write("\n  ".join(["\nIDF1 / switches, YuNet on composites:", *lines, ""]))
    assert np.mean(idf1) > 0.92
    assert switches <= 3


def _seen(
    scene: Scene, times: list[float], gaze: Gaze, tracker: FaceTracker
) -> Iterator[tuple[float, Truth, Detections]]:
    for t in times:
        luma_HW = cv2.cvtColor(scene.draw(t), cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False)
        yield t, scene.truth(t), gaze.find(luma_HW, t, tracker.expect(t))


def test_walkers_in_a_real_crowd_keep_their_numbers(shared: Path, model_path: Path) -> None:
    """Three people walk towards the camera, look down and are crossed: each is one track.

    Where their faces are was read off the pictures by eye: (seconds, x, y) within the face.
    """
    seen_by_eye = {
        "woman in white hair": [(0.4, 307, 706), (1.2, 290, 705), (2.2, 237, 710)],
        "man with red hair": [(0.4, 676, 640), (1.2, 673, 621), (2.2, 585, 670)],
        "man in the blue jumper": [(0.4, 1003, 724), (1.2, 1010, 738), (2.2, 965, 743)],
    }
    detector = YuNet(model_path, input_size=480, score_threshold=0.4)
    tracker = FaceTracker(TrackOptions())
    gaze = Gaze(detector, GazeOptions(whole_s=Detector().whole_s))
    numbers: dict[str, set[int]] = {person: set() for person in seen_by_eye}
    clip = cv2.VideoCapture(str(shared / "video" / "crowd_1080p.mp4"))
    for frame in range(70):
        picture = clip.read()[1]
        if frame % 5 not in {0, 3}:  # ten a second of twenty-five
            continue
        luma_HW = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)
        found = gaze.find(luma_HW, frame / 25, tracker.expect(frame / 25))
        tracks = tracker.update(found, frame / 25)
        for person, places in seen_by_eye.items():
            for at_s, x, y in places:
                if abs(frame / 25 - at_s) > 0.06:
                    continue
                numbers[person] |= {
                    int(n)
                    for n, (x1, y1, x2, y2) in zip(tracks.ids_N, tracks.boxes_N4, strict=True)
                    if x1 < x < x2 and y1 < y < y2
                }
    clip.release()
    detector.close()
    assert [len(found) for found in numbers.values()] == [1, 1, 1], numbers
    assert len(set.union(*numbers.values())) == 3
