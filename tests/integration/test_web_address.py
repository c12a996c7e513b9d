"""Where the web server listens, TLS included, from its start until it stops."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from streamer.errors import ConfigError, StreamerError
from streamer.web import WebOptions
from tests.website import TOKEN, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.website import Site


@pytest.fixture
def site() -> Iterator[Site]:
    """A server without a token."""
    with serving() as site:
        yield site


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
