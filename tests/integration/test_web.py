"""The web server over real connections: what each route answers."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from streamer.web import WorkerHealth
from tests.fakes_web import frame, reading
from tests.website import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.website import Site


@pytest.fixture
def site() -> Iterator[Site]:
    """A server without a token."""
    with serving() as site:
        yield site


def test_metrics_are_those_of_the_registry(site: Site) -> None:
    """A scraper reads what was counted, in the plain format."""
    site.metrics.camera("lobby").captured.inc(5)
    status, headers, body = site.ask("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    (family,) = (f for f in parse_text(body.decode()) if f.name == "streamer_frames_captured")
    assert [(s.labels, s.value) for s in family.samples if s.name.endswith("_total")] == [
        ({"camera": "lobby"}, 5.0)
    ]


def test_metrics_speak_openmetrics_on_request(site: Site) -> None:
    """A scraper that prefers OpenMetrics gets it, complete to its end mark."""
    status, headers, body = site.ask(
        "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert status == 200
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    families = openmetrics.text_string_to_metric_families(body.decode())  # type: ignore[no-untyped-call]
    assert "streamer_build" in {family.name for family in families}


def test_answers_are_counted_by_code(site: Site) -> None:
    """Each answer counts once under its status."""
    site.ask("/livez")
    site.ask("/nothing-here")
    value = site.metrics.registry.get_sample_value
    assert value("streamer_http_requests_total", {"code": "200"}) == 1
    assert value("streamer_http_requests_total", {"code": "404"}) == 1


def test_livez_names_the_stuck_worker(site: Site) -> None:
    """200 while all make progress; 503 with the name of the one that does not."""
    site.state.workers = {
        "compute": WorkerHealth(age_s=0.1, limit_s=5.0),
        "capture:lobby": WorkerHealth(age_s=4.9, limit_s=5.0),
    }
    assert site.json("/livez")[0] == 200
    site.state.workers["capture:lobby"] = WorkerHealth(age_s=5.1, limit_s=5.0)
    status, body = site.json("/livez")
    assert status == 503
    assert body["stuck"] == ["capture:lobby"]


def test_readyz_names_what_is_missing(site: Site) -> None:
    """503 with what is not there yet; 200 once all is; a camera that is down changes nothing."""
    site.state.parts = {"bundle": True, "engines": False, "sockets": False}
    status, body = site.json("/readyz")
    assert (status, body["missing"]) == (503, ["engines", "sockets"])
    site.state.parts = dict.fromkeys(site.state.parts, True)
    site.state.online("lobby")
    site.state.offline("lobby", "timeout")
    assert site.json("/readyz")[0] == 200


def test_cameras_tell_state_rates_drops_and_faces(site: Site) -> None:
    """The JSON has all that the page shows, without the credentials of the address."""
    site.state.online("lobby", "rtsp://bob:hunter2@cam/1")
    site.live.offer(frame("lobby", 7), [reading(3, (1, 2, 33, 44), "happiness")])
    status, body = site.json("/api/cameras")
    assert status == 200
    (camera,) = body["cameras"]
    (track,) = camera.pop("tracks")
    assert camera == {
        "name": "lobby",
        "url": "rtsp://***@cam/1",
        "state": "online",
        "since": "2026-01-31T12:00:00Z",
        "reason": None,
        "codec": "h264",
        "width": 640,
        "height": 360,
        "fps": 25.0,
        "analysed_fps": 10.0,
        "overload": 0,
        "latency_ms": 62.4,
        "captured": 1000,
        "analysed": 400,
        "dropped": {"superseded": 599, "error": 1},
    }
    assert (track["track"], track["box"], track["label"]) == (3, [1, 2, 33, 44], "happiness")
    assert track["probabilities"]["happiness"] == 0.79
    assert site.json("/api/cameras/lobby")[1]["name"] == "lobby"
    assert site.json("/api/cameras/attic")[0] == 404


def test_an_offline_camera_shows_no_last_faces(site: Site) -> None:
    """A camera that is gone shows its reason and not what it saw last."""
    site.state.online("lobby")
    site.live.offer(frame("lobby", 7), [reading(3, (1, 2, 33, 44), "happiness")])
    site.state.offline("lobby", "connection_refused")
    camera = site.json("/api/cameras/lobby")[1]
    assert (camera["state"], camera["reason"]) == ("offline", "connection_refused")
    assert camera["tracks"] == []


def test_version_tells_what_runs(site: Site) -> None:
    """Program, bundle, engines, classes and purpose."""
    body = site.json("/api/version")[1]
    assert (body["version"], body["bundle"]) == ("0.1.0", "demo-48")
    assert body["purpose"] == "Demonstration with synthetic faces"


def test_errors_are_json(site: Site) -> None:
    """An unknown path, a wrong method and a wrong value say so in JSON."""
    assert site.json("/nothing")[1]["error"]["code"] == 404
    status, headers, body = site.ask("/metrics", method="DELETE")
    assert (status, json.loads(body)["error"]["code"]) == (405, 405)
    assert "GET" in headers["allow"]
    assert "one of 320, 640" in site.json("/api/live?width=99999")[1]["error"]["message"]


@pytest.mark.parametrize("path", ["/static/", "/static/..", "/static/../server.py", "/static"])
def test_no_listing_and_no_way_out_of_the_pages_files(site: Site, path: str) -> None:
    """Only the named files are served."""
    assert site.ask(path)[0] == 404
    assert site.ask("/static/%2e%2e%2fserver.py")[0] == 404


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez", "/api/cameras", "/api/live"])
def test_head_has_the_headers_and_no_body(site: Site, path: str) -> None:
    """HEAD is answered as GET without its body."""
    status, headers, body = site.ask(path, method="HEAD")
    assert (status, body) == (200, b"")
    assert "content-type" in headers


@pytest.mark.parametrize("path", ["/", "/livez", "/nothing", "/static/app.js"])
def test_every_answer_carries_the_security_headers(site: Site, path: str) -> None:
    """No answer, whether found or refused, lets a browser load or guess anything else."""
    headers = site.ask(path)[1]
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] in {"no-store", "no-cache"}
    assert "server" not in headers


def test_a_bug_in_the_daemon_is_a_500_without_details(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks learns nothing of the inside; the log has the traceback."""

    def broken() -> dict[str, bool]:
        raise RuntimeError("secret detail")

    site.state.readiness = broken  # type: ignore[method-assign] # the fake is made to fail
    with caplog.at_level(logging.ERROR):
        status, headers, body = site.ask("/readyz")
        deadline = time.monotonic() + 5  # the traceback is logged after the answer is sent
        while "secret detail" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert status == 500
    assert b"secret" not in body
    assert json.loads(body)["error"]["code"] == 500
    assert "secret detail" in caplog.text
    assert headers["content-type"] == "application/json"
    assert headers["content-security-policy"].startswith("default-src 'none'")
