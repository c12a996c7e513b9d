"""One camera's part of the pipeline: its tracker, its faces, and the events they give.

Pure: no thread, no clock, no socket. Legend: N faces of one frame, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from streamer.events import (
    UNKNOWN,
    EmotionChanged,
    EmotionSample,
    Event,
    FaceAppeared,
    FaceLost,
    FrameInfo,
    named_probabilities,
    pixel_box,
    rfc3339,
)
from streamer.hysteresis import Hysteresis, label_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.events import Box, EventData
    from streamer.types import F32, Detections, Expected, Frame, TrackEnd, Tracks

__all__ = ["EndingTracker", "Lane", "LaneOptions", "Reading"]


class EndingTracker(Protocol):
    """A tracker that can also be told that its camera is gone."""

    def update(self, detections: Detections, media_s: float) -> Tracks:
        """Advance to ``media_s`` seconds with what was detected then."""
        ...

    def expect(self, media_s: float) -> Expected:
        """Return where the faces followed should be at ``media_s`` seconds."""
        ...

    def end_all(self) -> tuple[TrackEnd, ...]:
        """End every track; the confirmed ones are returned."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions:
    """How probabilities become labels.

    Attributes:
        classes: names of the classes, in the order of the network's outputs.
        bundle: the bundle's identity, as events carry it.
        confidence: below this probability the label is ``unknown``.
        enter: probability at which another label takes over.
        exit: probability below which a label is given up.
        min_dwell_s: how long a change has to hold, seconds of media time.
    """

    classes: tuple[str, ...]
    bundle: str
    confidence: float
    enter: float
    exit: float
    min_dwell_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one face of one frame was read as.

    Attributes:
        track: its number.
        box: xyxy in pixels of the original frame.
        label: of this frame; ``unknown`` for a face too small or too unclear to be read.
        probabilities: by class; empty for a face too small to be read.
    """

    track: int
    box: Box
    label: str
    probabilities: dict[str, float]


@dataclass(slots=True)
class _Face:
    """What is remembered of one track from frame to frame."""

    hysteresis: Hysteresis
    sum_K: np.ndarray[tuple[int], np.dtype[np.float64]]
    samples: int = 0


@dataclass(slots=True)
class Lane:
    """Follows the faces of one camera; owned by the compute loop.

    Attributes:
        camera: its name.
        tracker: follows the faces.
        options: how probabilities become labels.
    """

    camera: str
    tracker: EndingTracker
    options: LaneOptions
    _faces: dict[int, _Face] = field(default_factory=dict)

    @property
    def active(self) -> int:
        """How many confirmed tracks there are."""
        return len(self._faces)

    def expect(self, media_s: float) -> Expected:
        """Tell where the faces should be; see ``FaceTracker.expect``."""
        return self.tracker.expect(media_s)

    def track(self, detections: Detections, media_s: float) -> Tracks:
        """Tell which face is which; see ``FaceTracker.update``."""
        return self.tracker.update(detections, media_s)

    def observe(
        self, frame: Frame, tracks: Tracks, probabilities: Mapping[int, F32]
    ) -> tuple[list[Event], list[Reading]]:
        """Turn what was found in one frame into events.

        Args:
            frame: the frame.
            tracks: the faces in it.
            probabilities: (K,) float32 of each track that was read.

        Returns:
            The events in order: ends, then what is new a face; and a reading a face.
        """
        data: list[EventData] = [self._end(end) for end in tracks.ended]
        readings = []
        for track, box_4 in zip(map(int, tracks.ids_N), tracks.boxes_N4, strict=True):
            sighting = _sighting(frame, track, box_4)
            if track not in self._faces:
                self._faces[track] = self._new_face()
                data.append(sighting)
            probabilities_K = probabilities.get(track)
            if probabilities_K is None:
                readings.append(
                    Reading(track=track, box=sighting.box, label=UNKNOWN, probabilities={})
                )
                continue
            sample = self._sample(sighting, probabilities_K)
            data.append(sample)
            data.extend(self._follow(track, sample, frame.media_s, probabilities_K))
            readings.append(
                Reading(
                    track=track,
                    box=sighting.box,
                    label=sample.label,
                    probabilities=sample.probabilities,
                )
            )
        events = [Event(data=d, captured_monotonic_ns=frame.monotonic_ns) for d in data]
        return events, readings

    def end_all(self) -> list[Event]:
        """End every track, as when the camera is gone."""
        return [Event(data=self._end(end)) for end in self.tracker.end_all()]

    def _new_face(self) -> _Face:
        options = self.options
        return _Face(
            hysteresis=Hysteresis(
                enter=options.enter, exit=options.exit, min_dwell_s=options.min_dwell_s
            ),
            sum_K=np.zeros(len(options.classes)),
        )

    def _sample(self, sighting: FaceAppeared, probabilities_K: F32) -> EmotionSample:
        options = self.options
        label, confidence = label_of(probabilities_K, options.classes, options.confidence)
        return EmotionSample(
            **msgspec.structs.asdict(sighting),
            label=label,
            confidence=confidence,
            probabilities=named_probabilities(probabilities_K, options.classes),
            bundle=options.bundle,
        )

    def _follow(
        self, track: int, sample: EmotionSample, media_s: float, probabilities_K: F32
    ) -> Sequence[EmotionChanged]:
        """Remember a sample; return the change of the label that it completes, if any."""
        face = self._faces[track]
        face.sum_K += probabilities_K
        face.samples += 1
        change = face.hysteresis.update(media_s, sample.probabilities)
        if change is None:
            return ()
        values = msgspec.structs.asdict(sample) | {
            "label": change.label,
            "confidence": sample.probabilities.get(change.label, sample.confidence),
        }
        return (EmotionChanged(**values, previous=change.previous),)

    def _end(self, end: TrackEnd) -> FaceLost:
        face = self._faces.pop(end.track, None) or self._new_face()
        label, confidence, means = UNKNOWN, 0.0, {}
        if face.samples:
            mean_K = (face.sum_K / face.samples).astype(np.float32)
            label, confidence = label_of(mean_K, self.options.classes, self.options.confidence)
            means = named_probabilities(mean_K, self.options.classes)
        return FaceLost(
            camera=self.camera,
            track=end.track,
            duration_s=round(end.last_s - end.first_s, 3),
            samples=face.samples,
            label=label,
            confidence=confidence,
            mean_probabilities=means,
            bundle=self.options.bundle,
        )


def _sighting(frame: Frame, track: int, box_4: F32) -> FaceAppeared:
    return FaceAppeared(
        camera=frame.camera,
        track=track,
        box=pixel_box(box_4),
        frame=FrameInfo(seq=frame.seq, width=frame.width, height=frame.height),
        captured_at=rfc3339(frame.captured_ns),
        clock=frame.clock,
    )
