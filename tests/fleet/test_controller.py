"""Who runs which camera, decided step by step on a clock of the test's own."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.testing import CliRunner

from streamer import __version__
from streamer.cli import app
from streamer.config import Camera, Config
from streamer.errors import ConfigError, StreamerError
from streamer.fleet.controller import Controller
from streamer.fleet.link import About, Beat, Orders, Share, unpacked
from streamer.fleet.settings import Fleet, FleetConfig, Need
from streamer.fleet.state import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEASE_S = 6.0
CAMERAS = ("c1", "c2", "c3", "c4")


def config(*names: str, **needs: Need) -> FleetConfig:
    """Return a configuration with these cameras."""
    cameras = tuple(Camera(name=name, url=f"rtsp://host/{name}") for name in names)
    return FleetConfig(daemon=Config(cameras=cameras), fleet=Fleet(cameras=needs))


@dataclass
class Node:
    """A node as its agent reports it: does what it is told, one beat later."""

    name: str
    run: str = "1"
    version: str = __version__
    labels: dict[str, str] = field(default_factory=dict)
    number: int = 0
    answered: int = 0
    share: Share | None = None
    applied: int = 0
    holding: frozenset[str] = frozenset()
    slow: bool = False
    failures: int = 0
    capacity: float | None = None

    @property
    def about(self) -> About:
        """What it is."""
        return About(
            node=f"id-{self.name}",
            run=f"{self.name}{self.run}",
            name=self.name,
            host="host",
            version=self.version,
            labels=self.labels,
            gpu=False,
            capacity=self.capacity,
            events="tcp://127.0.0.1:1",
            snapshot="tcp://127.0.0.1:2",
            http="127.0.0.1:3",
        )

    def beat(self) -> Beat:
        """Return the next beat."""
        self.number += 1
        return Beat(
            about=self.about,
            number=self.number,
            answered=self.answered,
            daemon="starting" if self.slow else "running" if self.holding else "none",
            version=self.applied,
            holding=sorted(self.holding),
            failures=self.failures,
        )

    def obey(self, orders: Orders) -> None:
        """Take orders; ``finish`` does what they say."""
        self.answered = max(self.answered, orders.number)
        if orders.share is not None:
            self.share = unpacked(orders.share)

    def finish(self) -> None:
        """Be what it was told to be."""
        if self.share is not None:
            self.applied = self.share.version
            self.holding = frozenset(camera.name for camera in self.share.cameras)


@dataclass
class World:
    """A controller, its nodes and the time; no camera may ever be held twice."""

    controller: Controller
    saved: list[State]
    nodes: dict[str, Node] = field(default_factory=dict)
    now_s: float = 100.0

    @staticmethod
    def of(wanted: FleetConfig, state: State | None = None, now_s: float = 100.0) -> World:
        """Return a world with a controller alone."""
        saved: list[State] = []

        def save(state: State) -> None:  # as it is now, as a file has it
            saved.append(deepcopy(state))

        controller = Controller(wanted, state=state or State(), save=save, now_s=now_s)
        return World(controller, saved, now_s=now_s)

    def join(self, *names: str) -> None:
        """Let nodes come."""
        for name in names:
            self.nodes[name] = Node(name)

    def pass_s(self, seconds: float, *, silent: tuple[str, ...] = ()) -> None:
        """Let time pass, with a beat a second of every node that is not silent."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            beats = [(n, n.beat()) for name, n in self.nodes.items() if name not in silent]
            for node, beat in beats:
                self.controller.hear(node.name.encode(), beat, self.now_s)
            pushed = self.controller.plan(self.now_s)
            for node, beat in beats:
                node.obey(self.controller.answer(beat))
            for peer, orders in pushed:
                if peer.decode() not in silent:
                    self.nodes[peer.decode()].obey(orders)
            self.check()
            for name, node in self.nodes.items():
                if name not in silent:
                    node.finish()
            self.check()
            self.now_s += 1.0

    def check(self) -> None:
        """No camera is held by two nodes, nor can be: none is told what another may hold."""
        held = [camera for node in self.nodes.values() for camera in node.holding]
        assert len(held) == len(set(held)), {n.name: n.holding for n in self.nodes.values()}

    def places(self) -> dict[str, int]:
        """Return how many cameras each node holds."""
        return {name: len(node.holding) for name, node in self.nodes.items()}


def test_cameras_are_spread_once_the_nodes_are_there() -> None:
    """The first node does not get all of them, to give them away again."""
    world = World.of(config(*CAMERAS))
    world.controller.expect(2)
    world.join("a")
    world.pass_s(2)
    assert world.places() == {"a": 0}

    world.join("b")
    world.pass_s(3)

    assert world.places() == {"a": 2, "b": 2}
    assert world.controller.counts.moves == 0
    assert {one.state for one in world.controller.camera_states()} == {"running"}


def test_a_node_that_falls_silent_is_replaced_when_its_lease_is_over() -> None:
    """Not before: until then its daemon may run."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)
    dead = world.nodes["b"].holding

    world.pass_s(LEASE_S, silent=("b",))
    assert world.places()["a"] == 2

    world.nodes["b"].holding = frozenset()  # its agent has seen to it
    world.pass_s(3, silent=("b",))

    assert world.places() == {"a": 4, "b": 0}
    assert {camera for camera, _ in world.controller.take_lost()} == dead
    assert [seconds for _, seconds in world.controller.counts.takeovers] == [
        pytest.approx(LEASE_S + 3, abs=2)
    ] * 2


def test_a_moved_camera_is_given_when_it_is_gone_from_where_it_was() -> None:
    """A drained node that takes its time keeps the others waiting."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)
    slow = world.nodes["b"]

    world.controller.drain("b")
    for _ in range(5):  # it renews its lease and has done nothing yet
        beat = slow.beat()
        world.controller.hear(b"b", beat, world.now_s)
        world.controller.plan(world.now_s)
        slow.obey(world.controller.answer(beat))
        world.pass_s(1, silent=("b",))
    assert world.places() == {"a": 2, "b": 2}
    assert {one.state for one in world.controller.camera_states()} == {"running", "moving"}

    world.pass_s(3)

    assert world.places() == {"a": 4, "b": 0}
    assert world.controller.counts.losses == 0


def test_one_camera_goes_ahead_of_those_that_wait_for_the_daemon() -> None:
    """A daemon takes seconds to start; the others are read where they were until it runs."""
    world = World.of(config(*CAMERAS, *"xyzw"))
    world.controller.expect(1)
    world.join("a")
    world.pass_s(3)
    assert world.places() == {"a": 8}

    world.join("b")
    world.nodes["b"].slow = True
    world.pass_s(5)
    assert world.places() == {"a": 7, "b": 1}

    world.nodes["b"].slow = False
    world.pass_s(4)
    assert world.places() == {"a": 4, "b": 4}
    assert world.controller.counts.moves == 4


def test_a_new_run_of_an_agent_is_proof_that_the_old_one_has_ended() -> None:
    """It has the lock, so there is nothing to wait for."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)

    world.nodes["b"] = Node("b", run="2")
    world.pass_s(3)

    assert world.places() == {"a": 2, "b": 2}
    assert len(world.controller.take_lost()) == 2


def test_a_fleet_that_is_restarted_leaves_everything_where_it_is() -> None:
    """The nodes are known from the state, and are not taken for dead before they can answer."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)
    before = {name: node.holding for name, node in world.nodes.items()}
    world.controller.hand_over()
    world.pass_s(2)

    again = World.of(config(*CAMERAS), world.saved[-1], now_s=world.now_s + 20)
    again.nodes = world.nodes
    again.pass_s(1, silent=("a", "b"))
    again.pass_s(8)

    assert {name: node.holding for name, node in again.nodes.items()} == before
    assert again.controller.counts == msgspec.structs.replace(
        again.controller.counts, moves=0, losses=0, fenced=0
    )


def test_a_fleet_that_was_stopped_has_lost_nothing_when_it_is_back() -> None:
    """Its nodes are known, and are given nothing before they are heard of."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)
    world.controller.stop_all()
    world.pass_s(3)
    assert world.controller.idle

    again = World.of(config(*CAMERAS), world.saved[-1], now_s=world.now_s + 100)
    again.pass_s(2)
    again.nodes = {name: Node(name, run="2") for name in "ab"}
    again.pass_s(3)

    assert again.places() == {"a": 2, "b": 2}
    assert again.controller.take_lost() == []
    assert again.controller.counts.losses == 0


def test_after_a_restart_a_silent_node_is_waited_for_as_long_as_its_lease_may_run() -> None:
    """The last lease was a long one, for the restart."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)
    world.controller.hand_over()
    world.pass_s(2)

    again = World.of(config(*CAMERAS), world.saved[-1], now_s=world.now_s)
    again.nodes = world.nodes
    again.pass_s(29, silent=("b",))
    assert again.places()["a"] == 2
    again.nodes["b"].holding = frozenset()
    again.pass_s(5, silent=("b",))

    assert again.places() == {"a": 4, "b": 0}


def test_a_short_lease_counts_once_the_node_has_taken_it() -> None:
    """After a restart it is not the long one that has to run out, when the node has answered."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)
    world.controller.hand_over()
    world.pass_s(2)

    again = World.of(config(*CAMERAS), world.saved[-1], now_s=world.now_s)
    again.nodes = world.nodes
    again.pass_s(4)
    world.nodes["b"].holding = frozenset()
    again.pass_s(LEASE_S + 3, silent=("b",))

    assert again.places() == {"a": 4, "b": 0}


def test_a_crash_does_not_hide_the_leases_of_the_run_before_it() -> None:
    """A long lease, a run that crashes at once, and a third that must still wait for it."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)
    world.controller.hand_over()
    world.pass_s(2)
    crashed = World.of(config(*CAMERAS), world.saved[-1], now_s=world.now_s)
    crashed.nodes = world.nodes
    crashed.pass_s(2, silent=("b",))

    again = World.of(config(*CAMERAS), (world.saved + crashed.saved)[-1], now_s=crashed.now_s)
    again.nodes = world.nodes
    again.pass_s(20, silent=("b",))
    assert again.places()["a"] == 2


def test_a_long_lease_that_cannot_be_kept_is_not_granted() -> None:
    """The disk is full when the fleet is asked to stop for a while."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)

    def full(_state: State) -> None:
        raise StreamerError("no space")

    world.controller._save = full
    with pytest.raises(StreamerError):
        world.controller.hand_over()
    beat = world.nodes["b"].beat()
    world.controller.hear(b"b", beat, world.now_s)
    assert world.controller.answer(beat).lease_s == LEASE_S


def test_a_node_whose_daemon_keeps_ending_gets_its_chance_again() -> None:
    """After three ends nothing for five minutes, however often it says so; then as before."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)
    world.nodes["b"].failures = 3
    world.pass_s(100)
    assert world.places() == {"a": 4, "b": 0}
    world.pass_s(210)
    assert world.places() == {"a": 2, "b": 2}


@pytest.mark.parametrize("capacity", [float("inf"), float("nan"), -1.0])
def test_a_node_that_claims_nonsense_gets_nothing(capacity: float) -> None:
    """And the fleet goes on."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.nodes["b"].capacity = capacity
    world.pass_s(12)
    assert world.places() == {"a": 4, "b": 0}


def test_nothing_is_told_that_cannot_be_kept() -> None:
    """A full disk stops moves, not cameras: leases go on."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.pass_s(8)

    def full(_state: State) -> None:
        raise StreamerError("no space")

    world.controller._save = full
    world.controller.drain("b")
    beat = world.nodes["b"].beat()
    world.controller.hear(b"b", beat, world.now_s)
    with pytest.raises(StreamerError):
        world.controller.plan(world.now_s)

    orders = world.controller.answer(beat)
    assert orders.share is None
    assert orders.lease_s == LEASE_S


def test_cameras_come_and_go() -> None:
    """Added ones are remembered, removed ones come back when they are asked for."""
    world = World.of(config(*CAMERAS))
    world.join("a")
    world.pass_s(8)
    world.controller.add(Camera(name="new", url="rtsp://host/new"), Need())
    world.controller.remove("c1")
    world.pass_s(3)
    assert world.nodes["a"].holding == {"c2", "c3", "c4", "new"}

    again = World.of(config(*CAMERAS), world.saved[-1], now_s=world.now_s)
    again.nodes = world.nodes
    again.pass_s(3)
    assert world.nodes["a"].holding == {"c2", "c3", "c4", "new"}

    again.controller.restore("c1")
    again.controller.remove("new")
    again.pass_s(3)
    assert world.nodes["a"].holding == set(CAMERAS)
    wrongs: tuple[Callable[[], object], ...] = (
        lambda: again.controller.add(Camera(name="c1", url="x"), Need()),
        lambda: again.controller.restore("c1"),
        lambda: again.controller.remove("nobody"),
        lambda: again.controller.drain("nowhere"),
    )
    for wrong in wrongs:
        with pytest.raises(StreamerError):
            wrong()


def test_a_removed_camera_of_the_configuration_gets_no_other_address() -> None:
    """The configuration would win, and nothing would run: it is said, and nothing changes."""
    world = World.of(config(*CAMERAS))
    world.join("a")
    world.controller.remove("c1")
    with pytest.raises(StreamerError, match="without --url, or change the file"):
        world.controller.add(Camera(name="c1", url="rtsp://host/other"), Need())
    world.pass_s(8)
    assert world.nodes["a"].holding == {"c2", "c3", "c4"}

    world.controller.restore("c1")
    world.pass_s(3)
    assert world.nodes["a"].holding == set(CAMERAS)


@pytest.mark.parametrize("options", [("--cost", "4"), ("--needs", "site=a"), ("--gpu",)])
def test_what_would_be_ignored_is_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A camera that comes back is as the configuration has it."""
    words = ["fleet", "add", "c1", "--config", str(tmp_path / "fleet.toml"), *options]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError)
    assert "without --url it comes back as the configuration has it" in str(done.exception)


def test_a_camera_that_has_to_wait_is_remembered() -> None:
    """Though nothing moves when it is added."""
    world = World.of(config(*CAMERAS))
    world.join("a")
    world.pass_s(8)
    world.controller.add(Camera(name="new", url="rtsp://host/new"), Need(needs={"site": "nowhere"}))
    world.pass_s(1)
    assert [one.camera.name for one in world.saved[-1].added] == ["new"]


def test_a_name_that_was_mistyped_is_guessed() -> None:
    """And what was done already is told apart from what cannot be done."""
    world = World.of(config("lobby", "gate"))
    world.join("hall", "yard")
    world.pass_s(8)
    controller = world.controller
    with pytest.raises(StreamerError, match=r"did you mean hall\?$"):
        controller.drain("hal")
    with pytest.raises(StreamerError, match="there are: hall, yard"):
        controller.drain("10.0.0.1")
    with pytest.raises(StreamerError, match=r"did you mean lobby\?"):
        controller.remove("loby")
    controller.remove("lobby")
    with pytest.raises(StreamerError, match="was removed already"):
        controller.remove("lobby")
    with pytest.raises(StreamerError, match=r"did you mean lobby\?"):
        controller.restore("loby")
    with pytest.raises(StreamerError, match="needs its --url"):
        controller.restore("dock")
    assert [controller.drain("hall", back=back) for back in (True, False, False, True)] == [
        *(False, True, False, True)
    ]


def test_a_change_is_told_of_the_cameras_that_it_changes() -> None:
    """The others of the node run on while it takes it, and that is what is told."""
    world = World.of(config(*CAMERAS))
    world.join("a")
    world.pass_s(8)

    def states() -> dict[str, str]:
        return {one.name: one.state for one in world.controller.camera_states()}

    world.controller.add(Camera(name="new", url="rtsp://host/new"), Need())
    world.controller.remove("c1")
    moved = Camera(name="c2", url="rtsp://elsewhere/c2")
    cameras = (moved, *(c for c in config(*CAMERAS).daemon.cameras if c.name != "c2"))
    world.controller.reload(FleetConfig(daemon=Config(cameras=cameras), fleet=Fleet()))
    world.controller.plan(world.now_s)
    assert states() == {"c2": "starting", "c3": "running", "c4": "running", "new": "starting"}

    world.pass_s(3)
    assert set(states().values()) == {"running"}

    world.nodes["a"].slow = True  # its daemon has ended, and starts again
    world.pass_s(1)
    assert set(states().values()) == {"starting"}


def test_a_node_of_another_version_gets_nothing() -> None:
    """It could not read what it is told."""
    world = World.of(config(*CAMERAS))
    world.join("a", "b")
    world.nodes["b"].version = "0.0.0"
    world.pass_s(8)

    assert world.places() == {"a": 4, "b": 0}
    states = {node.name: node.state for node in world.controller.nodes(world.now_s)}
    assert states == {"a": "ready", "b": "has version 0.0.0"}


def test_needs_are_kept_and_told() -> None:
    """A camera that no node can have waits, and it is said why."""
    world = World.of(config("c1", "c2", c1=Need(needs={"site": "north"})))
    world.join("a")
    world.pass_s(8)
    told = {one.name: one for one in world.controller.camera_states()}
    assert (told["c1"].state, told["c1"].reason) == ("waiting", "no node has site = north")
    assert told["c2"].state == "running"

    world.nodes["n"] = Node("n", labels={"site": "north"})
    world.pass_s(3)

    assert "c1" in world.nodes["n"].holding


def test_what_cannot_change_while_it_runs_is_refused() -> None:
    """The addresses of all would have to change with it."""
    world = World.of(config(*CAMERAS))
    changed = config("c1", "c2")
    world.controller.reload(changed)
    assert world.controller.cameras == ("c1", "c2")
    with pytest.raises(ConfigError, match=r"\[fleet\]"):
        world.controller.reload(
            FleetConfig(daemon=changed.daemon, fleet=Fleet(link="tcp://127.0.0.1:9"))
        )
