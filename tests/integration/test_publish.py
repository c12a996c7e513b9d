"""The publisher on real sockets: what is emitted arrives, in order, up to the last at a stop."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

from streamer.client import Gap, Subscriber
from streamer.events import DaemonStopping, EmotionSample, FaceLost
from streamer.publish import Publisher, PublishOptions
from tests.publish_fixtures import LOOPBACK, Recorder, event, joined, publisher, wait_until


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
