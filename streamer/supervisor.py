"""Starts the daemon, watches its workers, stops it in flow order, and answers with an exit code.

Signals are blocked and waited for, so that no handler ever runs in the middle of anything. An
exception that leaves any thread ends the process: a service manager restarts it in a known state,
where a daemon that limps on would only look alive.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, Protocol

import structlog

from streamer.errors import StreamerError
from streamer.memory import Trim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.systemd import Notifier

__all__ = [
    "STOP_SIGNALS",
    "Daemon",
    "block_signals",
    "catch_failures",
    "heard_signals",
    "leave",
    "supervise",
]

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_RELOAD = signal.SIGHUP
_WAITED = STOP_SIGNALS | {_RELOAD}
_POLL_S = 0.25  # how soon a broken worker is noticed
_START_POLL_S = 0.02  # how soon a start that is complete is noticed
_START_GRACE_S = 1.0  # a start that is nearly done is let finish, to be stopped in order
_START_EXTENSION_S = 60.0  # what the service manager grants anew while the start goes on
GRACE_S = 4.0
"""Deadline of the whole stop; with the exit of the interpreter it stays within 5 s."""
STUCK_S = 15.0
"""A worker without progress for longer is stuck: many times the longest honest call (a source's
open and read deadlines are added to it by the one that knows them)."""

log = structlog.get_logger(__name__)


class Daemon(Protocol):
    """What is supervised."""

    def start(self) -> None:
        """Start everything; raises a StreamerError and leaves nothing behind if it cannot."""
        ...

    def stop(self, reason: str, deadline_s: float) -> tuple[str, ...]:
        """Stop in flow order within the deadline; return who did not stop in time."""
        ...

    def reload(self) -> None:
        """Read the configuration again; raises ConfigError and changes nothing if it is bad."""
        ...

    def stuck(self) -> tuple[str, ...]:
        """Name the workers that make no progress."""
        ...

    def status(self) -> str:
        """Describe the state in one line for the service manager."""
        ...

    def pinged(self) -> None:
        """Take note that the service manager is told that all is well."""
        ...


def block_signals() -> None:
    """Block the signals that are waited for; called before the first thread starts, inherited.

    The numeric libraries start threads as they are imported, so this comes before that: a signal
    that finds one thread open while nobody waits for it ends the process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)


@contextmanager
def heard_signals() -> Iterator[None]:
    """Let this thread hear signals in the ordinary way for a while, as Ctrl-C in long work."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)


def supervise(
    daemon: Daemon,
    *,
    notifier: Notifier,
    watchdog_s: float | None,
    until: Callable[[], bool] = lambda: False,
) -> int:
    """Run a daemon until it is asked to stop.

    Args:
        daemon: what to run; signals must be blocked, see ``block_signals``.
        notifier: tells the service manager.
        watchdog_s: how often it wants a sign of life; None: never.
        until: asked a few times a second; true ends the run as SIGTERM would.

    Returns:
        0 after a stop that was asked for and in time, else 1.

    Raises:
        StreamerError: when the start fails.
    """
    failures = catch_failures()
    started, reason = _start(daemon, failures, notifier)
    if not started:
        log.warning("stopped_during_start", reason=reason or "failure")
        return 0 if reason else 1
    notifier.ready(daemon.status())
    try:
        reason = reason or _watch(daemon, failures, notifier, watchdog_s, until)
    except Exception:  # the last line of defence: said, stopped in order, and in the exit code
        log.exception("supervisor_failed")
        reason = ""
    notifier.stopping("stopping")
    overrun = _stop(daemon, reason or "failure")
    if overrun:
        log.error("stop_overran", workers=overrun, grace_s=GRACE_S)
    return 0 if reason and not overrun else 1


def leave(code: int) -> NoReturn:
    """End the process now.

    A thread may still wait inside FFmpeg or a network for its deadline; the interpreter's own end
    would wait for it, or pull the runtime away under it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _start(
    daemon: Daemon, failures: queue.SimpleQueue[str], notifier: Notifier
) -> tuple[bool, str]:
    """Start in a thread, so that a signal is heard while model files are fetched.

    Returns:
        Whether it has started, and the signal that came meanwhile, if any. A start that is cut off
        still runs, has published nothing, and ends with the process.

    Raises:
        StreamerError: when the start fails.
    """
    refused: list[StreamerError] = []

    def start() -> None:
        try:
            daemon.start()
        except StreamerError as error:
            refused.append(error)

    thread = threading.Thread(target=start, name="start", daemon=True)
    thread.start()
    reason, extended_s = "", time.monotonic()
    while thread.is_alive() and not reason:
        got = _waited(STOP_SIGNALS, _START_POLL_S)
        if got is not None:
            reason = got.name
            thread.join(_START_GRACE_S)
        if time.monotonic() - extended_s > _START_EXTENSION_S / 4:
            notifier.extend_timeout(_START_EXTENSION_S)
            extended_s = time.monotonic()
    if thread.is_alive():
        return False, reason
    if refused:
        daemon.stop("start failed", GRACE_S)
        raise refused[0]
    if not failures.empty():
        daemon.stop("start failed", GRACE_S)
        return False, ""
    return True, reason


def _watch(
    daemon: Daemon,
    failures: queue.SimpleQueue[str],
    notifier: Notifier,
    watchdog_s: float | None,
    until: Callable[[], bool],
) -> str:
    """Wait for a reason to stop; empty when it is a failure."""
    pinged_s = stuck_said_s = 0.0
    trim = Trim()
    while True:
        got = _waited(_WAITED, _POLL_S)
        if got == _RELOAD:
            _reload(daemon, notifier)
        elif got is not None:
            return got.name
        if until():
            return "finished"
        if not failures.empty():
            log.error("worker_died", worker=failures.get())
            return ""
        now_s = time.monotonic()
        stuck = daemon.stuck()
        if stuck and now_s - stuck_said_s > STUCK_S:
            log.error("worker_stuck", workers=stuck)
            stuck_said_s = now_s
        if not stuck and watchdog_s is not None and now_s - pinged_s >= watchdog_s - _POLL_S:
            daemon.pinged()
            notifier.alive()
            notifier.status(daemon.status())
            pinged_s = now_s
        trim.when_due()


def _waited(signals: frozenset[signal.Signals], timeout_s: float) -> signal.Signals | None:
    """Wait for one of these signals; None when none came.

    A profiler or debugger that attaches wakes the call with a signal that nobody sent (seen with
    py-spy: SIGQUIT), so what comes is checked.
    """
    got = signal.sigtimedwait(signals, timeout_s)
    return signal.Signals(got.si_signo) if got is not None and got.si_signo in signals else None


def _reload(daemon: Daemon, notifier: Notifier) -> None:
    notifier.reloading()
    try:
        daemon.reload()
    except StreamerError as error:
        log.error("reload_refused", error=str(error))  # noqa: TRY400 a user's mistake needs no traceback
    else:
        log.info("configuration_reloaded")
    notifier.ready(daemon.status())


def _stop(daemon: Daemon, reason: str) -> tuple[str, ...]:
    """Stop; a second signal in the meantime ends the process at once."""
    done = threading.Event()
    overrun: list[str] = []

    def stop() -> None:
        overrun.extend(daemon.stop(reason, GRACE_S))
        done.set()

    thread = threading.Thread(target=stop, name="stop", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no memory is left for a thread: then without hearing a second signal
        stop()
    end_s = time.monotonic() + GRACE_S + 1.0
    while thread.is_alive() and time.monotonic() < end_s:
        if _waited(STOP_SIGNALS, _POLL_S / 5) is not None:
            log.warning("stop_forced")
            return ("forced",)
    return tuple(overrun) if done.is_set() else ("stop",)


def catch_failures() -> queue.SimpleQueue[str]:
    """Collect the names of threads that an exception has ended, after logging it."""
    failures: queue.SimpleQueue[str] = queue.SimpleQueue()

    def caught(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else "unknown"
        if args.exc_value is not None:
            log.error(
                "thread_failed",
                worker=name,
                exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
            )
        failures.put(name)

    threading.excepthook = caught
    return failures
