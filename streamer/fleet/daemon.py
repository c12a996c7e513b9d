"""One node's daemon: an ordinary ``streamer run`` as a child process, watched as systemd would."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import structlog

import streamer
from streamer.fleet import written

if TYPE_CHECKING:
    from streamer.config import Config

__all__ = ["Daemon", "State"]

log = structlog.get_logger(__name__)
State = Literal["none", "starting", "running", "stopping"]
_WATCHDOG_S: Final = 30.0
"""Without a sign of life for so long it is killed; the unit file has the same."""
_START_S: Final = 120.0
"""Without becoming ready for so long it is killed; one that compiles an engine asks for more."""
_RELOAD_S: Final = 20.0  # a reload waits for captures (2 s) and for the compute loop (15 s)
_STOP_S: Final = 6.0  # its own grace is 4 s, and it is gone within 5
_LINES: Final = 20
_MANAGERS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


class Daemon:
    """A child process that runs one configuration; for use by one thread, with which it ends.

    Args:
        folder: private; takes the configuration and the socket on which it reports.
        lock: a descriptor that it inherits, so that a lock on it is held while it lives.
    """

    def __init__(self, folder: Path, *, lock: int) -> None:
        self._file = folder / "streamer.toml"
        self._lock = lock
        self._notify_path = folder / "notify"
        self._notify_path.unlink(missing_ok=True)
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.notices.bind(str(self._notify_path))
        self._process: subprocess.Popen[bytes] | None = None
        self._config: Config | None = None
        self._before: Config | None = None
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._part = b""
        self._state: State = "none"
        self._reloading = ""
        self._deadline_s = 0.0

    @property
    def state(self) -> State:
        """What it does."""
        return self._state

    @property
    def settled(self) -> bool:
        """Whether it runs what it was given last, or nothing."""
        return self._state == "none" or (self._state == "running" and not self._reloading)

    @property
    def config(self) -> Config | None:
        """What it runs, or is on its way to."""
        return self._config

    @property
    def holding(self) -> set[str]:
        """Every camera that it may be reading."""
        if self._state == "none":
            return set()
        found = (self._config, self._before)
        return {camera.name for one in found if one is not None for camera in one.cameras}

    @property
    def output(self) -> int | None:
        """The descriptor to wait on for what it says."""
        process = self._process
        return None if process is None or process.stdout is None else process.stdout.fileno()

    def start(self, config: Config) -> None:
        """Start it; only when there is none."""
        written.write(config, self._file)
        program = [sys.executable, "-P", "-m", "streamer", "run", "--config", str(self._file)]
        self._lines.clear()
        self._part = b""
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "streamer.fleet.leash", str(os.getpid()), "0", *program],
            pass_fds=(self._lock,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(self._notify_path),
        )
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)
        self._config, self._before = config, None
        self._enter("starting", _START_S)

    def reload(self, config: Config) -> None:
        """Have it take other cameras; only when it is settled, and nothing else has changed."""
        if self._process is None:
            raise RuntimeError("there is no daemon to reload")
        written.write(config, self._file)
        self._config, self._before = config, self._config
        self._reloading = "asked"
        self._deadline_s = time.monotonic() + _RELOAD_S
        self._process.send_signal(signal.SIGHUP)

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Ask it to stop, and make it when time runs out; returns at once."""
        if self._process is None or self._state == "stopping":
            return
        self._process.send_signal(signal.SIGTERM)
        self._enter("stopping", timeout_s)

    def kill(self) -> None:
        """End it now and wait until it is gone."""
        if self._process is not None:
            self._enter("stopping", _STOP_S)
            self._process.kill()
            self._process.wait()

    def step(self) -> str | None:
        """Take in what it says; return why it has ended, once, or None.

        An empty reason is an end that was asked for.
        """
        self._listen()
        self._hear()
        process = self._process
        if process is None:
            return None
        if process.poll() is not None:
            return self._ended(process)
        if time.monotonic() > self._deadline_s:
            log.error("daemon_stuck", state=self._state, reloading=self._reloading)
            process.kill()  # noticed as its end in the next step
        return None

    def close(self) -> None:
        """End it and remove what it was given."""
        self.kill()
        self.notices.close()
        for path in (self._notify_path, self._file):
            path.unlink(missing_ok=True)

    def _enter(self, state: State, limit_s: float) -> None:
        self._state = state
        self._reloading = ""
        self._deadline_s = time.monotonic() + limit_s

    def _hear(self) -> None:
        """Take its notices, see sd_notify(3)."""
        with contextlib.suppress(BlockingIOError):
            while True:
                for line in self.notices.recv(4096).decode(errors="replace").splitlines():
                    self._notice(*line.partition("=")[::2])

    def _notice(self, key: str, value: str) -> None:
        now_s = time.monotonic()
        if key == "RELOADING" and self._reloading:
            self._reloading = "under way"
        elif key == "READY" and self._state == "starting":
            self._enter("running", _WATCHDOG_S)
        elif key == "READY" and self._reloading == "under way":
            self._taken()
        elif key == "WATCHDOG" and self._state == "running" and not self._reloading:
            self._deadline_s = now_s + _WATCHDOG_S
        elif key == "EXTEND_TIMEOUT_USEC" and self._state == "starting" and value.isdecimal():
            self._deadline_s = max(self._deadline_s, now_s + int(value) / 1e6)

    def _taken(self) -> None:
        """A reload is over; a refused one has said so in the log before."""
        self._listen()
        refused = [line for line in self._lines if '"reload_refused"' in line]
        self._enter("running", _WATCHDOG_S)
        if refused:  # it still has the old cameras: a start anew says the same or cures it
            log.error("reload_refused", line=refused[-1])
            self.stop()
        else:
            self._before = None

    def _listen(self) -> None:
        """Take its log, and pass it on as ours."""
        descriptor = self.output
        if descriptor is None:
            return
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(descriptor, 1 << 16):
                *lines, self._part = (self._part + chunk).split(b"\n")
                for line in lines:
                    text = line.decode(errors="replace")
                    self._lines.append(text)
                    sys.stderr.write(f"{text}\n")

    def _ended(self, process: subprocess.Popen[bytes]) -> str:
        asked = self._state == "stopping"
        if process.stdout is not None:
            process.stdout.close()
        self._process = self._config = self._before = None
        self._state = "none"
        return "" if asked else f"{_code(process.returncode)}{_last_error(self._lines)}"


def _environment(notify: Path) -> dict[str, str]:
    """Return the environment of a daemon whose manager we are."""
    kept = {key: value for key, value in os.environ.items() if key not in _MANAGERS}
    if kept.get("CUDA_VISIBLE_DEVICES") == "":
        del kept["CUDA_VISIBLE_DEVICES"]  # the cluster hides GPUs from what has not asked for one
    kept.pop("OMP_NUM_THREADS", None)  # the cluster's too; the daemon counts its cores itself
    return kept | {
        "NOTIFY_SOCKET": str(notify),
        "WATCHDOG_USEC": str(round(_WATCHDOG_S * 1e6)),
        "PYTHONPATH": str(Path(streamer.__file__).parents[1]),
    }


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _last_error(lines: deque[str]) -> str:
    """Return the last error that it logged, in words."""
    for line in reversed(lines):
        if line.startswith("streamer: "):
            return f": {line.removeprefix('streamer: ')}"
        try:
            told = msgspec.json.decode(line, type=dict[str, object])
        except ValueError:
            continue
        if told.get("level") in {"error", "critical"}:
            return f": {told.get('event')} {told.get('error', '')}".rstrip()
    return ""
