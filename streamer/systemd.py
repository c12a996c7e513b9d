"""What the daemon tells systemd and takes from it: readiness, signs of life, credentials.

The protocol is one datagram of ``KEY=value`` lines to a socket named by the environment
(sd_notify(3)); these few lines are all of it, so no package is needed: libsystemd's Python binding
wants headers and a compiler, and the pure ones do less than this. Without systemd every call is
without effect, so the daemon runs the same in a terminal.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamer.stages import Clock

__all__ = ["Notifier", "credential", "start_extension", "watchdog_interval_s"]

_CREDENTIAL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_STATUS_LIMIT: Final = 400
"""Characters of a status line: it is shown in one line of ``systemctl status``."""
_SEND_TIMEOUT_S: Final = 1.0
"""How long one notification may take when the manager's queue is full: half of the shortest
watchdog interval anyone sets, so that a busy manager never stalls a worker for long."""
_PATIENCE_S: Final = 120.0
"""How long one step of an engine build may take: timing one layer's kernels is seconds on a desktop
GPU and tens of seconds on a small Jetson."""
_SAY_EVERY_NS: Final = 1_000_000_000


class Notifier:
    """Sends the service's state to its manager.

    Args:
        clock: times ``RELOADING=1``; must be CLOCK_MONOTONIC.
        environment: where ``NOTIFY_SOCKET`` is looked up.

    Raises:
        ConfigError: if ``NOTIFY_SOCKET`` is not an address of this protocol.
    """

    def __init__(self, clock: Clock, environment: Mapping[str, str] = os.environ) -> None:
        self._clock = clock
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))

    @property
    def enabled(self) -> bool:
        """Whether a manager listens."""
        return self._address is not None

    def ready(self, status: str) -> bool:
        """Say that start-up or a reload is complete; the watchdog is armed from here on."""
        return self._send("READY=1", f"STATUS={_one_line(status)}")

    def status(self, text: str) -> bool:
        """Show one line in ``systemctl status``."""
        return self._send(f"STATUS={_one_line(text)}")

    def reloading(self) -> bool:
        """Say that the configuration is being read again; ``ready`` ends it."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={self._clock.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> bool:
        """Say that the service is shutting down."""
        return self._send("STOPPING=1", f"STATUS={_one_line(status)}")

    def alive(self) -> bool:
        """Ping the watchdog; to be called only while every worker makes progress."""
        return self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> bool:
        """Ask for more time to start or stop, as while an engine is being built.

        Args:
            seconds: from now until the next call or the end of the phase.
        """
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, *lines: str) -> bool:
        """Send one datagram; returns whether the manager has it.

        A manager that is gone or busy is no reason to stop watching cameras: a watchdog that
        misses the ping acts on it anyway.
        """
        if self._address is None:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(_SEND_TIMEOUT_S)
            try:
                channel.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return False
        return True


def start_extension(notifier: Notifier, clock: Clock) -> Callable[[], None]:
    """Return a function to call on every bit of progress while starting, from any thread.

    The manager then waits longer for readiness, at most ``_PATIENCE_S`` past the last progress.
    """
    said_ns = -_SAY_EVERY_NS

    def progressed() -> None:
        nonlocal said_ns
        now_ns = clock.monotonic_ns()
        if now_ns - said_ns >= _SAY_EVERY_NS:
            said_ns = now_ns
            notifier.extend_timeout(_PATIENCE_S)

    return progressed


def _address(name: str) -> str | None:
    """Translate $NOTIFY_SOCKET; a leading "@" stands for the null byte of the abstract namespace.

    Raises:
        ConfigError: if it is neither a path nor an abstract name.
    """
    if not name:
        return None
    if name.startswith("@"):
        return f"\0{name[1:]}"
    if name.startswith("/"):
        return name
    raise ConfigError(
        f"NOTIFY_SOCKET is {name!r}, expected a path or a name that starts with '@'; "
        "unset it to run without systemd"
    )


def _one_line(text: str) -> str:
    """A line break would start another assignment, so it becomes a space."""
    return " ".join(text.split())[:_STATUS_LIMIT]


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often to ping: half of what the unit allows (sd_watchdog_enabled(3)).

    Args:
        environment: where ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked up.

    Returns:
        seconds between two pings; None if no watchdog is set for this process.

    Raises:
        ConfigError: if a value is not a positive whole number.
    """
    limit = environment.get("WATCHDOG_USEC")
    if not limit:
        return None
    pid = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not (pid.isdecimal() and limit.isdecimal() and int(limit) > 0):
        raise ConfigError(
            f"WATCHDOG_USEC={limit!r}, WATCHDOG_PID={pid!r}: expected positive whole numbers; "
            "systemd sets them from WatchdogSec= of the unit"
        )
    return int(limit) / 2e6 if int(pid) == os.getpid() else None


def credential(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Find a secret that the unit hands over with ``LoadCredential=``.

    Args:
        name: the credential's name, letters, digits and ``_ . -``.
        environment: where ``CREDENTIALS_DIRECTORY`` is looked up.

    Returns:
        its file, readable by the service alone; None if there is none of that name.

    Raises:
        ConfigError: if the name could leave the directory.
    """
    if not _CREDENTIAL_NAME.fullmatch(name):
        raise ConfigError(
            f"credential {name!r}: expected letters, digits and '_.-', the name before the "
            "colon of LoadCredential="
        )
    directory = environment.get("CREDENTIALS_DIRECTORY")
    path = Path(directory) / name if directory else None
    return path if path is not None and path.is_file() else None
