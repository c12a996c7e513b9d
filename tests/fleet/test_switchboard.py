"""The forwarder with real daemons' publishers behind it and real subscribers in front."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zmq

from streamer.client import Subscriber
from streamer.events import CameraOffline, CameraOnline, DaemonStarted, EmotionSample
from streamer.fleet.switchboard import Source, Switchboard
from streamer.publish import PublishOptions
from tests.publish_fixtures import LOOPBACK, Recorder, event, publisher, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.client import Received
    from streamer.publish import Publisher


@dataclass(slots=True)
class Watcher(Recorder):
    """Remembers the switchboard's words."""

    refusals: int = 0

    def refused(self) -> None:
        """Count what was cut off."""
        self.refusals += 1


@contextmanager
def switchboard() -> Iterator[tuple[Switchboard, Watcher]]:
    """Start one on free ports, and stop it."""
    watcher = Watcher()
    options = PublishOptions(bind=LOOPBACK, snapshot=LOOPBACK)
    made = Switchboard(options, keys=None, observer=watcher, clock=time)
    made.start()
    try:
        yield made, watcher
    finally:
        assert made.stop(10), "the switchboard did not stop"


def source_of(daemon: Publisher) -> Source:
    """Return where a node's daemon publishes."""
    return Source(run="r", events=daemon.bind, snapshot=daemon.snapshot, key=None)


def taken(subscriber: Subscriber, count: int) -> list[Received]:
    """Return the next events."""
    events = [subscriber.receive(10) for _ in range(count)]
    return [one for one in events if one is not None]


def test_what_a_daemon_said_before_it_was_heard_goes_out_late_and_once() -> None:
    """A subscriber learns that the camera is online, with the numbers that the daemon gave."""
    with publisher() as (daemon, _), switchboard() as (board, _):
        daemon.emit(event(DaemonStarted))
        daemon.emit(event(CameraOffline))
        daemon.emit(event(CameraOnline))
        with Subscriber(connect=board.bind, snapshot=board.snapshot) as subscriber:
            assert subscriber.wait_connected(10)
            time.sleep(0.2)  # until the subscription is there
            board.route({"n": source_of(daemon)}, {"lobby": "n"}, ("lobby",))
            late = taken(subscriber, 2)
            assert [(one.type, one.sequence) for one in late] == [
                ("daemon.started", 1),
                ("camera.online", 1),
            ]
            assert {one.epoch for one in late} == {daemon.epoch}
            assert late[1].data == event(CameraOnline).data
            daemon.emit(event(EmotionSample))
            daemon.emit(event(CameraOffline))
            after = taken(subscriber, 2)
            assert [one.type for one in after] == ["emotion.sample", "camera.offline"]
            assert after[1].sequence == 2  # the first one was overtaken before anybody listened


def test_a_camera_that_was_removed_is_forgotten() -> None:
    """The snapshot names it no more, and its last words do not bring it back."""
    with publisher() as (daemon, _), switchboard() as (board, _):
        source = {"n": source_of(daemon)}
        board.route(source, {"lobby": "n", "yard": "n"}, ("lobby", "yard"))
        daemon.emit(event(CameraOnline, "lobby"))
        daemon.emit(event(CameraOnline, "yard"))
        with Subscriber(connect=board.bind, snapshot=board.snapshot) as subscriber:

            def named() -> list[str]:
                return [one.camera for one in subscriber.snapshot().cameras]

            wait_until(lambda: named() == ["lobby", "yard"])
            board.route(source, {"lobby": "n"}, ("lobby",))
            wait_until(lambda: named() == ["lobby"])
            daemon.emit(event(CameraOffline, "yard"))
            event_type = ""
            while event_type != "camera.offline":  # it still goes out
                received = subscriber.receive(10)
                assert received is not None
                event_type = received.type
            assert named() == ["lobby"]


def test_nobody_speaks_for_another_nodes_camera() -> None:
    """What a node sends that does not have the camera is counted and goes nowhere."""
    with publisher() as (daemon, _), switchboard() as (board, watcher):
        board.route({"n": source_of(daemon)}, {"lobby": "other"}, ("lobby",))
        end_s = time.monotonic() + 10
        while not watcher.refusals:
            assert time.monotonic() < end_s
            daemon.emit(event(EmotionSample))
            time.sleep(0.01)
        assert not watcher.sent["emotion.sample"]


def test_subscriptions_are_read_as_they_come() -> None:
    """Thousands of them are no reason to keep others waiting, or to keep them for ever."""
    with publisher() as (daemon, _), switchboard() as (board, _):
        board.route({"n": source_of(daemon)}, {"lobby": "n"}, ("lobby",))
        with (
            Subscriber(connect=board.bind, snapshot=None) as healthy,
            zmq.Context() as context,
            context.socket(zmq.SUB) as flood,
        ):
            assert healthy.wait_connected(10)
            flood.linger = 0
            flood.connect(board.bind)
            done = threading.Event()

            def speak() -> None:
                while not done.wait(0.01):
                    daemon.emit(event(EmotionSample))

            thread = threading.Thread(target=speak)
            thread.start()
            try:
                for number in range(20_000):
                    flood.setsockopt(zmq.SUBSCRIBE, f"none/{number}".encode())
                heard = taken(healthy, 100)
            finally:
                done.set()
                thread.join()
            assert len(heard) == 100
            assert not sum(one.gap.missing for one in heard[1:] if one.gap)
