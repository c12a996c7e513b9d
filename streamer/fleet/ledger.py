"""What has gone out to subscribers: whose turn it is to speak for a camera, and what was said last.

Pure: no socket and no thread is in here. Nodes are other machines, so nothing that they say is
taken for granted: an event is on its own topic, and a number is one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

from streamer.envelope import Envelope, Numbered, data_schema, source_of, topic_of
from streamer.events import (
    DATA_TYPES,
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    Event,
    EventData,
    Sighting,
)
from streamer.snapshot import CameraState, LastState, Snapshot, TrackState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Ledger", "read_event", "read_snapshot"]

_RUNS: Final = 8
"""Runs of a topic that are remembered, as in ``streamer.client``."""
_LATEST_MS: Final = 1e9  # eleven days: no honest reading is that old when it is sent

_ENVELOPE: Final = msgspec.json.Decoder(Envelope[msgspec.Raw])
_DATA: Final = {data_schema(name): msgspec.json.Decoder(data) for name, data in DATA_TYPES.items()}
_SNAPSHOT: Final = msgspec.json.Decoder(Snapshot)


class Ledger:
    """Who may speak for which camera, how far each run is, and the last state; for one thread."""

    def __init__(self) -> None:
        self._owners: Mapping[str, str] = {}
        self._cameras: frozenset[str] = frozenset()
        self._former: dict[str, str] = {}
        self._nodes = 0
        self._runs: dict[str, dict[str, int]] = {}
        self._state = LastState()

    def route(
        self, owners: Mapping[str, str], cameras: frozenset[str], nodes: frozenset[str]
    ) -> set[str]:
        """Take who has which camera from now on; return the nodes that have one more.

        Args:
            owners: the node of each camera.
            cameras: all that are to run; any other is forgotten.
            nodes: those that can be heard.
        """
        for camera, node in self._owners.items():
            if owners.get(camera) != node:
                self._former[camera] = node  # its last words may still be on their way
        self._former = {c: node for c, node in self._former.items() if node in nodes}
        gaining = {node for camera, node in owners.items() if self._owners.get(camera) != node}
        self._state.configure(sorted(cameras))
        if gone := self._cameras - cameras:
            self._runs = {topic: r for topic, r in self._runs.items() if _camera(topic) not in gone}
        self._owners, self._cameras, self._nodes = owners, cameras, len(nodes)
        return gaining

    def may(self, node: str, event: Event) -> bool:
        """Whether this is a node's to say; a former owner's last word is ``camera.offline``."""
        camera = event.camera
        if camera is None:
            return True
        if self._owners.get(camera) == node:
            self._former.pop(camera, None)
            return True
        if self._former.get(camera) != node:
            return False
        if camera not in self._cameras and isinstance(event.data, CameraOffline):
            del self._former[camera]
        return True

    def sent(self, told: Numbered) -> None:
        """Take note of an event that went out."""
        if self._runs_here(told.event.camera):
            self._count(told.topic, told.epoch, told.sequence)
            self._keep(told)

    def say(self, told: Numbered) -> None:
        """Take note of an event of the fleet's own, whose numbers are kept elsewhere."""
        if self._runs_here(told.event.camera):
            self._state.apply(told)

    def unheard(self, node: str, snapshot: Snapshot) -> list[Numbered]:
        """Return what a node's snapshot tells of and nobody has sent, with the numbers it had.

        A daemon opens its cameras as soon as it is up, at times before the connection to it is: its
        subscribers would get readings of a camera that nobody called online.
        """
        mine = self._mine(node)
        return [
            told
            for told in _states(snapshot, mine)
            if self._runs.get(told.topic, {}).get(told.epoch, 0) < told.sequence
        ]

    def seed(
        self, node: str, snapshot: Snapshot, since: list[Numbered], *, monotonic_ns: int
    ) -> None:
        """Take over what a node's snapshot says of its cameras.

        Args:
            node: whose it is.
            snapshot: what it answered.
            since: its events that went out since it was asked, oldest first.
            monotonic_ns: when it answered; the ages of samples are taken from here.
        """
        mine = self._mine(node)
        self._state.seed(snapshot, mine, monotonic_ns=monotonic_ns)
        for topic, sequence in snapshot.sequences.items():
            camera = _camera(topic)
            known = self._runs.get(topic, {}).get(snapshot.epoch, 0)
            if (camera in mine or camera == "") and known < sequence:
                self._count(topic, snapshot.epoch, sequence)
        for told in since:
            if told.sequence > snapshot.sequences.get(told.topic, 0):
                self._keep(told)

    @property
    def runs(self) -> dict[str, dict[str, int]]:
        """The last number of each run, by topic."""
        return self._runs

    def copy(self, *, monotonic_ns: int) -> tuple[list[CameraState], list[TrackState]]:
        """Return the cameras and the tracks as of now; see ``LastState.copy``."""
        return self._state.copy(monotonic_ns=monotonic_ns)

    @property
    def daemon(self) -> DaemonStarted | None:
        """What the fleet's own ``daemon.started`` said."""
        return self._state.daemon

    def _keep(self, told: Numbered) -> None:
        """Keep what a node's event says; its daemon's start tells of that one's share alone."""
        if self._runs_here(told.event.camera) and not isinstance(told.event.data, DaemonStarted):
            self._state.apply(told)

    def _mine(self, node: str) -> set[str]:
        return {camera for camera, owner in self._owners.items() if owner == node}

    def _runs_here(self, camera: str | None) -> bool:
        """Whether it is one that is to run: the last words of any other do not bring it back."""
        return camera is None or camera in self._cameras

    def _count(self, topic: str, epoch: str, sequence: int) -> None:
        """Remember how far a run of a topic is; the oldest runs are forgotten."""
        runs = self._runs.setdefault(topic, {})
        runs.pop(epoch, None)
        runs[epoch] = sequence
        most = _RUNS if _camera(topic) else _RUNS + self._nodes  # every daemon has that topic
        if len(runs) > most:
            del runs[next(iter(runs))]


def read_event(frames: list[bytes], now_ns: int) -> Numbered | None:
    """Return what a daemon's message says; None if it is none of ours.

    Args:
        frames: topic and JSON.
        now_ns: on the monotonic clock; samples are as old as they were when they were sent.
    """
    try:
        topic, raw = frames
        envelope = _ENVELOPE.decode(raw)
        data = _DATA[envelope.dataschema].decode(envelope.data)
    except (ValueError, KeyError, RecursionError):
        return None
    captured_ns = None
    if isinstance(data, Sighting):
        if not _honest(data):
            return None
        captured_ns = now_ns - round(1e6 * data.latency_ms)
    event = Event(data=data, captured_monotonic_ns=captured_ns)
    own = topic_of(data.TYPE, event.camera).encode(), source_of(event.camera)
    if (topic, envelope.source) != own or envelope.sequence < 1:
        return None
    return Numbered(
        event=event,
        epoch=envelope.epoch,
        topic=topic.decode(),
        source=envelope.source,
        sequence=envelope.sequence,
    )


def read_snapshot(reply: bytes) -> Snapshot | None:
    """Return a daemon's answer; None if it is none of ours."""
    try:
        snapshot = _SNAPSHOT.decode(reply)
    except (ValueError, RecursionError):
        return None
    honest = all(track.sample is None or _honest(track.sample) for track in snapshot.tracks)
    return snapshot if honest else None


def _honest(sighting: Sighting) -> bool:
    return math.isfinite(sighting.latency_ms) and abs(sighting.latency_ms) < _LATEST_MS


def _camera(topic: str) -> str | None:
    """Return a topic's camera, "" for one that is about no camera, None for no topic of ours."""
    kind, _, rest = topic.partition("/")
    camera = rest.removesuffix("/")
    return camera if topic == topic_of(kind, camera or None) else None


def _states(snapshot: Snapshot, cameras: set[str]) -> Iterator[Numbered]:
    """Yield the events that a snapshot's states come from."""
    told: list[EventData] = [] if snapshot.daemon is None else [snapshot.daemon]
    for state in snapshot.cameras:
        if state.camera in cameras and state.online:
            told.append(
                CameraOnline(
                    camera=state.camera,
                    reason=state.reason,
                    width=state.width,
                    height=state.height,
                )
            )
        elif state.camera in cameras:
            told.append(
                CameraOffline(camera=state.camera, reason=state.reason, detail=state.detail)
            )
    for data in told:
        event = Event(data=data)
        topic = topic_of(data.TYPE, event.camera)
        yield Numbered(
            event=event,
            epoch=snapshot.epoch,
            topic=topic,
            source=source_of(event.camera),
            sequence=snapshot.sequences.get(topic, 0),
        )
