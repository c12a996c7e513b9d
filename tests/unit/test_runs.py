"""Whose run it is: what follows events tells a daemon that was restarted from one of a fleet."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from streamer.board import Board
from streamer.bridge.cameras import Cameras
from streamer.envelope import Numbering
from streamer.errors import SourceReason
from streamer.events import (
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    DaemonStopping,
    EmotionSample,
    Event,
    EventData,
    FaceAppeared,
    FaceLost,
)
from streamer.fleet.ledger import Ledger
from streamer.outbox import Outbox
from streamer.relay import Tally
from tests.publish_fixtures import event
from tests.relay_fixtures import received

if TYPE_CHECKING:
    from streamer.envelope import Numbered
    from streamer.snapshot import Snapshot


@dataclass(slots=True)
class Followers:
    """All that follow events, as a bridge, a table and a recorder have them.

    Attributes:
        asked: of the events taken, those after which the bridge wants a snapshot.
    """

    cameras: Cameras = field(default_factory=Cameras)
    board: Board = field(default_factory=Board)
    tally: Tally = field(default_factory=lambda: Tally(time))
    asked: list[str] = field(default_factory=list)

    def load(self, snapshot: Snapshot) -> None:
        """Begin with a snapshot."""
        self.cameras.load(snapshot)
        self.board.start_from(snapshot, 0.0)

    def take(self, numbered: Numbered) -> None:
        """Hear an event; table and bridge want a snapshot for the same ones."""
        heard = received(numbered)
        self.tally.count(heard)
        unsure = self.cameras.apply(heard)
        assert self.board.take(heard, 0.0) is unsure
        if unsure:
            self.asked.append(heard.type)

    def seen(self) -> dict[str, tuple[bool | None, int]]:
        """Return whether each camera is online and how many faces it has; both agree on it."""
        rows = {
            row.camera: (row.online, sum(f.lost is None for f in self.board.faces(row.camera)))
            for row in self.board.cameras
        }
        states = {name: self.cameras.state(name) for name in self.cameras.names}
        told = {name: (state["online"], state["faces"]) for name, state in states.items()}
        assert {name: (bool(online), faces) for name, (online, faces) in rows.items()} == told
        return rows


def started(*cameras: str) -> Event:
    """Return a daemon's start with some cameras."""
    return Event(data=msgspec.structs.replace(event(DaemonStarted).data, cameras=cameras))


class Fleet:
    """Two daemons behind a ledger, as the switchboard has them, and a subscriber."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.own = Numbering("fleet")
        self.daemons = {name: Numbering(name) for name in "ab"}
        self.followers = Followers()
        self.names = frozenset({"lobby", "yard", "gate"})
        self.route({"lobby": "a", "yard": "a", "gate": "b"})

    def route(self, owners: dict[str, str]) -> None:
        """Share the cameras out."""
        self.ledger.route(owners, self.names, frozenset(self.daemons))

    def load(self) -> None:
        """Have the followers ask for the snapshot."""
        outbox = Outbox(limit=1, wake=lambda: None)
        cameras, tracks = self.ledger.copy(monotonic_ns=0)
        self.followers.load(
            msgspec.structs.replace(
                outbox.snapshot(time_ns=0, monotonic_ns=0),
                epoch=self.own.epoch,
                sequences=self.own.sequences(),
                daemon=self.ledger.daemon,
                cameras=cameras,
                tracks=tracks,
                epochs=self.ledger.runs,
            )
        )

    def say(self, said: Event) -> None:
        """Send an event of the fleet's own."""
        numbered = self.own.number(said)
        self.ledger.say(numbered)
        self.followers.take(numbered)

    def send(self, node: str, kind: type[EventData] | Event, camera: str = "lobby") -> None:
        """Send an event of a daemon."""
        numbered = self.daemons[node].number(
            kind if isinstance(kind, Event) else event(kind, camera)
        )
        assert self.ledger.may(node, numbered.event)
        self.ledger.sent(numbered)
        self.followers.take(numbered)


def test_the_daemons_of_a_fleet_are_no_restarts_of_one_another() -> None:
    """Events of two daemons in turn leave every camera as it was, with and without a snapshot."""
    for late in (False, True):
        fleet = Fleet()
        fleet.say(started("gate", "lobby", "yard"))
        if not late:
            fleet.load()
        fleet.send("a", started("lobby", "yard"))
        fleet.send("b", started("gate"))
        for node, camera in (("a", "lobby"), ("b", "gate"), ("a", "yard")):
            fleet.send(node, CameraOnline, camera)
            fleet.send(node, FaceAppeared, camera)
        if late:
            fleet.load()
        for _ in range(3):
            for node, camera in (("a", "lobby"), ("b", "gate"), ("a", "yard")):
                fleet.send(node, EmotionSample, camera)

        assert fleet.followers.seen() == dict.fromkeys(("gate", "lobby", "yard"), (True, 1))
        assert fleet.followers.tally.restarts == 0
        assert not fleet.followers.cameras.gone


def test_the_start_and_the_end_of_a_fleets_daemon_are_not_the_fleets() -> None:
    """They ask for the snapshot, which has every camera; the fleet's own daemon.started stays."""
    fleet = Fleet()
    fleet.say(started("gate", "lobby", "yard"))
    fleet.load()
    fleet.send("a", CameraOnline)
    fleet.send("b", started("gate"))
    fleet.send("b", DaemonStopping)

    followers = fleet.followers
    assert followers.asked == ["daemon.started", "daemon.stopping"]
    fleet.load()
    assert followers.seen() == {"gate": (None, 0), "lobby": (True, 0), "yard": (None, 0)}
    assert not followers.cameras.gone
    assert followers.board.stopping == ""
    assert followers.board.daemon == started("gate", "lobby", "yard").data


def test_a_takeover_begins_that_camera_anew_and_no_other() -> None:
    """Faces of the lost node are gone; the other camera of the new owner keeps its face."""
    fleet = Fleet()
    fleet.say(started("gate", "lobby", "yard"))
    for node, camera in (("a", "lobby"), ("b", "gate")):
        fleet.send(node, CameraOnline, camera)
        fleet.send(node, FaceAppeared, camera)
    fleet.load()
    lost = CameraOffline(camera="lobby", reason=SourceReason.NODE_LOST.value)
    fleet.route({"lobby": "b", "yard": "b", "gate": "b"})
    fleet.say(Event(data=lost))
    assert fleet.followers.seen()["lobby"] == (False, 0)
    fleet.send("b", CameraOnline)

    assert fleet.followers.seen() == {"gate": (True, 1), "lobby": (True, 0), "yard": (None, 0)}
    assert fleet.followers.asked == []
    assert fleet.followers.tally.restarts == 0


def test_a_fleets_daemon_that_was_restarted_begins_its_cameras_anew() -> None:
    """A new run that calls them online without an offline: nobody ended their faces."""
    fleet = Fleet()
    for node, camera in (("a", "lobby"), ("a", "yard"), ("b", "gate")):
        fleet.send(node, CameraOnline, camera)
        fleet.send(node, FaceAppeared, camera)
    fleet.load()
    fleet.daemons["a"] = Numbering("a2")
    fleet.send("a", CameraOnline, "lobby")
    assert fleet.followers.asked == []
    fleet.send("a", FaceAppeared, "yard")  # its camera.online was missed

    assert fleet.followers.asked == ["face.appeared"]
    assert fleet.followers.board.faces("lobby") == []
    assert len(fleet.followers.board.faces("gate")) == 1
    assert fleet.followers.tally.restarts == 1  # one, whichever of its cameras speak


def test_a_camera_that_stops_may_be_gone_and_the_snapshot_knows() -> None:
    """Moved, it stays; removed, it leaves, and its last words do not bring it back."""
    stops = Event(data=CameraOffline(camera="lobby", reason=SourceReason.STOPPED.value))
    fleet = Fleet()
    fleet.say(started("gate", "lobby", "yard"))
    fleet.load()
    fleet.send("a", CameraOnline)
    fleet.route({"lobby": "b", "yard": "a", "gate": "b"})
    fleet.send("a", stops)
    assert fleet.followers.asked == ["camera.offline"]
    fleet.load()
    fleet.send("b", CameraOnline)
    assert fleet.followers.seen()["lobby"] == (True, 0)

    fleet.names -= {"lobby"}
    fleet.route({"yard": "a", "gate": "b"})
    fleet.load()
    fleet.send("b", stops)
    assert fleet.followers.seen() == {"gate": (None, 0), "yard": (None, 0)}
    assert fleet.followers.cameras.gone == {"lobby"}
    assert fleet.followers.asked == ["camera.offline"]


def test_a_daemon_that_was_restarted_is_seen() -> None:
    """Of one daemon: killed and started with another camera, it is one restart, and all is new."""
    followers = Followers()
    for run in ("first", "second"):
        box = Outbox(limit=100, wake=lambda: None)
        box._numbering.epoch = run
        kept = "lobby" if run == "first" else "yard"
        box.put(started("gate", kept))
        if run == "first":
            followers.load(box.snapshot(time_ns=0, monotonic_ns=0))
        for camera in ("gate", kept):
            box.put(event(CameraOnline, camera), event(FaceAppeared, camera, 1))
        box.put(event(FaceLost, "gate", 1), event(FaceAppeared, "gate", 2))
        for numbered in box.take():
            followers.take(numbered)
        if run == "first":
            assert followers.seen()["lobby"] == (True, 1)
            followers.asked.clear()

    assert followers.asked == ["daemon.started"]
    assert followers.tally.restarts == 1
    followers.load(box.snapshot(time_ns=0, monotonic_ns=0))
    assert followers.seen() == {"gate": (True, 1), "yard": (True, 1)}
    assert followers.cameras.gone == {"lobby"}
    assert followers.board.epoch == "second"
