"""The table of failures, and what can be told of an address before FFmpeg is asked."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import av.error
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import reach
from streamer.errors import SourceError, SourceReason
from streamer.faults import fault_of, tag
from streamer.source import CaptureOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOBODY = 65_534


def judge(number: int, scheme: str = "rtsp", elapsed_s: float = 0.1) -> SourceReason:
    """Return the reason alone."""
    return fault_of(number, scheme=scheme, elapsed_s=elapsed_s, deadline_s=5.0)[0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("HTTP_UNAUTHORIZED", "auth_failed"),
        ("HTTP_FORBIDDEN", "auth_failed"),
        ("HTTP_NOT_FOUND", "not_found"),
        ("HTTP_BAD_REQUEST", "io_error"),
        ("HTTP_TOO_MANY_REQUESTS", "busy"),
        ("HTTP_OTHER_4XX", "busy"),
        ("HTTP_SERVER_ERROR", "io_error"),
        ("DECODER_NOT_FOUND", "codec_unsupported"),
        ("DEMUXER_NOT_FOUND", "codec_unsupported"),
        ("PROTOCOL_NOT_FOUND", "codec_unsupported"),
        ("PATCHWELCOME", "codec_unsupported"),
        ("INVALIDDATA", "decode_error"),
        ("EOF", "ended"),
        ("EXIT", "timeout"),
    ],
)
def test_numbers_of_ffmpeg_are_known(name: str, reason: str) -> None:
    """FFmpeg's own numbers, as PyAV has them, have each its reason."""
    assert judge(int(vars(av.error)["ErrorType"][name])) == reason


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, "connection_refused"),
        (errno.ETIMEDOUT, "timeout"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EACCES, "permission_denied"),
        (errno.EBUSY, "busy"),
        (errno.ENOENT, "not_found"),
        (errno.ENODEV, "not_found"),
        (errno.ECONNRESET, "io_error"),
    ],
)
def test_numbers_of_the_system_are_known(number: int, reason: str) -> None:
    """The values of errno have each their reason."""
    assert judge(number) == reason


def test_a_passed_deadline_is_a_timeout_under_any_number() -> None:
    """FFmpeg calls it invalid data or an I/O error; the time it took tells the truth."""
    for number in (tag(b"INDA"), errno.EIO, tag(b"EXIT")):
        assert judge(number, "rtsps", elapsed_s=5.01) is SourceReason.TIMEOUT
    assert judge(errno.ECONNREFUSED, elapsed_s=5.01) is SourceReason.CONNECTION_REFUSED
    assert judge(tag(b"INDA"), "", elapsed_s=60.0) is SourceReason.DECODE_ERROR


def test_a_failed_handshake_is_told_from_other_failures() -> None:
    """The same number means TLS where TLS was asked for, and a broken connection elsewhere."""
    assert judge(errno.EIO, "rtsps") is SourceReason.TLS
    assert judge(errno.EIO, "https") is SourceReason.TLS
    assert judge(errno.EIO, "rtsp") is SourceReason.IO_ERROR


@given(st.integers(0, 2**31), st.sampled_from(["", "rtsp", "rtsps", "http"]), st.floats(0, 100))
def test_any_number_has_a_reason(number: int, scheme: str, elapsed_s: float) -> None:
    """No number FFmpeg may ever invent ends in anything but a typed reason with words."""
    reason, words = fault_of(number, scheme=scheme, elapsed_s=elapsed_s, deadline_s=5.0)
    assert isinstance(reason, SourceReason)
    assert words


def refused(url: str) -> SourceError:
    """Return the error that an address gives."""
    with pytest.raises(SourceError) as caught:
        reach.find(url, timeout_s=2.0)
    return caught.value


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/no/such/file.mp4", "not_found"),
        ("file:///no/such/file.mp4", "not_found"),
        ("/etc/passwd/x", "not_found"),
        ("/tmp", "not_found"),  # noqa: S108 -- any folder
        ("rtmp://camera/stream", "not_found"),
        ("concat:/etc/passwd", "not_found"),
        ("http://[::1/x", "not_found"),
        ("rtsp://camera/\x00", "not_found"),
        ("rtsp:///stream", "name_resolution"),
        ("rtsp://user:hunter2@no-such-host.invalid/s", "name_resolution"),
        (f"rtsp://{'a' * 70}.invalid/", "name_resolution"),
    ],
)
def test_addresses_that_lead_nowhere_say_why(url: str, reason: str) -> None:
    """Each is refused with its reason, in one line, without the password."""
    error = refused(url)
    assert error.reason == reason
    assert "\n" not in str(error)
    assert "hunter2" not in str(error)


def test_a_path_with_protocol_characters_is_a_path(tmp_path: Path) -> None:
    """A file called like one of FFmpeg's protocols is opened as that file."""
    strange = tmp_path / "concat:a|b"
    strange.write_bytes(b"x")
    assert reach.find(str(strange), timeout_s=1.0) is reach.Kind.FILE
    assert reach.ffmpeg_address(str(strange), reach.Kind.FILE) == f"file:{strange}"


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Opening a named pipe would block until somebody writes."""
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    assert refused(str(pipe)).reason is SourceReason.NOT_FOUND


@contextmanager
def not_as_root() -> Iterator[None]:
    """Be nobody for a while where the tests run as root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(_NOBODY, _NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_file_of_another_says_which_group_helps() -> None:
    """A refusal names the group to join."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # pytest's own folders are closed to others
        secret = Path(folder) / "clip.mp4"
        secret.touch(mode=0o000)
        with not_as_root():
            error = refused(str(secret))
    assert error.reason is SourceReason.PERMISSION_DENIED
    assert "group" in error.detail


def test_a_name_server_that_is_silent_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking a name up ends at the deadline, though the system's resolver goes on."""
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: release.wait(30))
    started_s = time.monotonic()
    with pytest.raises(SourceError) as caught:
        reach.find("rtsp://camera.example/s", timeout_s=0.2)
    release.set()
    assert caught.value.reason is SourceReason.NAME_RESOLUTION
    assert time.monotonic() - started_s < 2


def test_a_device_descriptor_is_found_by_its_number() -> None:
    """The descriptor of an open character device is found, and none once it is closed."""
    device = Path("/dev/full")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert reach.descriptor_of(device) is None
    with device.open("rb") as opened:
        assert reach.descriptor_of(device) == opened.fileno()


def test_waiting_for_a_device_ends_with_data_deadline_or_interrupt() -> None:
    """A picture, a silence and a stop are told apart from one another by what is returned when."""
    reader, writer = os.pipe()
    interrupt = threading.Event()
    try:
        started_s = time.monotonic()
        assert not reach.await_readable(reader, timeout_s=0.4, interrupt=interrupt)
        assert 0.3 < time.monotonic() - started_s < 2
        os.write(writer, b"x")
        assert reach.await_readable(reader, timeout_s=5.0, interrupt=interrupt)
        os.read(reader, 1)
        interrupt.set()
        started_s = time.monotonic()
        assert not reach.await_readable(reader, timeout_s=30.0, interrupt=interrupt)
        assert time.monotonic() - started_s < 2
    finally:
        os.close(reader)
        os.close(writer)


def test_options_never_show_the_password() -> None:
    """Neither repr nor place of the options carry user, password or token."""
    options = CaptureOptions(camera="a", url="rtsp://user:hunter2@cam/s?token=hunter3&channel=1")
    assert options.place == "rtsp://***@cam/s?token=***&channel=1"
    for text in (repr(options), str(options), options.place):
        assert "hunter" not in text
