"""From frames to events: detect, track, crop, CNN, temporal head, as ordinary calls.

No thread and no clock is in here: what comes out depends on the frames that go in alone. One call
takes the newest frames of any number of cameras, so that one batch over all of them forms.

Legend: N faces of all frames of one call, H W pixels, D features, K classes.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from streamer import preprocess
from streamer.events import FaceLost
from streamer.gaze import Gaze, GazeOptions
from streamer.types import CropBatch, Predictions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from streamer.bundle import Input
    from streamer.events import Event
    from streamer.hands import Hands
    from streamer.lane import Lane, Reading
    from streamer.metrics import Metrics
    from streamer.stages import Engine, ScalingDetector, Sink
    from streamer.temporal import TemporalHead
    from streamer.types import F32, Detections, Frame, Tracks

__all__ = ["Pipeline", "Viewer"]

_LEAST_SHARE = 2  # faces: one alone costs a fifth more than one of two


class Viewer(Protocol):
    """Someone who may look at frames together with what was found in them; returns at once."""

    def offer(self, frame: Frame, readings: Sequence[Reading]) -> None:
        """Take one analysed frame; costs nothing while nobody watches."""
        ...


class Pipeline:
    """All stages in flow order; owned by one thread.

    Args:
        detector: finds faces.
        features: the CNN, see ``streamer.bundle``; None where the temporal network reads faces.
        temporal: the LSTM with the states of all tracks.
        lane: makes the lane of a new camera.
        sink: takes the events.
        metrics: takes counts and stage times.
        crops: what the CNN wants to see.
        min_face_px: a face whose box is lower is followed but not read.
        hands: share the detection of several frames and the reading of several faces.
        gaze: where the detector looks.
        viewers: who may look on.
    """

    def __init__(
        self,
        *,
        detector: ScalingDetector,
        features: Engine | None,
        temporal: TemporalHead,
        lane: Callable[[str], Lane],
        sink: Sink,
        metrics: Metrics,
        crops: Input,
        min_face_px: float,
        hands: Hands,
        gaze: GazeOptions | None = None,
        viewers: Iterable[Viewer] = (),
    ) -> None:
        self._detector = detector
        self._features = features
        self._temporal = temporal
        self._lane = lane
        self._sink = sink
        self._metrics = metrics
        self._crops = crops
        self._min_face_px = min_face_px
        self._hands = hands
        self._gaze = gaze or GazeOptions()
        self._viewers = tuple(viewers)
        self._lanes: dict[str, Lane] = {}
        self._gazes: dict[str, Gaze] = {}

    def process(self, frames: Sequence[Frame], *, frugal: bool = False) -> None:
        """Analyse the newest frames of some cameras, at most one a camera.

        Args:
            frames: of any cameras.
            frugal: spend less on looking for faces, see ``streamer.gaze``.

        Raises:
            EngineError: when a runtime fails.
        """
        laps = _Laps(self._metrics)
        found = self._detect(frames, frugal=frugal)
        laps.lap("detect")
        tracked = [self._track(f, d) for f, d in zip(frames, found, strict=True)]
        laps.lap("track")
        batch, media_s = self._crop(frames, tracked)
        laps.lap("crop")
        predictions = self._read(batch, media_s, laps)
        self._tell(frames, tracked, predictions)
        laps.lap("events")

    def lose(self, camera: str) -> None:
        """End every track of a camera that stopped delivering, and say so."""
        lane = self._lanes.get(camera)
        if lane is not None:
            self._emit(lane.end_all())
            self._metrics.camera(camera).tracks_active.set(0)

    def forget(self, camera: str) -> None:
        """Drop a camera that is no longer configured, with its tracks."""
        self.lose(camera)
        self._lanes.pop(camera, None)
        self._gazes.pop(camera, None)

    def _detect(self, frames: Sequence[Frame], *, frugal: bool) -> list[Detections]:
        for frame in frames:
            if frame.camera not in self._lanes:
                self._lanes[frame.camera] = self._lane(frame.camera)
                self._gazes[frame.camera] = Gaze(
                    self._detector, self._gaze, lambda look: self._metrics.looks[look].inc()
                )
        return self._hands.share(partial(self._find, frugal=frugal), frames)

    def _find(self, frame: Frame, *, frugal: bool) -> Detections:
        """Look for the faces of one frame; cameras do not touch one another here."""
        expected = self._lanes[frame.camera].expect(frame.media_s)
        gaze = self._gazes[frame.camera]
        return gaze.find(frame.luma_HW, frame.media_s, expected, frugal=frugal)

    def _track(self, frame: Frame, detections: Detections) -> Tracks:
        self._metrics.camera(frame.camera).faces_detected.inc(len(detections))
        return self._lanes[frame.camera].track(detections, frame.media_s)

    def _crop(
        self, frames: Sequence[Frame], tracked: Sequence[Tracks]
    ) -> tuple[CropBatch, list[float]]:
        """Cut the faces that are large enough to be read; also the media time of each."""
        size_px = self._crops.size_px
        crops, keys, media_s = [], [], []
        for frame, tracks in zip(frames, tracked, strict=True):
            for row, box_4 in enumerate(tracks.boxes_N4):
                if box_4[3] - box_4[1] < self._min_face_px:
                    continue
                crops.append(preprocess.crop(frame.luma_HW, tracks.eyes_N22[row], box_4, size_px))
                keys.append((frame.camera, int(tracks.ids_N[row])))
                media_s.append(frame.media_s)
        crops_NHW = np.stack(crops) if crops else np.zeros((0, size_px, size_px), np.uint8)
        faces_N1HW = preprocess.normalise(crops_NHW, self._crops.mean, self._crops.std)
        return CropBatch(faces_N1HW=faces_N1HW, keys=tuple(keys)), media_s

    def _read(self, batch: CropBatch, media_s: Sequence[float], laps: _Laps) -> Predictions:
        self._metrics.batch_faces.observe(len(batch))
        if not len(batch):
            return Predictions(probabilities_NK=np.zeros((0, 0), np.float32), keys=())
        rows = batch.faces_N1HW
        if self._features is not None:
            rows = self._features_of(self._features, rows)
            laps.lap("features")
        probabilities_NK = self._temporal.step(rows, batch.keys, media_s)
        laps.lap("temporal")
        return Predictions(probabilities_NK=probabilities_NK, keys=batch.keys)

    def _features_of(self, engine: Engine, faces_N1HW: F32) -> F32:
        """Run the CNN, a share of the batch in each hand."""
        shares = min(self._hands.count, len(faces_N1HW) // _LEAST_SHARE)
        if shares <= 1:
            return engine.run({"faces": faces_N1HW})["features"]
        parts = np.array_split(faces_N1HW, shares)
        return np.concatenate(
            self._hands.share(lambda part: engine.run({"faces": part})["features"], parts)
        )

    def _tell(
        self, frames: Sequence[Frame], tracked: Sequence[Tracks], predictions: Predictions
    ) -> None:
        rows = {key: row for row, key in enumerate(predictions.keys)}
        told: list[Event] = []
        for frame, tracks in zip(frames, tracked, strict=True):
            of_track = {
                track: predictions.probabilities_NK[rows[frame.camera, track]]
                for track in map(int, tracks.ids_N)
                if (frame.camera, track) in rows
            }
            lane = self._lanes[frame.camera]
            events, readings = lane.observe(frame, tracks, of_track)
            told += events
            for viewer in self._viewers:
                viewer.offer(frame, readings)
            series = self._metrics.camera(frame.camera)
            series.tracks_active.set(lane.active)
            series.analysed.inc()
        self._emit(told)

    def _emit(self, events: Sequence[Event]) -> None:
        """Pass events on; the state of a track goes when its end is told."""
        lost = [(e.data.camera, e.data.track) for e in events if isinstance(e.data, FaceLost)]
        if lost:
            self._temporal.evict(lost)
        if events:
            self._sink.emit(*events)


class _Laps:
    """Times the stages of one call, one after the other."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._start_s = perf_counter()

    def lap(self, stage: str) -> None:
        now_s = perf_counter()
        self._metrics.observe_stage(stage, now_s - self._start_s)
        self._start_s = now_s
