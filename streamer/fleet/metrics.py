"""The fleet's own metrics, declared once on the registry that is given.

Each node's daemon exports its own as ever; these are about the whole. Labels are ``node``,
``state`` and ``reason``: the nodes that are there now, and closed sets. Gauges of a node go when
it goes.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from streamer.metrics import PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import CollectorRegistry

    from streamer.fleet.placement import Camera, Node, Placement

__all__ = ["PLACEMENT_BUCKETS_S", "TAKEOVER_BUCKETS_S", "FleetMetrics", "Lost"]

PLACEMENT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Bounds of one placement, seconds: 1,000 cameras on 60 nodes take 0.06 s (measured, one core)."""

TAKEOVER_BUCKETS_S: Final = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 12.5, 15.0, 20.0, 30.0, 60.0, 300.0)
"""Bounds of a takeover, seconds: the goal of 15 s is a bound, so that its share is exact."""


class Lost(StrEnum):
    """What a camera was taken over from; the value of ``reason`` in ``takeovers``."""

    NODE = "node_lost"
    """The machine is gone, or cannot be reached."""
    DAEMON = "daemon_ended"
    """The machine is there, its daemon or what looks after it has ended."""


class FleetMetrics:
    """All metrics; an attribute is named as its metric without prefix and ``_total``.

    Args:
        registry: where they are registered; one registry takes one ``FleetMetrics``.
        process: also register ``process_*`` and ``python_*`` of this process.

    Raises:
        ValueError: if the registry already carries these names.
    """

    def __init__(self, registry: CollectorRegistry, *, process: bool = True) -> None:
        self.registry = registry
        self._known: set[str] = set()
        prefix = PREFIX + "fleet_"
        self.nodes = Gauge(
            prefix + "nodes", "Nodes that are there, by state.", ["state"], registry=registry
        )
        self.cameras = Gauge(
            prefix + "cameras", "Configured cameras, by state.", ["state"], registry=registry
        )
        self.node_capacity = Gauge(
            prefix + "node_capacity",
            "Cameras of 640x360 that a node carries; 0 while it is being drained.",
            ["node"],
            registry=registry,
        )
        self.node_load = Gauge(
            prefix + "node_load",
            "What is placed on a node, in cameras of 640x360.",
            ["node"],
            registry=registry,
        )
        self.moves = Counter(
            prefix + "moves", "Cameras sent from a living node to another.", registry=registry
        )
        self.takeovers = Counter(
            prefix + "takeovers",
            "Cameras given to another node because theirs was lost, by what was lost.",
            ["reason"],
            registry=registry,
        )
        self.lease_losses = Counter(
            prefix + "lease_losses",
            "Leases that ran out: a node stopped its cameras, or has to have stopped them.",
            registry=registry,
        )
        self.events_refused = Counter(
            prefix + "events_refused",
            "Events that did not go out: their node does not have the camera, or they are none.",
            registry=registry,
        )
        self.placement_seconds = Histogram(
            prefix + "placement_seconds",
            "Wall time of deciding where cameras are to be.",
            buckets=PLACEMENT_BUCKETS_S,
            registry=registry,
        )
        self.takeover_seconds = Histogram(
            prefix + "takeover_seconds",
            "Time from a lost node's last sign of life to its camera's start elsewhere.",
            buckets=TAKEOVER_BUCKETS_S,
            registry=registry,
        )
        for reason in Lost:
            self.takeovers.labels(reason.value)  # from zero on, so that a rate has a start
        self.show((), (), None)
        if process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)

    def show(
        self, cameras: Sequence[Camera], nodes: Sequence[Node], placement: Placement | None
    ) -> None:
        """Export where everything is; call it after each placement.

        Args:
            cameras: all that are configured.
            nodes: all that are there.
            placement: where the cameras are; None before the first one.
        """
        draining = sum(node.draining for node in nodes)
        self.nodes.labels("ready").set(len(nodes) - draining)
        self.nodes.labels("draining").set(draining)
        homes = {} if placement is None else placement.homes
        self.cameras.labels("placed").set(len(homes))
        self.cameras.labels("waiting").set(len(cameras) - len(homes))
        for gone in self._known - {node.name for node in nodes}:
            self.node_capacity.remove(gone)
            self.node_load.remove(gone)
        self._known = {node.name for node in nodes}
        for node in nodes:
            load = math.fsum(c.cost for c in cameras if homes.get(c.name) == node.name)
            self.node_capacity.labels(node.name).set(0 if node.draining else node.capacity)
            self.node_load.labels(node.name).set(load)
