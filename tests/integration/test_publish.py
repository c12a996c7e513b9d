"""The publisher on real sockets: numbers, stopping, binds, snapshots and strangers."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.client import Gap, Subscriber
from streamer.errors import ConfigError, StreamerError
from streamer.events import (
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    DaemonStopping,
    EmotionChanged,
    EmotionSample,
    FaceAppeared,
    FaceLost,
)
from streamer.publish import Publisher, PublishOptions
from tests.publish_fixtures import Recorder, event, joined, publisher, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "tcp://127.0.0.1:0"


def ask(address: str, *frames: bytes, timeout_ms: int = 10_000) -> bytes:
    """Send one request from a REQ socket and return the reply."""
    with zmq.Context() as context, context.socket(zmq.REQ) as request:
        request.linger = 0
        request.connect(address)
        request.send_multipart(frames)
        assert request.poll(timeout_ms), "no reply"
        return request.recv()


def test_events_arrive_typed_in_order_and_without_gaps() -> None:
    """What is emitted arrives as equal structs, with latency filled in and sequences from 1."""
    with (
        publisher() as (source, recorder),
        Subscriber(connect=source.bind) as subscriber,
    ):
        joined(source, subscriber)
        sent = [event(EmotionSample, track=track) for track in range(100)]
        for value in sent:
            source.emit(value)
        got = [subscriber.receive(10) for _ in sent]

    for index, (value, received) in enumerate(zip(sent, got, strict=True), start=1):
        assert received is not None
        assert isinstance(received.data, EmotionSample)
        assert isinstance(value.data, EmotionSample)
        assert received.sequence == index
        assert received.gap is None
        assert received.topic == "emotion.sample/lobby/"
        assert received.subject == f"tracks/{value.data.track}"
        assert received.data.probabilities == value.data.probabilities
        assert received.data.box == value.data.box
        assert 0 < received.data.latency_ms < 10_000
    assert recorder.sent["emotion.sample"] == 100
    assert len(recorder.latencies_s) == 100
    assert not recorder.lost


def test_a_subscription_to_one_camera_gets_no_other() -> None:
    """lobby2 does not reach a subscriber of lobby."""
    topics = ("emotion.sample/lobby/", "daemon.stopping/")
    with (
        publisher() as (source, _),
        Subscriber(connect=source.bind, topics=topics) as subscriber,
    ):
        joined(source, subscriber)
        for camera in ("lobby2", "lobby", "lobby2", "lobby"):
            source.emit(event(EmotionSample, camera))
        source.emit(event(DaemonStopping))
        got = [subscriber.receive(10) for _ in range(3)]

    assert [received.topic for received in got if received] == [
        "emotion.sample/lobby/",
        "emotion.sample/lobby/",
        "daemon.stopping/",
    ]


def test_many_threads_emit_without_a_hole() -> None:
    """Four threads on the same topic: every number arrives, in order, and nothing is lost."""
    with (
        publisher() as (source, recorder),
        Subscriber(connect=source.bind) as subscriber,
    ):
        joined(source, subscriber)

        def emit() -> None:
            for _ in range(500):
                source.emit(event(EmotionSample))

        threads = [threading.Thread(target=emit) for _ in range(4)]
        for thread in threads:
            thread.start()
        got = [subscriber.receive(10) for _ in range(2000)]
        for thread in threads:
            thread.join()

    assert [received.sequence for received in got if received] == list(range(1, 2001))
    assert subscriber.missed == 0
    assert not recorder.lost


def test_what_does_not_fit_is_dropped_counted_and_seen() -> None:
    """Before the start nothing is taken: of 25 events, a queue of 10 keeps the newest 10."""
    recorder = Recorder()
    options = PublishOptions(bind=LOOPBACK, snapshot=LOOPBACK, queue_limit=10)
    source = Publisher(options, observer=recorder, clock=time)
    for _ in range(25):
        source.emit(event(EmotionSample))
    assert recorder.lost == Counter({"emotion.sample": 15})

    source.start()
    try:
        assert source.drain(10)
        assert recorder.sent == Counter({"emotion.sample": 10})
        with Subscriber(connect=source.bind, snapshot=source.snapshot) as subscriber:
            snapshot = subscriber.snapshot(10)
    finally:
        assert source.stop(10)

    assert snapshot.sequences == {"emotion.sample/lobby/": 25}


def test_stopping_delivers_what_was_emitted_last() -> None:
    """daemon.stopping gets out although the stop follows at once; later events are counted."""
    with publisher() as (source, recorder):
        with Subscriber(connect=source.bind) as subscriber:
            joined(source, subscriber)
            for _ in range(1000):
                source.emit(event(EmotionSample))
            source.emit(event(FaceLost))
            stopper = threading.Thread(target=source.stop, args=(10.0,))
            stopper.start()
            got = [subscriber.receive(10) for _ in range(1001)]
            stopper.join()
        source.emit(event(EmotionSample))

    assert isinstance(got[-1].data if got[-1] else None, FaceLost)
    assert subscriber.missed == 0
    assert recorder.lost == Counter({"emotion.sample": 1})
    assert not source.alive


def test_nothing_is_left_after_many_starts() -> None:
    """Twenty publishers that come and go leave no descriptor and no thread behind."""

    def count() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    with publisher():
        pass
    before, threads = count(), threading.active_count()
    for _ in range(20):
        with publisher() as (source, _):
            source.emit(event(EmotionSample))

    assert count() <= before
    assert threading.active_count() == threads


def test_an_idle_publisher_makes_progress() -> None:
    """The time of the last round moves although nothing is emitted."""
    with publisher() as (source, _):
        first = source.last_progress_ns
        wait_until(lambda: source.last_progress_ns > first)
        assert source.alive
    assert Publisher(PublishOptions(), observer=Recorder(), clock=time).last_progress_ns == 0


@pytest.mark.parametrize("which", ["bind", "snapshot"])
def test_an_address_in_use_is_named(which: str) -> None:
    """A taken port is an error that a restart may cure, in one line, and leaves nothing bound."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        options = PublishOptions(
            bind=address if which == "bind" else LOOPBACK,
            snapshot=address if which == "snapshot" else LOOPBACK,
        )
        source = Publisher(options, observer=Recorder(), clock=time)
        with pytest.raises(StreamerError, match=f"publish.{which}: {address} is in use") as caught:
            source.start()

    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert source.stop(1)


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ("tcp://127.0.0.1:99999", "last one is 65535"),
        ("127.0.0.1:5556", "is no address"),
        ("tcp://127.0.0.1", "is no address"),
        ("udp://127.0.0.1:5556", "is no address"),
        ("inproc://events", "is no address"),
        ("", "is no address"),
        ("tcp://0.0.0.0:0", "open to the network"),
        ("tcp://*:0", "open to the network"),
        ("tcp://[::]:0", "open to the network"),
        ("tcp://eth0:0", "open to the network"),
        ("ipc:///no/such/folder/socket", "cannot bind"),
    ],
)
def test_a_wrong_address_is_refused_with_advice(bind: str, message: str) -> None:
    """What cannot or must not be bound is a mistake of the configuration."""
    options = PublishOptions(bind=bind, snapshot=LOOPBACK)
    source = Publisher(options, observer=Recorder(), clock=time)

    with pytest.raises(ConfigError, match=message) as caught:
        source.start()

    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    assert source.stop(1)


def test_beyond_loopback_it_binds_when_told_to(tmp_path: Path) -> None:
    """allow_remote binds every interface; an ipc path needs no permission."""
    options = PublishOptions(
        bind="tcp://0.0.0.0:0", snapshot=f"ipc://{tmp_path}/snapshot", allow_remote=True
    )
    with publisher(options) as (source, _):
        assert json.loads(ask(f"ipc://{tmp_path}/snapshot", b"snapshot"))["epoch"] == source.epoch


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


@pytest.mark.parametrize("port", ["bind", "snapshot"])
def test_strangers_on_the_port_are_counted_and_let_go(port: str) -> None:
    """HTTP, nonsense and a peer that hangs up are failed handshakes; the stream goes on."""
    with (
        publisher() as (source, recorder),
        Subscriber(connect=source.bind) as subscriber,
    ):
        joined(source, subscriber)
        number = int((source.bind if port == "bind" else source.snapshot).rpartition(":")[2])

        def say(noise: bytes) -> None:
            with socket.create_connection(("127.0.0.1", number)) as stranger:
                stranger.sendall(noise)

        for noise in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 64, b""):
            say(noise)
        wait_until(lambda: recorder.failures == 3)
        rng = random.Random(7)
        for _ in range(50):  # some of it happens to open like ZMTP 1.0, which fails later, unnamed
            say(rng.randbytes(500))
        wait_until(lambda: recorder.peers == 1)

        source.emit(event(EmotionSample))
        assert subscriber.receive(10) is not None


def test_peers_are_counted_while_they_stay() -> None:
    """The number of connections follows subscribers that come and go."""
    with publisher() as (source, recorder):
        with Subscriber(connect=source.bind) as first:
            joined(source, first)
            wait_until(lambda: recorder.peers == 1)
            with Subscriber(connect=source.bind) as second:
                assert second.wait_connected(10)
                wait_until(lambda: recorder.peers == 2)
            wait_until(lambda: recorder.peers == 1)
        wait_until(lambda: recorder.peers == 0)
        assert recorder.failures == 0


def test_a_new_run_is_told_from_a_hole() -> None:
    """After a restart on the same port the first event carries the change of epoch."""
    with publisher() as (first, _):
        address = first.bind
        subscriber = Subscriber(connect=address)
        joined(first, subscriber)
        first.emit(event(EmotionSample))
        before = subscriber.receive(10)
    after = None
    with publisher(PublishOptions(bind=address, snapshot=LOOPBACK)) as (second, _), subscriber:
        for _ in range(100):
            second.emit(event(EmotionSample))
            after = subscriber.receive(0.1)
            if after is not None:
                break

    assert before is not None
    assert after is not None
    assert after.epoch == second.epoch != before.epoch
    assert after.gap == Gap(
        topic="emotion.sample/lobby/", missing=after.sequence - 1, epoch_changed=True
    )
