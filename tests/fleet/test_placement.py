"""Where cameras go: promises that hold for any fleet, and those users count on, one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from streamer.fleet.placement import Camera, Node, Placement, place

if TYPE_CHECKING:
    import random

SITES = st.sampled_from(["north", "south"])
promise = settings(max_examples=50, deadline=None)  # the machine may be busy
COSTS = st.sampled_from([0.3, 0.5, 1.0, 1.7, 4.0])


@st.composite
def fleets(
    draw: st.DrawFn, *, costs: st.SearchStrategy[float] = COSTS, needy: bool = True
) -> tuple[list[Camera], list[Node], dict[str, str]]:
    """Draw cameras, nodes, and where the cameras are now: anywhere, or on a node that is gone."""
    labels = st.dictionaries(st.just("site"), SITES) if needy else st.just({})
    flags = st.booleans() if needy else st.just(value=False)
    nodes = [
        Node(
            name=f"node{index}",
            capacity=draw(st.sampled_from([0.0, 2.0, 3.0, 5.5, 8.0])),
            labels=draw(labels),
            gpu=draw(flags),
            draining=draw(flags),
        )
        for index in range(draw(st.integers(0, 6)))
    ]
    cameras = [
        Camera(name=f"camera{index}", cost=draw(costs), needs=draw(labels), gpu=draw(flags))
        for index in range(draw(st.integers(0, 25)))
    ]
    places = st.sampled_from([*(node.name for node in nodes), "gone", ""])
    drawn = {camera.name: draw(places) for camera in cameras}
    return cameras, nodes, {name: where for name, where in drawn.items() if where}


def may(camera: Camera, node: Node) -> bool:
    """Return whether a camera may be on an empty node, as the promise has it."""
    return (
        not node.draining
        and (node.gpu or not camera.gpu)
        and camera.needs.items() <= node.labels.items()
        and camera.cost <= node.capacity
    )


def loads(placement: Placement, cameras: list[Camera]) -> dict[str, float]:
    """Return the load of each node that has a camera."""
    cost = {camera.name: camera.cost for camera in cameras}
    found: dict[str, list[float]] = {}
    for camera, node in placement.homes.items():
        found.setdefault(node, []).append(cost[camera])
    return {node: math.fsum(costs) for node, costs in found.items()}


def moved(before: Placement, after: Placement) -> dict[str, str]:
    """Return the cameras that were somewhere and are now elsewhere, with where."""
    return {c: n for c, n in after.homes.items() if before.homes.get(c, n) != n}


@promise
@given(fleets())
def test_every_camera_is_where_it_may_be_or_waits_with_a_reason(
    fleet: tuple[list[Camera], list[Node], dict[str, str]],
) -> None:
    """Nothing is lost, no node is beyond its capacity, and nobody waits beside an open room."""
    cameras, nodes, now = fleet
    placement = place(cameras, nodes, now)
    assert sorted([*placement.homes, *placement.waiting]) == sorted(c.name for c in cameras)
    by_name = {node.name: node for node in nodes}
    load = loads(placement, cameras)
    for camera in cameras:
        if camera.name in placement.homes:
            assert may(camera, by_name[placement.homes[camera.name]])
        else:
            assert placement.waiting[camera.name]
            assert not [
                node
                for node in nodes
                if may(camera, node) and load.get(node.name, 0) + camera.cost <= node.capacity
            ]
    assert all(total <= by_name[name].capacity + 1e-6 for name, total in load.items())


@promise
@given(fleets())
def test_placing_again_moves_nothing(
    fleet: tuple[list[Camera], list[Node], dict[str, str]],
) -> None:
    """What was placed stays, those that wait go on waiting, for the same reason."""
    cameras, nodes, now = fleet
    placement = place(cameras, nodes, now)
    assert place(cameras, nodes, placement.homes) == placement


@promise
@given(fleets(), st.randoms(use_true_random=False))
def test_the_order_of_what_is_given_does_not_matter(
    fleet: tuple[list[Camera], list[Node], dict[str, str]], dice: random.Random
) -> None:
    """Two processes that know the same decide the same."""
    cameras, nodes, now = fleet
    placement = place(cameras, nodes, now)
    where = list(now.items())
    for given_things in (cameras, nodes, where):
        dice.shuffle(given_things)
    assert msgspec.json.encode(place(cameras, nodes, dict(where))) == msgspec.json.encode(placement)


@promise
@given(fleets(costs=st.just(1.0)))
def test_with_equal_cameras_as_many_are_placed_as_can_be(
    fleet: tuple[list[Camera], list[Node], dict[str, str]],
) -> None:
    """The count is that of a maximum flow from cameras to nodes, found by SciPy."""
    cameras, nodes, now = fleet
    size = len(cameras) + len(nodes) + 2
    flow = np.zeros((size, size), dtype=np.int32)
    for row, camera in enumerate(cameras, start=1):
        flow[0, row] = 1
        for column, node in enumerate(nodes, start=1 + len(cameras)):
            flow[row, column] = may(camera, node)
            flow[column, size - 1] = math.floor(node.capacity)
    most = maximum_flow(csr_array(flow), 0, size - 1).flow_value
    assert len(place(cameras, nodes, now).homes) == most


@promise
@given(fleets(costs=st.just(1.0), needy=False), st.sampled_from([2.0, 5.0, 8.0]))
def test_a_node_that_joins_takes_its_share_and_no_other_moves(
    fleet: tuple[list[Camera], list[Node], dict[str, str]], capacity: float
) -> None:
    """All moves end on the new node, and loads are then even but for less than one camera."""
    cameras, nodes, now = fleet
    before = place(cameras, nodes, now)
    nodes = [*nodes, Node(name="new", capacity=capacity)]
    after = place(cameras, nodes, before.homes)
    assert set(moved(before, after).values()) <= {"new"}
    assert after.waiting.keys() <= before.waiting.keys()
    load = loads(after, cameras)
    carrying = [(load.get(n.name, 0.0), n.capacity) for n in nodes if n.capacity]
    for full, large in carrying:
        for empty, small in carrying:
            assert (empty + 1) / small > (full - 1) / large - 1e-6


@promise
@given(fleets(costs=st.just(1.0), needy=False), st.data())
def test_a_node_that_leaves_moves_nobody_but_its_own(
    fleet: tuple[list[Camera], list[Node], dict[str, str]], data: st.DataObject
) -> None:
    """Whether it dies or is drained, the cameras of the others stay where they are."""
    cameras, nodes, now = fleet
    before = place(cameras, nodes, now)
    if not nodes:
        return
    gone = data.draw(st.sampled_from(nodes))
    left = [node for node in nodes if node is not gone]
    after = place(cameras, left, before.homes)
    assert {before.homes[camera] for camera in moved(before, after)} <= {gone.name}
    drained = place(cameras, [*left, msgspec.structs.replace(gone, draining=True)], before.homes)
    assert drained.homes == after.homes


@promise
@given(fleets(costs=st.just(1.0), needy=False), st.data())
def test_a_camera_that_is_removed_moves_one_other_at_most(
    fleet: tuple[list[Camera], list[Node], dict[str, str]], data: st.DataObject
) -> None:
    """One room more is one camera's worth of unevenness, unless somebody waited for it."""
    cameras, nodes, now = fleet
    before = place(cameras, nodes, now)
    if not cameras:
        return
    gone = data.draw(st.sampled_from(cameras))
    after = place([c for c in cameras if c is not gone], nodes, before.homes)
    assert len(moved(before, after)) <= 1


def test_the_one_with_a_single_place_gets_it() -> None:
    """A camera that may be anywhere moves away for one that needs a GPU."""
    nodes = [Node(name="cpu", capacity=1), Node(name="gpu", capacity=1, gpu=True)]
    cameras = [Camera(name="any"), Camera(name="needs-gpu", gpu=True)]
    placement = place(cameras, nodes, {"any": "gpu"})
    assert placement.homes == {"any": "cpu", "needs-gpu": "gpu"}


def test_several_small_ones_make_room_for_a_large_one() -> None:
    """Rooms of one camera on each node are joined for a camera that takes two."""
    nodes = [Node(name=name, capacity=3) for name in ("a", "b")]
    small = [Camera(name=f"s{index}") for index in range(4)]
    now = {"s0": "a", "s1": "a", "s2": "b", "s3": "b"}
    placement = place([*small, Camera(name="large", cost=2)], nodes, now)
    assert not placement.waiting
    assert sum(placement.homes[name] != node for name, node in now.items()) == 1


def test_load_follows_capacity() -> None:
    """A node four times as large carries four times as many."""
    nodes = [Node(name="large", capacity=16), Node(name="small", capacity=4)]
    homes = place([Camera(name=f"c{index:02}") for index in range(10)], nodes, {}).homes
    assert sorted(homes.values()).count("large") == 8


@pytest.mark.parametrize(
    ("camera", "nodes", "reason"),
    [
        (Camera(name="c"), [], "no node is there"),
        (
            Camera(name="c", needs={"site": "east"}, gpu=True),
            [Node(name="n", capacity=9, labels={"site": "east"})],
            "no node has site = east and a GPU",
        ),
        (
            Camera(name="c"),
            [Node(name="n", capacity=9, draining=True)],
            "every node it may be on is being drained: n",
        ),
        (
            Camera(name="c", cost=20),
            [Node(name="n", capacity=16)],
            "it costs 20, the largest node it may be on carries 16",
        ),
        (
            Camera(name="d"),
            [Node(name="n", capacity=1.5)],
            "it costs 1, n has room for 0.5 at most",
        ),
    ],
)
def test_the_reason_says_what_is_missing(camera: Camera, nodes: list[Node], reason: str) -> None:
    """Whoever reads the status knows which node to add."""
    assert place([camera, Camera(name="c0")], nodes, {"c0": "n"}).waiting[camera.name] == reason


def test_what_has_no_meaning_is_refused() -> None:
    """Names twice, costs of nothing and capacities below nothing are mistakes of the caller."""
    with pytest.raises(ValueError, match="camera a is there twice"):
        place([Camera(name="a"), Camera(name="a")], [], {})
    with pytest.raises(ValueError, match="node n is there twice"):
        place([], [Node(name="n", capacity=1), Node(name="n", capacity=2)], {})
    with pytest.raises(ValueError, match="costs 0"):
        place([Camera(name="a", cost=0)], [], {})
    with pytest.raises(ValueError, match="carries nan"):
        place([], [Node(name="n", capacity=math.nan)], {})
