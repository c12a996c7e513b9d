"""Who may ask, and what every answer carries: hosts, tokens, security headers, counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders, QueryParams

from streamer.web.answers import error_answer, login_answer

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from streamer.metrics import Metrics
    from streamer.web.login import Login
    from streamer.web.options import WebOptions

__all__ = ["Guard"]

_OPEN_PATHS: Final = frozenset(
    {"/livez", "/readyz", "/login", "/static/style.css", "/static/icon.svg"}
)
"""Answered without a token: probes of an orchestrator carry none and learn only names of workers;
the login page must be had by whoever has yet to log in."""

_HEADERS: Final = {
    # Nothing but what this server itself sends may load, run or be asked for.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """ASGI middleware around every route.

    Without a token the server is reachable from this machine alone, and a web site that the user
    visits is what must be kept out: by the Host header (a name rebound to 127.0.0.1) and by
    Sec-Fetch-Site (a request from a foreign page). With a token it is the token that counts.

    Args:
        app: what is guarded.
        options: where the server listens.
        login: who may pass.
        metrics: counts answers by their status code.
    """

    def __init__(
        self, app: ASGIApp, *, options: WebOptions, login: Login, metrics: Metrics
    ) -> None:
        self._app = app
        self._login = login
        self._hosts = {"localhost", "127.0.0.1", "[::1]", str(options.address).rpartition(":")[0]}
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by itself what may not pass, and complete every answer's headers."""

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
                self._metrics.http_requests.labels(code=message["status"]).inc()
            await send(message)

        refusal = self._refuse(scope, Headers(scope=scope))
        await (self._app if refusal is None else refusal)(scope, receive, complete)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer for a request that may not pass, None for one that may."""
        path = scope["path"]
        needed = self._login.needed
        if not needed and _without_port(headers.get("host", "")) not in self._hosts:
            return error_answer(421, "this host name is not served here; use 127.0.0.1")
        foreign = headers.get("sec-fetch-site", "none") in {"cross-site", "same-site"}
        if foreign and headers.get("sec-fetch-mode") != "navigate":
            return error_answer(403, "requests from other web sites are refused")
        if path == "/" and self._login.accepts(QueryParams(scope["query_string"]).get("token", "")):
            return self._login.answer()
        if needed and path not in _OPEN_PATHS and not self._login.knows(headers):
            if path == "/" and "text/html" in headers.get("accept", ""):
                return login_answer(401)
            return error_answer(
                401, "send the header 'Authorization: Bearer TOKEN'", {"www-authenticate": "Bearer"}
            )
        return None


def _without_port(host: str) -> str:
    """Return the name of a Host header in lower case: 'localhost:9108' is 'localhost'."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
