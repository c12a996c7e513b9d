"""The service manager's protocol, spoken to a real datagram socket."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import ConfigError
from streamer.systemd import Notifier, credential, start_extension, watchdog_interval_s
from tests.fakes import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PID = str(os.getpid())


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A socket as systemd opens it, with the environment that names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind(name.replace("@", "\0") if name.startswith("@") else name)
        yield listener, {"NOTIFY_SOCKET": name}


def test_every_message_is_one_datagram(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """The bytes are those of sd_notify(3), one datagram a state."""
    listener, environment = manager
    notifier = Notifier(time, environment)
    assert notifier.enabled
    sent = [
        (notifier.extend_timeout(2.5), b"EXTEND_TIMEOUT_USEC=2500000"),
        (notifier.ready("2 cameras"), b"READY=1\nSTATUS=2 cameras"),
        (notifier.alive(), b"WATCHDOG=1"),
        (notifier.status("1 of 2 cameras up"), b"STATUS=1 of 2 cameras up"),
        (notifier.stopping("asked to stop"), b"STOPPING=1\nSTATUS=asked to stop"),
    ]
    for done, expected in sent:
        assert done
        assert listener.recv(4096) == expected


def test_progress_extends_the_start(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """An engine build asks for two more minutes with its progress, at most once a second."""
    listener, environment = manager
    clock = FakeClock()
    progressed = start_extension(Notifier(clock, environment), clock)
    for _ in range(3):
        progressed()
    clock.advance(1.0)
    progressed()
    listener.settimeout(0.05)
    assert listener.recv(4096) == b"EXTEND_TIMEOUT_USEC=120000000"
    assert listener.recv(4096) == b"EXTEND_TIMEOUT_USEC=120000000"
    with pytest.raises(TimeoutError):
        listener.recv(4096)


def test_reloading_carries_the_monotonic_time(
    manager: tuple[socket.socket, dict[str, str]],
) -> None:
    """Type=notify-reload wants CLOCK_MONOTONIC in microseconds with the message."""
    listener, environment = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert Notifier(time, environment).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    state, stamp = listener.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    key, _, value = stamp.partition("=")
    assert key == "MONOTONIC_USEC"
    assert before <= int(value) <= after


@given(st.text(max_size=600))
def test_a_status_cannot_smuggle_another_assignment(text: str) -> None:
    """Whatever a camera's error says, it stays one line behind STATUS=."""
    name = f"@{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind(f"\0{name[1:]}")
        assert Notifier(time, {"NOTIFY_SOCKET": name}).status(text)
        received = listener.recv(65536).decode()
    assert received.startswith("STATUS=")
    assert len(received.splitlines()) == 1


def test_without_a_manager_nothing_happens() -> None:
    """In a terminal every call is without effect."""
    notifier = Notifier(time, {})
    assert not notifier.enabled
    assert not notifier.ready("up")
    assert not notifier.alive()


def test_a_manager_that_went_away_does_no_harm(tmp_path: Path) -> None:
    """A lost notification is reported to the caller and raises nothing."""
    assert not Notifier(time, {"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()


def test_an_address_of_another_kind_is_refused() -> None:
    """Another protocol's address is named instead of being ignored."""
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET is 'vsock:2:1'"):
        Notifier(time, {"NOTIFY_SOCKET": "vsock:2:1"})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": PID}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_ping_comes_at_half_of_the_limit(
    environment: dict[str, str], expected: float | None
) -> None:
    """Half of WATCHDOG_USEC, and only if it is meant for this process."""
    assert watchdog_interval_s(environment) == expected


@pytest.mark.parametrize("limit", ["0", "-5", "soon", "1.5"])
def test_a_watchdog_that_is_no_number_is_refused(limit: str) -> None:
    """A damaged environment is an error of configuration, not a silent absence."""
    with pytest.raises(ConfigError, match="expected positive whole numbers"):
        watchdog_interval_s({"WATCHDOG_USEC": limit})


def test_credentials_come_from_the_directory_of_the_unit(tmp_path: Path) -> None:
    """A credential that is there is found; one that is not is None."""
    (tmp_path / "http-token").write_text("s3cret")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credential("http-token", environment) == tmp_path / "http-token"
    assert credential("other", environment) is None
    assert credential("http-token", {}) is None


@pytest.mark.parametrize("name", ["", "..", "../shadow", "/etc/shadow", "a/b", "a\n"])
def test_a_credential_name_cannot_leave_its_directory(name: str, tmp_path: Path) -> None:
    """A name is a name, not a path."""
    with pytest.raises(ConfigError, match="expected letters, digits"):
        credential(name, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="systemd-notify absent")
def test_the_bytes_are_those_of_systemds_own_tool(
    manager: tuple[socket.socket, dict[str, str]],
) -> None:
    """systemd-notify, given the same state, sends the same assignments."""
    listener, environment = manager
    subprocess.run(
        ["systemd-notify", "--no-block", "--ready", "--status=up"],
        env={**os.environ, **environment},
        check=True,
        timeout=30,
        capture_output=True,
    )
    theirs = set(listener.recv(4096).decode().split("\n"))
    Notifier(time, environment).ready("up")
    ours = listener.recv(4096)
    assert set(ours.decode().split("\n")) == {line for line in theirs if "PID" not in line}


def test_a_full_queue_is_given_up_within_its_deadline(tmp_path: Path) -> None:
    """A manager that does not read costs one second and not the daemon."""
    program = (
        "import sys, time; from streamer.systemd import Notifier\n"
        "n = Notifier(time, {'NOTIFY_SOCKET': sys.argv[1]})\n"
        "while n.alive(): pass"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "busy"))
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "busy")], check=True, timeout=30
        )
    assert done.returncode == 0
