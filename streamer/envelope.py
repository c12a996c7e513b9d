"""The CloudEvents envelope: gives an event its topic, its numbers and, when it is sent, its times.

Nothing here knows about sockets, threads or clocks, so a file of events is written the same way.

Source: CloudEvents 1.0.2, JSON event format, structured mode.
"""

from __future__ import annotations

import uuid
from typing import Generic, TypeVar

import msgspec

from streamer.events import Event, EventData, Sighting, rfc3339

__all__ = [
    "DAEMON_SOURCE",
    "SPECVERSION",
    "Envelope",
    "Numbered",
    "Numbering",
    "data_schema",
    "new_epoch",
    "source_of",
    "topic_of",
]

SPECVERSION = "1.0"
DAEMON_SOURCE = "/daemon"

DataT = TypeVar("DataT")


class Envelope(msgspec.Struct, Generic[DataT], frozen=True, kw_only=True, gc=False):
    """A CloudEvents 1.0 object; ``sequence`` and ``epoch`` are extension attributes.

    Attributes:
        id: unique with ``source``, over restarts too.
        source: ``/cameras/<camera>`` or ``/daemon``.
        type: a name of ``DATA_TYPES``, or a newer one.
        dataschema: names the schema of ``data``.
        subject: ``tracks/<number>`` where the event is about a track, else left out.
        time: when it was sent, RFC 3339 UTC with microseconds.
        sequence: counts up by one for each topic, from 1.
        epoch: names the run of the publisher; the sequences start again with a new one.
        data: the typed data.
    """

    specversion: str
    id: str
    source: str
    type: str
    dataschema: str
    subject: str | msgspec.UnsetType = msgspec.UNSET
    time: str
    sequence: int
    epoch: str
    data: DataT


_ENCODER = msgspec.json.Encoder()


class Numbered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that has its place in its topic and can be sent.

    Attributes:
        event: what was handed over.
        epoch: the run it belongs to.
        topic: first frame of the message.
        source: of the envelope.
        sequence: its number within the topic.
    """

    event: Event
    epoch: str
    topic: str
    source: str
    sequence: int

    def encode(self, *, time_ns: int, monotonic_ns: int) -> bytes:
        """Complete the envelope and encode it as JSON.

        Args:
            time_ns: wall-clock time of sending, nanoseconds since the epoch of Unix.
            monotonic_ns: the same moment on the clock of ``captured_monotonic_ns``.
        """
        data = self.event.data
        return _ENCODER.encode(
            Envelope(
                specversion=SPECVERSION,
                id=f"{self.epoch}-{self.topic}{self.sequence}",
                source=self.source,
                type=data.TYPE,
                dataschema=data_schema(data.TYPE),
                subject=data.subject or msgspec.UNSET,
                time=rfc3339(time_ns),
                sequence=self.sequence,
                epoch=self.epoch,
                data=self.completed(monotonic_ns),
            )
        )

    def latency_s(self, monotonic_ns: int) -> float | None:
        """Seconds from capture to ``monotonic_ns``; None for an event that comes from no frame."""
        captured_ns = self.event.captured_monotonic_ns
        return None if captured_ns is None else (monotonic_ns - captured_ns) / 1e9

    def completed(self, monotonic_ns: int) -> EventData:
        """Return the data as sent at ``monotonic_ns``: with the latency, where it has one."""
        data = self.event.data
        latency_s = self.latency_s(monotonic_ns)
        if latency_s is None or not isinstance(data, Sighting):
            return data
        return msgspec.structs.replace(data, latency_ms=round(latency_s * 1e3, 3))


class _Topic(msgspec.Struct, kw_only=True):
    name: str
    source: str
    sequence: int = 0


class Numbering:
    """Counts events up by one for each topic; its memory is bounded by cameras times types.

    Not thread-safe: the caller numbers and queues under one lock, so that a topic's events leave
    in the order of their numbers.

    Args:
        epoch: the name of this run; a new one unless given.
    """

    def __init__(self, epoch: str | None = None) -> None:
        self.epoch = new_epoch() if epoch is None else epoch
        self._topics: dict[tuple[str, str | None], _Topic] = {}

    def number(self, event: Event) -> Numbered:
        """Give an event the next number of its topic."""
        topic = self._topic(event.data.TYPE, event.camera)
        topic.sequence += 1
        return Numbered(
            event=event,
            epoch=self.epoch,
            topic=topic.name,
            source=topic.source,
            sequence=topic.sequence,
        )

    def skip(self, type_name: str, camera: str | None, count: int) -> None:
        """Leave numbers out for events that were lost on the way here, so that the hole shows."""
        self._topic(type_name, camera).sequence += count

    def sequences(self) -> dict[str, int]:
        """Return the last number given in each topic."""
        return {topic.name: topic.sequence for topic in self._topics.values()}

    def _topic(self, type_name: str, camera: str | None) -> _Topic:
        topic = self._topics.get((type_name, camera))
        if topic is None:
            topic = _Topic(name=topic_of(type_name, camera), source=source_of(camera))
            self._topics[type_name, camera] = topic
        return topic


def topic_of(type_name: str, camera: str | None) -> str:
    """Return the first frame of an event's message, which subscriptions match by prefix.

    It ends with a slash, so that a subscription to ``emotion.sample/lobby/`` does not also get
    ``lobby2``.
    """
    return f"{type_name}/" if camera is None else f"{type_name}/{camera}/"


def source_of(camera: str | None) -> str:
    """Return the ``source`` of an event about a camera, or about the daemon itself."""
    return DAEMON_SOURCE if camera is None else f"/cameras/{camera}"


def data_schema(type_name: str) -> str:
    """Return the URI that names the schema of a type's data; ``schema/event.v1.json`` has it."""
    return f"urn:emotion-streamer:{type_name}/v1"


def new_epoch() -> str:
    """Return a name for a run that no other run has."""
    return uuid.uuid4().hex
