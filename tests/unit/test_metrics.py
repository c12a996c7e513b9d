"""The metrics: names, labels, and series that go when a camera goes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamer.metrics import LATENCY_BUCKETS_S, DropReason, Metrics
from streamer.throttle import LEVELS

CONTRACT = {
    "streamer_frames_captured": {"camera"},
    "streamer_frames_dropped": {"camera", "reason"},
    "streamer_frames_analysed": {"camera"},
    "streamer_faces_detected": {"camera"},
    "streamer_tracks_active": {"camera"},
    "streamer_stage_seconds": {"stage"},
    "streamer_batch_faces": set(),
    "streamer_event_latency_seconds": set(),
    "streamer_camera_up": {"camera"},
    "streamer_camera_reconnects": {"camera", "reason"},
    "streamer_camera_fps": {"camera"},
    "streamer_events_published": {"type"},
    "streamer_zmq_connections": set(),
    "streamer_zmq_handshake_failures": set(),
}


@pytest.fixture
def registry() -> CollectorRegistry:
    """A fresh registry a test."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    """Metrics with one series of every kind."""
    metrics = Metrics(registry)
    metrics.camera("lobby")
    metrics.camera_reconnects.labels(camera="lobby", reason="timeout").inc()
    metrics.sources_discarded_frames.labels(camera="lobby", reason="keyframe").inc()
    metrics.live_pictures.labels(camera="lobby").inc()
    metrics.observe_stage("detect", 0.0042)
    metrics.batch_faces.observe(3)
    metrics.event_latency_seconds.observe(0.06)
    metrics.events_published.labels(type="emotion.sample").inc()
    metrics.http_requests.labels(code="200").inc()
    metrics.engine_info.labels(stage="features").info({"runtime": "onnxruntime"})
    metrics.bundle_info.info({"name": "demo"})
    metrics.build_info.info({"version": "0.1.0"})
    return metrics


def test_every_metric_of_the_contract_is_exported_with_its_labels(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Names and labels are those that dashboards and alerts are written against."""
    assert metrics.registry is registry
    families = {
        f.name: f for f in text_string_to_metric_families(generate_latest(registry).decode())
    }
    for name, labels in CONTRACT.items():
        found = {key for s in families[name].samples for key in s.labels} - {"le"}
        assert found == labels, name
    for name in ("engine", "bundle", "build"):
        assert f"streamer_{name}_info" in families


def test_labels_come_from_the_closed_set(metrics: Metrics) -> None:
    """No metric of ours can carry a track, a URL or a process number."""
    for family in metrics.registry.collect():
        if family.name.startswith("streamer_") and family.type != "info":
            keys = {key for sample in family.samples for key in sample.labels}
            assert keys <= {"camera", "stage", "reason", "type", "code", "le"}, family.name


def test_a_new_camera_starts_at_zero_for_every_drop_reason(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """A rate needs a first sample, so all series exist before anything happens."""
    metrics.camera("yard")
    for reason in DropReason:
        labels = {"camera": "yard", "reason": str(reason)}
        assert registry.get_sample_value("streamer_frames_dropped_total", labels) == 0.0
    for name in ("frames_captured_total", "frames_analysed_total", "camera_up"):
        assert registry.get_sample_value(f"streamer_{name}", {"camera": "yard"}) == 0.0


def test_cached_handles_and_labels_count_on_the_same_series(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """The fast way and the library's way are one series."""
    lobby = metrics.camera("lobby")
    assert metrics.camera("lobby") is lobby
    lobby.captured.inc()
    metrics.frames_captured.labels(camera="lobby").inc(2)
    lobby.dropped[DropReason.SUPERSEDED].inc(4)
    assert registry.get_sample_value("streamer_frames_captured_total", {"camera": "lobby"}) == 3
    labels = {"camera": "lobby", "reason": "superseded"}
    assert registry.get_sample_value("streamer_frames_dropped_total", labels) == 4


def test_removing_a_camera_removes_its_series_from_every_metric(metrics: Metrics) -> None:
    """A camera that is gone leaves no series, and its namesake with a longer name keeps all."""
    metrics.camera("lobby2")
    metrics.remove_camera("lobby")
    cameras = {
        sample.labels["camera"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if "camera" in sample.labels
    }
    assert cameras == {"lobby2"}
    metrics.remove_camera("lobby")


def test_a_removed_camera_can_come_back_at_zero(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    """A camera that returns starts a new series instead of counting on a stale handle."""
    metrics.camera("lobby").captured.inc(7)
    metrics.remove_camera("lobby")
    metrics.camera("lobby").captured.inc()
    assert registry.get_sample_value("streamer_frames_captured_total", {"camera": "lobby"}) == 1


def test_the_latency_goal_is_a_bucket_bound(metrics: Metrics, registry: CollectorRegistry) -> None:
    """The share of events within 150 ms is read off exactly, and 150 ms itself is within."""
    assert 0.15 in LATENCY_BUCKETS_S
    assert list(LATENCY_BUCKETS_S) == sorted(set(LATENCY_BUCKETS_S))
    metrics.event_latency_seconds.observe(0.15)
    metrics.event_latency_seconds.observe(0.151)
    name = "streamer_event_latency_seconds_bucket"
    assert registry.get_sample_value(name, {"le": "0.15"}) == 2
    assert registry.get_sample_value(name, {"le": "0.175"}) == 3


def test_process_metrics_are_on_the_given_registry_only_on_request() -> None:
    """Memory and CPU of the process are exported beside ours, unless a test declines."""
    plain, full = CollectorRegistry(), CollectorRegistry()
    Metrics(plain, process=False)
    Metrics(full)
    assert plain.get_sample_value("process_resident_memory_bytes") is None
    resident = full.get_sample_value("process_resident_memory_bytes")
    assert resident is not None
    assert resident > 1 << 20


def test_one_registry_takes_one_set(registry: CollectorRegistry) -> None:
    """Two sets on one registry would count twice; the library refuses them."""
    Metrics(registry, process=False)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(registry, process=False)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) absent")
def test_promtool_finds_no_fault(metrics: Metrics) -> None:
    """Prometheus' own linter accepts names, types, help texts and units."""
    text = generate_latest(metrics.registry)
    ours = b"".join(
        line for line in text.splitlines(keepends=True) if b"streamer_" in line.split(b"{")[0]
    )
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=ours, capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr.decode(), done.stdout.decode()) == (0, "", "")


def test_the_level_of_overload_is_explained_as_it_is() -> None:
    """The text that a scrape has, the table of the README and the order itself agree."""
    registry = CollectorRegistry()
    Metrics(registry, process=False)
    (text,) = (f.documentation for f in registry.collect() if f.name == "streamer_overload_level")
    assert "1 to 4 frames are analysed less often; from 5 the detector" in text
    assert text.endswith("up to 8.")
    readme = (Path(__file__).resolve().parents[2] / "streamer" / "README.md").read_text()
    for row in ("| 1, 2, 3, 4 | 90, 80, 65, 50 %", "| 5 | 50 %", "| 6, 7, 8 | 35, 25, 15 %"):
        assert row in readme
    shares = (100, 90, 80, 65, 50, 50, 35, 25, 15)
    assert [round(100 * level.share) for level in LEVELS] == list(shares)
    assert [level.frugal for level in LEVELS] == [False] * 5 + [True] * 4
