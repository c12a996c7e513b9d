"""Which node analyses which camera: a pure function of what there is and of where they are now.

Loads are measured in units of one 640x360 camera, and a relative load is a load by its node's
capacity. The same arguments give the same answer whatever their order, and placing again what was
placed moves nothing.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

__all__ = ["Camera", "Node", "Placement", "place"]

_EPSILON: Final = 1e-6
"""Loads closer than this, in cameras, are equal: what is lost to rounding is far less."""


class Node(msgspec.Struct, frozen=True):
    """A machine of the cluster that can run the daemon.

    Attributes:
        name: unique.
        capacity: the cost of cameras that it carries, in units of one 640x360 camera; 0 or more.
        labels: what a camera may ask for, as its site or its network.
        gpu: whether the daemon there runs its networks on a GPU.
        draining: whether it is to be emptied.
    """

    name: str
    capacity: float
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    gpu: bool = False
    draining: bool = False


class Camera(msgspec.Struct, frozen=True):
    """A camera that is to be analysed somewhere.

    Attributes:
        name: unique.
        cost: what it takes of a node's capacity; more than 0.
        needs: labels that its node must have, with their values.
        gpu: whether its node must have a GPU.
    """

    name: str
    cost: float = 1.0
    needs: dict[str, str] = msgspec.field(default_factory=dict)
    gpu: bool = False


class Placement(msgspec.Struct, frozen=True):
    """Where each camera is to be; every camera is in one of the two.

    Attributes:
        homes: the node of each camera that has one.
        waiting: why each of the others has none, in words.
    """

    homes: dict[str, str]
    waiting: dict[str, str]


class _Move(NamedTuple):
    """One camera's step from a node, or from nowhere, to another."""

    camera: Camera
    source: str | None
    target: str


def place(cameras: Sequence[Camera], nodes: Sequence[Node], now: Mapping[str, str]) -> Placement:
    """Return where each camera is to be analysed.

    A camera stays where it is while its node is there, suits it, carries its load and is not being
    drained. The others go, those with the fewest nodes to choose from first and the dearest first
    among those, to the node whose relative load is then the least. For one that finds no room
    others make room, if they can; then just enough cameras move from full nodes to empty ones that
    none can move without making the receiver the fuller one of the two.

    Args:
        cameras: all that are configured.
        nodes: all that are there, those being drained included.
        now: the node of each camera that has one; names that are no longer there are ignored.

    Returns:
        The homes, never beyond a node's capacity, and the cameras that have to wait.

    Raises:
        ValueError: if a name comes twice, a cost is not above 0 or a capacity below 0.
    """
    _check(cameras, nodes)
    board = _Board(cameras, nodes)
    board.keep(now)
    waiting = board.fill(board.homeless())
    board.level()
    while waiting:  # levelling may have joined small rooms into one that is large enough
        left = board.fill(waiting)
        if len(left) == len(waiting):
            break
        waiting = left
        board.level()
    return Placement(
        homes=dict(sorted(board.homes.items())),
        waiting={camera.name: board.reason(camera) for camera in sorted(waiting, key=_name)},
    )


def _check(cameras: Sequence[Camera], nodes: Sequence[Node]) -> None:
    """Refuse what has no meaning."""
    for what, names in (("camera", [c.name for c in cameras]), ("node", [n.name for n in nodes])):
        if twice := sorted(name for name, times in Counter(names).items() if times > 1):
            raise ValueError(f"{what} {twice[0]} is there twice; give each a name of its own")
    for camera in cameras:
        if not 0 < camera.cost < math.inf:
            raise ValueError(f"camera {camera.name} costs {camera.cost}; give it more than 0")
    for node in nodes:
        if not 0 <= node.capacity < math.inf:
            raise ValueError(f"node {node.name} carries {node.capacity}; give it 0 or more")


def _name(thing: Camera | Node) -> str:
    """Return the name, to sort by."""
    return thing.name


class _Board:
    """The cameras on their nodes while they are being placed.

    Attributes:
        homes: the node of each camera that has one so far.
    """

    def __init__(self, cameras: Sequence[Camera], nodes: Sequence[Node]) -> None:
        self.homes: dict[str, str] = {}
        self._cameras = sorted(cameras, key=_name)
        self._kinds = {camera.name: _kind(camera) for camera in cameras}
        self._all = sorted(nodes, key=_name)
        self._nodes = {n.name: n for n in self._all if not n.draining and n.capacity > 0}
        self._load = dict.fromkeys(self._nodes, 0.0)
        self._on: dict[str, dict[str, Camera]] = {name: {} for name in self._nodes}
        self._suiting: dict[tuple[object, ...], tuple[str, ...]] = {}

    def _suits(self, camera: Camera) -> tuple[str, ...]:
        """Return the nodes that a camera may be on, were they empty, in order of their names."""
        kind = self._kinds[camera.name]
        if kind not in self._suiting:
            self._suiting[kind] = tuple(
                node.name
                for node in self._nodes.values()
                if _meets(camera, node) and camera.cost <= node.capacity + _EPSILON
            )
        return self._suiting[kind]

    def _room(self, node: str) -> float:
        """Return what a node still carries."""
        return self._nodes[node].capacity - self._load[node]

    def _filled(self, node: str, change: float = 0.0) -> float:
        """Return the relative load of a node after a change of its load."""
        return (self._load[node] + change) / self._nodes[node].capacity

    def _put(self, move: _Move) -> None:
        """Put a camera on a node, away from where it was."""
        if move.source is not None:
            self._take(move.camera)
        self.homes[move.camera.name] = move.target
        self._on[move.target][move.camera.name] = move.camera
        self._add_up(move.target)

    def _take(self, camera: Camera) -> None:
        """Take a camera off its node."""
        node = self.homes.pop(camera.name)
        del self._on[node][camera.name]
        self._add_up(node)

    def _add_up(self, node: str) -> None:
        """Add a node's load up anew: the sum then depends on its cameras, not on their history."""
        self._load[node] = math.fsum(camera.cost for camera in self._on[node].values())

    def homeless(self) -> list[Camera]:
        """Return the cameras without a node, in order of their names."""
        return [camera for camera in self._cameras if camera.name not in self.homes]

    def keep(self, now: Mapping[str, str]) -> None:
        """Leave every camera where it is that may be there."""
        for camera in self._cameras:
            node = now.get(camera.name)
            if node is not None and node in self._suits(camera):
                self._put(_Move(camera, None, node))
        for node in self._nodes:
            while (excess := -self._room(node)) > _EPSILON:
                self._take(self._least_missed(node, excess))

    def _least_missed(self, node: str, excess: float) -> Camera:
        """Return the camera to send away from a node that carries too much.

        The smallest that suffices alone, else the largest; among equals the one with the most
        other nodes to go to.
        """
        here = self._on[node].values()
        enough = [camera for camera in here if camera.cost >= excess - _EPSILON]
        if enough:
            return min(enough, key=lambda c: (c.cost, -len(self._suits(c)), c.name))
        return max(here, key=lambda c: (c.cost, len(self._suits(c)), c.name))

    def fill(self, cameras: Iterable[Camera]) -> list[Camera]:
        """Find a node for each camera; return those that have to wait.

        Args:
            cameras: those without one.
        """
        waiting = []
        order = sorted(cameras, key=lambda c: (len(self._suits(c)), -c.cost, c.name))
        for camera in order:
            if (node := self._emptiest(camera)) is not None:
                self._put(_Move(camera, None, node))
            else:
                waiting.append(camera)
        left = []
        hopeless: set[tuple[object, ...]] = set()  # nothing has changed since one like it failed
        for camera in waiting:
            moves = () if self._kinds[camera.name] in hopeless else self._making_room(camera)
            for move in moves:
                self._put(move)
                hopeless.clear()
            if not moves:
                hopeless.add(self._kinds[camera.name])
                left.append(camera)
        return left

    def _emptiest(self, camera: Camera, but: Collection[str] = ()) -> str | None:
        """Return the node with room whose relative load would be the least, if there is one."""
        fitting = [
            node
            for node in self._suits(camera)
            if node not in but and self._room(node) >= camera.cost - _EPSILON
        ]
        return min(fitting, key=lambda n: (self._filled(n, camera.cost), n), default=None)

    def _making_room(self, camera: Camera) -> Sequence[_Move]:
        """Return moves, in the order to make them, whose last one places a camera; or none.

        First the shortest chain in which each camera takes the place of the next one; where none
        suffices, several cameras that leave one node for the rooms of others.
        """
        if (node := self._emptiest(camera)) is not None:
            return (_Move(camera, None, node),)
        return self._chain(camera) or self._clearing(camera)

    def _chain(self, camera: Camera) -> Sequence[_Move]:
        """Return the shortest chain of moves at whose end a node has room.

        This is the search for an augmenting path, breadth first; with cameras of one cost it finds
        a chain whenever there is one.
        Source: Ford & Fulkerson 1956, "Maximal flow through a network".
        """
        came: dict[str, _Move] = {n: _Move(camera, None, n) for n in self._suits(camera)}
        ahead = deque(came)
        while ahead:
            node = ahead.popleft()
            path = {move.target for move in _back(came[node], came)}
            short = came[node].camera.cost - self._room(node)
            for leaving in self._one_of_each_kind(node):
                if leaving.cost < short - _EPSILON:
                    continue
                if (last := self._emptiest(leaving, but=path)) is not None:
                    return list(_back(_Move(leaving, node, last), came))
                for onward in self._suits(leaving):
                    if onward not in came:
                        came[onward] = _Move(leaving, node, onward)
                        ahead.append(onward)
        return ()

    def _one_of_each_kind(self, node: str) -> Iterable[Camera]:
        """Return the cameras on a node that differ in more than their names."""
        kinds: dict[tuple[object, ...], Camera] = {}
        for name in sorted(self._on[node]):
            kinds.setdefault(self._kinds[name], self._on[node][name])
        return kinds.values()

    def _clearing(self, camera: Camera) -> Sequence[_Move]:
        """Return the fewest moves found that take several cameras off one node for this one."""
        best: list[_Move] = []
        for node in self._suits(camera):
            short = camera.cost - self._room(node)
            load, moves = dict(self._load), list[_Move]()
            for leaving in sorted(self._on[node].values(), key=lambda c: (-c.cost, c.name)):
                rooms = {
                    n: (load[n] + leaving.cost) / self._nodes[n].capacity
                    for n in self._suits(leaving)
                    if n != node and self._nodes[n].capacity - load[n] >= leaving.cost - _EPSILON
                }
                if rooms and short > _EPSILON:
                    target = min(rooms, key=lambda n: (rooms[n], n))
                    load[target] += leaving.cost
                    short -= leaving.cost
                    moves.append(_Move(leaving, node, target))
            if short <= _EPSILON and (not best or len(moves) + 1 < len(best)):
                best = [*moves, _Move(camera, None, node)]
        return best

    def level(self) -> None:
        """Move just enough cameras that none can move without making the receiver the fuller."""
        while (move := self._levelling()) is not None:
            self._put(move)

    def _levelling(self) -> _Move | None:
        """Return the next move towards even relative loads: from the fullest to the emptiest."""
        order = sorted(self._nodes, key=lambda n: (self._filled(n), n))
        for giver in reversed(order):
            for receiver in order[: order.index(giver)]:
                moving = [
                    camera
                    for camera in self._one_of_each_kind(giver)
                    if self._evens(camera, giver, receiver)
                ]
                if moving:
                    camera = min(moving, key=lambda c: (-c.cost, c.name))
                    return _Move(camera, giver, receiver)
        return None

    def _evens(self, camera: Camera, giver: str, receiver: str) -> bool:
        """Return whether the receiver is still not the fuller one of the two after a move."""
        step = camera.cost / self._nodes[receiver].capacity
        apart = self._filled(receiver, camera.cost) - self._filled(giver, -camera.cost)
        # the allowance is far below a step, so that no camera can be sent back and forth
        return apart <= _EPSILON * step and receiver in self._suits(camera)

    def reason(self, camera: Camera) -> str:
        """Return why a camera has to wait, in words."""
        if not self._all:
            return "no node is there"
        if not (suited := [node for node in self._all if _meets(camera, node)]):
            wanted = [f"{key} = {value}" for key, value in sorted(camera.needs.items())]
            return "no node has " + " and ".join([*wanted, *["a GPU"] * camera.gpu])
        if not (open_ := [node for node in suited if not node.draining]):
            return f"every node it may be on is being drained: {', '.join(n.name for n in suited)}"
        if not (names := self._suits(camera)):
            largest = max(node.capacity for node in open_)
            return f"it costs {camera.cost:g}, the largest node it may be on carries {largest:g}"
        room = max(self._room(name) for name in names)
        where = names[0] if len(names) == 1 else f"each of the {len(names)} nodes it may be on"
        return f"it costs {camera.cost:g}, {where} has room for {max(room, 0.0):g} at most"


def _kind(camera: Camera) -> tuple[object, ...]:
    """Return all of a camera that decides where it may be."""
    return (camera.cost, camera.gpu, *sorted(camera.needs.items()))


def _meets(camera: Camera, node: Node) -> bool:
    """Return whether a node has what a camera asks for."""
    return (node.gpu or not camera.gpu) and all(
        node.labels.get(key) == value for key, value in camera.needs.items()
    )


def _back(last: _Move, came: Mapping[str, _Move]) -> Iterator[_Move]:
    """Yield a chain from its end, where there is room, to the camera that set it off."""
    yield last
    while last.source is not None:
        last = came[last.source]
        yield last
