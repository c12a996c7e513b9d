"""A private folder of one node, which one agent at a time owns together with its daemon.

The lock is inherited by the daemon, so whoever has it knows that no daemon of this node is left.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamer.errors import ConfigError, StreamerError

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

__all__ = ["burrow"]

_LOOK_S: Final = 0.1


@contextmanager
def burrow(fleet: str, node: str, stopping: threading.Event) -> Iterator[tuple[Path, int]]:
    """Own the folder of a node; waits until whoever had it has ended, and removes it at the end.

    Args:
        fleet: name of the fleet.
        node: the cluster's own name of the node.
        stopping: ends the waiting.

    Yields:
        The folder, and the descriptor of the lock for the daemon to inherit.

    Raises:
        ConfigError: if somebody else has made the folder.
        StreamerError: if the waiting was ended.
    """
    base = _base()
    name = hashlib.sha256(f"{fleet}/{node}".encode()).hexdigest()[:16]
    lock = -1
    while lock < 0:
        lock = _locked(base / f"{name}.lock")
        if lock < 0 and stopping.wait(_LOOK_S):
            raise StreamerError("stopped while an earlier agent of this node still runs")
    try:
        _clear(base, but=name)
        folder = base / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        yield folder, lock
    finally:
        _remove(base, name)
        os.close(lock)


def _base() -> Path:
    """Return the folder of all agents of this account, which nobody else can look into."""
    given = os.environ.get("RUNTIME_DIRECTORY")  # systemd's
    if given:
        return Path(given)
    base = Path(tempfile.gettempdir()) / f"streamer-fleet-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not ours or found.st_mode & 0o077:
        raise ConfigError(f"{base}: others can look into it, or made it; remove it")
    return base


def _locked(path: Path) -> int:
    """Return the descriptor of a lock file that is ours now; -1 while somebody else has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(lock).st_ino:  # else its owner has just removed it
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return -1


def _clear(base: Path, *, but: str) -> None:
    """Remove what agents left that were killed: their files name cameras and may hold passwords."""
    for path in base.glob("*.lock"):
        if path.stem != but and (lock := _locked(path)) >= 0:
            _remove(base, path.stem)
            os.close(lock)


def _remove(base: Path, name: str) -> None:
    shutil.rmtree(base / name, ignore_errors=True)
    (base / f"{name}.lock").unlink(missing_ok=True)
