"""Frames in, events out: order, batches, and no camera's faces touch another's."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from streamer.bundle import Input
from streamer.errors import EngineError
from streamer.events import EmotionChanged, EmotionSample, FaceAppeared, FaceLost
from streamer.hands import Hands
from streamer.lane import Lane, LaneOptions
from streamer.metrics import Metrics
from streamer.pipeline import Pipeline
from streamer.temporal import HostStates, TemporalHead
from streamer.track import FaceTracker, TrackOptions
from tests.fakes import CollectingSink, FakeDetector, FakeEngine, frame_of

if TYPE_CHECKING:
    from collections.abc import Iterator

D = TypeVar("D")
CLASSES = ("neutral", "happiness")


class Rig:
    """A pipeline over fakes; the CNN's one feature is the mean brightness of a crop."""

    def __init__(self, hands: Hands, **options: float) -> None:
        self.registry = CollectorRegistry()
        self.sink = CollectingSink()
        self.detector = FakeDetector()
        self.features = FakeEngine(
            {"features": lambda x: x["faces"].mean(axis=(1, 2, 3), keepdims=False)[:, None]}
        )
        step = FakeEngine(
            {
                "h_out": lambda x: x["h"] + 1,
                "c_out": lambda x: x["c"],
                "logits": lambda x: np.stack(
                    [np.full(len(x["features"]), 4.0, np.float32), x["h"][0, :, 0]], axis=1
                ),
            }
        )
        self.temporal = TemporalHead(HostStates(step, {"h": (1, 1), "c": (1, 1)}), gap_reset_s=1.0)
        lane = LaneOptions(
            classes=CLASSES,
            bundle="test@0",
            confidence=options.get("confidence", 0.6),
            enter=0.6,
            exit=0.3,
            min_dwell_s=0.2,
        )
        self.pipeline = Pipeline(
            detector=self.detector,
            features=self.features,
            temporal=self.temporal,
            lane=lambda camera: Lane(
                camera, FaceTracker(TrackOptions(confirm_s=0.1, lost_s=0.5)), lane
            ),
            sink=self.sink,
            metrics=Metrics(self.registry, process=False),
            crops=Input(size_px=48, eye_distance=0.37, eye_height=0.39, margin=1.15),
            min_face_px=options.get("min_face_px", 20.0),
            hands=hands,
        )

    def value(self, name: str, **labels: str) -> float:
        """Return a metric's value."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def data(self, kind: type[D]) -> list[D]:
        """Return the data of all events of a type."""
        return [e.data for e in self.sink.events if isinstance(e.data, kind)]


@pytest.fixture
def hands() -> Iterator[Hands]:
    """Lend two hands."""
    two = Hands(2)
    yield two
    two.close()


def test_a_face_appears_is_read_changes_and_is_lost(hands: Hands) -> None:
    """One face's life, in order: the fake head says neutral for four steps, then happiness."""
    rig = Rig(hands)
    for seq in range(14):
        rig.pipeline.process([frame_of("lobby", seq, [(100, 100)])])
    for seq in range(14, 22):
        rig.pipeline.process([frame_of("lobby", seq)])
    appeared, lost = rig.data(FaceAppeared), rig.data(FaceLost)
    samples = [d for d in rig.data(EmotionSample) if not isinstance(d, EmotionChanged)]
    changes = [(c.previous, c.label) for c in rig.data(EmotionChanged)]
    assert len(appeared) == len(lost) == 1
    assert rig.sink.types[0] == "face.appeared"
    assert rig.sink.types[-1] == "face.lost"
    assert [s.frame.seq for s in samples] == list(range(samples[0].frame.seq, 14))
    assert changes == [("unknown", "neutral"), ("neutral", "happiness")]
    assert lost[0].samples == len(samples)
    assert sum(lost[0].mean_probabilities.values()) == pytest.approx(1.0, abs=1e-4)
    assert len(rig.temporal) == 0
    assert rig.value("streamer_tracks_active", camera="lobby") == 0


def test_one_batch_over_all_cameras(hands: Hands) -> None:
    """The CNN runs once a call, over the faces of every camera."""
    rig = Rig(hands)
    for seq in range(3):
        rig.pipeline.process(
            [
                frame_of("a", seq, [(60, 60), (200, 100)]),
                frame_of("b", seq, [(100, 100)]),
                frame_of("c", seq),
            ]
        )
    assert rig.features.batches[-1] == 3
    assert {(d.camera, d.track) for d in rig.data(EmotionSample)} == {
        ("a", 1),
        ("a", 2),
        ("b", 1),
    }
    assert rig.value("streamer_frames_analysed_total", camera="c") == 3


def test_batching_with_other_cameras_changes_nothing(hands: Hands) -> None:
    """A camera's events are the same alone and beside others."""

    def events_of_a(*, beside: bool) -> list[object]:
        rig = Rig(hands)
        for seq in range(8):
            frames = [frame_of("a", seq, [(60 + 2 * seq, 60)])]
            if beside:
                frames.insert(0, frame_of("b", seq, [(150, 100 + seq), (40, 40)]))
            rig.pipeline.process(frames)
        return [e.data for e in rig.sink.events if e.camera == "a"]

    assert events_of_a(beside=True) == events_of_a(beside=False)


def test_a_small_face_is_followed_but_not_read(hands: Hands) -> None:
    """The fake faces are 40 px high: under a limit of 50 there are tracks and no samples."""
    rig = Rig(hands, min_face_px=50.0)
    for seq in range(5):
        rig.pipeline.process([frame_of("lobby", seq, [(100, 100)])])
    assert rig.sink.types == ["face.appeared"]
    assert rig.features.batches == []
    assert rig.value("streamer_tracks_active", camera="lobby") == 1


def test_under_the_confidence_threshold_the_label_is_unknown(hands: Hands) -> None:
    """The probabilities are told all the same."""
    rig = Rig(hands, confidence=0.99)
    for seq in range(5):
        rig.pipeline.process([frame_of("lobby", seq, [(100, 100)])])
    samples = [d for d in rig.data(EmotionSample) if not isinstance(d, EmotionChanged)]
    assert samples
    assert {s.label for s in samples} == {"unknown"}
    assert all(sum(s.probabilities.values()) == pytest.approx(1.0, abs=1e-4) for s in samples)


def test_a_lost_camera_ends_its_tracks_alone(hands: Hands) -> None:
    """Its faces are told lost at once, and the states of others stay."""
    rig = Rig(hands)
    for seq in range(4):
        rig.pipeline.process([frame_of("a", seq, [(60, 60)]), frame_of("b", seq, [(100, 100)])])
    rig.pipeline.lose("a")
    assert [e.camera for e in rig.sink.events if e.type == "face.lost"] == ["a"]
    assert len(rig.temporal) == 1
    rig.pipeline.process([frame_of("a", 5, [(60, 60)])])
    rig.pipeline.process([frame_of("a", 6, [(60, 60)])])
    rig.pipeline.process([frame_of("a", 7, [(60, 60)])])
    ids = [d.track for d in rig.data(FaceAppeared) if d.camera == "a"]
    assert len(ids) == len(set(ids)) == 2


def test_an_engine_that_fails_is_told(hands: Hands) -> None:
    """The error leaves the pipeline; nothing pretends that there were no faces."""
    rig = Rig(hands)
    for seq in range(5):
        rig.pipeline.process([frame_of("lobby", seq, [(100, 100)])])
    rig.features.fail = EngineError("features.onnx: out of memory")
    with pytest.raises(EngineError, match="out of memory"):
        rig.pipeline.process([frame_of("lobby", 5, [(100, 100)])])


def test_detection_is_spread_over_threads(hands: Hands) -> None:
    """Several frames are looked at at the same time, a single one in the caller's thread."""
    rig = Rig(hands)
    rig.pipeline.process([frame_of("a", 1)])
    assert rig.detector.threads == {"MainThread"}
    rig.detector.meet = threading.Barrier(2)
    rig.pipeline.process([frame_of(name, 2) for name in "abcdef"])
    assert len(rig.detector.threads) == 2
    assert rig.detector.calls == 7
