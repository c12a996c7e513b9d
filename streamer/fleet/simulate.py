"""A day of a fleet that does not exist, with the real placement and the times of one real node.

Nodes fail and come back, are drained, and join; daemons crash; cameras are added and removed.
Every change is placed by ``streamer.fleet.placement`` itself. What is simulated is only the time
that passes until a camera is analysed again, see ``Times``.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import Counter, defaultdict
from itertools import count, cycle
from typing import TYPE_CHECKING, Final

import msgspec

from streamer.fleet.forecast import GOAL_S, Report, Times, Unrest, span
from streamer.fleet.placement import Camera, Node, Placement, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["CAPACITIES", "simulate"]

CAPACITIES: Final = (16.0, 28.0)
"""Cameras that two cores carry, as measured, and four, as ``streamer bench --scale`` simulates."""
_DAY_S: Final = 86_400.0
_SITES: Final = ("north", "east", "south", "west")
_FASTEST_RETURN_S: Final = 30.0  # a machine's start, or a cable's


class _Eye:
    """One camera's time without analysis; it is dark from one moment, for one cause, to another."""

    def __init__(self, since_s: float) -> None:
        self.watched_s = 0.0
        self._since_s = since_s
        self.dark_s: defaultdict[str, float] = defaultdict(float)
        self._from_s, self._until_s, self._cause = since_s, since_s, ""

    def lose(self, at_s: float, cause: str) -> None:
        """Go dark, until ``find`` says otherwise; one that is dark stays so for its first cause."""
        if at_s >= self._until_s:
            self._close()
            self._from_s, self._cause = at_s, cause
        self._until_s = math.inf

    def find(self, at_s: float) -> float:
        """Be analysed again from a moment on; return for how long it will have been dark."""
        self._until_s = at_s
        return at_s - self._from_s

    def wait(self, at_s: float) -> None:
        """Be dark for want of room from now on, whatever it was before."""
        self.find(min(at_s, self._until_s))
        self.lose(at_s, "waiting")

    def end(self, at_s: float) -> None:
        """Stop counting."""
        self.watched_s = at_s - self._since_s
        self._until_s = min(self._until_s, at_s)
        self._close()

    def _close(self) -> None:
        if self._until_s > self._from_s:
            self.dark_s[self._cause] += self._until_s - self._from_s


class _Fleet:
    """The state of the simulated fleet, and what was seen of it."""

    def __init__(
        self, cameras: Iterable[Camera], nodes: Iterable[Node], times: Times, dice: random.Random
    ) -> None:
        self.times, self.dice = times, dice
        self.cameras = {camera.name: camera for camera in cameras}
        self.nodes = {node.name: node for node in nodes}
        self.known = set(self.nodes)  # those that the fleet believes in
        self.homes: dict[str, str] = {}
        self.warm: set[str] = set()  # nodes whose daemon runs
        self.eyes: dict[str, _Eye] = {}
        self.past: list[_Eye] = []
        self.lost_s: dict[str, float] = {}  # of cameras whose node failed: when
        self.events, self.moves = Counter[str](), Counter[str]()
        self.placement_s, self.uneven = list[float](), list[float]()
        self.takeover_s, self.move_s = list[float](), list[float]()
        self.takeovers = self.bystanders = self.waiting_most = 0
        self.lead(0.0, "start")
        self.warm = set(self.homes.values())
        for name in self.cameras:  # the day begins with everything running
            self.eyes[name] = _Eye(0.0)
            if name not in self.homes:
                self.eyes[name].lose(0.0, "waiting")

    def lead(self, now_s: float, why: str, touched: str = "") -> None:
        """Place all cameras anew and count what follows from it.

        Args:
            now_s: the simulated time.
            why: what has happened.
            touched: the node it happened to, whose own cameras have to move.
        """
        before = self.homes
        there = [self.nodes[name] for name in sorted(self.known)]
        began_s = time.thread_time()
        placed = place(list(self.cameras.values()), there, before)
        self.placement_s.append(time.thread_time() - began_s)
        self.homes = placed.homes
        self.waiting_most = max(self.waiting_most, len(placed.waiting))
        self.uneven.append(self._unevenness(there))
        if self.eyes:
            self._change(now_s, why, touched, before, placed)

    def _unevenness(self, there: Sequence[Node]) -> float:
        """Return the fullest node's relative load less the fleet's."""
        load = dict.fromkeys((node.name for node in there), 0.0)
        for camera, home in self.homes.items():
            load[home] += self.cameras[camera].cost
        open_ = [node for node in there if not node.draining]
        total = sum(node.capacity for node in open_)
        if not total:
            return 0.0
        fullest = max(load[node.name] / node.capacity for node in open_)
        return fullest - sum(load.values()) / total

    def _change(
        self, now_s: float, why: str, touched: str, before: dict[str, str], placed: Placement
    ) -> None:
        """Let cameras go dark and come back as the nodes carry a placement out."""
        size, cold_s = Counter(placed.homes.values()), self._cold(placed)
        ahead: set[str] = set()  # nodes that have got a first camera, which starts their daemon
        for name in placed.waiting:
            if name in before or name in self.lost_s or name not in self.eyes:
                self.eyes.setdefault(name, _Eye(now_s)).wait(now_s)
            self.lost_s.pop(name, None)
        for name, home in placed.homes.items():
            old = before.get(name)
            if old == home:
                continue
            eye = self.eyes.setdefault(name, _Eye(now_s))
            ready_s, starts_s = now_s, cold_s.get(home, 0.0)
            if name in self.lost_s:
                self.takeovers += 1
            elif old is not None:  # it ends there before it begins here
                if home in ahead:  # … and it does not end before there is a daemon
                    ready_s, starts_s = ready_s + starts_s, 0.0
                eye.lose(ready_s, "moved")
                ready_s += self.times.reload * size[old]
                self.moves[why] += 1
                self.bystanders += why in {"failure", "drain"} and old != touched
            else:
                eye.lose(now_s, "added")
            ahead.add(home)
            ready_s += starts_s + self.times.reload * size[home]
            dark_s = eye.find(ready_s + self._some(self.times.picture))
            if name in self.lost_s:
                self.takeover_s.append(dark_s)
                del self.lost_s[name]
            elif old is not None:
                self.move_s.append(dark_s)

    def _cold(self, placed: Placement) -> dict[str, float]:
        """Return how long daemons take to start on nodes that had no camera before."""
        new = sorted(set(placed.homes.values()) - self.warm)
        self.warm = set(placed.homes.values())
        return {node: self.dice.uniform(*self.times.start) for node in new}

    def _some(self, most_s: float) -> float:
        """Return a time that lasts so long at most."""
        return self.dice.uniform(0.0, most_s)

    def fail(self, node: str, now_s: float) -> float:
        """Let a node fail; return when the fleet knows."""
        for name in self._on(node):
            self.eyes[name].lose(now_s, "node lost")
            self.lost_s[name] = now_s
        return now_s + self.times.lease - self._some(self.times.beat)

    def forget(self, node: str, now_s: float) -> None:
        """Let the fleet know that a node has gone."""
        self.known.discard(node)
        self.homes = {c: home for c, home in self.homes.items() if home != node}
        self.lead(now_s, "failure", node)

    def crash(self, node: str, now_s: float) -> None:
        """Let a node's daemon end; it is started again where it was."""
        back_s = now_s + self._some(self.times.again) + self.dice.uniform(*self.times.start)
        for name in self._on(node):
            self.eyes[name].lose(now_s, "daemon ended")
            self.eyes[name].find(back_s + self._some(self.times.picture))

    def _on(self, node: str) -> list[str]:
        """Return the cameras on a node, in order of their names."""
        return sorted(name for name, home in self.homes.items() if home == node)

    def add(self, camera: Camera, now_s: float) -> None:
        """Configure one camera more."""
        self.cameras[camera.name] = camera
        self.lead(now_s, "added")

    def remove(self, name: str, now_s: float) -> None:
        """Configure one camera less."""
        del self.cameras[name]
        self.homes.pop(name, None)
        self.lost_s.pop(name, None)
        gone = self.eyes.pop(name)
        gone.end(now_s)
        self.past.append(gone)
        self.lead(now_s, "removed")


class _Day:
    """The calendar: what happens when."""

    def __init__(self, fleet: _Fleet, unrest: Unrest, dice: random.Random) -> None:
        self.fleet, self.unrest, self.dice = fleet, unrest, dice
        self._order = count()
        self._coming: list[tuple[float, int, Callable[[float], None]]] = []

    def at(self, when_s: float, call: Callable[[float], None]) -> None:
        """Put something into the calendar."""
        heapq.heappush(self._coming, (when_s, next(self._order), call))

    def run(self, seconds: float) -> None:
        """Let everything happen that falls into a time."""
        wanted: dict[Callable[[float], None], float] = {
            self._failure: self.unrest.failures,
            self._switch: self.unrest.switches,
            self._crash: self.unrest.crashes,
            self._drain: self.unrest.drains,
            self._join: self.unrest.joins,
            self._camera: self.unrest.cameras,
        }
        for call, a_day in wanted.items():
            for _ in range(round(a_day * seconds / _DAY_S)):
                self.at(self.dice.uniform(0.0, seconds), call)
        while self._coming and self._coming[0][0] < seconds:
            when_s, _, call = heapq.heappop(self._coming)
            call(when_s)

    def _one(self) -> str | None:
        """Return a node that is there and not being drained; None where there is none."""
        able = [name for name in sorted(self.fleet.known) if not self.fleet.nodes[name].draining]
        return self.dice.choice(able) if able else None

    def _failure(self, now_s: float) -> None:
        if (node := self._one()) is not None:
            self._lose(node, now_s)
            self.fleet.events["nodes failed"] += 1

    def _lose(self, node: str, now_s: float) -> None:
        known_s = self.fleet.fail(node, now_s)
        outage_s = _FASTEST_RETURN_S + self.dice.expovariate(1 / self.unrest.outage_s)
        self.at(known_s, lambda t: self.fleet.forget(node, t))
        self.at(now_s + outage_s, lambda t: self._return(node, t))

    def _return(self, node: str, now_s: float) -> None:
        self.fleet.known.add(node)
        self.fleet.lead(now_s, "return")

    def _switch(self, now_s: float) -> None:
        able = sorted(n for n in self.fleet.known if not self.fleet.nodes[n].draining)
        for node in self.dice.sample(able, math.ceil(len(able) / 12)):
            self._lose(node, now_s)
        self.fleet.events["switches failed"] += 1

    def _crash(self, now_s: float) -> None:
        if (node := self._one()) is not None:
            self.fleet.crash(node, now_s)
            self.fleet.events["daemons ended"] += 1

    def _drain(self, now_s: float) -> None:
        if (node := self._one()) is not None:
            self._set_draining(node, now_s, draining=True)
            back_s = now_s + self.unrest.drain_s
            self.at(back_s, lambda t: self._set_draining(node, t, draining=False))
            self.fleet.events["nodes drained"] += 1

    def _set_draining(self, node: str, now_s: float, *, draining: bool) -> None:
        changed = msgspec.structs.replace(self.fleet.nodes[node], draining=draining)
        self.fleet.nodes[node] = changed
        if node in self.fleet.known:
            self.fleet.lead(now_s, "drain" if draining else "return", node)

    def _join(self, now_s: float) -> None:
        index = len(self.fleet.nodes)
        like = self.fleet.nodes[self.dice.choice(sorted(self.fleet.nodes))]
        name = f"node{index:03}"
        self.fleet.nodes[name] = msgspec.structs.replace(like, name=name, draining=False)
        self.fleet.known.add(name)
        self.fleet.lead(now_s, "join")
        self.fleet.events["nodes joined"] += 1

    def _camera(self, now_s: float) -> None:
        if self.dice.random() < 0.5 and len(self.fleet.cameras) > 1:  # noqa: PLR2004 - a coin
            self.fleet.remove(self.dice.choice(sorted(self.fleet.cameras)), now_s)
            self.fleet.events["cameras removed"] += 1
        else:
            index = len(self.fleet.eyes) + len(self.fleet.past)
            self.fleet.add(_camera(index, self.dice), now_s)
            self.fleet.events["cameras added"] += 1


def _camera(index: int, dice: random.Random) -> Camera:
    """Return a camera: one in three is bound to its site, one in ten wants a GPU."""
    needs = {"site": dice.choice(_SITES)} if dice.random() < 1 / 3 else {}
    return Camera(name=f"camera{index:04}", needs=needs, gpu=dice.random() < 1 / 10)


def simulate(
    *,
    cameras: int,
    nodes: int,
    capacities: Sequence[float] = CAPACITIES,
    hours: float = 24.0,
    seed: int = 0,
    times: Times | None = None,
    unrest: Unrest | None = None,
) -> Report:
    """Return what a time of such a fleet is like; the same arguments give the same answer.

    The nodes stand on four sites, one in four has a GPU; of the cameras one in three is bound to a
    site and one in ten wants a GPU. Only ``placement_s`` depends on the machine.

    Args:
        cameras: configured at the start.
        nodes: there at the start.
        capacities: of the nodes, which take turns.
        hours: simulated.
        seed: of everything that is drawn.
        times: of one node.
        unrest: what happens in a day.
    """
    dice = random.Random(seed)  # noqa: S311 - a simulation
    times, unrest = times or Times(), unrest or Unrest()
    turns = cycle(capacities)
    there = [
        Node(
            name=f"node{index:03}",
            capacity=next(turns),
            labels={"site": _SITES[index // 2 % len(_SITES)]},  # both sizes on every site
            gpu=index // 8 % 4 == 0,  # of every size on every site
        )
        for index in range(nodes)
    ]
    fleet = _Fleet((_camera(index, dice) for index in range(cameras)), there, times, dice)
    _Day(fleet, unrest, dice).run(hours * 3600)
    return _report(
        fleet,
        cameras=cameras,
        nodes=nodes,
        hours=hours,
        seed=seed,
        capacity=math.fsum(node.capacity for node in there),
        unrest=unrest,
    )


def _report(
    fleet: _Fleet,
    *,
    cameras: int,
    nodes: int,
    hours: float,
    seed: int,
    capacity: float,
    unrest: Unrest,
) -> Report:
    """Close the books."""
    end_s = hours * 3600
    for eye in fleet.eyes.values():
        eye.end(end_s)
    eyes = [*fleet.eyes.values(), *fleet.past]
    causes = sorted({cause for eye in eyes for cause in eye.dark_s})
    dark = {cause: math.fsum(eye.dark_s.get(cause, 0.0) for eye in eyes) for cause in causes}
    watched_s = math.fsum(eye.watched_s for eye in eyes)
    in_time = sum(taken_s <= GOAL_S for taken_s in fleet.takeover_s)
    return Report(
        cameras=cameras,
        nodes=nodes,
        hours=hours,
        seed=seed,
        capacity=capacity,
        times=fleet.times,
        unrest=unrest,
        events=dict(sorted(fleet.events.items())),
        placements=len(fleet.placement_s),
        placement_s=span(fleet.placement_s),
        moves=dict(sorted(fleet.moves.items())),
        takeovers=fleet.takeovers,
        bystanders=fleet.bystanders,
        unevenness=span(fleet.uneven),
        takeover_s=span(fleet.takeover_s),
        takeovers_in_time=in_time / max(1, len(fleet.takeover_s)),
        move_s=span(fleet.move_s),
        waiting_most=fleet.waiting_most,
        dark_s=dark,
        dark_camera_s=span([math.fsum(eye.dark_s.values()) for eye in eyes]),
        analysed=1 - math.fsum(dark.values()) / watched_s,
    )
