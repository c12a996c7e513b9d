"""The faces that workers follow, so that they can be ended for a worker that no longer can."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from streamer.events import (
    UNKNOWN,
    EmotionChanged,
    EmotionSample,
    FaceLost,
    Sighting,
    named_probabilities,
)
from streamer.hysteresis import label_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.events import EventData

__all__ = ["Faces"]


@dataclass(slots=True)
class _Face:
    """One track, from what was published of it; times in RFC 3339."""

    first: str
    last: str
    samples: int = 0
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class Faces:
    """Keeps the tracks that have begun and not ended; not thread-safe.

    Args:
        confidence: under it the label of a mean is ``unknown``.
    """

    def __init__(self, confidence: float) -> None:
        self._confidence = confidence
        self._cameras: dict[str, dict[int, _Face]] = {}

    def note(self, data: EventData) -> None:
        """Take in one event that is published; those that say nothing of a face are passed over."""
        if isinstance(data, FaceLost):
            self._cameras.get(data.camera, {}).pop(data.track, None)
        elif isinstance(data, Sighting):
            faces = self._cameras.setdefault(data.camera, {})
            face = faces.setdefault(data.track, _Face(data.captured_at, data.captured_at))
            face.last = data.captured_at
            if isinstance(data, EmotionSample) and not isinstance(data, EmotionChanged):
                face.samples += 1
                for name, probability in data.probabilities.items():
                    face.sums[name] += probability

    def forget(self, camera: str) -> None:
        """Drop the faces of a camera that is no longer configured."""
        self._cameras.pop(camera, None)

    def end(self, camera: str, *, bundle: str, classes: Sequence[str]) -> list[FaceLost]:
        """End all tracks of a camera, and forget them.

        Args:
            camera: whose.
            bundle: the model bundle's identity.
            classes: of its networks.

        Returns:
            What the worker would have said, with the time between captures as the duration.
        """
        ended = []
        for track, face in self._cameras.pop(camera, {}).items():
            label, confidence, means = UNKNOWN, 0.0, {}
            if face.samples:
                mean_K = [face.sums[name] / face.samples for name in classes]
                label, confidence = label_of(mean_K, classes, self._confidence)
                means = named_probabilities(mean_K, classes)
            between = datetime.fromisoformat(face.last) - datetime.fromisoformat(face.first)
            ended.append(
                FaceLost(
                    camera=camera,
                    track=track,
                    duration_s=round(max(0.0, between.total_seconds()), 3),
                    samples=face.samples,
                    label=label,
                    confidence=confidence,
                    mean_probabilities=means,
                    bundle=bundle,
                )
            )
        return ended
