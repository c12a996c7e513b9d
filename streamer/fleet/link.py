"""What the fleet and its nodes say to each other, and the sockets that carry it.

A node beats once a second, and whenever something has changed: how it is, and what its daemon may
be reading. The answer renews its lease and says what it is to run. Either side repeats itself, so
nothing that is lost on the way has to be known to be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import zmq

from streamer.config import Camera, Config  # noqa: TC001 - msgspec resolves a struct's annotations
from streamer.errors import StreamerError
from streamer.publish import authenticator
from streamer.sockets import bind, connect, publishing_socket, subscribing_socket

if TYPE_CHECKING:
    from streamer.keys import KeyPair
    from streamer.sockets import Context, Socket

__all__ = ["About", "Beat", "NodeLink", "Orders", "Post", "Share", "packed", "unpacked"]

_LIMIT: Final = 1 << 24  # bytes; the share of a node with 10,000 cameras has 4 MB
_WAITING: Final = 1000  # messages for a peer that does not read


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is; the same for the whole run of its agent.

    Attributes:
        node: the cluster's own name of it.
        run: names this run of the agent; a new one holds the lock of the old one, so whatever the
            old one ran has ended.
        name: for people; unique among the nodes that are there.
        host: of the machine.
        version: of this program.
        labels: of the node.
        gpu: whether the cluster gives it a GPU.
        capacity: cameras that it carries; None where it does not know.
        events: address of its daemon's stream.
        snapshot: address of its daemon's snapshot.
        http: host and port of its daemon's web server.
        key: its public CURVE key in Z85; empty without keys.
    """

    node: str
    run: str
    name: str
    host: str
    version: str
    labels: dict[str, str]
    gpu: bool
    capacity: float | None
    events: str
    snapshot: str
    http: str
    key: str = ""


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """How a node is.

    Attributes:
        about: what it is.
        number: counts up; the answer names it.
        answered: the last one whose answer has come: what it granted holds, nothing before it.
        daemon: ``none``, ``starting``, ``running`` or ``stopping``.
        version: the share that is applied in full; 0: none since its lease began.
        holding: every camera that its daemon may be reading, also while that changes.
        refused: cameras of the share that it cannot open, and why.
        failures: how often in a row its daemon has ended without being asked to.
        error: why it ended last.
    """

    about: About
    number: int
    answered: int
    daemon: str
    version: int
    holding: list[str]
    refused: dict[str, str] = {}
    failures: int = 0
    error: str = ""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is to run.

    Attributes:
        version: counts up with each change.
        config: with the node's cameras; None: nothing is to run.
    """

    version: int
    config: Config | None

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """The node's cameras."""
        return () if self.config is None else self.config.cameras


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a beat, or orders that could not wait for one.

    Attributes:
        number: of the beat that is answered; 0 for none, which renews no lease.
        lease_s: how long the node may go on, counted from when it sent that beat.
        version: of the share it is to have.
        share: that share, where the beat told of another one.
        heard: the highest number of the node's beats that had been heard. Later orders have the
            same or a higher one: those of an earlier connection are known when they come late.
    """

    number: int
    lease_s: float
    version: int
    share: bytes | None = None
    heard: int = 0


_ENCODER = msgspec.msgpack.Encoder()
_BEAT = msgspec.msgpack.Decoder(Beat)
_ORDERS = msgspec.msgpack.Decoder(Orders)
_SHARE = msgspec.msgpack.Decoder(Share)


class Post:
    """The fleet's end: hears every node; for use by one thread.

    Args:
        context: owns the socket.
        address: where to listen.
        keys: this machine's, and those who may report; None for no encryption.

    Raises:
        StreamerError: when the address cannot be had.
    """

    def __init__(
        self, context: Context, address: str, keys: tuple[KeyPair, frozenset[bytes]] | None
    ) -> None:
        self._authenticator = None if keys is None else authenticator(context, keys[1])
        self.socket = publishing_socket(
            context,
            zmq.ROUTER,
            high_water_mark=_WAITING,
            incoming_limit=_LIMIT,
            keys=None if keys is None else keys[0],
        )
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # who reconnects takes its own place again
        try:
            self.address = bind(self.socket, address, key="fleet.link")
        except StreamerError:
            self.close()
            raise

    def receive(self) -> tuple[bytes, Beat] | None:
        """Return one beat and whom to answer; None when there is none."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            try:
                peer, body = frames
                return peer, _BEAT.decode(body)
            except ValueError:  # not one of ours; DecodeError is one
                continue

    def send(self, peer: bytes, orders: Orders) -> None:
        """Answer; to a node that has gone this is lost, and it asks again when it is back."""
        self.socket.send_multipart([peer, _ENCODER.encode(orders)], zmq.NOBLOCK)

    def close(self) -> None:
        """Let go of the address."""
        self.socket.close(linger=0)
        if self._authenticator is not None:
            self._authenticator.stop()


class NodeLink:
    """A node's end: reports to the fleet; for use by one thread.

    Args:
        context: owns the socket.
        address: where the fleet listens.
        run: names this end.
        server_key: the fleet's public key in Z85; None for no encryption.
        keys: this machine's.
    """

    def __init__(
        self,
        context: Context,
        address: str,
        *,
        run: str,
        server_key: bytes | None,
        keys: KeyPair | None,
    ) -> None:
        self.socket: Socket = subscribing_socket(
            context,
            zmq.DEALER,
            high_water_mark=2,  # an old beat is worth nothing
            incoming_limit=_LIMIT,
            server_key=server_key,
            keys=keys,
        )
        self.socket.setsockopt(zmq.ROUTING_ID, run.encode())
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)  # ms: a lease is a matter of seconds
        self.socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing waits for a fleet that is away
        connect(self.socket, address)

    def send(self, beat: Beat) -> bool:
        """Report; False when the fleet is away or takes nothing."""
        try:
            self.socket.send(_ENCODER.encode(beat), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Orders | None:
        """Return orders; None when there are none."""
        while True:
            try:
                return _ORDERS.decode(self.socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return None
            except ValueError:  # not of ours: it is no answer, and the lease runs on
                continue

    def close(self) -> None:
        """Let go."""
        self.socket.close(linger=0)


def packed(share: Share) -> bytes:
    """Return a share as ``Orders`` carries it: apart, so that any version can read the rest."""
    return _ENCODER.encode(share)


def unpacked(raw: bytes) -> Share:
    """Return the share of ``packed``.

    Raises:
        ValueError: if another version of this program wrote it.
    """
    return _SHARE.decode(raw)
