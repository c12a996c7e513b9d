"""Events: topics, numbers, times, rounding and the envelope."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.envelope import Numbering, new_epoch, topic_of
from streamer.events import (
    DATA_TYPES,
    CameraOffline,
    DaemonStopping,
    EmotionSample,
    Event,
    FrameInfo,
    named_probabilities,
    parse_time,
    pixel_box,
    rfc3339,
)

NOON_NS = 1_769_860_800_123_456_789  # 2026-01-31T12:00:00.123456789Z, from `date -u +%s`


def sample(camera: str = "lobby", track: int = 17) -> Event:
    """Return the example of the interface's description, captured at 5 s on the monotonic clock."""
    return Event(
        data=EmotionSample(
            camera=camera,
            track=track,
            box=(1.0, 2.0, 3.5, 4.0),
            frame=FrameInfo(seq=812, width=640, height=360),
            captured_at=rfc3339(NOON_NS),
            clock="host",
            label="happiness",
            confidence=0.91,
            probabilities={"neutral": 0.09, "happiness": 0.91},
            bundle="fer@0123456789ab",
        ),
        captured_monotonic_ns=5_000_000_000,
    )


def test_envelope_has_every_promised_field_and_value() -> None:
    """An encoded sample is, field by field, what the interface promises."""
    numbered = Numbering(epoch="e1").number(sample())

    text = numbered.encode(time_ns=NOON_NS, monotonic_ns=5_062_400_000)

    assert json.loads(text) == {
        "specversion": "1.0",
        "id": "e1-emotion.sample/lobby/1",
        "source": "/cameras/lobby",
        "type": "emotion.sample",
        "dataschema": "urn:emotion-streamer:emotion.sample/v1",
        "subject": "tracks/17",
        "time": "2026-01-31T12:00:00.123456Z",
        "sequence": 1,
        "epoch": "e1",
        "data": {
            "camera": "lobby",
            "track": 17,
            "box": [1.0, 2.0, 3.5, 4.0],
            "frame": {"seq": 812, "width": 640, "height": 360},
            "captured_at": "2026-01-31T12:00:00.123456Z",
            "clock": "host",
            "latency_ms": 62.4,
            "label": "happiness",
            "confidence": 0.91,
            "probabilities": {"neutral": 0.09, "happiness": 0.91},
            "bundle": "fer@0123456789ab",
        },
    }


def test_camera_and_daemon_events_have_no_subject() -> None:
    """An event about its source itself leaves the subject out."""
    numbering = Numbering()
    offline = numbering.number(Event(data=CameraOffline(camera="lobby", reason="timeout")))
    stopping = numbering.number(Event(data=DaemonStopping(reason="SIGTERM")))

    first = json.loads(offline.encode(time_ns=NOON_NS, monotonic_ns=0))
    second = json.loads(stopping.encode(time_ns=NOON_NS, monotonic_ns=0))

    assert "subject" not in first
    assert first["source"] == "/cameras/lobby"
    assert "subject" not in second
    assert second["source"] == "/daemon"
    assert stopping.topic == "daemon.stopping/"
    assert stopping.latency_s(1) is None


def test_topic_of_one_camera_is_no_prefix_of_another() -> None:
    """A subscription to lobby does not get lobby2, since topics end with a slash."""
    assert topic_of("emotion.sample", "lobby") == "emotion.sample/lobby/"
    assert not topic_of("emotion.sample", "lobby2").startswith("emotion.sample/lobby/")


def test_each_topic_counts_by_itself_and_ids_are_unique() -> None:
    """Sequences count from 1 for each type and camera, while ids never repeat."""
    numbering = Numbering()
    events = [sample("a"), sample("b"), sample("a"), Event(data=DaemonStopping(reason="x"))]

    numbered = [numbering.number(event) for event in events]

    assert [(item.topic, item.sequence) for item in numbered] == [
        ("emotion.sample/a/", 1),
        ("emotion.sample/b/", 1),
        ("emotion.sample/a/", 2),
        ("daemon.stopping/", 1),
    ]
    ids = [json.loads(item.encode(time_ns=0, monotonic_ns=0))["id"] for item in numbered]
    assert len(set(ids)) == 4
    assert numbering.sequences() == {
        "emotion.sample/a/": 2,
        "emotion.sample/b/": 1,
        "daemon.stopping/": 1,
    }


def test_epochs_differ() -> None:
    """Two runs never share a name."""
    assert new_epoch() != new_epoch()


def test_names_of_types_are_those_of_the_interface() -> None:
    """Exactly the eight promised types exist."""
    assert set(DATA_TYPES) == {
        "face.appeared",
        "face.lost",
        "emotion.sample",
        "emotion.changed",
        "camera.online",
        "camera.offline",
        "daemon.started",
        "daemon.stopping",
    }


@given(st.integers(0, 4_102_444_800_000_000))  # microseconds up to the year 2100
def test_times_keep_six_digits_and_read_back(time_us: int) -> None:
    """Any time has the same width and means the same instant to the standard library."""
    text = rfc3339(time_us * 1000)

    assert len(text) == len("2026-01-31T12:00:00.123456Z")
    read = parse_time(text)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    difference = read - epoch
    assert (difference.days * 86_400 + difference.seconds) * 10**6 + difference.microseconds == (
        time_us
    )


def test_rounding_hides_float32_noise() -> None:
    """A float32 0.03 is written as 0.03, not as 0.029999999329447746."""
    row_K = np.array([0.03, 0.97], np.float32)

    assert named_probabilities(row_K, ("neutral", "fear")) == {"neutral": 0.03, "fear": 0.97}
    assert pixel_box(np.array([1.04, 2.06, 3, 4], np.float32)) == (1.0, 2.1, 3.0, 4.0)
    with pytest.raises(ValueError, match="zip"):
        named_probabilities(row_K, ("neutral",))
