"""Publishes events over ZeroMQ: a PUB socket for the stream and a ROUTER for the snapshot.

``emit`` may be called from any thread and never blocks; one thread owns the sockets. A subscriber
that is too slow loses events inside libzmq, without an error here, and sees it by the sequence.
"""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec
import zmq
from zmq.auth.thread import ThreadAuthenticator

from streamer.address import check_address, is_loopback
from streamer.errors import ConfigError, StreamerError
from streamer.keys import load_clients, load_pair
from streamer.outbox import Outbox
from streamer.sockets import ZAP_DOMAIN, Peers, bind, publishing_socket
from streamer.threads import show_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.events import Event
    from streamer.keys import KeyPair
    from streamer.sockets import Context
    from streamer.stages import Clock

__all__ = [
    "UNKNOWN_REQUEST",
    "PublishObserver",
    "PublishOptions",
    "Publisher",
    "authenticator",
    "check_options",
    "is_snapshot_request",
]

_POLL_MS = 500  # an idle loop still shows progress twice a second, well within any watchdog
_LOOK_MS = 100  # between two looks at the comings and goings of peers while events flow
_REQUESTS_A_ROUND = 32  # a flood of requests waits while events go out
_ROUTER_HWM = 64  # requests and replies a peer may have waiting; more are dropped by libzmq
_INCOMING_LIMIT = 4096  # bytes; the longest honest message is a subscription to one topic
_NOW = int(zmq.NOBLOCK)  # as numbers: the library's enums cost more than the sending
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
UNKNOWN_REQUEST = b'{"error":"unknown request; send: snapshot"}'


class PublishObserver(Protocol):
    """Whom the publisher tells what it does; called from the emitting and the sending thread."""

    def published(self, type_name: str, latency_s: float | None) -> None:
        """Count an event handed to the socket; latency from capture, where it has one."""
        ...

    def dropped(self, type_name: str) -> None:
        """Count an event that could not be kept until it was sent."""
        ...

    def connections(self, count: int) -> None:
        """Take the number of peers on both sockets."""
        ...

    def handshake_failed(self) -> None:
        """Count a peer that was refused, or that does not speak ZeroMQ."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """Where and how to publish.

    Attributes:
        bind: address of the stream.
        snapshot: address of the snapshot.
        allow_remote: whether to bind beyond loopback although no keys are configured.
        server_secret_key: the daemon's secret key file; None for no encryption.
        authorized_keys: directory of the public keys that may connect; goes with the secret key.
        high_water_mark: events kept for each slow subscriber before it loses some; 10,000 are 25 s
            of 400 samples a second, and about 6 MB.
        queue_limit: events that may wait for the sending thread; it empties the queue in
            milliseconds, so a full one means that it is starved.
        linger_s: how long a stop waits for subscribers to take what was sent, seconds.
    """

    bind: str = "tcp://127.0.0.1:5556"
    snapshot: str = "tcp://127.0.0.1:5557"
    allow_remote: bool = False
    server_secret_key: Path | None = None
    authorized_keys: Path | None = None
    high_water_mark: int = 10_000
    queue_limit: int = 10_000
    linger_s: float = 1.0


class Publisher:
    """The sink of all events.

    Args:
        options: where and how.
        observer: is told of every event, drop, connection and failed handshake.
        clock: gives the times of sending.
    """

    def __init__(self, options: PublishOptions, *, observer: PublishObserver, clock: Clock) -> None:
        self._options = options
        self._observer = observer
        self._clock = clock
        self._outbox = Outbox(limit=options.queue_limit, wake=self._wake)
        self._stopping = threading.Event()
        self._wake_in: socket.socket | None = None
        self._loop: _Loop | None = None
        self._thread: threading.Thread | None = None

    @property
    def epoch(self) -> str:
        """The name of this run in every event."""
        return self._outbox.epoch

    @property
    def bind(self) -> str:
        """The address of the stream, with the port that was chosen; only after ``start``."""
        return self._started().stream_address

    @property
    def snapshot(self) -> str:
        """The address of the snapshot, with the port that was chosen; only after ``start``."""
        return self._started().snapshot_address

    @property
    def last_progress_ns(self) -> int:
        """When the sending thread last went round, on the monotonic clock; 0 before ``start``."""
        return 0 if self._loop is None else self._loop.last_progress_ns

    @property
    def alive(self) -> bool:
        """Whether the sending thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Bind both sockets and start the thread that owns them; on an error nothing is left.

        Raises:
            ConfigError: an address or key is wrong, or reaches beyond loopback without keys.
            StreamerError: an address is in use, or not there yet.
        """
        if self._loop is not None:
            raise RuntimeError("a publisher is started once")
        keys = check_options(self._options)
        wake_in, wake_out = socket.socketpair()
        wake_in.settimeout(0)
        wake_out.settimeout(0)
        try:
            self._loop = _Loop(
                options=self._options,
                keys=keys,
                outbox=self._outbox,
                observer=self._observer,
                clock=self._clock,
                stopping=self._stopping,
                wake=wake_out,
            )
        except StreamerError:
            wake_in.close()
            wake_out.close()
            raise
        self._wake_in = wake_in
        self._wake()  # for what was emitted before the start
        self._thread = threading.Thread(target=self._loop.run, name="publish", daemon=True)
        self._thread.start()

    def emit(self, *events: Event) -> None:
        """Hand over events, in order; thread-safe; what cannot be kept is dropped and counted."""
        for type_name in self._outbox.put(*events):
            self._observer.dropped(type_name)

    def configure(self, cameras: Sequence[str]) -> None:
        """Have the snapshot name these cameras alone from now on; thread-safe."""
        self._outbox.configure(cameras)

    def skip(self, type_name: str, camera: str | None, count: int) -> None:
        """Leave numbers out for events that were lost before they came here; thread-safe."""
        self._outbox.skip(type_name, camera, count)

    def drain(self, timeout_s: float) -> bool:
        """Wait until all that was emitted is handed to the socket; False if time ran out first."""
        return self._outbox.wait_empty(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Send what waits, give subscribers ``linger_s`` to take it, and close; idempotent.

        Args:
            timeout_s: how long to wait for all of it, seconds; should exceed ``linger_s``.

        Returns:
            Whether everything was closed in time.
        """
        self._outbox.close()
        self._stopping.set()
        self._wake()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
        for type_name in self._outbox.abandon():  # where it was never started
            self._observer.dropped(type_name)
        wake_in, self._wake_in = self._wake_in, None
        if wake_in is not None:
            wake_in.close()
        return True

    def _started(self) -> _Loop:
        if self._loop is None:
            raise RuntimeError("the publisher is not started")
        return self._loop

    def _wake(self) -> None:
        wake_in = self._wake_in
        if wake_in is None:
            return
        try:
            wake_in.send(b"\0")
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return  # full: it is being woken; broken: it has ended, and ``put`` counts what is lost


class _Loop:
    """The sockets and the thread's loop over them; built by the caller, then the thread's alone."""

    def __init__(
        self,
        *,
        options: PublishOptions,
        keys: tuple[KeyPair, frozenset[bytes]] | None,
        outbox: Outbox,
        observer: PublishObserver,
        clock: Clock,
        stopping: threading.Event,
        wake: socket.socket,
    ) -> None:
        self._options = options
        self._outbox = outbox
        self._observer = observer
        self._clock = clock
        self._stopping = stopping
        self._wake = wake
        self.last_progress_ns = clock.monotonic_ns()
        self._context = zmq.Context()
        self._authenticator = None if keys is None else authenticator(self._context, keys[1])
        pair = None if keys is None else keys[0]
        self._stream, self._router = (
            publishing_socket(
                self._context,
                kind,
                high_water_mark=high_water_mark,
                incoming_limit=_INCOMING_LIMIT,
                keys=pair,
            )
            for kind, high_water_mark in (
                (zmq.PUB, options.high_water_mark),
                (zmq.ROUTER, _ROUTER_HWM),
            )
        )
        self._peers = (Peers(self._stream), Peers(self._router))
        self._connections = 0
        try:
            self.stream_address = bind(self._stream, options.bind, key="publish.bind")
            self.snapshot_address = bind(self._router, options.snapshot, key="publish.snapshot")
        except StreamerError:
            self._close_sockets(linger_ms=0)
            raise

    def run(self) -> None:
        """Go round until asked to stop and nothing waits; then close everything."""
        show_name()
        quick, full = zmq.Poller(), zmq.Poller()
        for poller in (quick, full):
            poller.register(self._wake, zmq.POLLIN)
            poller.register(self._router, zmq.POLLIN)
        # Never readable, but libzmq takes in new and lost subscribers as a socket is used: without
        # this, an idle daemon keeps what each of them sent until there is an event (12 kB a visit).
        # Polled, and not asked for its events: that holds the interpreter's lock, and a flood of
        # subscriptions (60,000 take seconds) would stop all cameras.
        full.register(self._stream, zmq.POLLIN)
        for peers in self._peers:
            full.register(peers.monitor.socket, zmq.POLLIN)
        looked_ns, sent = 0, False
        try:
            while True:
                stopping = self._stopping.is_set()  # asked before sending: all that waits goes
                # A look at all sockets costs more than an event: ten a second are enough of them.
                look = not sent or self.last_progress_ns - looked_ns > _LOOK_MS * 1_000_000
                patience_ms = 0 if stopping else _POLL_MS if look else _LOOK_MS
                ready = dict((full if look else quick).poll(patience_ms))
                self.last_progress_ns = self._clock.monotonic_ns()
                if self._wake.fileno() in ready:
                    self._wake.recv(4096)  # what is left of more wakes once more
                sent = self._send_waiting()
                if self._router in ready:
                    self._answer()
                if look:
                    looked_ns = self.last_progress_ns
                    self._watch_connections()
                if stopping:
                    break
        finally:
            for type_name in self._outbox.abandon():  # nothing, unless an error ended the loop
                self._observer.dropped(type_name)
            self._close_sockets(linger_ms=round(self._options.linger_s * 1e3))
            self._wake.close()

    def _send_waiting(self) -> bool:
        """Send what waits; tell whether anything did."""
        waiting = self._outbox.take()
        for numbered in waiting:
            now_ns = self._clock.monotonic_ns()
            body = numbered.encode(time_ns=self._clock.time_ns(), monotonic_ns=now_ns)
            self._stream.send(numbered.topic.encode(), _MORE)
            self._stream.send(body, _NOW)
            self._observer.published(numbered.event.type, numbered.latency_s(now_ns))
        self._outbox.done()
        return bool(waiting)

    def _answer(self) -> None:
        snapshot: bytes | None = None  # one serves all requests of a round
        for _ in range(_REQUESTS_A_ROUND):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            # a REQ socket puts an empty frame between its identity and the request
            head = 2 if frames[1:2] == [b""] else 1
            if is_snapshot_request(frames[head:]):
                snapshot = snapshot or self._encode_snapshot()
                reply = snapshot
            else:
                reply = UNKNOWN_REQUEST
            # to a peer that has gone or does not read, ROUTER drops without blocking
            self._router.send_multipart([*frames[:head], reply], zmq.NOBLOCK)

    def _encode_snapshot(self) -> bytes:
        return msgspec.json.encode(
            self._outbox.snapshot(
                time_ns=self._clock.time_ns(), monotonic_ns=self._clock.monotonic_ns()
            )
        )

    def _watch_connections(self) -> None:
        for peers in self._peers:
            before = peers.failed
            peers.update()
            for _ in range(peers.failed - before):
                self._observer.handshake_failed()
        connections = sum(peers.count for peers in self._peers)
        if connections != self._connections:
            self._connections = connections
            self._observer.connections(connections)

    def _close_sockets(self, *, linger_ms: int) -> None:
        for peers in self._peers:
            peers.monitor.close()
        self._stream.close(linger=linger_ms)
        self._router.close(linger=0)
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()  # waits for the lingering messages, no longer than they may linger


def check_options(options: PublishOptions) -> tuple[KeyPair, frozenset[bytes]] | None:
    """Refuse what cannot or must not be bound; return the keys, where there are any."""
    secret, clients = options.server_secret_key, options.authorized_keys
    for key, address in (("bind", options.bind), ("snapshot", options.snapshot)):
        check_address(address, key=f"publish.{key}")
        if secret is None and not options.allow_remote and not is_loopback(address):
            raise ConfigError(
                f"publish.{key}: {address} is open to the network, without keys; set "
                "publish.server_secret_key and publish.authorized_keys (make keys with: streamer "
                "keys), or publish.allow_remote = true"
            )
    if secret is None and clients is None:
        return None
    if secret is None or clients is None:
        raise ConfigError(
            "publish.server_secret_key and publish.authorized_keys go together: the daemon's "
            "secret key and the directory of the public keys that may connect"
        )
    return load_pair(secret), load_clients(clients)


class _Authorised:
    """The clients' keys, in the form that the authenticator asks for."""

    def __init__(self, keys: frozenset[bytes]) -> None:
        self._keys = keys

    def callback(self, domain: str, key: bytes) -> bool:
        """Tell whether a client may connect."""
        return domain == ZAP_DOMAIN and key in self._keys


def authenticator(context: Context, clients: frozenset[bytes]) -> ThreadAuthenticator:
    """Have a context's sockets refuse every client whose key is not among these; started."""
    made = ThreadAuthenticator(context)
    made.start()
    made.configure_curve_callback(domain=ZAP_DOMAIN, credentials_provider=_Authorised(clients))
    return made


def is_snapshot_request(body: list[bytes]) -> bool:
    """Tell whether a request, without its envelope, asks for the snapshot."""
    if len(body) != 1:
        return False
    if body[0] == b"snapshot":
        return True
    try:
        return bool(json.loads(body[0]) == {"request": "snapshot"})
    except (ValueError, RecursionError):
        return False
