"""A running web server with everything behind it, and how to ask it."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from streamer.metrics import Metrics
from streamer.web import LiveView, WebOptions, WebServer
from tests.fakes_web import FakeState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from starlette.routing import BaseRoute

__all__ = ["TOKEN", "Site", "serving"]

TOKEN = "correct-horse-battery"  # noqa: S105 - a test's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running server with everything behind it."""

    server: WebServer
    state: FakeState
    live: LiveView
    metrics: Metrics

    @property
    def port(self) -> int:
        """The port the system chose."""
        return int(self.server.url.rstrip("/").rpartition(":")[2])

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request and return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Send one request and return status and the JSON of the answer."""
        status, _, body = self.ask(path, headers)
        return status, json.loads(body)

    def value(self, name: str, **labels: str) -> float:
        """Read one metric; 0 where it has no series yet."""
        return self.metrics.registry.get_sample_value(f"streamer_{name}", labels) or 0.0


@contextmanager
def serving(
    metrics: Metrics | None = None,
    *,
    registry: CollectorRegistry | None = None,
    more: Sequence[BaseRoute] = (),
    **options: Any,
) -> Iterator[Site]:
    """Run a server.

    Args:
        metrics: what it counts in; None: fresh ones.
        registry: what it shows to a scraper; None: the same.
        more: further routes.
        options: of the server; on a free port of the loopback unless they say otherwise.
    """
    metrics = metrics or Metrics(CollectorRegistry(), process=False)
    state = FakeState(registry=registry or metrics.registry)
    chosen = WebOptions(**{"bind": "127.0.0.1:0", **options})
    live = LiveView(clock=time, metrics=metrics, pictures=chosen.pictures)
    server = WebServer(
        options=chosen, state=state, live=live, metrics=metrics, clock=time, more=more
    )
    server.start()
    try:
        yield Site(server=server, state=state, live=live, metrics=metrics)
    finally:
        assert server.stop(5.0)
