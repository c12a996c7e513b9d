"""The forwarder with real daemons' publishers behind it and real subscribers in front."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import zmq

from streamer.client import Subscriber
from streamer.envelope import Numbering, topic_of
from streamer.events import CameraOffline, CameraOnline, DaemonStarted, EmotionSample
from streamer.fleet.ledger import Ledger
from streamer.fleet.switchboard import Source, Switchboard
from streamer.publish import PublishOptions
from streamer.snapshot import CameraState, Snapshot, TrackState
from tests.publish_fixtures import LOOPBACK, Recorder, event, publisher, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.client import Received
    from streamer.events import Event
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
            assert not [topic for topic in subscriber.snapshot().epochs if "yard" in topic]


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
    """Thousands of them keep nobody waiting, and are not left for the loop to find for ever."""
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

            def rounds() -> int:
                """Return how often the loop goes round in half a second; it waits that long."""
                end_s, seen = time.monotonic() + 0.5, set()
                while time.monotonic() < end_s:
                    seen.add(board.last_progress_ns)
                    time.sleep(0.001)
                return len(seen)

            wait_until(lambda: rounds() < 20, timeout_s=20)


class Node:
    """A node that says what it likes."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.stream, self.answers = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
        self.ports = [
            one.bind_to_random_port("tcp://127.0.0.1") for one in (self.stream, self.answers)
        ]
        self.numbering = Numbering()

    @property
    def source(self) -> Source:
        """Where it is."""
        events, snapshot = (f"tcp://127.0.0.1:{port}" for port in self.ports)
        return Source(run="r", events=events, snapshot=snapshot, key=None)

    def body(self, said: Event) -> dict[str, Any]:
        """Return an event's envelope."""
        numbered = self.numbering.number(said)
        content: dict[str, Any] = json.loads(numbered.encode(time_ns=0, monotonic_ns=0))
        return content

    def send(self, body: dict[str, Any], topic: str = "") -> None:
        """Say it, on its own topic or another one."""
        topic = topic or topic_of(body["type"], body["data"].get("camera"))
        self.stream.send_multipart([topic.encode(), json.dumps(body).encode()])

    def answer(self, snapshot: Snapshot) -> None:
        """Wait for the question, and answer it."""
        assert self.answers.poll(10_000), "nobody asked"
        peer, *_ = self.answers.recv_multipart()
        self.answers.send_multipart([peer, msgspec.json.encode(snapshot)])

    def close(self) -> None:
        """Let go."""
        self.stream.close(linger=0)
        self.answers.close(linger=0)


@pytest.fixture
def node() -> Iterator[Node]:
    """Yield a node."""
    with zmq.Context() as context:
        made = Node(context)
        yield made
        made.close()


def test_nothing_that_a_node_says_ends_the_switchboard(node: Node) -> None:
    """Another topic, another source, a latency beyond all numbers: refused, and it goes on."""
    with switchboard() as (board, watcher):
        routed = {"n": node.source}, {"lobby": "n", "yard": "n"}
        board.route(*routed, ("lobby", "yard"))
        online, sample = node.body(event(CameraOnline)), node.body(event(EmotionSample))
        late = sample | {"data": sample["data"] | {"latency_ms": 1e308}}
        wrong: list[tuple[dict[str, Any], str]] = [
            (online, "x"),
            (online, "camera.online/yard/"),
            (online | {"source": "/cameras/yard"}, ""),
            (online | {"sequence": 0}, ""),
            (late, ""),
        ]
        end_s = time.monotonic() + 10
        while not watcher.refusals:  # until the connection is there
            assert time.monotonic() < end_s
            node.send(*wrong[0])
            time.sleep(0.05)
        before = watcher.refusals
        for body, topic in wrong:
            node.send(body, topic)
        wait_until(lambda: watcher.refusals >= before + len(wrong))
        node.answer(
            Snapshot(
                epoch=node.numbering.epoch,
                time="2026-11-23T00:00:00Z",
                sequences={"x": 7, "emotion.sample/lobby/": 9},
                tracks=[TrackState(camera="lobby", track=1, sample=samples(latency_ms=1e308))],
            )
        )
        board.route(*routed, ("lobby",))
        node.send(node.body(event(EmotionSample)))
        wait_until(lambda: watcher.sent["emotion.sample"] == 1)


def samples(latency_ms: float) -> EmotionSample:
    """Return a reading of that age."""
    data = event(EmotionSample).data
    assert isinstance(data, EmotionSample)
    return msgspec.structs.replace(data, latency_ms=latency_ms)


def test_what_was_sent_late_does_not_go_out_twice(node: Node) -> None:
    """A snapshot may be ahead of the stream that the same daemon sends."""
    with switchboard() as (board, _), Subscriber(connect=board.bind, snapshot=None) as subscriber:
        assert subscriber.wait_connected(10)
        board.route({"n": node.source}, {"lobby": "n"}, ("lobby",))
        online = node.body(event(CameraOnline))
        node.answer(
            Snapshot(
                epoch=node.numbering.epoch,
                time="2026-11-23T00:00:00Z",
                sequences={"camera.online/lobby/": 1},
                cameras=[CameraState(camera="lobby", online=True, reason="connected")],
            )
        )
        assert [one.type for one in taken(subscriber, 1)] == ["camera.online"]
        node.send(online)
        node.send(node.body(event(EmotionSample)))
        (following,) = taken(subscriber, 1)
        assert following.type == "emotion.sample"


def test_a_first_word_that_came_too_early_is_made_up_for(node: Node) -> None:
    """Who gains a camera is asked again: what it said before that was known here was refused."""
    with switchboard() as (board, watcher):
        board.route({"n": node.source}, {}, ("lobby",))
        empty = Snapshot(epoch=node.numbering.epoch, time="2026-11-23T00:00:00Z", sequences={})
        node.answer(empty)
        online = node.body(event(CameraOnline))
        node.send(online)
        wait_until(lambda: watcher.refusals == 1)
        board.route({"n": node.source}, {"lobby": "n"}, ("lobby",))
        node.answer(
            msgspec.structs.replace(
                empty,
                sequences={"camera.online/lobby/": 1},
                cameras=[CameraState(camera="lobby", online=True, reason="connected")],
            )
        )
        wait_until(lambda: watcher.sent["camera.online"] == 1)


def test_of_many_daemons_none_starts_twice() -> None:
    """Every daemon has the topic daemon.started: more of them are remembered than of a camera."""
    ledger = Ledger()
    nodes = [f"n{number}" for number in range(20)]
    ledger.route({}, frozenset(), frozenset(nodes))
    started = event(DaemonStarted).data
    assert isinstance(started, DaemonStarted)
    for again in (False, True):
        for name in nodes:
            snapshot = Snapshot(
                epoch=name, time="", sequences={"daemon.started/": 1}, daemon=started
            )
            late = ledger.unheard(name, snapshot)
            assert [one.epoch for one in late] == ([] if again else [name])
            ledger.seed(name, snapshot, [], monotonic_ns=0)
