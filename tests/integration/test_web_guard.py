"""Whom the web server answers: host names, other web sites, the token and the login form."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import pytest

from tests.website import TOKEN, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.website import Site


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
    for other in ('prefs={"a":1}', "flag", "user@host=1", "a=b; c", "=", "streamer_session=old"):
        assert guarded.ask("/api/cameras", {"Cookie": f"{other}; {cookie}"})[0] == 200, other
        assert guarded.ask("/api/cameras", {"Cookie": f"{cookie}; {other}"})[0] == 200, other
        assert guarded.ask("/api/cameras", {"Cookie": f"{other}; {cookie}0"})[0] == 401, other


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
