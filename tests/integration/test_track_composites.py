"""The tracker behind the real detector, on clips of single faces moved over one another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from streamer.detect.yunet import YuNet
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
    """YuNet's detections at the daemon's own size keep their numbers through crossings.

    The floors are what was measured (2026-11) less a margin.
    """
    detector = YuNet(model_path, input_size=480, score_threshold=0.4)
    lines, idf1, switches = [], [], 0
    for name in STORIES_PLAYED:
        scene, cells = STORIES[name].scene(players), []
        for rate in RATES:
            times = frame_times(STORIES[name], rate)
            score = score_tracker(FaceTracker(TrackOptions()), _seen(scene, times, detector))
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
    scene: Scene, times: list[float], detector: YuNet
) -> Iterator[tuple[float, Truth, Detections]]:
    for t in times:
        luma_HW = cv2.cvtColor(scene.draw(t), cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False)
        yield t, scene.truth(t), detector.detect(luma_HW)
