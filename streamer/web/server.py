"""The web server: one socket, one thread, one event loop; bound by whoever starts it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamer.errors import ConfigError, StreamerError
from streamer.threads import show_name
from streamer.web.routes import application
from streamer.web.tls import tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute

    from streamer.metrics import Metrics
    from streamer.stages import Clock
    from streamer.web.live import Live
    from streamer.web.options import WebOptions
    from streamer.web.state import WebState

__all__ = ["WebServer"]

_BACKLOG: Final = 64
_MAX_CONNECTIONS: Final = 128
"""Open connections in all; watchers may hold a quarter of them, so that probes find room."""
_MAX_HEAD: Final = 16 << 10
"""Bytes of a request's line and headers (h11's own default)."""
_UNSENT: Final = 64 << 10
"""Bytes a connection may hold unsent (TCP_NOTSENT_LOWAT): about two pictures, so that a slow
watcher sees new ones instead of a growing queue of old ones."""
_STALL_MS: Final = 30_000
"""A peer that takes nothing for so long is cut off (TCP_USER_TIMEOUT)."""
_GRACE: Final = 0.6
"""Share of the stop's deadline after which open connections are dropped."""
_START_S: Final = 10.0
"""How long the event loop may take to come up; it takes some milliseconds."""


class WebServer:
    """Serves the routes of ``streamer.web.routes`` in a thread of its own.

    Args:
        options: where to listen and whom to answer.
        state: the daemon; called from the server's thread.
        live: where watchers get frames.
        metrics: counts requests.
        clock: stamps progress.
        more: further routes.
    """

    def __init__(
        self,
        *,
        options: WebOptions,
        state: WebState,
        live: Live,
        metrics: Metrics,
        clock: Clock,
        more: Sequence[BaseRoute] = (),
    ) -> None:
        self._options = options
        self._live = live
        self._clock = clock
        self._app = application(options=options, state=state, live=live, metrics=metrics, more=more)
        self._server: uvicorn.Server | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._progress_ns = 0
        self._url = ""

    @property
    def url(self) -> str:
        """The address for a browser, with the port that the system chose; empty before start."""
        return self._url

    @property
    def last_progress_ns(self) -> int:
        """When the event loop last turned, monotonic nanoseconds; stamped once a second."""
        return self._progress_ns

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Bind the socket in the caller's thread, then serve in another.

        Raises:
            ConfigError: if the address or the TLS files cannot be right.
            StreamerError: if the port is in use, or the event loop does not come up.
        """
        self._server = uvicorn.Server(self._configure())
        self._socket = _bind(self._options)
        chosen = replace(self._options.address, port=self._socket.getsockname()[1])
        self._url = f"{'http' if self._options.tls_cert is None else 'https'}://{chosen}/"
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()
        if not self._started.wait(_START_S):
            raise StreamerError(f"http: no answer from the web thread within {_START_S:.0f} s")
        structlog.get_logger().info("web_server_started", url=self.url)

    def stop(self, deadline_s: float) -> bool:
        """End the streams, finish what is being answered and close the socket.

        Args:
            deadline_s: how long that may take; may be called twice.

        Returns:
            whether the thread has ended within the deadline.
        """
        if self._thread is None or self._server is None:
            return True
        self._call(self._live.close)
        self._server.should_exit = True
        self._thread.join(deadline_s * _GRACE)
        if self.alive:
            self._call(self._abort)
            self._thread.join(deadline_s * (1 - _GRACE))
        return not self.alive

    def _call(self, action: Callable[[], None]) -> None:
        """Have the event loop do something, unless it has ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(action)

    def _abort(self) -> None:
        """Drop the connections whose peers do not close them."""
        if self._server is not None:
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            self._server.force_exit = True

    def _configure(self) -> uvicorn.Config:
        options = self._options
        tls = tls_context(options)
        config = uvicorn.Config(
            self._app,
            loop="asyncio",
            http=_protocol(options.idle_s),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=max(1, int(options.idle_s)),
            h11_max_incomplete_event_size=_MAX_HEAD,
            callback_notify=self._stamp,
            timeout_notify=0,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        config.load()
        return config

    async def _stamp(self) -> None:
        """Note progress; uvicorn calls it from its main loop, first when it is up."""
        self._progress_ns = self._clock.monotonic_ns()
        if not self._started.is_set():
            self._loop = asyncio.get_running_loop()
            self._live.open()
            self._started.set()

    def _run(self) -> None:
        if self._server is None or self._socket is None:
            raise RuntimeError("the web thread runs before start()")
        show_name()
        self._server.run(sockets=[self._socket])


def _bind(options: WebOptions) -> socket.socket:
    """Bind and listen, so that a wrong or taken address is known before anything else starts.

    Raises:
        ConfigError: if this machine has no such address, or the port wants a privilege.
        StreamerError: if the port is in use.
    """
    address = options.address
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit these from the socket that accepts them.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALL_MS)
    try:
        listener.bind((address.host, address.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StreamerError(
                f"http.bind: {address} is used by another process; stop it (ss -ltnp names it) or "
                "choose another port"
            ) from None
        raise ConfigError(
            f"http.bind: cannot listen on {address}: {error.strerror}; expected an address of "
            "this machine and a port from 1024"
        ) from None
    return listener


def _protocol(idle_s: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits it lacks: connections in all, and idle ones in time.

    uvicorn starts its keep-alive timer after the first answer only, so a peer that connects and
    sends nothing, or one byte now and then, would hold its connection for ever.
    """

    class Limited(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's
            super().connection_made(transport)
            self._expiry: Any = None
            if len(self.connections) > _MAX_CONNECTIONS:
                transport.abort()
                return
            self._await_request()

        def _await_request(self) -> None:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self.loop.call_later(idle_s, self._expire)

        def _expire(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._await_request()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._expiry is not None:
                self._expiry.cancel()
            super().connection_lost(exc)

    return Limited
