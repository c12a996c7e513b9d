"""Scenes with known truth: faces that cross, hide and leave, as boxes alone or as pictures.

Also the noise model of a face detector, frame rates good and bad, and the scoring of a tracker by
an independent library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2
import motmetrics
import numpy as np

from streamer.scene import Actor, Cutout, Pose, Scene, Truth
from streamer.types import Detections

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.stages import Detector, Tracker
    from streamer.types import F32, U8

__all__ = [
    "RATES",
    "STORIES",
    "Story",
    "TrackScore",
    "Truth",
    "clip_cutouts",
    "frame_times",
    "noisy_detections",
    "plain_cutout",
    "score_tracker",
    "there_and_back",
]

WIDTH, HEIGHT = 640, 360
VISIBLE = 0.5
"""A face that is covered further is in no truth: nobody could be blamed for missing it."""

Rate = Callable[[float, np.random.Generator], Iterator[float]]
PoseAt = Callable[[float], Pose | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What some faces do.

    Attributes:
        seconds: how long it takes.
        poses: one a face, far ones first.
    """

    seconds: float
    poses: tuple[PoseAt, ...]

    def scene(self, cutouts: tuple[Callable[[float], Cutout], ...]) -> Scene:
        """Return the scene with these people playing the parts, before a noisy wall."""
        rng = np.random.default_rng(7)
        coarse = rng.integers(60, 160, (9, 16, 3), dtype=np.uint8)
        wall = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        actors = tuple(
            Actor(number=i + 1, pose=pose, cutout=cutouts[i % len(cutouts)])
            for i, pose in enumerate(self.poses)
        )
        return Scene(
            background_HW3=wall.astype(np.uint8, copy=False), actors=actors, counter_y=HEIGHT
        )


def _line(
    t: float,
    *,
    start: tuple[float, float],
    speed: tuple[float, float],
    height: float,
    between: tuple[float, float] = (-1e9, 1e9),
) -> Pose | None:
    if not between[0] <= t < between[1]:
        return None
    x, y = start[0] + speed[0] * t, start[1] + speed[1] * t
    bob = 0.03 * height * np.sin(2 * np.pi * 1.8 * t + start[0])  # a walking head, 1.8 steps a s
    return Pose(x=x, y=float(y + bob), height=height, roll=float(3 * np.sin(1.3 * t)))


def _turning(t: float, *, x: float, reach: float, y: float, height: float, period: float) -> Pose:
    """Walk to and fro: the direction changes, which a straight prediction does not foresee."""
    return Pose(x=float(x + reach * np.sin(2 * np.pi * t / period)), y=y, height=height)


def _waiting(t: float, *, x0: float, x1: float, y: float, height: float, stop: float) -> Pose:
    """Walk until a time and then stand."""
    return Pose(x=x0 + (x1 - x0) * min(1.0, t / stop), y=y, height=height)


STORIES: dict[str, Story] = {
    # Two people meet in the middle and walk on; the near one hides the far one.
    "crossing": Story(
        seconds=6.0,
        poses=(
            partial(_line, start=(90, 150), speed=(80, 0), height=90),
            partial(_line, start=(550, 160), speed=(-80, 0), height=110),
        ),
    ),
    # The same at twice the speed, with nearly the same size.
    "fast crossing": Story(
        seconds=3.0,
        poses=(
            partial(_line, start=(60, 150), speed=(190, 0), height=90),
            partial(_line, start=(580, 155), speed=(-190, 0), height=96),
        ),
    ),
    # Somebody near walks past two who stand and turn.
    "passing": Story(
        seconds=8.0,
        poses=(
            partial(_turning, x=220, reach=15, y=140, height=80, period=5),
            partial(_turning, x=430, reach=20, y=150, height=84, period=4),
            partial(_line, start=(-60, 190), speed=(95, 0), height=140),
        ),
    ),
    # A face is hidden while it walks, and waits behind the other one for a second.
    "waiting behind": Story(
        seconds=7.0,
        poses=(
            partial(_waiting, x0=100, x1=320, y=150, height=80, stop=3.0),
            partial(_line, start=(620, 160), speed=(-90, 0), height=120),
        ),
    ),
    # One leaves at the side while another one enters at the same place.
    "leaving and entering": Story(
        seconds=8.0,
        poses=(
            partial(_line, start=(400, 150), speed=(110, 0), height=100, between=(0, 3.5)),
            partial(_line, start=(1100, 150), speed=(-110, 0), height=100, between=(4.2, 8)),
            partial(_turning, x=180, reach=60, y=160, height=110, period=4),
        ),
    ),
    # Four people mill about.
    "milling": Story(
        seconds=10.0,
        poses=(
            partial(_turning, x=320, reach=240, y=110, height=64, period=9),
            partial(_turning, x=300, reach=-220, y=140, height=76, period=7),
            partial(_turning, x=340, reach=200, y=180, height=90, period=8),
            partial(_line, start=(-80, 210), speed=(75, 0), height=110),
        ),
    ),
}


def _even(seconds: float, rng: np.random.Generator, *, fps: float) -> Iterator[float]:
    del rng
    for i in range(int(seconds * fps)):
        yield i / fps


def _uneven(seconds: float, rng: np.random.Generator) -> Iterator[float]:
    """10 fps on average, steps from 40 to 160 ms, and a pause of 0.6 s now and then."""
    t = 0.0
    while t < seconds:
        yield t
        t += 0.6 if rng.random() < 0.03 else float(rng.uniform(0.04, 0.16))


RATES: dict[str, Rate] = {
    "25 fps": partial(_even, fps=25.0),
    "10 fps": partial(_even, fps=10.0),
    "5 fps": partial(_even, fps=5.0),
    "uneven": _uneven,
}


def frame_times(story: Story, rate: str, seed: int = 0) -> list[float]:
    """Return the times of the frames that a camera of that rate delivers."""
    return list(RATES[rate](story.seconds, np.random.default_rng(seed)))


def noisy_detections(truth: Truth, rng: np.random.Generator) -> Detections:
    """Return what a detector makes of the truth.

    Boxes are off by 4 % of the face and sizes by 6 %, as YuNet's were on composites; of the faces
    in plain view it misses 5 %, of those half covered nearly all; it sees one that is not there in
    every fiftieth frame.
    """
    boxes, eyes, scores = [], [], []
    for box, eye, visible in zip(truth.boxes_N4, truth.eyes_N22, truth.visible_N, strict=True):
        if rng.random() > 0.95 * np.clip((visible - 0.4) / 0.35, 0.0, 1.0):
            continue
        size = box[3] - box[1]
        shift, grow = rng.normal(0, 0.04 * size, 2), rng.normal(0, 0.03 * size, 2)
        boxes.append(box + np.concatenate([shift - grow, shift + grow]))
        eyes.append(eye + shift)
        scores.append(rng.uniform(0.65, 0.95) if visible > 0.8 else rng.uniform(0.4, 0.8))
    if rng.random() < 0.02:
        x, y, side = rng.uniform(0, WIDTH - 80), rng.uniform(0, HEIGHT - 80), rng.uniform(30, 80)
        boxes.append(np.array([x, y, x + side, y + 1.25 * side]))
        eyes.append(np.array([[x, y], [x + side, y]]))
        scores.append(rng.uniform(0.4, 0.75))
    order = np.argsort(-np.array(scores, np.float64))
    return Detections(
        boxes_N4=np.array(boxes, np.float32).reshape(-1, 4)[order],
        scores_N=np.array(scores, np.float32)[order],
        eyes_N22=np.array(eyes, np.float32).reshape(-1, 2, 2)[order],
    )


def plain_cutout(t: float) -> Cutout:
    """Return a gray head with shoulders, for scenes of which only the truth is wanted."""
    del t
    picture = np.zeros((320, 240, 4), np.uint8)
    cv2.ellipse(picture, (120, 90), (45, 62), 0, 0, 360, (150, 150, 150, 255), -1)
    cv2.ellipse(picture, (120, 330), (110, 170), 0, 0, 360, (70, 70, 70, 255), -1)
    return Cutout(
        picture_HW4=picture,
        box_4=np.array([80, 30, 160, 150], np.float32),
        eyes_22=np.array([[100, 80], [140, 80]], np.float32),
    )


def clip_cutouts(path: Path, detector: Detector, limit: int) -> list[Cutout]:
    """Return the head in each picture of a clip that shows one face, cut out by an ellipse.

    Args:
        path: a video that OpenCV reads.
        detector: finds the one face where nothing covers it; pictures without one are left out.
        limit: at most so many pictures.
    """
    capture, cutouts = cv2.VideoCapture(str(path)), list[Cutout]()
    try:
        while len(cutouts) < limit:
            good, picture = capture.read()
            if not good:
                break
            luma = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False)
            found = detector.detect(luma)
            if len(found) == 1:
                box_4, eyes_22 = found.boxes_N4[0], found.eyes_N22[0]
                cutouts.append(_elliptic(picture.astype(np.uint8, copy=False), box_4, eyes_22))
    finally:
        capture.release()
    assert cutouts, f"no picture with one face in {path}"
    return cutouts


def there_and_back(cutouts: list[Cutout], fps: float) -> Callable[[float], Cutout]:
    """Return what a clip shows at a time, played forward and backward without a jump."""

    def at(t: float) -> Cutout:
        last = len(cutouts) - 1
        phase = int(t * fps) % max(1, 2 * last)
        return cutouts[min(phase, 2 * last - phase)]

    return at


def _elliptic(picture_HW3: U8, box_4: F32, eyes_22: F32) -> Cutout:
    """Cut out an ellipse of 1.7 times the face's box, with a soft edge."""
    width, height = (box_4[2:] - box_4[:2]).tolist()
    x, y = ((box_4[:2] + box_4[2:]) / 2).tolist()
    x0, y0 = max(0, int(x - width)), max(0, int(y - height))
    part = picture_HW3[y0 : int(y + height), x0 : int(x + width)]
    opacity = np.zeros(part.shape[:2], np.uint8)
    axes = (int(0.85 * width), int(0.85 * height))
    cv2.ellipse(opacity, (int(x - x0), int(y - y0)), axes, 0, 0, 360, 255, -1)
    opacity = cv2.GaussianBlur(opacity, (0, 0), 0.02 * height).astype(np.uint8, copy=False)
    colour = cv2.multiply(part, cv2.cvtColor(opacity, cv2.COLOR_GRAY2BGR), scale=1 / 255)
    return Cutout(
        picture_HW4=np.dstack([colour, opacity]),
        box_4=box_4 - np.array([x0, y0, x0, y0], np.float32),
        eyes_22=eyes_22 - np.array([x0, y0], np.float32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackScore:
    """How well a tracker did, as py-motmetrics counts it.

    Attributes:
        idf1: share of sightings that carry the right identity, 0..1.
        switches: how often a face changed its number.
        fragments: how often a face was lost and found again.
        misses, ghosts: truths without a track and tracks without a truth.
        truths: sightings that there were to find.
    """

    idf1: float
    switches: int
    fragments: int
    misses: int
    ghosts: int
    truths: int


def score_tracker(
    tracker: Tracker, frames: Iterator[tuple[float, Truth, Detections]]
) -> TrackScore:
    """Run a tracker over frames and score it; a match is an overlap of 0.4 or more."""
    sums = motmetrics.MOTAccumulator(auto_id=True)
    for t, truth, detections in frames:
        tracks = tracker.update(detections, t)
        seen = truth.visible_N >= VISIBLE
        distance = 1.0 - _overlap(truth.boxes_N4[seen], tracks.boxes_N4)
        distance[distance > 0.6] = np.nan  # motmetrics' sign for a pair that cannot be
        sums.update(truth.numbers_N[seen].tolist(), tracks.ids_N.tolist(), distance)
    names = ["idf1", "num_switches", "num_fragmentations", "num_misses", "num_false_positives"]
    row = motmetrics.metrics.create().compute(sums, metrics=[*names, "num_objects"]).iloc[0]
    return TrackScore(
        idf1=float(row["idf1"]),
        switches=int(row["num_switches"]),
        fragments=int(row["num_fragmentations"]),
        misses=int(row["num_misses"]),
        ghosts=int(row["num_false_positives"]),
        truths=int(row["num_objects"]),
    )


def _overlap(one_N4: F32, other_M4: F32) -> F32:
    """Return intersection over union, (N, M); motmetrics' own needs NumPy before 2."""
    low = np.maximum(one_N4[:, None, :2], other_M4[:, :2])
    high = np.minimum(one_N4[:, None, 2:], other_M4[:, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    area_N = (one_N4[:, 2:] - one_N4[:, :2]).prod(axis=1)
    area_M = (other_M4[:, 2:] - other_M4[:, :2]).prod(axis=1)
    overlap: F32 = shared / (area_N[:, None] + area_M - shared)
    return overlap
