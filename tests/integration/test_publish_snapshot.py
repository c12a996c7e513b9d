"""The snapshot socket: the state that fits the stream, and an answer to whatever is asked."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.client import Subscriber
from streamer.events import (
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    EmotionChanged,
    EmotionSample,
    FaceAppeared,
    FaceLost,
)
from tests.publish_fixtures import ask, event, joined, publisher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.publish import Publisher


def test_the_snapshot_follows_the_events() -> None:
    """It has what lives, with the last sample and label, and forgets what is lost or offline."""
    with (
        publisher() as (source, _),
        Subscriber(connect=source.bind, snapshot=source.snapshot) as subscriber,
    ):
        source.emit(event(DaemonStarted))
        for camera in ("yard", "lobby", "dark"):
            source.emit(event(CameraOnline, camera))
        source.emit(event(FaceAppeared, "lobby", 1))
        source.emit(event(FaceAppeared, "lobby", 2))
        source.emit(event(EmotionSample, "lobby", 2))
        source.emit(event(EmotionChanged, "lobby", 2))
        source.emit(event(FaceAppeared, "lobby", 3))
        source.emit(event(FaceLost, "lobby", 3))
        source.emit(event(EmotionSample, "dark", 9))
        source.emit(event(CameraOffline, "dark"))
        source.emit(event(EmotionSample, "dark", 9))  # a frame that was still under way
        snapshot = subscriber.snapshot(10)

    assert snapshot.epoch == source.epoch
    assert snapshot.daemon is not None
    assert snapshot.daemon.purpose == "a test"
    assert [(state.camera, state.online, state.reason) for state in snapshot.cameras] == [
        ("dark", False, "timeout"),
        ("lobby", True, "connected"),
        ("yard", True, "connected"),
    ]
    assert [(state.camera, state.track, state.label) for state in snapshot.tracks] == [
        ("lobby", 1, "unknown"),
        ("lobby", 2, "happiness"),
    ]
    assert snapshot.tracks[0].sample is None
    sample = snapshot.tracks[1].sample
    assert sample is not None
    assert sample.confidence == 0.91
    assert sample.latency_ms > 0
    assert snapshot.sequences["emotion.sample/dark/"] == 2
    assert snapshot.sequences["face.appeared/lobby/"] == 3


def test_snapshot_and_stream_fit_together() -> None:
    """A subscriber that joins amid the stream ends with exactly the state of the publisher."""
    with publisher() as (source, _):
        stop = threading.Event()

        def talk() -> None:
            track = 0
            while not stop.is_set():
                track += 1
                source.emit(event(FaceAppeared, track=track))
                if track > 5:
                    source.emit(event(FaceLost, track=track - 5))
                time.sleep(0.0005)

        speaker = threading.Thread(target=talk)
        speaker.start()
        with Subscriber(connect=source.bind, snapshot=source.snapshot) as subscriber:
            joined(source, subscriber)
            snapshot = subscriber.snapshot(10)
            alive = {state.track for state in snapshot.tracks}
            for _ in range(500):
                received = subscriber.receive(10)
                assert received is not None
                assert received.gap is None
                if isinstance(received.data, FaceAppeared):
                    assert received.data.track not in alive  # else it came twice
                    alive.add(received.data.track)
                elif isinstance(received.data, FaceLost):
                    alive.remove(received.data.track)
            stop.set()
            speaker.join()
            while (received := subscriber.receive(0.5)) is not None:
                if isinstance(received.data, FaceAppeared):
                    alive.add(received.data.track)
                elif isinstance(received.data, FaceLost):
                    alive.remove(received.data.track)
            assert alive == {state.track for state in subscriber.snapshot(10).tracks}


@pytest.fixture(scope="module")
def running() -> Iterator[Publisher]:
    """Yield a publisher that is abused by several tests, and by the end still answers."""
    with publisher() as (source, recorder):
        yield source
        assert json.loads(ask(source.snapshot, b"snapshot"))["epoch"] == source.epoch
        assert not recorder.lost


@pytest.mark.parametrize("request_", [b"snapshot", b'{"request": "snapshot"}'])
def test_both_forms_of_the_request_are_answered(running: Publisher, request_: bytes) -> None:
    """The bare word and the JSON object get the same snapshot."""
    assert json.loads(ask(running.snapshot, request_))["epoch"] == running.epoch


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_any_request_gets_an_answer(running: Publisher, frames: list[bytes]) -> None:
    """Whatever a REQ socket asks, it gets a JSON reply: the snapshot or an error."""
    reply = json.loads(ask(running.snapshot, *frames))

    assert ("epoch" in reply) == (frames == [b"snapshot"])
    assert ("error" in reply) == (frames != [b"snapshot"])


@pytest.mark.parametrize(
    "request_",
    [b"", b"[" * 4000, b"\xff" * 100, b'{"request": "secrets"}', b"null", b'"snapshot"', b"NaN"],
)
def test_a_strange_request_gets_an_error(running: Publisher, request_: bytes) -> None:
    """Requests that look like something get an error that says what to send."""
    assert b"send: snapshot" in ask(running.snapshot, request_)


def test_messages_without_an_answerable_form_are_survived(running: Publisher) -> None:
    """A DEALER that leaves out the delimiter, sends it alone, floods or oversizes: no harm."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(running.snapshot)
        dealer.send(b"snapshot")
        assert dealer.poll(10_000)
        assert json.loads(dealer.recv())["epoch"] == running.epoch
        dealer.send(b"")
        dealer.send_multipart([b"", b"", b""])
        for _ in range(5000):
            dealer.send(b"snapshot")
        dealer.send(b"x" * 100_000)
    assert json.loads(ask(running.snapshot, b"snapshot"))["epoch"] == running.epoch
