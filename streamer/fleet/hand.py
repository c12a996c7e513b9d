"""The fleet's hand in the cluster: the process of ``streamer.fleet.cluster``, started as needed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

import streamer
from streamer.errors import ConfigError
from streamer.fleet.cluster import Start, Stop, View
from streamer.threads import show_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.fleet.agent import Place

__all__ = ["Hand"]

log = structlog.get_logger(__name__)
_PROGRAM: Final = "from streamer.fleet.cluster import main; main()"
"""Not by ``-m``: the actor's class has to have a module that the nodes can import."""
_KILL_S: Final = 0.1
_PATIENCE_S: Final = "5"
"""For a head that does not answer, in place of Ray's 60 s: the next attempt may find it."""
_AGAIN_S: Final = 2.0
"""Between two attempts: the head may be back any moment, and each attempt costs a second of CPU."""


class Hand:
    """Keeps the process and hears what it says.

    Args:
        address: of the cluster.
        place: what is the same for every agent.
        local: whether all of the fleet is on this machine.
        told: called from the thread with the number of nodes.

    Attributes:
        words: how the connection to the cluster is.

    Raises:
        ConfigError: if Ray is not installed.
    """

    def __init__(
        self, address: str, place: Place, *, local: bool, told: Callable[[int], None]
    ) -> None:
        if find_spec("ray") is None:
            raise ConfigError("fleet: needs Ray; run: pip install 'emotion-streamer[fleet]'")
        self.words = "not connected to the cluster yet"
        self._start = Start(address=address, place=place, local=local)
        self._told = told
        self._nodes: int | None = None
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="hand", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread, which starts the process."""
        self._thread.start()

    def stop(self, timeout_s: float, *, end_agents: bool) -> bool:
        """Let the cluster go; False if time ran out first.

        Args:
            timeout_s: how long that may take.
            end_agents: whether the nodes' agents are to end, too.
        """
        end_s = time.monotonic() + timeout_s
        self._stopping.set()
        channel = self._channel
        if end_agents and self._nodes is not None and channel is not None:
            with contextlib.suppress(OSError):  # it has just ended by itself
                channel.sendall(msgspec.json.encode(Stop()) + b"\n")
            self._thread.join(timeout_s / 2)
        while self._thread.is_alive() and time.monotonic() < end_s:
            if self._process is not None:
                self._process.kill()  # it keeps nothing, and may wait for a head for long
            self._thread.join(_KILL_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        show_name()
        while not self._stopping.is_set():
            self._serve()
            self._stopping.wait(_AGAIN_S)

    def _serve(self) -> None:
        """Run one process to its end."""
        mine, theirs = socket.socketpair()
        with mine, theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=os.environ
                | {
                    "PYTHONPATH": str(Path(streamer.__file__).parents[1]),
                    "RAY_gcs_rpc_server_reconnect_timeout_s": _PATIENCE_S,
                },
            )
            theirs.close()
            self._channel = mine
            mine.sendall(msgspec.json.encode(self._start) + b"\n")
            with mine.makefile("rb") as lines, contextlib.suppress(ConnectionResetError):
                for line in lines:
                    self._hear(msgspec.json.decode(line, type=View))
            self._channel = None
        self._process.wait()
        if not self._stopping.is_set() and self._nodes is not None:
            self._nodes = None
            self.words = "the connection to the cluster was lost; the nodes go on"
            log.warning("cluster_lost")

    def _hear(self, view: View) -> None:
        if view.error:
            if view.error != self.words:
                self.words = view.error
                log.warning("no_cluster", why=view.error)
            return
        if view.nodes != self._nodes:
            self._nodes = view.nodes
            self.words = f"{view.nodes} nodes in the cluster"
            log.info("cluster_nodes", nodes=view.nodes)
        self._told(view.nodes)
