"""A machine of its own for a test: Debian in a folder, booted with systemd by systemd-nspawn.

The folder is made once by debootstrap and kept in the cache; each machine boots a copy of it that
it may spoil. It has no network but its own loopback.
"""

from __future__ import annotations

import ctypes
import hashlib
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
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["Machine", "base_tree", "hold_thread", "nspawn_missing"]

SUITE = "bookworm"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
BOOT_S = 60.0
"""A boot takes 3 s when idle; the rest is for a machine busy with other tests."""
_SIZE = 3 << 30
"""Bytes that a machine may come to: Debian's 0.6 GB, twice 0.9 GB while a package is upgraded."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def nspawn_missing() -> str:
    """Say what lacks for a machine here, in words fit for a skip; empty when nothing does."""
    if os.geteuid() != 0:
        return "booting a machine needs root"
    for tool, package in (
        ("debootstrap", "debootstrap"),
        ("systemd-nspawn", "systemd-container"),
        ("nsenter", "util-linux"),
    ):
        if shutil.which(tool) is None:
            return f"no {tool}: apt install {package}"
    return ""


def base_tree(packages: tuple[str, ...]) -> Path:
    """Return a minimal Debian with systemd and these packages; made when it is not in the cache.

    Skips the test when the Debian mirror does not give it.
    """
    included = ("systemd", "systemd-sysv", "dbus", *packages)
    name = hashlib.sha256(" ".join((SUITE, *included)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    tree = cache / "emotion-streamer" / "machines" / f"{SUITE}-{name}"
    if tree.is_dir():
        return tree
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".making-") as folder:
        part = Path(folder) / "tree"
        done = subprocess.run(
            [
                *("debootstrap", "--variant=minbase", f"--include={','.join(included)}"),
                *(SUITE, str(part), MIRROR),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = (done.stdout + done.stderr).strip().splitlines() or ["no word"]
            pytest.skip(f"debootstrap got no Debian from {MIRROR}: {lines[-1]}")
        shutil.rmtree(part / "var" / "cache" / "apt", ignore_errors=True)
        part.rename(tree)
    return tree


@dataclass
class Machine:
    """A booted machine.

    Args:
        tree: what it is a copy of, see ``base_tree``.
        folder: where its files lie; removed at the end.
        seen: folders of this machine that it may read, by their place there.
    """

    tree: Path
    folder: Path
    seen: Mapping[Path, str] = field(default_factory=dict)
    init: int = 0
    _nspawn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(mode=0o755)
        # Half of what a machine does is to write and delete files: in memory, where there is some.
        if psutil.virtual_memory().available > 3 * _SIZE:
            options = ("-t", "tmpfs", "-o", f"size={_SIZE},mode=0755", "machine")
            subprocess.run(["mount", *options, self.folder], check=False)
        copy = ("cp", "-a", "--reflink=auto")
        subprocess.run([*copy, f"{self.tree}/.", self.folder], check=True)
        console = self.folder.with_suffix(".log")
        with console.open("wb") as log:
            self._nspawn = subprocess.Popen(
                [
                    *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.folder}"),
                    *("--register=no", "--keep-unit", "--private-network", "--console=pipe"),
                    *(f"--bind-ro={here}:{there}" for here, there in self.seen.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end_s = time.monotonic() + BOOT_S
        while not self._booted():
            if self._nspawn.poll() is not None or time.monotonic() > end_s:
                lines = console.read_text(errors="replace").strip().splitlines() or ["no word"]
                self._end()
                pytest.skip(f"systemd-nspawn cannot boot here: {lines[-1]}")
            time.sleep(0.2)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def path(self, inside: str) -> Path:
        """Return where a file of the machine is here."""
        return self.folder / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o640) -> None:
        """Write a file as its administrator would."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def run(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command as root inside; its exit code is for the caller to judge."""
        return subprocess.run(
            ["nsenter", "--target", str(self.init), "--all", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env={"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"},
        )

    def ask(self, *command: str, timeout_s: float = 60) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self.run(*command, timeout_s=timeout_s)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def show(self, unit: str, *keys: str) -> dict[str, str]:
        """Return properties of a unit, as ``systemctl show`` has them."""
        lines = self.ask("systemctl", "show", unit, *(f"--property={key}" for key in keys))
        return dict(line.split("=", 1) for line in lines.splitlines())

    def outside(self, pid: str) -> int:
        """Return the number that one of its processes has on this machine."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            except OSError:
                continue  # it has ended
            numbers = lines.get("NSpid", "").split()
            if numbers[1:] == [pid] and _namespace(int(numbers[0])) == _namespace(self.init):
                return int(numbers[0])
        raise AssertionError(f"the machine has no process {pid}")

    def _booted(self) -> bool:
        if self._nspawn is None or self._nspawn.poll() is not None:
            return False
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        if not pids:
            return False
        self.init = pids[-1]
        state = self.run("systemctl", "is-system-running").stdout.strip()
        return state in {"running", "degraded"}

    def _end(self) -> None:
        process = self._nspawn
        if process is not None and process.poll() is None:
            process.terminate()  # an orderly shutdown
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        if self.folder.is_mount():
            subprocess.run(["umount", self.folder], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def hold_thread(pid: int, name: str) -> subprocess.Popen[bytes]:
    """Make one thread of a process stand still, as a bug would; the others go on.

    Args:
        pid: the process.
        name: of the thread, as the kernel has it.

    Returns:
        Who holds it: lets go when it is killed, and ends when the thread does.
    """
    tasks = Path(f"/proc/{pid}/task").iterdir()
    (tid,) = [task.name for task in tasks if (task / "comm").read_text().strip() == name]
    return subprocess.Popen([sys.executable, __file__, tid])


def _hold(tid: int) -> None:
    """Seize a thread with ptrace(2) and stop it; then wait for its end, which only we are told."""
    seize, interrupt, wait_all = 0x4206, 0x4207, 0x40000000  # linux/ptrace.h, linux/wait.h
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (seize, interrupt):
        if libc.ptrace(request, tid, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace of {tid}")
    while True:
        _, status = os.waitpid(tid, wait_all)
        if not os.WIFSTOPPED(status):
            return


if __name__ == "__main__":
    _hold(int(sys.argv[1]))
