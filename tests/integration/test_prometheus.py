"""A real Prometheus scrapes a running server and answers questions about it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from streamer.metrics import DropReason, Metrics
from tests.scraping import prometheus_of, within
from tests.website import TOKEN, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: streamer
    authorization:
      credentials: {token}
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus absent (Debian: apt install prometheus)"
)


@pytest.fixture
def metrics() -> Iterator[tuple[Metrics, int]]:
    """The metrics of a running server, and its port."""
    metrics = Metrics(CollectorRegistry())
    with serving(metrics, token=TOKEN) as site:
        yield metrics, site.port


@pytest.fixture
def prometheus(metrics: tuple[Metrics, int], tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus that scrapes that server every second."""
    (tmp_path / "prometheus.yml").write_text(CONFIG.format(token=TOKEN, port=metrics[1]))
    with prometheus_of(tmp_path) as address:
        yield address


def test_prometheus_scrapes_and_answers(metrics: tuple[Metrics, int], prometheus: str) -> None:
    """Counters, gauges, quantiles of the latency and drops by reason can be asked for."""
    lobby = metrics[0].camera("lobby")
    lobby.captured.inc(250)
    lobby.dropped[DropReason.SUPERSEDED].inc(150)
    lobby.up.set(1)
    for latency_s in (0.04,) * 95 + (0.16,) * 5:
        metrics[0].event_latency_seconds.observe(latency_s)
    (up,) = within(30, prometheus, 'up{job="streamer"} == 1')
    assert up["value"][1] == "1"
    (captured,) = within(30, prometheus, "streamer_frames_captured_total == 250")
    assert captured["metric"]["camera"] == "lobby"
    (dropped,) = within(30, prometheus, "sum by (reason) (streamer_frames_dropped_total) > 0")
    assert (dropped["metric"], dropped["value"][1]) == ({"reason": "superseded"}, "150")
    # 95 of 100 events are within the bucket that ends at 50 ms, all within the one at 175 ms.
    in_time = 'streamer_event_latency_seconds_bucket{le="0.15"} == 95'
    assert within(30, prometheus, in_time)
    resident = within(30, prometheus, 'process_resident_memory_bytes{job="streamer"}')
    assert float(resident[0]["value"][1]) > 1 << 20
