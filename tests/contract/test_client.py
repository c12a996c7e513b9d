"""The subscriber's library against a publisher of plain pyzmq: growth, gaps, nonsense, timeouts."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.client import Gap, Received, Subscriber
from streamer.errors import ConfigError, StreamerError
from streamer.events import CameraOffline, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPIC = "camera.offline/lobby/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A publisher of plain pyzmq with one subscriber of ours."""

    socket: zmq.Socket[bytes]
    subscriber: Subscriber

    def say(self, sequence: int, *, epoch: str = "e", topic: str = TOPIC, **changes: Any) -> None:
        """Send a camera.offline event, with attributes replaced or added."""
        envelope = {
            "specversion": "1.0",
            "id": f"{epoch}-{sequence}",
            "source": "/cameras/lobby",
            "type": "camera.offline",
            "dataschema": "urn:emotion-streamer:camera.offline/v1",
            "time": "2026-01-31T12:00:00.123456Z",
            "sequence": sequence,
            "epoch": epoch,
            "data": {"camera": "lobby", "reason": "timeout", "detail": "no frame"},
        } | changes
        self.socket.send_multipart([topic.encode(), json.dumps(envelope).encode()])

    def hear(self) -> Received:
        """Return the next event."""
        received = self.subscriber.receive(10)
        assert received is not None
        return received


@pytest.fixture
def plain() -> Iterator[Plain]:
    """Yield a plain publisher whose subscriber has arrived."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as source:
        source.linger = 0
        source.bind("tcp://127.0.0.1:0")
        with Subscriber(connect=source.getsockopt_string(zmq.LAST_ENDPOINT)) as subscriber:
            assert source.poll(10_000)
            assert source.recv() == b"\x01"  # the subscription to everything
            yield Plain(socket=source, subscriber=subscriber)


def test_an_event_comes_typed(plain: Plain) -> None:
    """Envelope and data are read into their types, and the JSON is kept."""
    plain.say(4711)

    received = plain.hear()

    assert received.data == CameraOffline(camera="lobby", reason="timeout", detail="no frame")
    assert (received.type, received.sequence, received.epoch) == ("camera.offline", 4711, "e")
    assert received.subject is None
    assert received.gap is None
    assert parse_time(received.time).microsecond == 123456
    assert json.loads(received.raw)["sequence"] == 4711


def test_a_newer_publisher_is_understood(plain: Plain) -> None:
    """Unknown attributes and fields are passed over; unknown types come as dictionaries."""
    grown = {"camera": "lobby", "reason": "eaten", "detail": "", "by": "a fox"}
    plain.say(1, partitionkey="x", data=grown)
    pose = "urn:emotion-streamer:pose.sample/v1"
    plain.say(1, topic="pose.sample/lobby/", type="pose.sample", dataschema=pose, data={"a": [1]})
    second = "urn:emotion-streamer:camera.offline/v2"
    plain.say(2, dataschema=second, data={"reason": {"code": 7}})

    assert plain.hear().data == CameraOffline(camera="lobby", reason="eaten")
    assert plain.hear().data == {"a": [1]}
    assert plain.hear().data == {"reason": {"code": 7}}
    assert plain.subscriber.malformed == 0


def test_gaps_are_counted_for_each_topic(plain: Plain) -> None:
    """A hole shows at the event after it, and another topic's numbers do not matter."""
    yard = "camera.offline/yard/"
    for sequence, topic in ((5, TOPIC), (1, yard), (6, TOPIC), (9, TOPIC), (2, yard)):
        plain.say(sequence, topic=topic)

    gaps = [plain.hear().gap for _ in range(5)]

    assert gaps == [None, None, None, Gap(topic=TOPIC, missing=2, epoch_changed=False), None]
    assert plain.subscriber.missed == 2


def test_a_new_epoch_is_a_gap_of_its_own(plain: Plain) -> None:
    """A restart is told even when nothing of the new run was missed."""
    plain.say(7, epoch="a")
    plain.say(1, epoch="b")
    plain.say(2, epoch="b")
    plain.say(4, epoch="c")

    assert [plain.hear().gap for _ in range(4)] == [
        None,
        Gap(topic=TOPIC, missing=0, epoch_changed=True),
        None,
        Gap(topic=TOPIC, missing=3, epoch_changed=True),
    ]


def test_a_camera_that_comes_back_to_a_run_goes_on_with_its_numbers(plain: Plain) -> None:
    """Behind one address several daemons may have a camera in turn; each counts for itself."""
    for sequence, epoch in ((6, "a"), (1, "b"), (2, "b"), (7, "a"), (8, "a"), (5, "b"), (8, "a")):
        plain.say(sequence, epoch=epoch)
    plain.say(9, epoch="a")

    heard = [plain.hear() for _ in range(7)]

    taken = Gap(topic=TOPIC, missing=0, epoch_changed=True)
    late = Gap(topic=TOPIC, missing=2, epoch_changed=True)
    assert [one.gap for one in heard] == [None, taken, None, taken, None, late, taken]
    assert heard[-1].sequence == 9  # the 8 that came again is not given twice
    assert plain.subscriber.missed == 2


@pytest.mark.parametrize("wrong", [{"topics": ("", "a\udcff")}, {"connect": "ipc:///tmp/\udcff"}])
def test_bytes_that_are_no_text_are_refused(wrong: dict[str, Any]) -> None:
    """A command line may have any bytes: they come as lone surrogates, which no socket takes."""
    with pytest.raises(ConfigError, match=r"'.*\\udcff' is not UTF-8"):
        Subscriber(**wrong)


def test_an_event_is_not_given_twice(plain: Plain) -> None:
    """A number that was there already is passed over."""
    for sequence in (3, 3, 2, 4):
        plain.say(sequence)

    assert [plain.hear().sequence for _ in range(2)] == [3, 4]
    assert plain.subscriber.receive(0.05) is None


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"topic"],
        [b"topic", b"{}", b"more"],
        [b"topic", b""],
        [b"topic", b"null"],
        [b"topic", b"{" * 100_000],
        [b"topic", b'{"data": ' + b"[" * 100_000],
        [b"\xff\xfe", b"{}"],
        [b"topic", b"\xff"],
    ],
)
def test_nonsense_is_counted_and_survived(plain: Plain, frames: list[bytes]) -> None:
    """A message that is no event is passed over, and the next event arrives."""
    plain.socket.send_multipart(frames)
    plain.say(1)

    assert plain.hear().sequence == 1
    assert plain.subscriber.malformed == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"specversion": 1},
        {"dataschema": None},
        {"data": None},
        {"data": []},
        {"data": {"camera": "lobby"}},
        {"data": {"camera": 1, "reason": "timeout"}},
        {"epoch": 1},
        {"time": None},
        {"subject": 17},
    ],
)
def test_a_wrong_event_is_counted_and_survived(plain: Plain, changes: dict[str, Any]) -> None:
    """An event with a wrong or missing field is malformed, not an error."""
    plain.say(1, **changes)
    plain.say(2)

    assert plain.hear().sequence == 2
    assert plain.subscriber.malformed == 1


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(st.binary(max_size=200), max_size=4))
def test_any_message_is_an_event_or_counted(frames: list[bytes]) -> None:
    """No bytes make decoding fail in any other way."""
    with Subscriber(connect="tcp://127.0.0.1:1") as subscriber:
        assert subscriber._decode(frames) is None
        assert subscriber.malformed == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


def test_a_sequence_that_is_no_number_is_malformed(plain: Plain) -> None:
    """Text, null, fractions and a missing sequence are counted, each once."""
    body = {
        "specversion": "1.0",
        "id": "1",
        "source": "/daemon",
        "type": "x.y",
        "dataschema": "urn:x",
        "time": "t",
        "epoch": "e",
        "data": {},
    }
    wrongs: tuple[dict[str, Any], ...] = ({"sequence": "1"}, {"sequence": None}, {"sequence": 1.5})
    for wrong in (*wrongs, {}):
        plain.socket.send_multipart([b"x.y/", json.dumps(body | wrong).encode()])
    plain.say(1)

    assert plain.hear().sequence == 1
    assert plain.subscriber.malformed == 4


@settings(max_examples=300, deadline=None)
@given(data=JSON, sequence=JSON, extra=JSON)
def test_any_json_in_an_envelope_is_an_event_or_counted(
    data: object, sequence: object, extra: object
) -> None:
    """Whatever stands in the fields, the message is read or counted."""
    body = {
        "specversion": "1.0",
        "id": "1",
        "source": "/daemon",
        "type": "x.y",
        "dataschema": "urn:x",
        "time": "t",
        "sequence": sequence,
        "epoch": "e",
        "data": data,
        "extra": extra,
    }
    with Subscriber(connect="tcp://127.0.0.1:1") as subscriber:
        received = subscriber._decode([b"x.y/", json.dumps(body).encode()])
        assert (received is None) == (subscriber.malformed == 1)


def test_without_a_publisher_it_waits_as_long_as_told() -> None:
    """Waiting for a connection, an event or a snapshot ends in time, each in its way."""
    with Subscriber(connect="tcp://127.0.0.1:1", snapshot="tcp://127.0.0.1:1") as subscriber:
        before = time.monotonic()
        assert not subscriber.wait_connected(0.1)
        assert subscriber.receive(0.1) is None
        assert subscriber.receive(0) is None
        with pytest.raises(StreamerError, match=r"^no snapshot from \S+ within 0\.1 s"):
            subscriber.snapshot(0.1)
        assert 0.29 < time.monotonic() - before < 10


def test_a_wrong_snapshot_is_an_error() -> None:
    """Whatever answers at the snapshot's address is named when it gives no snapshot."""
    with zmq.Context() as context, context.socket(zmq.REP) as other:
        other.linger = 0
        other.bind("tcp://127.0.0.1:0")
        address = other.getsockopt_string(zmq.LAST_ENDPOINT)
        for reply in (b"", b"\xff", b'{"error":"unknown request"}', b"[" * 10_000):

            def answer(reply: bytes = reply) -> None:
                assert other.recv() == b"snapshot"
                other.send(reply)

            answering = threading.Thread(target=answer)
            answering.start()
            with (
                Subscriber(connect="tcp://127.0.0.1:1", snapshot=address) as subscriber,
                pytest.raises(StreamerError, match=f"{address}: not a snapshot"),
            ):
                subscriber.snapshot(10)
            answering.join()


def test_wrong_addresses_are_refused_and_closing_twice_is_fine() -> None:
    """Mistakes show at once, and a closed subscriber ends its iteration."""
    with pytest.raises(ConfigError, match=r"^connect: "):
        Subscriber(connect="127.0.0.1:5556")
    with pytest.raises(ConfigError, match=r"^snapshot: "):
        Subscriber(snapshot="tcp://127.0.0.1:70000")
    subscriber = Subscriber(snapshot=None)
    with pytest.raises(ConfigError, match="no address"):
        subscriber.snapshot()
    subscriber.close()
    subscriber.close()
    assert list(subscriber) == []


def test_iterating_gives_event_after_event(plain: Plain) -> None:
    """The loop of the module's example runs, and ends with the subscriber's close."""
    for sequence in (1, 2, 3):
        plain.say(sequence)

    got = []
    for received in plain.subscriber:
        got.append(received.sequence)
        if received.sequence == 3:
            plain.subscriber.close()

    assert got == [1, 2, 3]
