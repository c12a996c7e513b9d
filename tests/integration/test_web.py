"""The web server over real connections: routes, hardening, starting and stopping."""

from __future__ import annotations

import http.client
import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from streamer.errors import ConfigError, StreamerError
from streamer.metrics import Metrics
from streamer.web import LiveView, WebOptions, WebServer, WorkerHealth
from tests.fakes_web import FakeState, frame, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

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


@contextmanager
def serving(**options: Any) -> Iterator[Site]:
    """Run a server on a free port of the loopback."""
    metrics = Metrics(CollectorRegistry())
    state = FakeState(registry=metrics.registry)
    chosen = WebOptions(bind=options.pop("bind", "127.0.0.1:0"), **options)
    live = LiveView(clock=time, metrics=metrics, pictures=chosen.pictures)
    server = WebServer(options=chosen, state=state, live=live, metrics=metrics, clock=time)
    server.start()
    try:
        yield Site(server=server, state=state, live=live, metrics=metrics)
    finally:
        assert server.stop(5.0)


@pytest.fixture
def site() -> Iterator[Site]:
    """A server without a token."""
    with serving() as site:
        yield site


@pytest.fixture
def guarded() -> Iterator[Site]:
    """A server with a token."""
    with serving(token=TOKEN) as site:
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


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:9108", 200),
        ("[::1]:9108", 200),
        ("LOCALHOST:1", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:9108", 421),
        ("", 421),
    ],
)
def test_a_foreign_host_name_is_refused(site: Site, host: str, status: int) -> None:
    """A name that was rebound to this machine does not reach the pictures."""
    assert site.ask("/api/cameras", {"Host": host})[0] == status


def test_requests_of_other_web_sites_are_refused(site: Site) -> None:
    """Another page may link here but neither read nor start a stream."""
    assert (
        site.ask("/api/live", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"})[0] == 403
    )
    navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert site.ask("/", navigation)[0] == 200
    assert site.ask("/", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"})[0] == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer", 401),
        ("", 401),
    ],
)
def test_the_token_opens_and_nothing_else_does(
    guarded: Site, authorization: str, status: int
) -> None:
    """Every route but the health checks wants it; a host name does not matter then."""
    headers = {"Authorization": authorization, "Host": "cameras.example"}
    for path in ("/metrics", "/api/cameras", "/api/version", "/static/app.js"):
        assert guarded.ask(path, headers)[0] == status


def test_health_checks_need_no_token(guarded: Site) -> None:
    """An orchestrator's probe carries none."""
    assert guarded.ask("/livez")[0] == 200
    assert guarded.ask("/readyz")[0] == 200


def test_a_link_with_the_token_becomes_a_cookie(guarded: Site) -> None:
    """The token leaves the address bar, and the cookie opens the page but is not the token."""
    html = {"Accept": "text/html"}
    assert guarded.ask("/", html)[0] == 401
    assert guarded.ask("/?token=wrong", html)[0] == 401
    status, headers, _ = guarded.ask(f"/?token={TOKEN}", html)
    assert (status, headers["location"]) == (303, "/")
    assert TOKEN not in headers["set-cookie"]
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=strict" in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    assert guarded.ask("/api/cameras", {"Cookie": cookie})[0] == 200
    assert guarded.ask("/api/cameras", {"Cookie": cookie + "0"})[0] == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [(f"token={TOKEN}", 303), ("token=wrong", 401), ("", 401), ("token=" + "x" * 5000, 413)],
)
def test_the_login_form(guarded: Site, body: str, status: int) -> None:
    """The form takes the token, refuses another and does not read for ever."""
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=10)
    connection.request("POST", "/login", body)
    answer = connection.getresponse()
    assert answer.status == status
    assert ("set-cookie" in {k.lower() for k, _ in answer.getheaders()}) == (status == 303)
    connection.close()


def test_a_port_in_use_is_one_line(site: Site) -> None:
    """The second server on a port fails where it is started, and says what to do."""
    with pytest.raises(StreamerError, match="is used by another process") as caught:
        serving(bind=f"127.0.0.1:{site.port}").__enter__()
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bind": "9108"}, "expected an IP address and a port"),
        ({"bind": "camera.example:9108"}, "expected an IP address and a port"),
        ({"bind": "::1:9108"}, "expected an IP address and a port"),
        ({"bind": ":9108"}, "expected an IP address and a port"),
        ({"bind": "127.0.0.1:65536"}, "expected 0 to 65535"),
        ({"bind": "127.0.0.1:web"}, "expected 0 to 65535"),
        ({"bind": "0.0.0.0:9108"}, "set http.allow_remote and http.token"),
        ({"bind": "0.0.0.0:9108", "token": TOKEN}, "set http.allow_remote and http.token"),
        ({"bind": "0.0.0.0:9108", "allow_remote": True}, "http.token: is needed"),
        ({"token": "short"}, "expected 16 to 512"),
        ({"token": "with a space in the middle"}, "expected 16 to 512"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    """One line names the key, what was expected and what to do; systemd will not restart on it."""
    with pytest.raises(ConfigError, match=message) as caught:
        WebOptions(**options)
    assert caught.value.exit_code == 78


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    """192.0.2.1 is of a documentation network, which no machine has."""
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:9108"):
        serving(bind="192.0.2.1:9108", allow_remote=True, token=TOKEN).__enter__()


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
def test_loopback_in_each_form(bind: str) -> None:
    """IPv4, its name and IPv6."""
    with serving(bind=bind) as site:
        host = "::1" if bind.startswith("[") else "127.0.0.1"
        with socket.create_connection((host, site.port), timeout=5) as peer:
            peer.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert peer.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl (makes the certificate) absent"
)
def test_tls(tmp_path: Path) -> None:
    """With a certificate the server speaks TLS, and the cookie is for TLS only."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
    )
    subprocess.run(
        [*make.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    with serving(tls_cert=cert, tls_key=key, token=TOKEN) as site:
        assert site.server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("127.0.0.1", site.port, context=context, timeout=5)
        connection.request("GET", f"/?token={TOKEN}")
        answer = connection.getresponse()
        assert answer.status == 303
        assert "Secure" in str(answer.getheader("set-cookie"))
        connection.close()
    with serving(tls_cert=cert, tls_key=key) as site:
        plain = socket.create_connection(("127.0.0.1", site.port), timeout=5)
        silent = context.wrap_socket(plain, server_hostname="127.0.0.1")
        begun = time.monotonic()
        assert site.server.stop(2.0)  # though the peer does not say that it closes
        assert time.monotonic() - begun < 2
        silent.close()
    with pytest.raises(ConfigError, match="expected PEM files that belong together"):
        serving(tls_cert=key, tls_key=cert).__enter__()
    with pytest.raises(ConfigError, match="No such file"):
        serving(tls_cert=tmp_path / "none.pem", tls_key=key).__enter__()
    with pytest.raises(ConfigError, match="are needed together"):
        WebOptions(tls_cert=cert)


def test_progress_is_stamped_while_the_loop_turns(site: Site) -> None:
    """The supervisor sees the web thread move at least every two seconds."""
    first = site.server.last_progress_ns
    assert abs(time.monotonic_ns() - first) < 5e9
    deadline = time.monotonic() + 5
    while site.server.last_progress_ns == first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert site.server.last_progress_ns > first


def test_stopping_ends_open_streams_and_frees_the_port() -> None:
    """A watcher does not hold the daemon; the port can be bound at once again."""
    with serving() as site:
        watcher = socket.create_connection(("127.0.0.1", site.port), timeout=5)
        watcher.sendall(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert watcher.recv(100).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        assert site.server.stop(5.0)
        assert time.monotonic() - begun < 3
        while watcher.recv(65536):
            pass
        watcher.close()
        assert not site.server.alive
        with serving(bind=f"127.0.0.1:{site.port}"):
            pass
        assert site.server.stop(1.0)
    assert not [t.name for t in threading.enumerate() if t.name == "web"]


def _cut_off(peer: socket.socket, dribble: bytes) -> bool:
    """Send the same now and then; tell whether the peer closed within five seconds."""
    peer.settimeout(0.05)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            peer.sendall(dribble)
            return peer.recv(1) == b""
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


def test_a_peer_that_says_nothing_is_cut_off() -> None:
    """Neither silence nor a byte now and then holds a connection."""
    with serving(idle_s=0.3) as site:
        silent = socket.create_connection(("127.0.0.1", site.port), timeout=5)
        slow = socket.create_connection(("127.0.0.1", site.port), timeout=5)
        assert _cut_off(slow, b"G")
        assert _cut_off(silent, b"")
        silent.close()
        slow.close()
        assert site.ask("/livez")[0] == 200


def test_a_crowd_of_connections_is_bounded(site: Site) -> None:
    """Beyond the limit new connections are closed, and later ones are served again."""
    crowd = [socket.create_connection(("127.0.0.1", site.port), timeout=5) for _ in range(150)]
    try:
        closed = 0
        for peer in crowd:
            peer.settimeout(0.02)
            try:
                closed += peer.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed += 1
        assert closed >= 150 - 128
    finally:
        for peer in crowd:
            peer.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if site.ask("/livez")[0] == 200:
                return
        except ConnectionError:
            time.sleep(0.05)
    pytest.fail("not served again")


def test_a_huge_head_is_refused(site: Site) -> None:
    """Headers beyond 16 kB are not collected."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=5) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000)
        assert peer.recv(100).startswith(b"HTTP/1.1 400")


@pytest.fixture(scope="module")
def target() -> Iterator[Site]:
    """One server for all the bytes that hypothesis thinks of."""
    with serving() as site:
        yield site


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.builds(
            lambda method, path, header: (
                b"%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % (method, path, header)
            ),
            st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"\x00"]),
            st.sampled_from([b"/", b"/livez", b"/login", b"/static/", b"/api/cameras/"]).flatmap(
                lambda p: st.binary(max_size=30).map(lambda tail: p + tail)
            ),
            st.binary(max_size=60),
        ),
    )
)
def test_any_bytes_get_an_answer_or_an_end(target: Site, sent: bytes) -> None:
    """Whatever arrives, the server answers or closes, and goes on to serve."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=5) as peer:
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while chunk := peer.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    assert received == b"" or received.startswith(b"HTTP/1.1 ")
    assert b"HTTP/1.1 500" not in received
    assert target.ask("/livez")[0] == 200
