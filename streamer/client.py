"""The subscriber's library: typed events, gaps made visible, and the snapshot to start from.

    with Subscriber(topics=("emotion.changed/",)) as subscriber:
        for event in subscriber:
            print(event.data, event.gap)

It needs pyzmq and msgspec alone. It reads newer publishers too: fields it does not know are passed
over, and types it does not know come as plain dictionaries.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from streamer.address import check_address
from streamer.envelope import Envelope, data_schema
from streamer.errors import ConfigError, StreamerError
from streamer.events import DATA_TYPES, EventData
from streamer.snapshot import Snapshot
from streamer.sockets import HANDSHAKE_FAILED, Monitor, subscribing_socket
from streamer.sockets import connect as open_connection

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from streamer.keys import KeyPair

__all__ = ["Gap", "Received", "Subscriber"]

_HIGH_WATER_MARK = 10_000  # as many as the publisher keeps: about 25 s of 400 samples a second
_EVENT_LIMIT = 1 << 20  # bytes; an event has under 1 kB
_SNAPSHOT_LIMIT = 1 << 26  # bytes; 100,000 tracks
_RUNS = 8
"""Runs of which a topic's last number is kept: several daemons may have had it, one by one."""
_MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | HANDSHAKE_FAILED

_ENVELOPE = msgspec.json.Decoder(Envelope[msgspec.Raw])
_DATA = {data_schema(name): msgspec.json.Decoder(data) for name, data in DATA_TYPES.items()}
_ANY_DATA = msgspec.json.Decoder(dict[str, Any])
_SNAPSHOT = msgspec.json.Decoder(Snapshot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Events of one topic that were sent and did not arrive.

    Attributes:
        topic: the topic.
        missing: how many, between the event before and the one that carries the gap.
        epoch_changed: the publisher was started anew in between, or another one took over;
            ``missing`` then counts what that run sent before and was not received from it, and how
            much the old one still sent is not known.
    """

    topic: str
    missing: int
    epoch_changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One event; the attributes are those of ``streamer.envelope.Envelope``, and these.

    Attributes:
        topic: first frame of the message.
        data: the struct of its type, or a dictionary for a type this version does not know.
        gap: what was missed of this topic just before; None in the ordinary case.
        raw: the JSON as it came.
    """

    topic: str
    id: str
    source: str
    type: str
    subject: str | None
    time: str
    sequence: int
    epoch: str
    data: EventData | dict[str, Any]
    gap: Gap | None
    raw: bytes = field(repr=False)


class Subscriber:
    """Subscribes to a publisher and iterates over what it sends; for use by one thread.

    It connects in the background, again and again, so that it may be started before the publisher.

    Args:
        connect: address of the stream.
        topics: prefixes of the topics wanted; an empty one stands for all.
        snapshot: address of the snapshot; None where it is not needed.
        server_key: the publisher's public key in Z85, where it uses keys; see ``streamer.keys``.
        keys: this client's key pair; needed with ``server_key``.

    Attributes:
        malformed: messages passed over because they were no events.
        missed: events missed so far, the sum over all gaps.

    Raises:
        ConfigError: if an address, a topic or the combination of keys makes no sense.
    """

    def __init__(
        self,
        *,
        connect: str = "tcp://127.0.0.1:5556",
        topics: Sequence[str] = ("",),
        snapshot: str | None = "tcp://127.0.0.1:5557",
        server_key: bytes | None = None,
        keys: KeyPair | None = None,
    ) -> None:
        if (server_key is None) != (keys is None):
            raise ConfigError("a server's key and a client's key pair go together; give both")
        check_address(connect, key="connect")
        if snapshot is not None:
            check_address(snapshot, key="snapshot")
        prefixes = [_encoded(topic) for topic in topics]
        self.address = connect
        self.malformed = 0
        self.missed = 0
        self._snapshot_address = snapshot
        self._server_key = server_key
        self._keys = keys
        self._connected = False
        self._refused = False
        self._last: dict[
            str, dict[str, int]
        ] = {}  # by topic and run, the run heard last at the end
        self._snapshot_epochs: set[str] = set()
        self._context = zmq.Context()
        self._stream = subscribing_socket(
            self._context,
            zmq.SUB,
            high_water_mark=_HIGH_WATER_MARK,
            incoming_limit=_EVENT_LIMIT,
            server_key=server_key,
            keys=keys,
        )
        self._monitor = Monitor(self._stream, _MONITORED)
        for prefix in prefixes:
            self._stream.setsockopt(zmq.SUBSCRIBE, prefix)
        open_connection(self._stream, connect)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Received]:
        """Yield events for ever, until ``close``."""
        while not self._stream.closed:
            event = self.receive(1.0)  # short, so that Ctrl-C is heard everywhere
            if event is not None:
                yield event

    @property
    def connected(self) -> bool:
        """Whether a publisher is at the other end now."""
        self._watch()
        return self._connected

    @property
    def refused(self) -> bool:
        """Whether the last attempt to connect was refused: a key is wrong, or missing."""
        self._watch()
        return self._refused

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait for a publisher; False if none was there in time.

        Raises:
            StreamerError: if the publisher refuses this client's key, or speaks without keys.
        """
        deadline = time.monotonic() + timeout_s
        while not self.connected:
            if self.refused:
                raise StreamerError(
                    f"{self.address} refuses the connection; check the server's key, and whether "
                    "this client's public key is in the publisher's publish.authorized_keys"
                )
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._monitor.socket.poll(_milliseconds(left_s))
        return True

    def receive(self, timeout_s: float) -> Received | None:
        """Return the next event, or None if none came within ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            if not self._stream.poll(_milliseconds(left_s)):
                return None
            event = self._decode(self._stream.recv_multipart(zmq.NOBLOCK))
            if event is not None or left_s <= 0:  # a flood of nonsense does not hold anyone up
                return event

    def snapshot(self, timeout_s: float = 5.0) -> Snapshot:
        """Ask for the last state of every camera and track, to start from.

        Events that the snapshot already contains are passed over from now on, so that snapshot and
        stream fit together: what comes next is what happened next, or it carries a gap. Best asked
        for when ``wait_connected`` says yes, and again after a gap.

        Raises:
            StreamerError: if no valid answer came in time.
            ConfigError: if no snapshot address was given.
        """
        if self._snapshot_address is None:
            raise ConfigError("snapshot: no address was given to this subscriber")
        request = subscribing_socket(
            self._context,
            zmq.REQ,
            high_water_mark=1,
            incoming_limit=_SNAPSHOT_LIMIT,
            server_key=self._server_key,
            keys=self._keys,
        )
        with request:
            open_connection(request, self._snapshot_address)
            request.send(b"snapshot")
            if not request.poll(_milliseconds(timeout_s)):
                raise StreamerError(
                    f"no snapshot from {self._snapshot_address} within {timeout_s:g} s; is the "
                    "daemon running there, and are the keys right?"
                )
            reply = request.recv()
        try:
            snapshot = _SNAPSHOT.decode(reply)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StreamerError(f"{self._snapshot_address}: not a snapshot: {error}") from None
        self._snapshot_epochs = {snapshot.epoch}
        for topic, sequence in snapshot.sequences.items():
            self._last[topic] = {snapshot.epoch: sequence}
        for topic, runs in snapshot.epochs.items():
            self._snapshot_epochs.update(runs)
            own = {snapshot.epoch: snapshot.sequences.get(topic, 0)}
            self._last[topic] = {**(own if own[snapshot.epoch] else {}), **runs}
        return snapshot

    def close(self) -> None:
        """Close the connection; may be called twice."""
        if self._stream.closed:
            return
        self._monitor.close()
        self._stream.close(linger=0)
        self._context.term()

    def _watch(self) -> None:
        if self._stream.closed:
            return
        for event, _value in self._monitor.events():
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self._connected:
                self._refused = False
            elif event in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
                self._refused = True

    def _decode(self, frames: list[bytes]) -> Received | None:
        """Decode a message; None for one that is malformed or that a snapshot contains already."""
        try:
            topic_frame, raw = frames
            topic = topic_frame.decode()
            envelope = _ENVELOPE.decode(raw)
            data = _DATA.get(envelope.dataschema, _ANY_DATA).decode(envelope.data)
        except (ValueError, RecursionError):  # DecodeError and UnicodeDecodeError are ValueErrors
            self.malformed += 1
            return None
        runs = self._last.setdefault(topic, {})
        seen = runs.get(envelope.epoch)
        if seen is not None and seen >= envelope.sequence:
            return None
        gap = self._gap(topic, runs, envelope.epoch, envelope.sequence)
        runs.pop(envelope.epoch, None)
        runs[envelope.epoch] = envelope.sequence
        if len(runs) > _RUNS:
            del runs[next(iter(runs))]
        return Received(
            topic=topic,
            id=envelope.id,
            source=envelope.source,
            type=envelope.type,
            subject=None if envelope.subject is msgspec.UNSET else envelope.subject,
            time=envelope.time,
            sequence=envelope.sequence,
            epoch=envelope.epoch,
            data=data,
            gap=gap,
            raw=raw,
        )

    def _gap(self, topic: str, runs: dict[str, int], epoch: str, sequence: int) -> Gap | None:
        if not runs and epoch not in self._snapshot_epochs:
            return None  # the first of its topic: where it began is not known
        # a topic that the snapshot did not have began after it, with 1, as does one of a new run;
        # a camera that is back with a run that has had it before goes on with that run's numbers
        missing = max(0, sequence - runs.get(epoch, 0) - 1)
        changed = bool(runs) and next(reversed(runs)) != epoch
        if not missing and not changed:
            return None
        self.missed += missing
        return Gap(topic=topic, missing=missing, epoch_changed=changed)


def _encoded(topic: str) -> bytes:
    try:
        return topic.encode()
    except UnicodeEncodeError:  # bytes of a command line that are no UTF-8
        raise ConfigError(f"topic: {topic!r} is not UTF-8, which topics are") from None


def _milliseconds(duration_s: float) -> int:
    return max(0, round(duration_s * 1e3))
