"""Peers that misbehave: impostors of a camera, subscribers and browsers as nobody wants them.

Each does one thing for a given time and cleans up after itself; all chance comes from a seed.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Literal, Self

import zmq

if TYPE_CHECKING:
    from random import Random
    from types import TracebackType

__all__ = [
    "MANNERS",
    "Impostor",
    "Manner",
    "flood_subscriptions",
    "leave_at_once",
    "speak_garbage",
    "stall_subscriber",
    "watch_live",
]

Manner = Literal["silent", "garbage", "hangup"]
"""How an impostor answers: never, with noise, or by closing the connection."""
MANNERS: tuple[Manner, ...] = ("silent", "garbage", "hangup")

_GREETING = bytes.fromhex("ff00000000000000017f") + b"\x03\x00NULL" + bytes(48)
"""How a ZeroMQ peer begins (rfc.zeromq.org/spec/37): what follows is then read as commands."""


class Impostor:
    """Listens where a camera's server should, and answers in its manner; a context manager.

    Args:
        port: where to listen; 0: the system chooses.
        manner: how it answers.
        random: makes the noise.
    """

    def __init__(self, port: int, manner: Manner, random: Random) -> None:
        self._manner = manner
        self._random = random
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        self._taken: list[socket.socket] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="impostor")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        for taken in (self._listener, *self._taken):
            taken.close()

    @property
    def visits(self) -> int:
        """How many came."""
        return len(self._taken)

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                taken, _ = self._listener.accept()
            except TimeoutError:
                continue
            taken.settimeout(0.2)
            self._taken.append(taken)
            try:
                self._answer(taken)
            except OSError:  # it left first
                taken.close()

    def _answer(self, taken: socket.socket) -> None:
        if self._manner == "hangup":
            taken.close()
        elif self._manner == "garbage":
            begin = self._random.choice((b"", b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n", b"$\x00\xff\xff"))
            taken.sendall(begin + self._random.randbytes(self._random.randrange(1, 1 << 14)))


def speak_garbage(port: int, random: Random, *, times: int = 1) -> None:
    """Connect to a port of the daemon, send noise (sometimes after an honest start), and leave.

    Noise that does not begin with 0xff is a greeting of ZMTP 1.0 (rfc.zeromq.org/spec/13), and now
    and then a subscription too: events then come for ever, hence the deadline.
    """
    for _ in range(times):
        noise = random.randbytes(random.randrange(1, 4096))
        begin = random.choice(
            (b"", _GREETING, b"GET /metrics HTTP/1.1\r\n", b"POST /login HTTP/1.1\r\n")
        )
        _say(port, begin + noise)


def _say(port: int, words: bytes) -> None:
    """Send something, and listen to the answer for two seconds at most."""
    end_s = time.monotonic() + 2.0
    with socket.create_connection(("127.0.0.1", port), timeout=5) as talker:
        talker.settimeout(0.5)
        try:
            talker.sendall(words)
            while talker.recv(4096) and time.monotonic() < end_s:
                pass
        except OSError:  # let go, or not answered: both are right
            return


def stall_subscriber(address: str, seconds: float) -> None:
    """Subscribe to everything and take nothing, with as little room as the system gives."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stalled = context.socket(zmq.SUB)
    stalled.setsockopt(zmq.RCVHWM, 1)
    stalled.setsockopt(zmq.RCVBUF, 4096)
    stalled.setsockopt(zmq.LINGER, 0)
    stalled.subscribe(b"")
    stalled.connect(address)
    time.sleep(seconds)
    context.destroy(linger=0)


def flood_subscriptions(address: str, random: Random, count: int) -> None:
    """Subscribe to very many topics that nobody has, drop half of them again, and leave."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    flood = context.socket(zmq.SUB)
    flood.setsockopt(zmq.SNDHWM, 0)
    topics = [random.randbytes(16).hex().encode() for _ in range(count)]
    flood.connect(address)
    for topic in topics:
        flood.subscribe(topic)
    for topic in topics[: count // 2]:
        flood.unsubscribe(topic)
    time.sleep(1.0)
    context.destroy(linger=200)


def leave_at_once(address: str, count: int) -> None:
    """Connect, subscribe and leave without a word, again and again."""
    for _ in range(count):
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        visitor = context.socket(zmq.SUB)
        visitor.subscribe(b"emotion.sample/")
        visitor.connect(address)
        visitor.poll(300)
        context.destroy(linger=0)


def watch_live(port: int, seconds: float, *, read: bool) -> int:
    """Watch the live page's stream and go without a farewell; return the bytes taken.

    Args:
        port: of the daemon's web server.
        seconds: for how long.
        read: take what comes; else stall, as a browser does that was put to sleep.
    """
    end_s, taken = time.monotonic() + seconds, 0
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/api/live?width=320")
        with closing(connection.getresponse()) as reply:
            while time.monotonic() < end_s:
                if read:
                    taken += len(reply.read1(1 << 16))
                else:
                    time.sleep(0.2)
    return taken
