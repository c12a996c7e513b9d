"""`watch` as a person and as a pipe see it, against a real publisher."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from streamer.client import Gap, Received
from streamer.events import (
    CameraOffline,
    CameraOnline,
    DaemonStopping,
    EmotionChanged,
    EmotionSample,
    Event,
    EventData,
)
from streamer.publish import PublishOptions
from streamer.watch import describe
from tests.publish_fixtures import event, every_event, publisher, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.publish import Publisher

PROGRAM = """
import sys
from rich.console import Console
from streamer import watch
from streamer.client import Subscriber
watch._SILENCE_S = 0.3
with Subscriber(connect=sys.argv[1]) as subscriber:
    sys.exit(watch.watch(
        subscriber, console=Console(), notes=Console(stderr=True), json=sys.argv[2] == "json"
    ))
"""


@contextmanager
def watching(address: str, form: str) -> Iterator[subprocess.Popen[str]]:
    """Run `watch` in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, address, form],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(slots=True)
class Talk:
    """Emits the same events again and again until told to stop."""

    source: Publisher
    events: list[Event]
    stopped: threading.Event

    def run(self) -> None:
        """Emit a round every 20 ms."""
        while not self.stopped.wait(0.02):
            for value in self.events:
                self.source.emit(value)


@contextmanager
def talking(source: Publisher, events: list[Event]) -> Iterator[None]:
    """Emit events in the background."""
    talk = Talk(source=source, events=events, stopped=threading.Event())
    thread = threading.Thread(target=talk.run)
    thread.start()
    try:
        yield
    finally:
        talk.stopped.set()
        thread.join()


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line of its output."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_json_gives_one_event_a_line_and_ctrl_c_ends_it() -> None:
    """Each line is an envelope in itself; SIGINT is an ordinary end."""
    with (
        publisher() as (source, _),
        talking(source, [event(EmotionSample)]),
        watching(source.bind, "json") as process,
    ):
        lines = [json.loads(line_of(process)) for _ in range(20)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)

    first = lines[0]["sequence"]
    assert [line["sequence"] for line in lines] == list(range(first, first + 20))
    assert {line["type"] for line in lines} == {"emotion.sample"}
    assert process.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_pipe_that_closes_ends_it_quietly(form: str) -> None:
    """`watch | head -1` ends with 0 and without a word."""
    with (
        publisher() as (source, _),
        talking(source, [event(EmotionSample)]),
        watching(source.bind, form) as process,
    ):
        assert line_of(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Error" not in process.stderr.read()


def test_every_type_is_readable_as_text() -> None:
    """A line of text for each type, with what matters of it."""
    with (
        publisher() as (source, _),
        talking(source, every_event()),
        watching(source.bind, "text") as process,
    ):
        lines = [line_of(process) for _ in range(30)]

    text = "".join(lines)
    for value in every_event():
        assert any(value.type in line for line in lines), value.type
    for part in ("lobby #17", "neutral → happiness", "12.5 s, 125 samples", "640 × 360", "timeout"):
        assert part in text


def test_silence_is_said_once_and_it_goes_on() -> None:
    """Without a publisher it says so and waits; when one comes it prints."""
    with publisher() as (first, _):
        address = first.bind
    with watching(address, "json") as process:
        assert process.stderr is not None
        assert f"no publisher at {address} yet" in process.stderr.readline()
        options = PublishOptions(bind=address, snapshot="tcp://127.0.0.1:0")
        with publisher(options) as (source, _), talking(source, [event(EmotionSample)]):
            assert json.loads(line_of(process))["epoch"] == source.epoch


def received(data: EventData, gap: Gap | None = None) -> Received:
    """Return an event as it comes from a subscriber."""
    return Received(
        topic="t/",
        id="1",
        source="/daemon",
        type=data.TYPE,
        subject=None,
        time="2026-01-31T12:00:00.123456Z",
        sequence=1,
        epoch="e",
        data=data,
        gap=gap,
        raw=b"{}",
    )


def test_a_change_is_printed_exactly() -> None:
    """The whole line of a change, without colours."""
    console = Console(file=io.StringIO(), width=200)

    with console.capture() as capture:
        console.print(describe(received(event(EmotionChanged).data)), soft_wrap=True)

    assert capture.get() == (
        "12:00:00.123  lobby #17       emotion.changed  neutral → happiness  91%\n"
    )


def test_control_characters_never_reach_the_terminal() -> None:
    """Text from the network cannot clear the screen or set the title."""
    evil = DaemonStopping(reason="\x1b]0;owned\x07\x1b[2J\x9b2J\nnew line [bold]")

    line = describe(received(evil)).plain

    assert line.isprintable()
    assert "[bold]" in line


def test_gaps_are_reported_beside_the_events() -> None:
    """A subscriber that misses events says so on stderr, and its output stays JSON."""
    with publisher() as (source, _), watching(source.bind, "json") as process:
        with talking(source, [event(EmotionSample)]):
            assert line_of(process)
            process.send_signal(signal.SIGSTOP)
        for _ in range(60):  # 60,000 events are beyond what both queues and the kernel hold
            for _ in range(1000):
                source.emit(event(EmotionSample))
            assert source.drain(10)
        process.send_signal(signal.SIGCONT)
        with talking(source, [event(EmotionSample)]):
            reader = threading.Thread(target=lambda: [None for _ in process.stdout or ()])
            reader.start()
            assert process.stderr is not None
            told = next(line for line in process.stderr if line.startswith("gap: "))
        process.kill()
        reader.join()

    assert "missed " in told
    assert "emotion.sample/lobby/" in told


ENTER_SCREEN, LEAVE_SCREEN, SHOW_CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


@dataclass
class Terminal:
    """The program on a terminal of its own, 80 columns and 24 lines."""

    process: subprocess.Popen[bytes]
    descriptor: int
    seen: bytes = b""

    def until(self, text: str, timeout_s: float = 20.0) -> None:
        """Read what the program writes until a text is in it; fail when it does not come."""
        end_s = time.monotonic() + timeout_s
        start = len(self.seen)
        while text.encode() not in self.seen[start:]:
            assert time.monotonic() < end_s, f"no {text!r} in {self.seen[-3000:]!r}"
            self.read(0.1)

    def read(self, timeout_s: float) -> bool:
        """Read what is there; False when the program has closed the terminal."""
        if not select.select([self.descriptor], [], [], timeout_s)[0]:
            return self.process.poll() is None
        try:
            self.seen += os.read(self.descriptor, 65536)
        except OSError:  # Linux says so when the other end is closed
            return False
        return True


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    """Run the command line on a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    environment.pop("LINES", None)
    with subprocess.Popen(
        [sys.executable, "-m", "streamer", "watch", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
        # Makes it the session's terminal, so that Ctrl-C becomes a signal.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    ) as process:
        try:
            yield Terminal(process=process, descriptor=master)
        finally:
            process.kill()
            os.close(master)
            os.close(slave)


@pytest.mark.parametrize("end", [b"\x03", b"q", signal.SIGTERM])
def test_the_table_starts_from_the_snapshot_and_gives_the_terminal_back(
    end: bytes | signal.Signals,
) -> None:
    """A late start shows the state though nothing is sent; each way to end leaves it clean."""
    with publisher() as (source, _):
        for value in (event(CameraOnline), event(EmotionSample), event(CameraOffline, "yard")):
            source.emit(value)
        assert source.drain(10)
        addresses = ("--connect", source.bind, "--snapshot", source.snapshot)
        with terminal(*addresses) as screen:
            before = termios.tcgetattr(screen.descriptor)
            screen.until("offline: timeout")
            assert b"happiness" in screen.seen
            assert screen.seen.count(ENTER_SCREEN) == 1
            assert not termios.tcgetattr(screen.descriptor)[3] & termios.ECHO
            if isinstance(end, bytes):
                os.write(screen.descriptor, end)
            else:
                screen.process.send_signal(end)
            while screen.read(0.1):
                pass
            assert screen.process.wait(10) == 0
            assert termios.tcgetattr(screen.descriptor) == before

    *_, last = screen.seen.split(LEAVE_SCREEN)
    assert SHOW_CURSOR in screen.seen.rpartition(ENTER_SCREEN)[2]
    assert b"events, 0 missed" in last
    assert b"Traceback" not in screen.seen


def test_the_table_follows_the_events_the_size_and_the_publisher() -> None:
    """Readings move the rows, a wider terminal is used, a publisher that goes is told."""
    with publisher() as (first, _):
        address = first.bind
        with terminal("--connect", address, "--snapshot", first.snapshot) as screen:
            with talking(first, [event(CameraOnline), event(EmotionSample)]):
                screen.until("91%")
                size = struct.pack("HHHH", 24, 120, 0, 0)
                fcntl.ioctl(screen.descriptor, termios.TIOCSWINSZ, size)
                screen.until("last 30 s")
            assert first.stop(10)
            screen.until("no publisher there")
            options = PublishOptions(bind=address, snapshot="tcp://127.0.0.1:0")
            with publisher(options) as (second, _), talking(second, [event(EmotionSample)]):
                screen.until("publisher restarted")


def test_lines_and_json_are_to_be_had_on_a_terminal_too() -> None:
    """`--lines` prints as into a pipe."""
    with (
        publisher() as (source, _),
        talking(source, [event(EmotionSample)]),
        terminal("--connect", source.bind, "--lines") as screen,
    ):
        wait_until(lambda: screen.read(0.1) and b"emotion.sample" in screen.seen, 20)
        assert ENTER_SCREEN not in screen.seen
