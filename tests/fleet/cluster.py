"""A Ray cluster of several nodes on this machine, each a process tree of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from tests.daemon import free_port

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Cluster"]

# A token that the person at this machine has for a cluster of theirs is none of the nodes here.
os.environ["RAY_AUTH_MODE"] = "disabled"
_ATTEMPTS = 3
_STORE_BYTES = 80_000_000  # the least that Ray takes is 75 MB


@dataclass
class Cluster:
    """Nodes that are started and killed one by one; all are gone at the end.

    Args:
        folder: takes the logs of ``ray start``, and what the head keeps over its death.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    attempts: int = 0
    temporary: Path = field(init=False)

    def __enter__(self) -> Self:
        # not in pytest's folder: Ray's sockets need a short path
        self.temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self.nodes):
            self.kill(name)
        shutil.rmtree(self.temporary, ignore_errors=True)

    @property
    def address(self) -> str:
        """Where the head listens."""
        return f"127.0.0.1:{self.port}"

    def start_head(self, *, cpus: int = 0) -> None:
        """Start the head, or start it again with what it knew; without a CPU it gets no camera."""
        # a head alone on its machine finds nobody there who still names its address
        (self.temporary / "ray_current_cluster").unlink(missing_ok=True)
        self._begin(
            "head",
            *("--head", f"--port={self.port}", f"--num-cpus={cpus}", "--include-dashboard=false"),
            *(f"--ray-client-server-port={free_port()}", f"--temp-dir={self.temporary}"),
        )

    def start(self, name: str, *, gpus: int = 0, **labels: str) -> None:
        """Start a node with one core to give, and as many GPUs as it is to claim."""
        pairs = ",".join(f"{key}={value}" for key, value in {"name": name, **labels}.items())
        has = ("--num-cpus=1", f"--num-gpus={gpus}")
        self._begin(name, f"--address={self.address}", *has, f"--labels={pairs}")

    def _begin(self, name: str, *options: str) -> None:
        """Start a node and wait until it is there; Ray gives up after 30 s on a busy machine."""
        for _ in range(_ATTEMPTS):
            self.attempts += 1
            path = self.folder / f"ray-{self.attempts}-{name}.log"
            process = self._start(name, path, *options)
            while process.poll() is None:
                if b"Ray runtime started" in path.read_bytes():
                    return
                time.sleep(0.1)
        raise AssertionError(path.read_text()[-2000:])

    def _start(self, name: str, path: Path, *options: str) -> subprocess.Popen[bytes]:
        with path.open("wb") as log:
            process = self.nodes[name] = subprocess.Popen(
                [
                    *(str(Path(sys.executable).parent / "ray"), "start", "--block"),
                    *("--node-ip-address=127.0.0.1", f"--object-store-memory={_STORE_BYTES}"),
                    *(
                        "--disable-usage-stats",
                        f"--dashboard-agent-listen-port={free_port()}",
                        *options,
                    ),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ
                | {
                    "RAY_USAGE_STATS_ENABLED": "0",
                    "RAY_worker_niceness": "0",
                    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
                    "RAY_gcs_storage": "rocksdb",
                    "RAY_gcs_storage_path": str(self.folder / "gcs"),
                },
            )
        return process

    def processes(self, name: str) -> list[psutil.Process]:
        """Return all processes of a node, its agent and its daemon among them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.nodes[name].pid)
            return [top, *top.children(recursive=True)]
        return []

    def daemon(self, name: str) -> psutil.Process | None:
        """Return a node's daemon."""
        for process in self.processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                command = process.cmdline()
                if "streamer" in command and "run" in command:
                    return process
        return None

    def kill(self, name: str, *, but: psutil.Process | None = None) -> None:
        """Send SIGKILL to everything that belongs to a node, all at once, but to one process."""
        doomed = [one for one in self.processes(name) if one != but]
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.nodes.pop(name).wait(20)
        end_s = time.monotonic() + 10
        while any(one.is_running() and one.status() != "zombie" for one in doomed):
            assert time.monotonic() < end_s, doomed
            time.sleep(0.05)
