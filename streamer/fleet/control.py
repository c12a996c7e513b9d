"""How ``streamer fleet status`` and its like reach the fleet that runs: a socket in its folder.

Only the fleet's own account can open it. One JSON line asks, one answers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
import time
from typing import TYPE_CHECKING, Final

import msgspec

from streamer.config import Camera  # noqa: TC001 - msgspec resolves a struct's annotations
from streamer.errors import StreamerError
from streamer.fleet.settings import Need  # noqa: TC001 - as above
from streamer.fleet.status import Status  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = [
    "Add",
    "Answer",
    "Control",
    "Drain",
    "Remove",
    "Request",
    "Show",
    "Stop",
    "ask",
    "wait_gone",
]

_LIMIT: Final = 1 << 24  # bytes; the status of 10,000 cameras has 2 MB
_TIMEOUT_S: Final = 10.0
_END_S: Final = 15.0  # it ends within 5 s of being asked
_LOOK_S: Final = 0.1


class _Request(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One request; its class is its tag."""


class Show(_Request, frozen=True, kw_only=True):
    """Tell how the fleet is."""


class Add(_Request, frozen=True, kw_only=True):
    """Run one more camera; one without an address is one of the configuration that was removed."""

    name: str
    camera: Camera | None
    need: Need


class Remove(_Request, frozen=True, kw_only=True):
    """Run a camera no more."""

    name: str


class Drain(_Request, frozen=True, kw_only=True):
    """Empty a node and give it nothing more, or take it back."""

    node: str
    back: bool = False


class Stop(_Request, frozen=True, kw_only=True):
    """End the fleet and everything that it runs."""


Request = Show | Add | Remove | Drain | Stop


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What comes back: what was done and how the fleet is, or why it was not done."""

    status: Status | None = None
    said: str = ""
    error: str = ""


_REQUEST: Final = msgspec.json.Decoder(Request)
_ANSWER: Final = msgspec.json.Decoder(Answer)


class Control:
    """The fleet's end of the socket.

    Args:
        path: where.
        handle: answers a request, from any thread; a StreamerError becomes its text.

    Raises:
        StreamerError: if another fleet uses the folder.
    """

    def __init__(self, path: Path, handle: Callable[[Request], Answer]) -> None:
        self._path = path
        if path.exists():
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise StreamerError(
                        f"{path.parent}: another fleet runs with this folder; stop it, or choose "
                        "another fleet.folder"
                    )
            path.unlink()

        class Handler(socketserver.StreamRequestHandler):
            timeout = _TIMEOUT_S

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # whoever asked has gone
                    self.wfile.write(_answered(self.rfile.readline(_LIMIT), handle))

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, _request: object, _address: object) -> None:
                """Nobody is told: what can go wrong is the peer's."""

        before = os.umask(0o177)
        try:
            self._server = Server(str(path), Handler)
        finally:
            os.umask(before)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.5}, name="control"
        )
        self._thread.daemon = True

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop answering; False if time ran out first."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join(timeout_s)
        self._server.server_close()
        self._path.unlink(missing_ok=True)
        return not self._thread.is_alive()


def _answered(line: bytes, handle: Callable[[Request], Answer]) -> bytes:
    try:
        answer = handle(_REQUEST.decode(line))
    except ValueError as error:
        answer = Answer(error=f"not understood: {error}")
    except StreamerError as error:
        answer = Answer(error=str(error))
    return msgspec.json.encode(answer) + b"\n"


def wait_gone(path: Path) -> bool:
    """Wait until a fleet that was asked to stop has ended; False if it takes too long."""
    end_s = time.monotonic() + _END_S
    while path.exists():
        if time.monotonic() > end_s:
            return False
        time.sleep(_LOOK_S)
    return True


def ask(path: Path, request: Request) -> tuple[Status, str]:
    """Ask the fleet that runs.

    Args:
        path: its socket.
        request: what is wanted.

    Returns:
        How the fleet is, and what was done, in words.

    Raises:
        StreamerError: if it does not run, does not answer, or will not.
    """
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(_TIMEOUT_S)
        try:
            channel.connect(str(path))
            channel.sendall(msgspec.json.encode(request) + b"\n")
            with channel.makefile("rb") as lines:
                answer = _ANSWER.decode(lines.readline(_LIMIT))
        except PermissionError:
            raise StreamerError(
                f"{path}: belongs to the fleet's account; ask as that one"
            ) from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise StreamerError(
                f"no fleet runs with this configuration on this machine (nobody listens at {path});"
                " start it with: streamer fleet run"
            ) from None
        except (OSError, ValueError) as error:
            raise StreamerError(
                f"the fleet at {path} does not answer as it should: {error}; look at its log"
            ) from None
    if answer.error or answer.status is None:
        raise StreamerError(answer.error or f"{path}: an empty answer")
    return answer.status, answer.said
