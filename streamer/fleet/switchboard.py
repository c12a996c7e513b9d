"""One address for the events of all nodes: what their daemons send goes out as it came.

A forwarder, XSUB to the nodes and XPUB in front, but with an XSUB for each node, because whose an
event is decides whether it goes out: only the node that has a camera may speak for it. A node whose
lease is over is cut off in the same moment, so whatever it may still send reaches nobody. The
snapshot is kept from the events that went out. What a daemon said before it was heard comes from
its own snapshot: the state goes into ours, and an event that tells of it goes out late.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import zmq

from streamer.envelope import Numbered, Numbering
from streamer.errors import SourceReason, StreamerError
from streamer.events import CameraOffline, Event, rfc3339
from streamer.fleet.ledger import Ledger, read_event, read_snapshot
from streamer.publish import (
    UNKNOWN_REQUEST,
    PublishObserver,
    authenticator,
    check_options,
    is_snapshot_request,
)
from streamer.snapshot import Snapshot
from streamer.sockets import Monitor, Peers, bind, connect, publishing_socket, subscribing_socket
from streamer.threads import show_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamer.keys import KeyPair
    from streamer.publish import PublishOptions
    from streamer.sockets import Context, Socket
    from streamer.stages import Clock

__all__ = ["Observer", "Source", "Switchboard"]

_POLL_MS: Final = 500
_A_ROUND: Final = 256  # messages of one node, before the next one's turn
_EVENT_LIMIT: Final = 1 << 20
_SNAPSHOT_LIMIT: Final = 1 << 26
_HWM: Final = 10_000
_ROUTER_HWM: Final = 64
_RECONNECT_MS: Final = 100  # a daemon that starts is nearly always heard from its first event on
_ASK_S: Final = 0.5  # after a connection, until the daemon has taken note of the subscription
_EVERYTHING: Final = b"\x01"  # a subscription to all topics, as it goes over an XSUB


class Observer(PublishObserver, Protocol):
    """Whom the switchboard tells what it does; called from its thread."""

    def refused(self) -> None:
        """Count an event of a node that does not have the camera."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a node's daemon publishes.

    Attributes:
        run: of the node's agent; another one is another source.
        events: address of the stream.
        snapshot: address of the snapshot.
        key: its public CURVE key in Z85; None without keys.
    """

    run: str
    events: str
    snapshot: str
    key: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """Who may speak for which camera, and which cameras there are."""

    sources: Mapping[str, Source]
    owners: Mapping[str, str]
    cameras: frozenset[str]


@dataclass(slots=True, kw_only=True)
class _Line:
    """The connection to one node.

    Attributes:
        source: where its daemon publishes.
        stream, monitor, request: the stream's socket and its monitor, the snapshot's socket.
        ask_ns: when to ask for the snapshot; None: not at all.
        asked: whether an answer is awaited.
        recent: what went out since.
        late: topic, run and number of what was sent late, and may yet come by itself.
    """

    source: Source
    stream: Socket
    monitor: Monitor
    request: Socket
    ask_ns: int | None = None
    asked: bool = False
    recent: deque[Numbered] = field(default_factory=lambda: deque(maxlen=_HWM))
    late: set[tuple[str, str, int]] = field(default_factory=set)

    def ask_soon(self, now_ns: int) -> None:
        """Ask for the snapshot when the daemon has taken note of the subscription."""
        self.ask_ns = now_ns + round(1e9 * _ASK_S)


class Switchboard:
    """Forwards events, and answers for their snapshot.

    Args:
        options: where subscribers come.
        keys: this machine's among those of the fleet; None without.
        observer: is told what happens.
        clock: the time.
    """

    def __init__(
        self, options: PublishOptions, *, keys: KeyPair | None, observer: Observer, clock: Clock
    ) -> None:
        self._options = options
        self._keys = keys
        self._observer = observer
        self._clock = clock
        self._orders: queue.SimpleQueue[_Route | Event] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._wake_in: socket.socket | None = None
        self._loop: _Loop | None = None
        self._thread: threading.Thread | None = None

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
        """When the thread last went round, on the monotonic clock; 0 before ``start``."""
        return 0 if self._loop is None else self._loop.last_progress_ns

    def start(self) -> None:
        """Bind both sockets and start the thread that owns them.

        Raises:
            ConfigError: an address or key is wrong, or reaches beyond loopback without keys.
            StreamerError: an address is in use, or not there yet.
        """
        self._wake_in, wake_out = socket.socketpair()
        self._wake_in.setblocking(False)  # noqa: FBT003 the library's
        wake_out.setblocking(False)  # noqa: FBT003 the library's
        self._loop = _Loop(
            self._options,
            keys=self._keys,
            observer=self._observer,
            clock=self._clock,
            orders=self._orders,
            stopping=self._stopping,
            wake=wake_out,
        )
        self._thread = threading.Thread(target=self._loop.run, name="switchboard", daemon=True)
        self._thread.start()

    def route(
        self, sources: Mapping[str, Source], owners: Mapping[str, str], cameras: Iterable[str]
    ) -> None:
        """Say which nodes there are, and who has which camera; thread-safe.

        Args:
            sources: by node; one that is not among them is cut off.
            owners: the node of each camera.
            cameras: all that are to run; the snapshot forgets any other.
        """
        self._order(_Route(sources=dict(sources), owners=dict(owners), cameras=frozenset(cameras)))

    def emit(self, event: Event) -> None:
        """Send an event of the fleet's own; thread-safe."""
        self._order(event)

    def lost(self, cameras: Sequence[tuple[str, str]]) -> None:
        """Tell subscribers of cameras whose node was lost; thread-safe."""
        for camera, node in cameras:
            detail = f"node {node} was lost"
            reason = SourceReason.NODE_LOST.value
            self.emit(Event(data=CameraOffline(camera=camera, reason=reason, detail=detail)))

    def stop(self, timeout_s: float) -> bool:
        """Send what has come and close; False if time ran out first; may be called twice."""
        self._stopping.set()
        self._wake()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        wake_in, self._wake_in = self._wake_in, None
        if wake_in is not None:
            wake_in.close()
        return True

    def _order(self, order: _Route | Event) -> None:
        self._orders.put(order)
        self._wake()

    def _wake(self) -> None:
        wake_in = self._wake_in
        if wake_in is not None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                wake_in.send(b"\0")

    def _started(self) -> _Loop:
        if self._loop is None:
            raise RuntimeError("the switchboard is not started")
        return self._loop


class _Loop:
    """The sockets and the thread's loop over them; built by the caller, then the thread's alone."""

    def __init__(
        self,
        options: PublishOptions,
        *,
        keys: KeyPair | None,
        observer: Observer,
        clock: Clock,
        orders: queue.SimpleQueue[_Route | Event],
        stopping: threading.Event,
        wake: socket.socket,
    ) -> None:
        own = check_options(options)
        self._options = options
        self._keys = keys
        self._observer = observer
        self._clock = clock
        self._orders = orders
        self._stopping = stopping
        self._wake = wake
        self.last_progress_ns = clock.monotonic_ns()
        self._numbering = Numbering()
        self._ledger = Ledger()
        self._lines: dict[str, _Line] = {}
        self._context: Context = zmq.Context()
        self._authenticator = None if own is None else authenticator(self._context, own[1])
        self._stream, self._router = (
            publishing_socket(
                self._context,
                kind,
                high_water_mark=high_water_mark,
                incoming_limit=4096,
                keys=None if own is None else own[0],
            )
            for kind, high_water_mark in (
                (zmq.XPUB, options.high_water_mark),
                (zmq.ROUTER, _ROUTER_HWM),
            )
        )
        self._peers = (Peers(self._stream), Peers(self._router))
        self._connections = 0
        try:
            self.stream_address = bind(self._stream, options.bind, key="publish.bind")
            self.snapshot_address = bind(self._router, options.snapshot, key="publish.snapshot")
        except StreamerError:
            self._close()
            raise

    def run(self) -> None:
        """Go round until asked to stop."""
        show_name()
        try:
            while not self._stopping.is_set():
                self._round(_POLL_MS)
            self._round(0)
        finally:
            self._close()

    def _round(self, timeout_ms: int) -> None:
        poller = self._poller()
        waits = [line.ask_ns for line in self._lines.values() if line.ask_ns is not None]
        if waits:
            left_ms = (min(waits) - self._clock.monotonic_ns()) // 1_000_000
            timeout_ms = max(0, min(timeout_ms, int(left_ms)))
        ready = dict(poller.poll(timeout_ms))
        self.last_progress_ns = self._clock.monotonic_ns()
        if self._wake.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4096)
        # What came before a node was cut off goes out first: it was sent while it had its lease.
        for node, line in list(self._lines.items()):
            if line.stream in ready:
                self._forward(node, line)
        self._obey()
        for node, line in self._lines.items():
            self._tend(node, line)
        if self._stream in ready:
            self._take_subscriptions()
        if self._router in ready:
            self._answer()
        self._watch_connections()

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._stream, zmq.POLLIN)
        for peers in self._peers:
            poller.register(peers.monitor.socket, zmq.POLLIN)
        for line in self._lines.values():
            for one in (line.stream, line.request, line.monitor.socket):
                poller.register(one, zmq.POLLIN)
        return poller

    # Orders

    def _obey(self) -> None:
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
            if isinstance(order, _Route):
                self._reroute(order)
            else:
                self._emit(order)

    def _reroute(self, route: _Route) -> None:
        for node, line in list(self._lines.items()):
            if route.sources.get(node) != line.source:
                self._hang_up(self._lines.pop(node))
        for node, source in route.sources.items():
            if node not in self._lines:
                self._lines[node] = self._call(source)
        now_ns = self._clock.monotonic_ns()
        for node in self._ledger.route(route.owners, route.cameras, frozenset(self._lines)):
            # Its first word may have come before this order, and was refused: it is asked again.
            if node in self._lines:
                self._lines[node].ask_soon(now_ns)

    def _call(self, source: Source) -> _Line:
        stream, request = (
            subscribing_socket(
                self._context,
                kind,
                high_water_mark=_HWM,
                incoming_limit=limit,
                server_key=source.key,
                keys=self._keys,
            )
            for kind, limit in ((zmq.XSUB, _EVENT_LIMIT), (zmq.DEALER, _SNAPSHOT_LIMIT))
        )
        monitor = Monitor(stream, zmq.EVENT_HANDSHAKE_SUCCEEDED)
        for one, address in ((stream, source.events), (request, source.snapshot)):
            one.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS)
            connect(one, address)
        # What subscribers want is not passed on: the snapshot wants everything. Kept by the socket
        # for every connection to come.
        stream.send(_EVERYTHING)
        return _Line(source=source, stream=stream, monitor=monitor, request=request)

    def _hang_up(self, line: _Line) -> None:
        line.monitor.close()
        line.stream.close(linger=0)
        line.request.close(linger=0)

    def _emit(self, event: Event) -> None:
        """Send an event of our own."""
        numbered = self._numbering.number(event)
        self._ledger.say(numbered)
        self._send(numbered)

    def _send(self, numbered: Numbered) -> None:
        body = numbered.encode(
            time_ns=self._clock.time_ns(), monotonic_ns=self._clock.monotonic_ns()
        )
        self._stream.send_multipart((numbered.topic.encode(), body), zmq.NOBLOCK)
        self._observer.published(numbered.event.type, None)

    # Events

    def _forward(self, node: str, line: _Line) -> None:
        for _ in range(_A_ROUND):
            try:
                frames = line.stream.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            told = read_event(frames, self._clock.monotonic_ns())
            if told is None or not self._ledger.may(node, told.event):
                self._observer.refused()
                continue
            known = (told.topic, told.epoch, told.sequence)
            if known in line.late:  # the snapshot had overtaken it
                line.late.discard(known)
                continue
            self._ledger.sent(told)
            if line.asked:
                line.recent.append(told)
            self._stream.send_multipart(frames, zmq.NOBLOCK)
            self._observer.published(told.event.type, None)

    # What daemons said before

    def _tend(self, node: str, line: _Line) -> None:
        """Ask a daemon for its snapshot some time after each connection, and take the answer."""
        now_ns = self._clock.monotonic_ns()
        for _event in line.monitor.events():
            line.ask_soon(now_ns)
        if line.ask_ns is not None and now_ns >= line.ask_ns:
            line.ask_ns, line.asked = None, True
            line.recent.clear()
            with contextlib.suppress(zmq.Again):
                line.request.send(b"snapshot", zmq.NOBLOCK)
        while line.request.poll(0):
            self._take(node, line, line.request.recv(zmq.NOBLOCK), now_ns)

    def _take(self, node: str, line: _Line, reply: bytes, now_ns: int) -> None:
        snapshot = read_snapshot(reply)
        if snapshot is None:
            return
        late = self._ledger.unheard(node, snapshot)
        line.late = {(told.topic, told.epoch, told.sequence) for told in late}
        for told in late:
            self._send(told)
        self._ledger.seed(node, snapshot, list(line.recent), monotonic_ns=now_ns)
        line.recent.clear()
        line.asked = False

    # Subscribers

    def _take_subscriptions(self) -> None:
        """Read what subscribers want, since XPUB keeps it until then; libzmq sees to it itself."""
        with contextlib.suppress(zmq.Again):
            for _ in range(_A_ROUND):
                self._stream.recv(zmq.NOBLOCK)

    def _answer(self) -> None:
        snapshot: bytes | None = None
        for _ in range(_ROUTER_HWM):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            head = 2 if frames[1:2] == [b""] else 1
            if is_snapshot_request(frames[head:]):
                snapshot = reply = snapshot or self._encode_snapshot()
            else:
                reply = UNKNOWN_REQUEST
            self._router.send_multipart([*frames[:head], reply], zmq.NOBLOCK)

    def _encode_snapshot(self) -> bytes:
        cameras, tracks = self._ledger.copy(monotonic_ns=self._clock.monotonic_ns())
        return msgspec.json.encode(
            Snapshot(
                epoch=self._numbering.epoch,
                time=rfc3339(self._clock.time_ns()),
                sequences=self._numbering.sequences(),
                daemon=self._ledger.daemon,
                cameras=cameras,
                tracks=tracks,
                epochs=self._ledger.runs,
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

    def _close(self) -> None:
        for line in self._lines.values():
            self._hang_up(line)
        for peers in self._peers:
            peers.monitor.close()
        self._stream.close(linger=round(self._options.linger_s * 1e3))
        self._router.close(linger=0)
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
        self._wake.close()
