"""Peers that the web server must outlive: silent ones, crowds, and any bytes at all."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.website import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.website import Site


@pytest.fixture
def site() -> Iterator[Site]:
    """A server without a token."""
    with serving() as site:
        yield site


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
