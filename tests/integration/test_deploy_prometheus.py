"""Alert rules and the dashboard against promtool, a real Prometheus and the metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from starlette.responses import Response
from starlette.routing import Route

from streamer.fleet.discovery import CONTENT_TYPE, FLEET_JOB, Target, body
from streamer.fleet.metrics import FleetMetrics
from streamer.fleet.placement import Camera, Node, place
from streamer.metrics import DropReason, Metrics
from streamer.source import DiscardReason
from tests.scraping import ask, prometheus_of, within
from tests.website import TOKEN, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "streamer.json"
OF_PROMETHEUS = {"up", "ALERTS"}
"""Series that Prometheus makes by itself."""

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus and promtool absent (Debian: apt install prometheus)",
)


def rules() -> list[dict[str, Any]]:
    """Return every rule."""
    text = (DEPLOY / "prometheus" / "rules.yml").read_text()
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


@lru_cache
def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Return the panels that show something, those in folded rows included."""
    found = [panel for row in dashboard()["panels"] for panel in (row, *row.get("panels", ()))]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[str]:
    """Return every query of the dashboard."""
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    notes = [note["expr"] for note in dashboard()["annotations"]["list"]]
    return shown + notes


def example() -> Metrics:
    """Return the metrics of a daemon with one camera, each series with a value."""
    metrics = Metrics(CollectorRegistry())
    lobby = metrics.camera("lobby")
    for counter in (lobby.captured, lobby.analysed, lobby.faces_detected, *lobby.dropped.values()):
        counter.inc(0)
    lobby.up.set(1)
    metrics.observe_stage("detect", 0.004)
    metrics.batch_faces.observe(2)
    metrics.event_latency_seconds.observe(0.05)
    metrics.events_published.labels("emotion.sample").inc()
    metrics.events_dropped.labels("emotion.sample").inc(0)
    metrics.worker_restarts.labels("died").inc(0)
    metrics.camera_reconnects.labels("lobby", "timeout").inc(0)
    metrics.sources_discarded_frames.labels("lobby", "before_keyframe").inc(0)
    metrics.live_pictures.labels("lobby").inc(0)
    metrics.http_requests.labels("200").inc(0)
    metrics.engine_info.labels("features").info({"engine": "onnxruntime on CPU"})
    metrics.bundle_info.info({"bundle": "fer@0123456789ab"})
    metrics.build_info.info({"version": "0.1.0"})
    return metrics


def fleet_example() -> FleetMetrics:
    """Return the metrics of a fleet with one node and the camera of ``example``."""
    metrics = FleetMetrics(CollectorRegistry())
    cameras, nodes = [Camera(name="lobby")], [Node(name="a", capacity=16)]
    metrics.show(cameras, nodes, place(cameras, nodes, {}))
    metrics.placement_seconds.observe(0.01)
    metrics.takeover_seconds.observe(9.0)
    return metrics


def series_names(metrics: Metrics | FleetMetrics) -> set[str]:
    """Return every name that a scrape has."""
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


_NOT_A_METRIC = re.compile(
    r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)'
)
_WORDS = {"and", "or", "unless", "offset", "bool"}


def metrics_in(query: str) -> set[str]:
    """Return the metrics that a query names: words that are no function, label or operator."""
    bare = _NOT_A_METRIC.sub(" ", query)
    return set(re.findall(r"(?<![\w.])[A-Za-z_]\w*\b(?!\s*\()", bare)) - _WORDS


def test_the_metrics_of_a_query_are_recognised() -> None:
    """Functions, labels, strings, ranges and operators are not taken for metrics."""
    query = (
        'sum by (a, b) (rate(x_total{c="d_total"}[5m])) / on (e) group_left (f) y offset 6h > 0.5'
    )
    assert metrics_in(query) == {"x_total", "y"}


def test_every_metric_of_rules_and_dashboard_exists() -> None:
    """Nothing waits for a series that the daemon never exports."""
    known = series_names(example()) | series_names(fleet_example()) | OF_PROMETHEUS
    named = {name for query in queries() for name in metrics_in(query)}
    assert len(named) > 20
    for rule in rules():
        named |= metrics_in(rule["expr"])
        named |= set(re.findall(r"streamer_\w+", rule["annotations"]["description"]))
    assert named <= known, named - known


def test_every_label_of_rules_and_dashboard_exists() -> None:
    """A label that is misspelt would match nothing, silently."""
    labels = {
        label
        for registry in (example().registry, fleet_example().registry)
        for family in registry.collect()
        for sample in family.samples
        for label in sample.labels
    } | {"job", "instance", "alertname", "alertstate"}
    for query in [rule["expr"] for rule in rules()] + queries():
        used = set(re.findall(r'(\w+)\s*=~?"', query))
        for listed in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
            used |= {label.strip() for label in listed.split(",")}
        assert used <= labels, f"{query}: {used - labels}"


_REASONS = {
    "streamer_frames_dropped_total": {reason.value for reason in DropReason},
    "streamer_sources_discarded_frames_total": {reason.value for reason in DiscardReason},
}


def test_every_reason_of_rules_and_dashboard_exists() -> None:
    """Neither does a value that is misspelt, or that no code gives, match anything."""
    seen = set()
    for query in [rule["expr"] for rule in rules()] + queries():
        for metric, labels in re.findall(r"(streamer_\w+)\{([^}]*)\}", query):
            for named in re.findall(r'\breason=~?"([^"]*)"', labels):
                seen.add(metric)
                assert set(named.split("|")) <= _REASONS[metric], query
    assert seen == set(_REASONS)


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    """An alert has a severity, one line that names its subject, and a hint."""
    assert {rule["labels"]["severity"] for rule in rules()} == {"page", "ticket"}
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_the_panels_of_the_dashboard_fit() -> None:
    """Ids are unique, no panel covers another, each has a unit of text and the chosen source."""
    rows = [panel for panel in dashboard()["panels"] if panel["type"] == "row"]
    ids = [panel["id"] for panel in rows + panels()]
    assert len(ids) == len(set(ids))
    for first, second in combinations([p["gridPos"] for p in rows + panels()], 2):
        apart_x = first["x"] + first["w"] <= second["x"] or second["x"] + second["w"] <= first["x"]
        apart_y = first["y"] + first["h"] <= second["y"] or second["y"] + second["h"] <= first["y"]
        assert apart_x or apart_y, (first, second)
    for panel in panels():
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"


@needs_prometheus
@pytest.mark.parametrize(
    "command", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")]
)
def test_promtool_accepts_the_rules(command: tuple[str, ...]) -> None:
    """The syntax is right, and each alert fires when it should and only then."""
    done = subprocess.run(
        ["promtool", *command],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_of_its_own() -> None:
    """An alert that nobody has seen fire is a hope."""
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules()}


@pytest.fixture
def daemon() -> Iterator[tuple[Metrics, int]]:
    """The web server of a daemon whose counters run, and its port."""
    metrics = example()
    with serving(metrics, token=TOKEN) as site:
        yield metrics, site.port


@pytest.fixture
def fleet(daemon: tuple[Metrics, int]) -> Iterator[tuple[FleetMetrics, int]]:
    """The web server of a fleet whose one node is that daemon, and its port."""
    metrics = fleet_example()

    async def discovery(_request: Request) -> Response:
        nodes = [Target(node="a", address=f"127.0.0.1:{daemon[1]}", labels={"rack-no": "7"})]
        content = body(nodes, fleet=f"127.0.0.1:{site.port}")
        return Response(content, headers={"content-type": CONTENT_TYPE})

    more = [Route("/discovery", discovery)]
    with serving(registry=metrics.registry, more=more, token=TOKEN) as site:
        yield metrics, site.port


def scrape(file: str, folder: Path, addresses: dict[str, str]) -> dict[str, Any]:
    """Return a configuration of deploy/ with a token of our own and other addresses."""
    (folder / "http-token").write_text(TOKEN)
    text = (DEPLOY / "prometheus" / file).read_text()
    for shipped, ours in {**addresses, "/run/secrets": str(folder)}.items():
        assert shipped in text
        text = text.replace(shipped, ours)
    config: dict[str, Any] = yaml.safe_load(text)
    return config


@pytest.fixture
def prometheus(
    request: pytest.FixtureRequest,
    daemon: tuple[Metrics, int],
    fleet: tuple[FleetMetrics, int],
    tmp_path: Path,
) -> Iterator[str]:
    """The address of a Prometheus with a configuration and the rules of deploy/."""
    addresses = {
        "prometheus.yml": {"streamer:9108": f"127.0.0.1:{daemon[1]}"},
        "fleet.yml": {"streamer-fleet:9108": f"127.0.0.1:{fleet[1]}"},
    }
    config = scrape(request.param, tmp_path, addresses[request.param])
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    subprocess.run(["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, check=True)
    with prometheus_of(tmp_path) as address:
        yield address


@needs_prometheus
@pytest.mark.parametrize("prometheus", ["prometheus.yml"], indirect=True)
def test_a_real_prometheus_scrapes_one_daemon(prometheus: str) -> None:
    """The configuration for a single daemon works, token included, and has no fleet's alerts."""
    assert within(30, prometheus, 'up{job="streamer"} == 1')
    assert not within(0, prometheus, f'up{{job="{FLEET_JOB}"}}')


@needs_prometheus
@pytest.mark.parametrize("prometheus", ["fleet.yml"], indirect=True)
def test_a_real_prometheus_answers_every_query(
    daemon: tuple[Metrics, int], fleet: tuple[FleetMetrics, int], prometheus: str
) -> None:
    """The fleet names what to scrape, every rule is evaluated, every panel has data."""
    (up,) = within(30, prometheus, 'up{job="streamer"} == 1')
    assert (up["metric"]["node"], up["metric"]["node_rack_no"]) == ("a", "7")
    assert within(30, prometheus, f'up{{job="{FLEET_JOB}"}} == 1')
    assert within(30, prometheus, 'count_over_time(up{job="streamer"}[1m]) > 3')
    for query in queries():
        ready = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
        ready = ready.replace("$camera", ".*")
        quiet = query.startswith(("changes(process_start", "ALERTS{"))  # nothing has happened yet
        assert within(0 if quiet else 10, prometheus, ready) or quiet, query
    groups = ask(prometheus, "rules")["groups"]
    states = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(states) == {rule["alert"] for rule in rules()}
    assert {rule["health"] for rule in states.values()} == {"ok"}, states
    daemon[0].camera("lobby").up.set(0)
    daemon[0].camera("lobby").dropped[DropReason.OVERLOAD].inc()
    fleet[0].cameras.labels("waiting").set(1)
    (alert,) = within(20, prometheus, 'ALERTS{alertname="StreamerCameraDown"}')
    assert (alert["metric"]["camera"], alert["metric"]["alertstate"]) == ("lobby", "pending")
    assert within(20, prometheus, 'ALERTS{alertname="StreamerFleetCamerasWaiting"}')
