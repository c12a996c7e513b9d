"""The routes: metrics, health, the JSON interface and the live page."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import msgspec
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from streamer.logs import redact
from streamer.web.answers import STATIC, error_answer, file_answer, json_answer, login_answer
from streamer.web.guard import Guard
from streamer.web.live import WIDTHS_PX, StatusMessage, Wanted
from streamer.web.login import Login

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from streamer.metrics import Metrics
    from streamer.web.live import Live
    from streamer.web.options import WebOptions
    from streamer.web.state import CameraView, WebState

__all__ = ["application"]

_LOGIN_LIMIT: Final = 4096
"""Bytes of a login form; a token has at most 512 characters."""
_LOGIN_S: Final = 5.0
"""How long the form's bytes may take."""
_DEFAULT_WIDTH_PX: Final = 640


def application(
    *,
    options: WebOptions,
    state: WebState,
    live: Live,
    metrics: Metrics,
    more: Sequence[BaseRoute] = (),
) -> Guard:
    """Return the ASGI application; the guard stands outside, so that a 500 passes through it too.

    Args:
        options: token and privacy of the pictures.
        state: the daemon.
        live: where watchers get frames.
        metrics: counts the answers.
        more: further routes, behind the same guard.
    """
    login = Login(options)
    site = _Site(login, state, live)
    inner = Starlette(
        routes=[
            Route("/", site.page),
            Route("/login", site.login, methods=["POST"]),
            Route("/static/{name}", site.static),
            Route("/metrics", site.metrics),
            Route("/livez", site.livez),
            Route("/readyz", site.readyz),
            Route("/api/version", site.version),
            Route("/api/cameras", site.cameras),
            Route("/api/cameras/{name}", site.camera),
            Route("/api/live", site.live),
            *more,
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    return Guard(inner, options=options, login=login, metrics=metrics)


async def _refused(_request: Request, error: Exception) -> Response:
    """Answer an unknown path or method as JSON."""
    if not isinstance(error, HTTPException):
        raise TypeError(f"registered for HTTPException, called for {type(error).__name__}")
    return error_answer(error.status_code, error.detail, error.headers)


async def _failed(_request: Request, _error: Exception) -> Response:
    """Answer after a bug; the traceback goes to the log, not to whoever asked."""
    return error_answer(500, "the server failed to answer; its log says why")


class _Site:
    """The handlers, with what they show."""

    def __init__(self, login: Login, state: WebState, live: Live) -> None:
        self._login = login
        self._state = state
        self._live = live

    async def page(self, _request: Request) -> Response:
        """``/``: the live page."""
        return file_answer("index.html")

    async def login(self, request: Request) -> Response:
        """``/login``: exchanges the token of a form for the cookie."""
        try:
            async with asyncio.timeout(_LOGIN_S):
                # latin-1 takes any byte: parse_qs itself would refuse those beyond ASCII
                form = parse_qs((await _body(request)).decode("latin-1"))
        except (TimeoutError, ClientDisconnect):
            return error_answer(408, "the form did not arrive in time")
        given = form.get("token", [""])[0].strip()
        return self._login.answer() if self._login.accepts(given) else login_answer(401)

    async def static(self, request: Request) -> Response:
        """``/static/NAME``: one of the page's own files."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404)
        return file_answer(name)

    async def metrics(self, request: Request) -> Response:
        """``/metrics``: every metric, in the format that the scraper prefers."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        await self._state.renew()
        return Response(encode(self._state.series()), headers={"content-type": media_type})

    async def livez(self, _request: Request) -> Response:
        """``/livez``: 200 while every worker makes progress, else 503 with those that do not."""
        workers = self._state.liveness()
        stuck = sorted(name for name, health in workers.items() if health.stuck)
        body = {"status": "stuck" if stuck else "ok", "stuck": stuck, "workers": workers}
        return json_answer(body, 503 if stuck else 200)

    async def readyz(self, _request: Request) -> Response:
        """``/readyz``: 200 once all that is needed is there, else 503 with what is missing."""
        parts = self._state.readiness()
        missing = sorted(name for name, there in parts.items() if not there)
        body = {"status": "starting" if missing else "ready", "missing": missing, "parts": parts}
        return json_answer(body, 503 if missing else 200)

    async def version(self, _request: Request) -> Response:
        """``/api/version``: program, bundle, engines, classes and the declared purpose."""
        return json_answer(self._state.about())

    async def cameras(self, _request: Request) -> Response:
        """``/api/cameras``: every camera with its state, rates, drops and faces."""
        await self._state.renew()
        return json_answer({"cameras": [self._described(view) for view in self._views()]})

    async def camera(self, request: Request) -> Response:
        """``/api/cameras/NAME``: one of them."""
        await self._state.renew()
        for view in self._views():
            if view.name == request.path_params["name"]:
                return json_answer(self._described(view))
        raise HTTPException(404, "no camera of that name; /api/cameras lists them")

    async def live(self, request: Request) -> Response:
        """``/api/live``: an endless stream of messages, see ``streamer.web.live``."""
        query = request.query_params
        width = query.get("width", str(_DEFAULT_WIDTH_PX))
        if width not in map(str, WIDTHS_PX):
            raise HTTPException(400, f"width: expected one of {', '.join(map(str, WIDTHS_PX))}")
        names = query.get("cameras")
        wanted = Wanted(
            cameras=None if names is None else frozenset(names.split(",")),
            pictures=query.get("pictures", "1") != "0",
            width_px=int(width),
        )
        if self._live.full:
            raise HTTPException(503, "as many watch as can be served; try again later")
        if request.method == "HEAD":
            return Response(media_type=_Stream.media_type)
        return _Stream(self._live.watch(wanted, self._status))

    def _views(self) -> tuple[CameraView, ...]:
        """Return the cameras; redacted once more, since here they leave the machine."""
        return tuple(
            msgspec.structs.replace(view, url=redact(view.url)) for view in self._state.cameras()
        )

    def _described(self, view: CameraView) -> dict[str, Any]:
        """Join a camera with its faces; one that is not online shows no stale ones."""
        tracks = self._live.tracks(view.name) if view.state == "online" else ()
        return {**msgspec.structs.asdict(view), "tracks": tracks}

    def _status(self) -> StatusMessage:
        return StatusMessage(about=self._state.about(), cameras=self._views())


async def _body(request: Request) -> bytes:
    """Read a small body.

    Raises:
        HTTPException: 413 if it is larger than a login form.
    """
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > _LOGIN_LIMIT:
            raise HTTPException(413, f"a login form has at most {_LOGIN_LIMIT} bytes")
    return bytes(parts)


class _Stream(Response):
    """Sends messages until the watcher goes or there are no more, and closes their source."""

    media_type = "application/octet-stream"

    def __init__(self, messages: AsyncGenerator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]  # unknown, so the body is sent in chunks
        self.headers["x-accel-buffering"] = "no"  # a proxy must not hold pictures back
        self._messages = messages

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        async with aclosing(self._messages) as messages:
            async for message in messages:
                await send({"type": "http.response.body", "body": message, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
