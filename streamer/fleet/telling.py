"""What the fleet counts, brought to its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.fleet.metrics import FleetMetrics

if TYPE_CHECKING:
    from streamer.fleet.controller import Controller
    from streamer.metrics import Metrics

__all__ = ["Telling"]


class Telling:
    """Takes note of what the switchboard and the controller do.

    Args:
        metrics: those that a daemon has, too; the fleet's own join them.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._fleet = FleetMetrics(metrics.registry, process=False)
        self._moves = self._fenced = 0
        self._placed: object = None

    def published(self, type_name: str, latency_s: float | None) -> None:
        """See ``streamer.publish.PublishObserver``."""
        self._metrics.events_published.labels(type_name).inc()
        if latency_s is not None:
            self._metrics.event_latency_seconds.observe(latency_s)

    def dropped(self, type_name: str) -> None:
        """As above."""
        self._metrics.events_dropped.labels(type_name).inc()

    def connections(self, count: int) -> None:
        """As above."""
        self._metrics.zmq_connections.set(count)

    def handshake_failed(self) -> None:
        """As above."""
        self._metrics.zmq_handshake_failures.inc()

    def refused(self) -> None:
        """See ``streamer.fleet.switchboard.Observer``."""
        self._fleet.events_refused.inc()

    def show(self, controller: Controller) -> None:
        """Bring the gauges and counters up to date."""
        fleet, counts = self._fleet, controller.counts
        fleet.moves.inc(counts.moves - self._moves)
        fleet.lease_losses.inc(counts.fenced - self._fenced)
        self._moves, self._fenced = counts.moves, counts.fenced
        for reason, seconds in counts.takeovers:
            fleet.takeovers.labels(reason.value).inc()
            fleet.takeover_seconds.observe(seconds)
        for seconds in counts.placings_s:
            fleet.placement_seconds.observe(seconds)
        counts.takeovers.clear()
        counts.placings_s.clear()
        if controller.placed is not None and controller.placed is not self._placed:
            self._placed = controller.placed
            fleet.show(*controller.placed)
