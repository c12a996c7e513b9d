"""How the fleet is: what ``streamer fleet status`` prints and ``--json`` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CameraStatus", "NodeStatus", "Status", "show"]


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node.

    Attributes:
        name: for people.
        node: the cluster's own name of it.
        host: of the machine.
        state: ``ready``, ``draining``, ``silent``, ``unfit``, or why it gets no camera.
        daemon: ``none``, ``starting``, ``running``, ``stopping`` or ``unknown``.
        cameras: that are or will be there.
        load: what they cost, in units of one 640x360 camera.
        capacity: what it carries, in the same.
        labels: of the node.
        gpu: whether the cluster gives it a GPU.
        http: host and port of its daemon's web server.
        lease_s: how long its lease runs at most, seconds.
        error: why its daemon ended last; empty while all is well.
    """

    name: str
    node: str
    host: str
    state: str
    daemon: str
    cameras: list[str]
    load: float
    capacity: float
    labels: dict[str, str]
    gpu: bool
    http: str
    lease_s: float
    error: str


class CameraStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One camera.

    Attributes:
        name: as configured.
        node: where it is or will be, by name; empty: nowhere.
        state: ``running``, ``starting``, ``moving``, ``waiting`` or ``refused``.
        reason: in words, where it does not run.
    """

    name: str
    node: str
    state: str
    reason: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet.

    Attributes:
        name: of the fleet.
        cluster: how the connection to the cluster is, in words.
        events: address of the stream of all cameras.
        snapshot: address of the snapshot.
        page: address of the metrics and of the health checks.
        moves: cameras that changed their node since the start.
        losses: cameras that lost their node since the start.
        nodes: in order of names.
        cameras: in order of the configuration.
    """

    name: str
    cluster: str
    events: str
    snapshot: str
    page: str
    moves: int
    losses: int
    nodes: list[NodeStatus]
    cameras: list[CameraStatus]


def show(status: Status, console: Console) -> None:
    """Print the nodes, and the cameras that do not run."""
    console.print(f"fleet {status.name}: {status.cluster}", soft_wrap=True)
    console.print(f"events at {status.events}, metrics at {status.page}", soft_wrap=True)
    nodes = Table(title="nodes", title_justify="left")
    for column in ("node", "state", "daemon", "cameras", "load", "labels"):
        nodes.add_column(column, justify="right" if column in {"cameras", "load"} else "left")
    for node in status.nodes:
        labels = [f"{key}={value}" for key, value in sorted(node.labels.items())]
        nodes.add_row(
            node.name,
            f"{node.state}: {node.error}" if node.error else node.state,
            node.daemon,
            str(len(node.cameras)),
            f"{node.load:g} of {node.capacity:g}",
            " ".join([*labels, *["gpu"] * node.gpu]),
        )
    console.print(nodes)
    states = [camera.state for camera in status.cameras]
    console.print(
        f"{states.count('running')} of {len(states)} cameras run, {status.moves} moves and "
        f"{status.losses} losses since the start"
    )
    for camera in status.cameras:
        if camera.state != "running":
            where = f" on {camera.node}" if camera.node else ""
            reason = f": {camera.reason}" if camera.reason else ""
            console.print(f"  {camera.name} {camera.state}{where}{reason}", soft_wrap=True)
