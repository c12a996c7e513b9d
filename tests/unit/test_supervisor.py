"""Signals, failures and deadlines end in the right exit code; each case in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os, sys, threading, time
sys.path.insert(0, {root!r})
from streamer import systemd
from streamer.clock import SystemClock
from streamer.errors import BundleError, ConfigError
from streamer.supervisor import block_signals, supervise

class Daemon:
    def start(self):
        {start}
    def stop(self, reason, deadline_s):
        {stop}
        print("stopped", reason, flush=True)
        return {overrun}
    def reload(self):
        print("reload", flush=True)
        {reload}
    def stuck(self):
        return {stuck}
    def pinged(self):
        pass
    def status(self):
        print("started", flush=True)
        return "0 of 0 cameras online"

block_signals()
clock = SystemClock()
code = supervise(Daemon(), notifier=systemd.Notifier(clock),
                 watchdog_s=systemd.watchdog_interval_s())
sys.stdout.flush()
os._exit(code)
"""


class Run:
    """A supervised program."""

    def __init__(self, env: dict[str, str] | None = None, **parts: str) -> None:
        filled = {"start": "pass", "stop": "pass", "overrun": "()", "reload": "pass", "stuck": "()"}
        code = PROGRAM.format(root=str(ROOT), **(filled | parts))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | (env or {}),
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def wait_for(self, text: str) -> None:
        """Wait until a line with the text was printed."""
        end_s = time.monotonic() + 20
        while not any(text in line for line in list(self.lines)):
            assert time.monotonic() < end_s, self.lines
            time.sleep(0.01)

    def end(self) -> int:
        """Wait for the exit code."""
        code = self.process.wait(20)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_order_with_zero(number: signal.Signals) -> None:
    """Whoever asks gets an orderly end."""
    run = Run()
    run.wait_for("started")
    run.process.send_signal(number)
    assert run.end() == 0
    assert f"stopped {number.name}\n" in run.lines


def test_a_thread_that_dies_ends_the_daemon_with_one() -> None:
    """An exception in any thread is logged, stops everything in order, and is in the exit code."""
    run = Run(start='threading.Thread(target=lambda: 1 / 0, name="compute").start()')
    assert run.end() == 1
    text = "".join(run.lines)
    assert "ZeroDivisionError" in text
    assert "compute" in text
    assert "stopped failure" in text


def test_a_stop_that_overruns_is_a_failure() -> None:
    """Who did not stop in time is named, and the exit code says so."""
    run = Run(overrun='("compute",)')
    run.wait_for("started")
    run.process.terminate()
    assert run.end() == 1
    assert any("compute" in line for line in run.lines)


def test_a_signal_during_the_start_is_heard() -> None:
    """A start that waits for a download ends at once, and has been asked to."""
    run = Run(start='print("fetching", flush=True); time.sleep(30)')
    run.wait_for("fetching")
    start_s = time.monotonic()
    run.process.terminate()
    assert run.end() == 0
    assert time.monotonic() - start_s < 5


def test_a_thread_that_dies_during_the_start_is_a_failure() -> None:
    """Nothing is called ready that has lost a worker already."""
    run = Run(start="t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()")
    assert run.end() == 1
    assert "stopped start failed\n" in run.lines


def test_a_second_signal_forces_the_end() -> None:
    """A person who asks twice does not wait for the deadline."""
    run = Run(stop='print("stopping", flush=True); time.sleep(30)')
    run.wait_for("started")
    run.process.terminate()
    run.wait_for("stopping")
    start_s = time.monotonic()
    run.process.terminate()
    assert run.end() == 1
    assert time.monotonic() - start_s < 5


def test_a_refused_reload_changes_nothing() -> None:
    """SIGHUP with a bad file is one line in the log; the daemon runs on."""
    run = Run(reload='raise ConfigError("streamer.toml: fps: expected float")')
    run.wait_for("started")
    run.process.send_signal(signal.SIGHUP)
    run.wait_for("expected float")
    run.process.terminate()
    assert run.end() == 0
    assert not any("Traceback" in line for line in run.lines)


def test_a_failed_start_is_raised_after_cleaning_up() -> None:
    """The caller prints the one line; what had been started is stopped."""
    run = Run(start='raise BundleError("bundle x: damaged")')
    assert run.end() == 1
    assert "stopped start failed\n" in run.lines
    assert any("BundleError: bundle x: damaged" in line for line in run.lines)


@pytest.mark.parametrize(("stuck", "pings"), [("()", True), ('("compute",)', False)])
def test_the_watchdog_hears_only_of_progress(tmp_path: Path, stuck: str, *, pings: bool) -> None:
    """A daemon with a stuck worker stops pinging, and says who is stuck."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(20)
        run = Run({"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "1000000"}, stuck=stuck)
        said = [manager.recv(4096).decode()]
        assert "READY=1" in said[0]
        if pings:
            while not any("WATCHDOG=1" in text for text in said):
                said.append(manager.recv(4096).decode())
        else:
            run.wait_for("worker_stuck")
            time.sleep(1.5)
        run.process.terminate()
        assert run.end() == 0
        manager.setblocking(False)  # noqa: FBT003 the socket's own signature
        while True:
            try:
                said.append(manager.recv(4096).decode())
            except BlockingIOError:
                break
    assert any("STOPPING=1" in text for text in said)
    assert any("WATCHDOG=1" in text for text in said) is pings
