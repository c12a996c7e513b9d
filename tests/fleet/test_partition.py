"""Networks that are cut and heal: no camera is ever read twice, and none is stopped for nothing.

The nodes are modelled after ``streamer.fleet.agent``, on a clock of the test's own. What they and
the fleet say to each other is kept while the network is cut, and arrives when it heals, as by TCP.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer import __version__
from streamer.config import Camera, Config
from streamer.fleet.controller import Controller
from streamer.fleet.link import About, Beat, Orders, Share, unpacked
from streamer.fleet.settings import Fleet, FleetConfig
from streamer.fleet.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

TICK_S: Final = 0.25
FENCE_S: Final = (
    1.5  # before the end of a lease a daemon is asked to stop; the worst one never does
)
CAMERAS: Final = ("c1", "c2", "c3", "c4", "c5", "c6")
CONFIG: Final = FleetConfig(
    daemon=Config(cameras=tuple(Camera(name=n, url=f"rtsp://host/{n}") for n in CAMERAS)),
    fleet=Fleet(handover_s=10.0),
)


@dataclass
class Connection:
    """Both directions of one; what is under way arrives in order, later than it was sent."""

    delay_s: float
    up: deque[tuple[float, Beat]] = field(default_factory=deque)
    down: deque[tuple[float, Orders]] = field(default_factory=deque)


@dataclass
class Node:
    """A node whose daemon takes its time, and reads until it is killed."""

    name: str
    run: int = 0
    slow_s: float = 1.0  # to start; other cameras take it half a second
    wires: list[Connection] = field(default_factory=lambda: [Connection(0.0)])
    number: int = 0
    answered: int = 0
    told: tuple[int, int] = (0, 0)
    sent: dict[int, float] = field(default_factory=dict)
    lease_end_s: float = 0.0
    share: Share | None = None
    applied: int = 0
    wanted: frozenset[str] = frozenset()
    holding: frozenset[str] = frozenset()
    done_s: float = 0.0
    said: object = None
    beaten_s: float = -9.0

    def begin(self, run: int) -> None:
        """Start anew: the daemon has ended with the one before; what that sent may still arrive."""
        fresh = Node(self.name, run, self.slow_s, [*self.wires, Connection(0.0)])
        fresh.wires[-2].delay_s += 3.0
        for wire in fresh.wires:
            wire.down.clear()
        self.__dict__.update(fresh.__dict__)

    def reconnect(self) -> None:
        """What is under way on the old connection comes later than what is new."""
        self.wires[-1].delay_s += 2.0
        self.wires.append(Connection(0.0))

    def go(self, now_s: float, heard: Sequence[Orders]) -> None:
        """Go round once, as an agent does."""
        for orders in heard:
            if (orders.heard, orders.version) < self.told:
                continue
            self.told = (orders.heard, orders.version)
            sent_s = self.sent.pop(orders.number, None)
            if sent_s is not None:
                self.answered, self.lease_end_s = orders.number, sent_s + orders.lease_s
            if orders.share is not None and now_s < self.lease_end_s - FENCE_S:
                share = unpacked(orders.share)
                if self.share is None or share.version != self.share.version:
                    self.share = share
                    self.done_s = now_s + (0.5 if self.applied else self.slow_s)
                    self.wanted = frozenset(camera.name for camera in share.cameras)
                    self.holding |= self.wanted
        if now_s >= self.lease_end_s - FENCE_S:
            self.share, self.applied = None, 0
        if now_s >= self.lease_end_s - TICK_S:
            self.holding = frozenset()
        if self.share is not None and now_s >= self.done_s:
            self.applied, self.holding = self.share.version, self.wanted
        said = (self.applied, self.holding)
        if said != self.said or now_s - self.beaten_s >= 1:
            self.said, self.beaten_s = said, now_s
            self.number += 1
            self.sent[self.number] = now_s
            self.wires[-1].up.append((now_s, self.beat()))

    def beat(self) -> Beat:
        """Return what it says of itself."""
        running = bool(self.holding) and self.applied > 0
        return Beat(
            about=About(
                node=f"id-{self.name}",
                run=f"{self.name}{self.run}",
                name=self.name,
                host="host",
                version=__version__,
                labels={},
                gpu=False,
                capacity=None,
                events="tcp://127.0.0.1:1",
                snapshot="tcp://127.0.0.1:2",
                http="127.0.0.1:3",
            ),
            number=self.number,
            answered=self.answered,
            daemon="running" if running else "starting" if self.holding else "none",
            version=self.applied,
            holding=sorted(self.holding),
        )


class World:
    """A fleet, its nodes, a network between them, and the time."""

    def __init__(self, *names: str, slow_s: float = 1.0) -> None:
        self.now_s = 100.0
        self.saved: list[State] = [State()]
        self.nodes = {name: Node(name, slow_s=slow_s) for name in names}
        self.cut: set[tuple[str, str]] = set()  # node and direction
        self.stopped: Counter[str] = Counter()  # how often a camera was read no more
        self.start_fleet()

    def start_fleet(self) -> None:
        """Start the fleet's process, or start it again: what was under way to it is lost."""
        self.controller = Controller(
            CONFIG, state=self.saved[-1], save=self.saved.append, now_s=self.now_s
        )
        self.controller.expect(len(self.nodes))
        for node in self.nodes.values():
            for wire in node.wires:
                wire.up.clear()
            node.reconnect()

    def held(self) -> dict[str, list[str]]:
        """Return who reads each camera."""
        return {c: [n.name for n in self.nodes.values() if c in n.holding] for c in CAMERAS}

    def pass_s(self, seconds: float) -> None:
        """Let time pass, and see at each moment that no camera is read twice."""
        for _ in range(round(seconds / TICK_S)):
            before = self.held()
            self._tick()
            after = self.held()
            assert all(len(who) <= 1 for who in after.values()), (self.now_s, after)
            self.stopped.update(c for c in CAMERAS if before[c] and before[c] != after[c])
            self.now_s += TICK_S

    def _tick(self) -> None:
        heard = []
        for name, node in self.nodes.items():
            for wire in node.wires:
                while wire.up and self._arrives(name, "up", wire, wire.up[0][0]):
                    beat = wire.up.popleft()[1]
                    self.controller.hear(beat.about.run.encode(), beat, self.now_s)
                    heard.append((node, beat))
        pushed = self.controller.plan(self.now_s)
        for node, beat in heard:
            self._send(node, beat.about.run, self.controller.answer(beat))
        for peer, orders in pushed:
            run = peer.decode()
            self._send(self.nodes[run[0]], run, orders)
        for name, node in self.nodes.items():
            got = []
            for wire in node.wires:
                while wire.down and self._arrives(name, "down", wire, wire.down[0][0]):
                    got.append(wire.down.popleft()[1])
            node.go(self.now_s, got)

    def _send(self, node: Node, run: str, orders: Orders) -> None:
        if run == f"{node.name}{node.run}":  # to one that has gone it is lost
            node.wires[-1].down.append((self.now_s, orders))

    def _arrives(self, name: str, way: str, wire: Connection, sent_s: float) -> bool:
        return (name, way) not in self.cut and self.now_s > sent_s + wire.delay_s


def both(name: str) -> set[tuple[str, str]]:
    """Return both directions of a node's network."""
    return {(name, "up"), (name, "down")}


def test_a_network_that_heals_interrupts_nobody() -> None:
    """What a node held before its lease ended is not taken from those who have it since."""
    world = World("a", "b")
    world.pass_s(15)
    theirs = world.nodes["b"].holding
    assert len(theirs) == len(CAMERAS) / 2
    world.controller.drain("b")  # so that nothing has to move when it is back
    for gone_s in (7.5, 9.0, 15.0, 60.0):
        world.cut = both("b")
        world.pass_s(gone_s)
        world.cut = set()
        world.pass_s(10)
        assert world.nodes["a"].holding == set(CAMERAS)
    # once each for the first loss, and never again
    assert world.stopped == Counter(theirs)
    assert [node.name for node in world.controller.nodes(world.now_s)] == ["a", "b"]


def test_a_node_that_is_back_gets_its_share_when_its_daemon_runs() -> None:
    """What it said of its daemon before is not true any more: one camera goes ahead to start it."""
    world = World("a", "b", slow_s=5.0)
    world.pass_s(25)
    world.cut = both("b")
    world.pass_s(14)
    assert world.nodes["a"].holding == set(CAMERAS)
    world.stopped.clear()
    world.cut = set()
    world.pass_s(6)
    assert (len(world.nodes["a"].wanted), len(world.nodes["b"].wanted)) == (5, 1)
    world.pass_s(25)
    assert (len(world.nodes["a"].holding), len(world.nodes["b"].holding)) == (3, 3)
    assert sum(world.stopped.values()) == len(CAMERAS) / 2


def test_what_a_run_said_that_another_has_followed_counts_for_nothing() -> None:
    """Its last beats may come after the first ones of the new run."""
    world = World("a", "b")
    world.pass_s(15)
    world.cut = both("b")
    world.pass_s(2)
    world.nodes["b"].begin(1)
    world.cut = set()
    world.pass_s(2)
    lost = world.controller.counts.losses
    world.pass_s(8)
    assert world.controller.counts.losses == lost == len(CAMERAS) / 2
    assert world.nodes["b"].holding


Happening = tuple[Literal["cut", "up", "down", "agent", "link", "crash", "hand over"], str, float]
HAPPENING: Final[st.SearchStrategy[Happening]] = st.tuples(
    st.sampled_from(("cut", "up", "down", "agent", "link", "crash", "hand over")),
    st.sampled_from(("a", "b", "c")),
    st.sampled_from((0.5, 2.0, 4.0, 5.5, 6.5, 7.5, 9.0, 12.0)),
)


OLD_ORDERS: Final[list[Happening]] = [  # come after newer ones, by another connection
    ("cut", "a", 0.5),
    ("cut", "b", 0.5),
    ("cut", "b", 5.5),
    ("cut", "a", 0.5),
    ("link", "b", 0.5),
]


@settings(max_examples=40, deadline=None)
@example(OLD_ORDERS, 0.5)
@given(st.lists(HAPPENING, min_size=1, max_size=8), st.sampled_from((0.5, 3.0)))
def test_whatever_the_network_does_no_camera_is_read_twice(
    happenings: list[Happening], slow_s: float
) -> None:
    """Cut in both directions or one, agents and the fleet started anew: all run at the end."""
    world = World("a", "b", "c", slow_s=slow_s)
    world.pass_s(12)
    runs = 0
    for what, name, seconds in happenings:
        if what == "cut":
            world.cut ^= both(name)
        elif what in {"up", "down"}:
            world.cut ^= {(name, what)}
        elif what == "agent":
            runs += 1
            world.nodes[name].begin(runs)
        elif what == "link":
            world.nodes[name].reconnect()
        else:
            if what == "hand over":
                world.controller.hand_over()
                world.pass_s(2)
            world.start_fleet()
        world.pass_s(seconds)
    world.cut = set()
    world.pass_s(45)
    assert all(world.held().values()), world.held()
