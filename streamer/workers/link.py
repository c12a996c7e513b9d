"""What a parent and its worker say to each other, over a pair of connected sockets."""

from __future__ import annotations

import select
import struct
import threading
import time
from typing import TYPE_CHECKING, Final

import msgspec

from streamer.camera import Past  # noqa: TC001 - msgspec resolves a struct's annotations
from streamer.config import Camera, Config  # noqa: TC001 - as above
from streamer.events import DATA_TYPES, Event, EventData
from streamer.web.state import About, CameraView, TrackView, WorkerHealth  # noqa: TC001 - as above

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

__all__ = [
    "Busy",
    "Cameras",
    "Changed",
    "Events",
    "Family",
    "Link",
    "Loaded",
    "More",
    "Open",
    "Picture",
    "Refused",
    "Renew",
    "Report",
    "Start",
    "Stop",
    "Unwatch",
    "Watch",
    "packed",
    "unpacked",
]

_LENGTH: Final = struct.Struct("!I")
_LIMIT: Final = 1 << 28  # bytes; a report on 10,000 cameras has 30 MB
_CHUNK: Final = 1 << 18
_SEND_S: Final = 10.0
"""A peer that takes nothing for so long is stuck: the socket holds seconds of events."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One message; its class is its tag."""


# From the parent


class Start(_Message, frozen=True, kw_only=True):
    """The first message: what to run.

    Attributes:
        config: with the worker's share of cameras and threads.
        past: what was published of these cameras before.
    """

    config: Config
    past: dict[str, Past]


class Open(_Message, frozen=True, kw_only=True):
    """Begin to watch the cameras; answers ``Loaded``."""


class Cameras(_Message, frozen=True, kw_only=True):
    """These are the worker's cameras from now on; answered by ``Changed``."""

    cameras: tuple[Camera, ...]


class Renew(_Message, frozen=True, kw_only=True):
    """Report now, with every metric."""


class Watch(_Message, frozen=True, kw_only=True):
    """Somebody looks at the live page; the fields of ``streamer.web.live.Wanted``."""

    watcher: int
    cameras: frozenset[str] | None
    pictures: bool
    width_px: int


class More(_Message, frozen=True, kw_only=True):
    """A watcher has taken a picture and has room for the next."""

    watcher: int


class Unwatch(_Message, frozen=True, kw_only=True):
    """A watcher has gone."""

    watcher: int


class Stop(_Message, frozen=True, kw_only=True):
    """Stop within so many seconds, and send what is left; the end of the link is the answer."""

    deadline_s: float


# From the worker


class Loaded(_Message, frozen=True, kw_only=True):
    """The networks are loaded, proved and warm."""

    about: About


class Busy(_Message, frozen=True, kw_only=True):
    """Loading takes longer, and goes on: an engine is compiled."""


class Refused(_Message, frozen=True, kw_only=True):
    """The worker cannot start; the text and the exit code of a ``StreamerError``."""

    error: str
    exit_code: int


class Changed(_Message, frozen=True, kw_only=True):
    """The cameras were taken; with an error, none was changed."""

    error: str = ""


class Events(_Message, frozen=True, kw_only=True):
    """Events in order, and how many of which topic were lost before them.

    Attributes:
        events: of each the type, the data and when it was captured, see ``packed``.
        lost: type, camera and how many.
    """

    events: list[tuple[str, msgspec.Raw, int | None]]
    lost: list[tuple[str, str | None, int]] = []


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric with its samples: name, labels, value."""

    name: str
    kind: str
    text: str
    samples: list[tuple[str, dict[str, str], float]]


class Report(_Message, frozen=True, kw_only=True):
    """How the worker is.

    Attributes:
        liveness: progress of each part.
        cameras: the state of each camera.
        tracks: the faces of each camera's newest frame.
        families: every metric; None in a report that nobody asked for.
    """

    liveness: dict[str, WorkerHealth]
    cameras: list[CameraView]
    tracks: dict[str, tuple[TrackView, ...]]
    families: list[Family] | None = None


class Picture(_Message, frozen=True, kw_only=True):
    """A message for a watcher of the live page, see ``streamer.web.live.pack``."""

    watcher: int
    message: bytes


Said = (
    Start
    | Open
    | Cameras
    | Renew
    | Watch
    | More
    | Unwatch
    | Stop
    | Busy
    | Loaded
    | Refused
    | Changed
    | Events
    | Report
    | Picture
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Said)
_DATA = {name: msgspec.msgpack.Decoder(data) for name, data in DATA_TYPES.items()}


def packed(events: Sequence[Event]) -> list[tuple[str, msgspec.Raw, int | None]]:
    """Return events as ``Events`` carries them."""
    encode = msgspec.msgpack.encode
    return [(e.type, msgspec.Raw(encode(e.data)), e.captured_monotonic_ns) for e in events]


def unpacked(events: Sequence[tuple[str, msgspec.Raw, int | None]]) -> list[Event]:
    """Return the events of ``packed``."""
    found = []
    for kind, raw, captured_ns in events:
        data: EventData = _DATA[kind].decode(raw)
        found.append(Event(data=data, captured_monotonic_ns=captured_ns))
    return found


class Link:
    """One end of the pair: any thread may send, one receives.

    Args:
        end: a connected stream socket; owned from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)  # noqa: FBT003 the library's
        self._end = end
        self._sending = threading.Lock()
        self._got = bytearray()
        self._ended = False

    def send(self, message: Said) -> bool:
        """Send one message; False when the other end has gone, or takes nothing any more."""
        body = _ENCODER.encode(message)
        with self._sending:
            if self._ended:
                return False
            sent = self._write(memoryview(_LENGTH.pack(len(body)) + body))
            self._ended = not sent
            return sent

    def _write(self, rest: memoryview) -> bool:
        end_s = time.monotonic() + _SEND_S
        while rest:
            try:
                rest = rest[self._end.send(rest) :]
            except BlockingIOError:
                left_s = end_s - time.monotonic()
                if left_s <= 0 or not self._wait(select.POLLOUT, left_s):
                    return False  # half a message has gone: nothing can follow it
            except OSError:
                return False
        return True

    def receive(self, timeout_s: float) -> Said | None:
        """Return the next message, or None if none came within ``timeout_s`` seconds.

        Raises:
            EOFError: when the other end has gone and all that it sent is received.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            message = self._next()
            if message is not None:
                return message
            if not self._wait(select.POLLIN, max(0.0, end_s - time.monotonic())):
                return None
            try:
                chunk = self._end.recv(_CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                chunk = b""
            if not chunk:
                raise EOFError
            self._got += chunk

    def _next(self) -> Said | None:
        if len(self._got) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._got)
        if length > _LIMIT:
            raise EOFError  # not one of ours
        end = _LENGTH.size + length
        if len(self._got) < end:
            return None
        # A copy, which the raw data of events go on to refer to.
        message: Said = _DECODER.decode(bytes(self._got[_LENGTH.size : end]))
        del self._got[:end]
        return message

    def _wait(self, event: int, seconds: float) -> bool:
        """Wait until the socket has data or room."""
        poll = select.poll()
        poll.register(self._end, event)
        return bool(poll.poll(1e3 * seconds))

    def close(self) -> None:
        """Let go; the other end sees it."""
        with self._sending:
            self._ended = True
        self._end.close()
