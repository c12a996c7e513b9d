"""ZeroMQ sockets with every option set before they bind or connect, and what their monitors say."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

import zmq

from streamer.address import is_ipv4
from streamer.errors import ConfigError, StreamerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.keys import KeyPair

__all__ = [
    "HANDSHAKE_FAILED",
    "ZAP_DOMAIN",
    "Context",
    "Monitor",
    "Peers",
    "Socket",
    "bind",
    "connect",
    "publishing_socket",
    "subscribing_socket",
]

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

ZAP_DOMAIN = "streamer"
"""The name under which the sockets ask the authenticator about a client."""

_HANDSHAKE_MS = 5_000  # a peer that connects and says nothing is let go
_HEARTBEAT_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 15_000  # three beats missed: the peer is gone
_KEEPALIVE_IDLE_S = 60
_RECONNECT_MAX_MS = 5_000  # the back-off doubles from 100 ms up to here

HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)

# failures of a bind that a restart can cure; all the others are mistakes in the configuration
_MAY_COME = (errno.EADDRNOTAVAIL, errno.ENOMEM, errno.EMFILE)


def publishing_socket(
    context: Context, kind: int, *, high_water_mark: int, incoming_limit: int, keys: KeyPair | None
) -> Socket:
    """Return a socket that is going to bind.

    Args:
        context: owns it.
        kind: ``zmq.PUB``, ``zmq.XPUB`` or ``zmq.ROUTER``.
        high_water_mark: messages kept for each peer before some are dropped.
        incoming_limit: longest frame that is accepted, bytes; a peer that sends more is let go.
        keys: of the server; None for no encryption.
    """
    made = _socket(context, kind, high_water_mark=high_water_mark, incoming_limit=incoming_limit)
    if keys is not None:
        made.setsockopt(zmq.CURVE_SERVER, 1)
        made.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        made.setsockopt_string(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        made.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # no authenticator, no entry
    return made


def subscribing_socket(
    context: Context,
    kind: int,
    *,
    high_water_mark: int,
    incoming_limit: int,
    server_key: bytes | None,
    keys: KeyPair | None,
) -> Socket:
    """Return a socket that is going to connect; the arguments are those of its counterpart.

    Args:
        context: owns it.
        kind: ``zmq.SUB``, ``zmq.XSUB``, ``zmq.DEALER`` or ``zmq.REQ``.
        high_water_mark: messages kept until they are read.
        incoming_limit: longest frame that is accepted, bytes.
        server_key: the publisher's public key in Z85; None for no encryption.
        keys: of the client; needed with ``server_key``.
    """
    made = _socket(context, kind, high_water_mark=high_water_mark, incoming_limit=incoming_limit)
    made.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    if server_key is not None and keys is not None:
        made.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        made.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        made.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    return made


def _socket(context: Context, kind: int, *, high_water_mark: int, incoming_limit: int) -> Socket:
    """Set what both sides share; libzmq ignores most options after the bind or connect."""
    made = context.socket(kind)
    for option, value in (
        (zmq.SNDHWM, high_water_mark),
        (zmq.RCVHWM, high_water_mark),
        (zmq.LINGER, 0),
        (zmq.MAXMSGSIZE, incoming_limit),
        (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
        (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, _KEEPALIVE_IDLE_S),
    ):
        made.setsockopt(option, value)
    return made


def bind(bound: Socket, address: str, *, key: str) -> str:
    """Bind, and return the address with the port that was chosen.

    Raises:
        ConfigError: if the address can never be bound here.
        StreamerError: if it is in use, or not there yet.
    """
    bound.setsockopt(zmq.IPV6, not is_ipv4(address))
    try:
        bound.bind(address)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise StreamerError(
                f"{key}: {address} is in use, most likely by another streamer; stop that one or "
                "choose another address"
            ) from None
        if error.errno in _MAY_COME:
            raise StreamerError(f"{key}: cannot bind {address}: {error.strerror}") from None
        raise ConfigError(
            f"{key}: cannot bind {address}: {error.strerror}; name an address of this host"
        ) from None
    return bound.getsockopt_string(zmq.LAST_ENDPOINT)


def connect(connecting: Socket, address: str) -> None:
    """Connect in the background, again and again until it works."""
    connecting.setsockopt(zmq.IPV6, not is_ipv4(address))
    connecting.connect(address)


class Monitor:
    """What libzmq tells about the connections of one socket, read by the thread that owns it.

    Args:
        watched: the socket.
        mask: the ``zmq.EVENT_…`` to be told of.
    """

    def __init__(self, watched: Socket, mask: int) -> None:
        self._watched = watched
        self.socket = watched.get_monitor_socket(mask)

    def events(self) -> Iterator[tuple[int, int]]:
        """Yield event and value of all that happened since the last call, without waiting."""
        while True:
            try:
                head, _address = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield struct.unpack("=hi", head)

    def close(self) -> None:
        """Stop watching; before the watched socket is closed."""
        self._watched.disable_monitor()
        self.socket.close(linger=0)


class Peers:
    """Counts the peers of a bound socket by the descriptors in use, and the failed handshakes."""

    def __init__(self, watched: Socket) -> None:
        self.monitor = Monitor(
            watched, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | HANDSHAKE_FAILED
        )
        self.count = 0
        self.failed = 0
        self._descriptors: set[int] = set()

    def update(self) -> None:
        """Take in what happened since the last call: ``count`` is now, ``failed`` adds up."""
        for event, value in self.monitor.events():
            if event == zmq.EVENT_ACCEPTED:
                self._descriptors.add(value)
            elif event == zmq.EVENT_DISCONNECTED:
                self._descriptors.discard(value)
            elif event & HANDSHAKE_FAILED:
                self.failed += 1
        self.count = len(self._descriptors)
