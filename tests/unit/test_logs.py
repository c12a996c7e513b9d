"""The logs: one stream, no credential, no flood."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import assume, given
from hypothesis import strategies as st

from streamer.logs import Repeated, configure, redact

if TYPE_CHECKING:
    from collections.abc import Iterator


class HandClock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def monotonic_ns(self) -> int:
        """Return the time set by hand."""
        return self.now_ns

    def time_ns(self) -> int:
        """Return the time set by hand."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += int(seconds * 1e9)


@pytest.fixture
def clock() -> HandClock:
    """A clock of this test's own."""
    return HandClock()


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A place to log to; logging is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("uvicorn", "asyncio")}
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield io.StringIO()
        logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in levels.items():
        logging.getLogger(name).setLevel(was)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    """Return what was logged, one object a line."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://bob:hunter2@cam.example:554/s1", "rtsp://***@cam.example:554/s1"),
        ("rtsp://bob@cam.example/s1", "rtsp://***@cam.example/s1"),
        ("rtsp://bob:p@ss@cam/s1", "rtsp://***@cam/s1"),
        ("rtsp://bob:p/ss?w#d@cam/s1", "rtsp://***@cam/s1"),
        ("rtsp://:only@cam/s1", "rtsp://***@cam/s1"),
        ("rtsp://admin:my Secret 99@cam:554/1", "rtsp://***@cam:554/1"),
        ("rtsp://my name:hunter2@cam/1: timeout", "rtsp://***@cam/1: timeout"),
        ("rtsp:/bob:hunter2@cam/s1: no such file", "rtsp://***@cam/s1: no such file"),
        (
            "open rtsp://a:b@c/d failed, then 'http://e:f g@h'",
            "open rtsp://***@c/d failed, then 'http://***@h'",
        ),
        (
            "http://cam/live?user=bob&password=hunter2&fps=5",
            "http://cam/live?user=***&password=***&fps=5",
        ),
        ("http://cam/live?access_token=abc#d", "http://cam/live?access_token=***"),
        ("http://cam/?api_key=k&Key=v&sig=x", "http://cam/?api_key=***&Key=***&sig=***"),
        (
            "refused: rtsp://nvr/cam/realmonitor?channel=1&subtype=0: nothing listens there",
            "refused: rtsp://nvr/cam/realmonitor?channel=1&subtype=0: nothing listens there",
        ),
        ("http://cam/?channel=1;password=hunter2", "http://cam/?channel=***"),
        ("http://cam/?aHVudGVyMg==", "http://cam/?***"),
        ("rtsp://cam:554/1?password=hun@ter2 x", "rtsp://*** x"),
        ("rtsp://u:p@cam/1?password=hun@ter2", "rtsp://***"),
        ("rtsp://cam/user=a_password=hunt?er2", "rtsp://cam/user=a_password=***?***"),
        ("(http://cam/?psw=a) [http://cam/?psw=a]", "(http://cam/?psw=***) [http://cam/?psw=***]"),
        ("'http://cam/?pwd=a'b", "'http://cam/?pwd=***"),
        ("login loginpas=hunter2 failed", "login loginpas=*** failed"),
        ("pwd='hunter2", "pwd=***"),
        ("pwd='hun ter2', channel=3", "pwd='***', channel=3"),
        ("see http://cam/help? no", "see http://cam/help? no"),
        ("Authorization: Bearer abcdef.123456", "Authorization: Bearer ***"),
        ("rtsp://cam.example:554/s1", "rtsp://cam.example:554/s1"),
        ("tcp://[::1]:5556", "tcp://[::1]:5556"),
        ("monkey=banana turkey=x", "monkey=banana turkey=x"),
        ("mail bob@example.org", "mail bob@example.org"),
        ("", ""),
    ],
)
def test_redact(text: str, expected: str) -> None:
    """Credentials go, and what helps to find the camera stays."""
    assert redact(text) == expected


_ANY_SIGN = st.characters(exclude_categories=("Z", "C"))
_AROUND = ["{}", "failed to open {}: timeout", "['{}']", '{{"url": "{}"}}']


@given(
    password=st.text(_ANY_SIGN | st.just(" "), min_size=1, max_size=40),
    user=st.text("abcdefgh", max_size=8),
    around=st.sampled_from(_AROUND),
)
def test_no_password_survives(password: str, user: str, around: str) -> None:
    """Whatever characters a password has, the text is as if it had been another one."""
    assume(not re.search(r"\?.*=| \W*\w.*:/", password))  # a query or a second address: see above
    text = around.format(f"rtsp://{user}:{password}@cam.example/s1")
    assert redact(text) == around.format("rtsp://***@cam.example/s1")


@given(
    password=st.text(_ANY_SIGN.filter(lambda sign: sign != "&"), min_size=1, max_size=40),
    name=st.sampled_from(
        ["password", "pwd", "loginpas", "psw", "userpwd", "authbasic", "Kennwort"]
    ),
    more=st.sampled_from(["", "&subtype=0"]),
    around=st.sampled_from(_AROUND),
)
def test_no_password_of_a_query_survives(password: str, name: str, more: str, around: str) -> None:
    """Whatever its characters and its name: no list has the names that all makers give it."""
    assume(password.strip("=") and ":/" not in password and not password.startswith("***"))
    text = around.format(f"http://cam.example/s1?channel=1&{name}={password}{more}")
    expected = around.format(f"http://cam.example/s1?channel=1&{name}=***{more}")
    if not more:  # a sign after it may be its last one
        expected = expected.replace("***: ", "*** ")
    assert redact(text) == expected


@given(st.text(max_size=300))
def test_redact_takes_any_text_and_is_stable(text: str) -> None:
    """Redacting twice is redacting once, for any text at all."""
    once = redact(text)
    assert redact(once) == once


def test_json_has_one_object_a_line_with_the_keys(stream: io.StringIO, clock: HandClock) -> None:
    """A machine reads event, level, time in UTC and the values with their types."""
    configure("info", "json", clock=clock, stream=stream)
    structlog.get_logger().info("camera_opened", camera="lobby", fps=25.0, size=(640, 360))
    structlog.get_logger().debug("not_shown")
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", str(line.pop("timestamp")))
    expected = {"event": "camera_opened", "level": "info", "camera": "lobby", "fps": 25.0}
    assert line == {**expected, "size": [640, 360]}


def fail(url: str) -> None:
    """Raise with a credential in the message and in a local variable."""
    pin = url[12:19]
    raise OSError(f"cannot open {url}, {len(pin)} characters")


class Camera:
    """Something whose text carries a credential."""

    def __str__(self) -> str:
        return "Camera(rtsp://bob:hunter2@cam)"


@pytest.mark.parametrize("form", ["json", "journal", "console"])
def test_no_credential_in_values_keys_nests_objects_or_tracebacks(
    stream: io.StringIO, clock: HandClock, form: str
) -> None:
    """Every way into a line is closed, and the line is still written."""
    configure("info", form, clock=clock, stream=stream)  # type: ignore[arg-type] # a parameter
    log = structlog.get_logger()
    url = "rtsp://bob:hunter2@cam/1"
    event = "opened " + url
    log.info(event, **{url: 1})
    log.info("nested", value={"urls": [url], "deep": {url: (url,)}, "password": "hunter2"})
    log.info("object", value=Camera(), token=url[12:19], path=b"x")
    try:
        fail(url)
    except OSError:
        log.exception("failed", camera="lobby")
        logging.getLogger("av").exception("stdlib %s", url)
    warnings.warn(f"slow {url}", UserWarning, stacklevel=1)
    text = stream.getvalue()
    assert "hunter2" not in text
    assert "bob" not in text
    for word in ("opened", "nested", "object", "failed", "stdlib", "slow", "Traceback"):
        assert word in text
    assert "rtsp://***@cam/1" in text


def test_other_libraries_come_through_the_same_stream(
    stream: io.StringIO, clock: HandClock
) -> None:
    """A warning of uvicorn has the same shape as ours, and its start-up noise is left out."""
    configure("info", "json", clock=clock, stream=stream)
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    (line,) = lines(stream)
    assert line["event"] == "Invalid HTTP request received."
    assert (line["level"], line["logger"]) == ("warning", "uvicorn.error")


def test_a_flood_of_another_library_is_summed(stream: io.StringIO, clock: HandClock) -> None:
    """A thousand bad requests are two lines, the second with the number between."""
    configure("info", "json", clock=clock, stream=stream)
    log = logging.getLogger("uvicorn.error")
    for _ in range(1000):
        log.warning("Invalid HTTP request received.")
    clock.advance(10)
    log.warning("Invalid HTTP request received.")
    first, second = (str(line["event"]) for line in lines(stream))
    assert first == "Invalid HTTP request received."
    assert second == "Invalid HTTP request received. (999 more like it in between)"


def test_own_events_are_never_summed_by_the_stream(stream: io.StringIO, clock: HandClock) -> None:
    """Our code decides for itself; two equal events are two lines."""
    configure("info", "json", clock=clock, stream=stream)
    for _ in range(2):
        structlog.get_logger().info("camera_opened", camera="lobby")
    assert len(lines(stream)) == 2


def test_journal_lines_carry_the_priority(stream: io.StringIO, clock: HandClock) -> None:
    """Journald files an error under priority 3 and information under 6."""
    configure("info", "journal", clock=clock, stream=stream)
    structlog.get_logger().error("camera_lost")
    structlog.get_logger().info("camera_found")
    first, second = stream.getvalue().splitlines()
    assert (first[:3], second[:3]) == ("<3>", "<6>")
    assert json.loads(first[3:])["event"] == "camera_lost"


def test_an_unknown_level_is_refused(clock: HandClock) -> None:
    """A typing mistake in the level names the levels."""
    with pytest.raises(ValueError, match="'loud': expected one of critical, debug, error"):
        configure("loud", clock=clock)


PROGRAM = """
import structlog, time
from streamer.logs import configure
configure("info", clock=time)
structlog.get_logger().warning("camera_lost", camera="lobby")
"""


def test_auto_is_json_in_a_pipe() -> None:
    """What is not a terminal gets JSON on standard output, and nothing on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=30
    )
    assert json.loads(done.stdout)["camera"] == "lobby"
    assert done.stderr == b""


def test_auto_is_for_people_on_a_terminal() -> None:
    """A terminal gets a readable line."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", PROGRAM], stdout=theirs, check=True, timeout=30)
        text = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "camera_lost" in text
    assert not text.startswith("{")


def test_auto_is_journal_where_systemd_connected_the_stream(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """$JOURNAL_STREAM with the device and inode of standard output means the journal."""
    path = tmp_path_factory.mktemp("journal") / "out"
    with path.open("w") as out:
        status = os.fstat(out.fileno())
        env = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run([sys.executable, "-c", PROGRAM], stdout=out, env=env, check=True, timeout=30)
    assert path.read_text().startswith('<4>{"camera": "lobby"')


def test_repetitions_are_told_once_in_ten_seconds(clock: HandClock) -> None:
    """The first at once, then silence, then the sum of what was kept back."""
    repeated = Repeated(clock)
    assert repeated.offer("timeout") == 0
    clock.advance(9.9)
    assert [repeated.offer("timeout") for _ in range(3)] == [None, None, None]
    clock.advance(0.1)
    assert repeated.offer("timeout") == 3
    assert repeated.offer("timeout") is None


def test_different_faults_do_not_hide_each_other(clock: HandClock) -> None:
    """Each key has its own interval."""
    repeated = Repeated(clock)
    assert repeated.offer(("timeout", "lobby")) == 0
    assert repeated.offer(("timeout", "yard")) == 0
    assert repeated.offer(("timeout", "lobby")) is None


def test_a_fault_that_went_quiet_is_still_told(clock: HandClock) -> None:
    """What was kept back is due after the interval, once, and only if there was something."""
    repeated = Repeated(clock)
    repeated.offer("once")
    for _ in range(5):
        repeated.offer("often")
    assert repeated.due() == []
    clock.advance(10)
    assert repeated.due() == [("often", 4)]
    assert repeated.due() == []
    assert repeated.offer("often") == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60))
def test_every_occurrence_is_told_exactly_once(steps: list[tuple[str, float]]) -> None:
    """Told + kept back = offered, whatever the order and the times."""
    clock = HandClock()
    repeated = Repeated(clock)
    told = 0
    for key, wait_s in steps:
        clock.advance(wait_s)
        kept = repeated.offer(key)
        told += 0 if kept is None else 1 + kept
    clock.advance(10)
    told += sum(kept for _, kept in repeated.due())
    assert told == len(steps)


def test_the_memory_of_faults_is_bounded(clock: HandClock) -> None:
    """A fault with an ever new key does not grow the table."""
    repeated = Repeated(clock)
    for number in range(5000):
        assert repeated.offer(number) == 0
    assert len(repeated._seen) == 1024
