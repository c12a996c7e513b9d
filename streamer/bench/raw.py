"""Raw costs: each stage alone in a loop, on the same pictures; their sum is the physical limit.

CPU time of one thread, so that another program on the machine disturbs little. Legend: N faces,
H W pixels, D features.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import cv2
import numpy as np

from streamer import preprocess
from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.engine.onnx import OnnxEngine
from streamer.envelope import Numbering
from streamer.errors import ConfigError, SourceError
from streamer.events import EmotionSample, Event, FrameInfo, named_probabilities, rfc3339
from streamer.gaze import SMALL_PX, WINDOW_PX, window_of
from streamer.source import CaptureOptions
from streamer.track import FaceTracker, TrackOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from streamer.models import Models
    from streamer.types import F32, U8, Detections, Frame

__all__ = ["BATCHES", "Costs", "measure"]

BATCHES: Final = (1, 4, 8, 16)
"""Faces in one call of the CNN; more gain nothing on a CPU."""
_SECONDS: Final = 1.0  # of each loop: its mean is then within a few percent
_FRAMES: Final = 60  # a clip's first pictures, kept decoded
_STEP: Final = 8  # faces in one step of the temporal head
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Milliseconds of CPU for one unit of each stage's work.

    Attributes:
        decode: a frame.
        scale: a frame's luma to the detector's input; a part of ``detect``, told apart.
        detect: a whole picture, scaling included.
        detect_small: the same by the smaller input.
        detect_window: the surroundings of a face.
        track: a frame.
        crop: a face.
        features: a face, by batch size.
        temporal: a face, in a batch of 8.
        event: one, made, numbered and encoded.
    """

    decode: float
    scale: float
    detect: float
    detect_small: float
    detect_window: float
    track: float
    crop: float
    features: dict[int, float]
    temporal: float
    event: float

    def analysed_ms(self, *, decoded: float, faces: float, looks: Mapping[str, float]) -> float:
        """Return what one analysed frame has to cost at least.

        Args:
            decoded: frames decoded for each that is analysed.
            faces: faces read in each.
            looks: what the detector was shown for each, by kind.
        """
        look_ms = {"whole": self.detect, "small": self.detect_small, "window": self.detect_window}
        detect_ms = sum(look_ms[kind] * count for kind, count in looks.items())
        a_face = self.crop + min(self.features.values()) + self.temporal + self.event
        return decoded * self.decode + detect_ms + self.track + faces * a_face


def measure(models: Models, clip: Path, *, input_px: int) -> Costs:
    """Measure every stage on the first pictures of a clip.

    Args:
        models: what is run.
        clip: where the pictures come from.
        input_px: longer side of the detector's input.

    Raises:
        ConfigError: if the clip cannot be read or shows no face.
    """
    decode_ms, frames = _decode(clip)
    detected = [models.detector.detect(frame.luma_HW) for frame in frames]
    faces = [
        (frame.luma_HW, found.eyes_N22[row], found.boxes_N4[row])
        for frame, found in zip(frames, detected, strict=True)
        for row in range(len(found))
    ]
    if not faces:
        raise ConfigError(f"{clip}: no face in its first {len(frames)} pictures; name another clip")
    size_px = models.bundle.manifest.input.size_px
    return Costs(
        decode=decode_ms,
        scale=_loop(frames, lambda frame: _scaled(frame.luma_HW, input_px)),
        detect=_loop(frames, lambda frame: models.detector.detect(frame.luma_HW)),
        detect_small=_loop(
            frames, lambda frame: models.detector.detect(frame.luma_HW, input_px=SMALL_PX)
        ),
        detect_window=_loop(
            [_surroundings(*face) for face in faces],
            lambda part_HW: models.detector.detect(part_HW, input_px=WINDOW_PX),
        ),
        track=_track(detected),
        crop=_loop(faces, lambda face: preprocess.crop(*face, size_px)),
        features=_features(models, faces, size_px),
        temporal=_temporal(models),
        event=_events(models),
    )


def _loop(values: Sequence[T], call: Callable[[T], object]) -> float:
    """Call with each value in turn for a while; return milliseconds of CPU a call."""
    for value in values[:3]:
        call(value)
    calls, start_s = 0, time.thread_time()
    while (spent_s := time.thread_time() - start_s) < _SECONDS:
        call(values[calls % len(values)])
        calls += 1
    return 1e3 * spent_s / calls


def _decode(clip: Path) -> tuple[float, list[Frame]]:
    """Decode the clip as the daemon does, unpaced; return the cost and the first frames."""
    options = CaptureOptions(camera="bench", url=str(clip), realtime=False, loop=True)
    source = open_source(options, SystemClock(), interrupt=threading.Event())
    try:
        frames = [source.read() for _ in range(_FRAMES)]
        cost_ms = _loop(frames, lambda _: source.read())
    except SourceError as error:
        raise ConfigError(f"{clip}: {error}") from None
    finally:
        source.close()
    return cost_ms, frames


def _scaled(luma_HW: U8, longer_px: int) -> U8:
    height, width = luma_HW.shape
    share = longer_px / max(height, width)
    return np.asarray(cv2.resize(luma_HW, (round(width * share), round(height * share))), np.uint8)


def _surroundings(luma_HW: U8, _eyes_22: F32, box_4: F32) -> U8:
    """Return what a window round a face shows."""
    x0, y0, x1, y1 = window_of(box_4, luma_HW.shape)
    return luma_HW[y0:y1, x0:x1]


def _track(detected: Sequence[Detections]) -> float:
    """Advance one tracker through the pictures again and again, as time that goes on."""
    tracker = FaceTracker(TrackOptions())
    seconds = itertools.count()
    return _loop(detected, lambda found: tracker.update(found, next(seconds) / 10))


def _features(
    models: Models, faces: Sequence[tuple[U8, F32, F32]], size_px: int
) -> dict[int, float]:
    """Time the CNN in one thread; by batch size, a face."""
    engine = OnnxEngine(models.bundle.features_path, threads=1)
    crops_NHW = np.stack([preprocess.crop(*face, size_px) for face in faces[: max(BATCHES)]])
    crops_NHW = np.resize(crops_NHW, (max(BATCHES), size_px, size_px))
    wanted = models.bundle.manifest.input
    faces_N1HW = preprocess.normalise(crops_NHW, wanted.mean, wanted.std)
    return {n: _loop([faces_N1HW[:n]], lambda x: engine.run({"faces": x})) / n for n in BATCHES}


def _temporal(models: Models) -> float:
    """Time one step of the temporal head, a face."""
    manifest = models.bundle.manifest
    engine = OnnxEngine(models.bundle.temporal_path, threads=1)
    features_ND = np.zeros((_STEP, manifest.features), np.float32)
    inputs = {"features": features_ND, **manifest.temporal.zeros(_STEP)}
    return _loop([inputs], engine.run) / _STEP


def _events(models: Models) -> float:
    """Make, number and encode samples; libzmq sends them in its own thread."""
    classes = models.bundle.manifest.classes
    probabilities_K = np.full(len(classes), 1 / len(classes), np.float32)
    numbering, clock = Numbering(), SystemClock()

    def send(_: object) -> bytes:
        sample = EmotionSample(
            camera="bench",
            track=1,
            box=(1.0, 2.0, 3.0, 4.0),
            frame=FrameInfo(seq=1, width=640, height=360),
            captured_at=rfc3339(clock.time_ns()),
            clock="host",
            label=classes[0],
            confidence=0.5,
            probabilities=named_probabilities(probabilities_K, classes),
            bundle=models.bundle.identity,
        )
        numbered = numbering.number(Event(data=sample, captured_monotonic_ns=clock.monotonic_ns()))
        return numbered.encode(time_ns=clock.time_ns(), monotonic_ns=clock.monotonic_ns())

    return _loop([None], send)
