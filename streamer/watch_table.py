"""The live table of ``streamer watch``: a row a face, on a terminal's alternate screen."""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import termios
import time
import tty
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import set_cell_size
from rich.console import Group
from rich.live import Live
from rich.text import Text

from streamer.board import Board, CameraRow, FaceRow
from streamer.errors import StreamerError
from streamer.watch import clean, style_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from streamer.client import Subscriber

__all__ = ["Link", "draw", "watch"]

_FRAME_S = 0.2  # five pictures a second: a person sees movement, a slow line keeps up
_SILENCE_S = 5.0  # a person begins to wonder
_SETTLE_S = 0.2  # a subscription travels for a moment after the handshake
_SNAPSHOT_S = 1.0  # what the screen may stand still for
_ASK_AGAIN_S = 5.0  # between snapshots, when events are missed again and again
_CELL_S = 0.5  # of the timeline
_HOLD_S = 1.5  # a reading stands in the timeline until the next one, at most so long
_STALE_S = 2.0  # a row that hears nothing for longer is dimmed
_MINUTE_S = 60

# Widths in cells; with 20 cells of timeline and two between columns they make 80.
_CAMERA, _FACE, _LABEL, _BAR, _SHARE, _AGE, _LATENCY = 12, 6, 9, 8, 4, 5, 7
_READING = _LABEL + 1 + _BAR + 1 + _SHARE
_LONGEST_TIMELINE = 60
_STANDARD = 80
_BETWEEN = "  "
_UNICODE, _ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How the connection is.

    Attributes:
        address: of the stream.
        connected: whether a publisher is at the other end.
        refused: whether it refuses this client's key.
        silent_s: since the last event, or since the start.
        missed: events that were sent and did not arrive.
        problem: what is wrong with the snapshot; empty when nothing is.
    """

    address: str
    connected: bool
    refused: bool = False
    silent_s: float = 0.0
    missed: int = 0
    problem: str = ""


def watch(subscriber: Subscriber, *, console: Console, topics: Sequence[str]) -> int:
    """Show a table that follows the events, until Ctrl-C or Q.

    Args:
        subscriber: where events and snapshot come from.
        console: a terminal.
        topics: what the subscriber is subscribed to.

    Returns:
        The exit code, 0.
    """
    follower = _Follower(subscriber, Board(topics))
    start_s = time.monotonic()
    with _termination_as_interrupt(), _keyboard() as typed:
        try:
            with Live(
                console=console,
                screen=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            ) as live:
                while "q" not in typed().lower():
                    follower.follow(_FRAME_S)
                    picture = draw(
                        follower.board,
                        follower.link(),
                        now_s=time.monotonic(),
                        size=(console.width, console.height),
                        plain=console.options.ascii_only,
                    )
                    live.update(picture, refresh=True)
        except KeyboardInterrupt:
            pass  # the ordinary end
    console.print(
        f"watched {_span(time.monotonic() - start_s)}: {follower.board.events:,} events, "
        f"{subscriber.missed:,} missed",
        highlight=False,
    )
    return 0


class _Follower:
    """Keeps a board up to date: a snapshot at first and after each gap, events in between."""

    def __init__(self, subscriber: Subscriber, board: Board) -> None:
        self._subscriber = subscriber
        self.board = board
        self._heard_s = time.monotonic()
        self._wanted_s: float | None = None  # when to ask for a snapshot; None: not at all
        self._asked_s = -math.inf
        self._connected = False
        self._problem = ""

    def follow(self, duration_s: float) -> None:
        """Take what comes for so long."""
        end_s = time.monotonic() + duration_s
        self._ask()
        while (left_s := end_s - time.monotonic()) > 0:
            event = self._subscriber.receive(left_s)
            now_s = time.monotonic()
            if event is None:
                continue
            self._heard_s = now_s
            if self.board.take(event, now_s) or event.gap is not None:
                self._want(now_s)
        self.board.age(time.monotonic())

    def link(self) -> Link:
        """Describe the connection."""
        return Link(
            address=self._subscriber.address,
            connected=self._connected,
            refused=self._subscriber.refused,
            silent_s=time.monotonic() - self._heard_s,
            missed=self._subscriber.missed,
            problem=self._problem,
        )

    def _want(self, now_s: float) -> None:
        if self._wanted_s is None:
            self._wanted_s = max(now_s, self._asked_s + _ASK_AGAIN_S)

    def _ask(self) -> None:
        now_s = time.monotonic()
        connected, self._connected = self._connected, self._subscriber.connected
        if self._connected and not connected:
            self._wanted_s = now_s + _SETTLE_S
        if self._wanted_s is None or now_s < self._wanted_s or not self._connected:
            return
        self._wanted_s, self._asked_s = None, now_s
        try:
            snapshot = self._subscriber.snapshot(_SNAPSHOT_S)
        except StreamerError as error:
            self._problem = str(error)
            return
        self._problem = ""
        self.board.start_from(snapshot, time.monotonic())


def draw(
    board: Board, link: Link, *, now_s: float, size: tuple[int, int], plain: bool = False
) -> Group:
    """Draw the table.

    Args:
        board: what to show.
        link: how the connection is.
        now_s: the time, on the board's clock.
        size: of the terminal, columns and lines.
        plain: ASCII alone, for terminals that have nothing else.

    Returns:
        As many lines as the terminal has, none longer than it is wide.
    """
    width, height = size
    pen = _Pen.of(board, width=width, now_s=now_s, plain=plain, connected=link.connected)
    head = [_state(board, link), Text(), pen.heading()]
    foot = [Text(), *_footer(board, link, now_s)]
    rows = [line for camera in board.cameras for line in pen.camera(camera, board)]
    room = max(0, height - len(head) - len(foot))
    if len(rows) > room:
        hidden = len(rows) - max(0, room - 1)
        note = f"and {hidden} more rows; --topic emotion.sample/CAMERA/ shows one camera"
        rows = [*rows[: max(0, room - 1)], Text(note, style="dim")]
    if not rows:
        rows = [Text("Nothing known yet." if link.connected else "", style="dim")]
    rows += [Text()] * (room - len(rows))
    lines = [*head, *rows, *foot][:height]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return Group(*lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pen:
    """Draws rows: one camera or face a line, in columns of fixed width."""

    now_s: float
    plain: bool
    connected: bool
    name: int
    timeline: int

    @classmethod
    def of(cls, board: Board, *, width: int, now_s: float, plain: bool, connected: bool) -> _Pen:
        """Share the width out: first to the names of the cameras, then to the timeline."""
        longest = max((len(row.camera) + 2 for row in board.cameras), default=0)
        name = max(_CAMERA, min(longest, _CAMERA + width - _STANDARD))
        rest = name + _FACE + _READING + _AGE + 1 + _LATENCY + 3 * len(_BETWEEN)
        timeline = max(0, min(_LONGEST_TIMELINE, width - rest))
        return cls(now_s=now_s, plain=plain, connected=connected, name=name, timeline=timeline)

    def heading(self) -> Text:
        """Name the columns."""
        parts = [
            f"{_fit('camera', self.name)}{'face':>{_FACE}}",
            _fit("expression", _READING),
            _fit(f"last {self.timeline * _CELL_S:g} s", self.timeline),
            f"{'age':>{_AGE}} {'latency':>{_LATENCY}}",
        ]
        return Text(_BETWEEN.join(parts), style="dim")

    def camera(self, row: CameraRow, board: Board) -> list[Text]:
        """Draw a camera: its faces, or one line that says why there is none."""
        online = row.online if self.connected else None  # nobody tells what it is now
        style = {True: "green", False: "red", None: "yellow"}[online]
        dot = "*" if self.plain else "●"
        name = Text.assemble((dot, style), " ", (_fit(clean(row.camera), self.name - 2), "bold"))
        faces = board.faces(row.camera)
        if online is False:
            words = f"{clean(row.reason).replace('_', ' ')}  {clean(row.detail)}".strip()
            return [Text.assemble(name, _BETWEEN, (f"offline: {words}", "red"))]
        if not faces:
            words = "no face in view" if online else "its state is not known"
            return [Text.assemble(name, _BETWEEN, (words, "dim"))]
        names = [name] + [Text(" " * self.name)] * (len(faces) - 1)
        return [self._face(face, name) for face, name in zip(faces, names, strict=True)]

    def _face(self, face: FaceRow, name: Text) -> Text:
        last = face.readings[-1] if face.readings else None
        quiet = "dim" if face.lost or self.now_s - face.heard_s > _STALE_S else ""
        latency = "-" if face.latency_ms is None else f"{face.latency_ms:.0f} ms"
        if last is None:
            reading, age = Text(" " * _READING), "-"
        else:
            style = f"{style_of(last.label)} {quiet}".strip()
            label = Text(_fit(clean(last.label), _LABEL), style=style)
            share = Text(f"{last.confidence:{_SHARE}.0%}", style=style)
            reading = Text(" ").join((label, self._bar(last.confidence, style), share))
            age = _age(self.now_s - last.at_s)
        return Text(_BETWEEN).join(
            (
                name + Text(f"{face.track:>{_FACE}}", style=quiet),
                reading,
                self._timeline(face),
                Text(f"{'lost' if face.lost else age:>{_AGE}} {latency:>{_LATENCY}}", style=quiet),
            )
        )

    def _bar(self, share: float, style: str) -> Text:
        full = round(max(0.0, min(1.0, share)) * _BAR * 8)
        if self.plain:
            return Text(_fit("#" * (full // 8), _BAR), style=style)
        bar = "█" * (full // 8) + (_EIGHTHS[full % 8] if full % 8 else "")
        return Text(_fit(bar, _BAR), style=f"{style} on grey23".strip())

    def _timeline(self, face: FaceRow) -> Text:
        """Draw the last readings: as high as the confidence, in the colour of the expression."""
        heights = _ASCII if self.plain else _UNICODE
        newest = math.floor(self.now_s / _CELL_S)
        line = Text()
        readings = iter(face.readings)
        coming = next(readings, None)
        last = None
        for cell in range(newest - self.timeline + 1, newest + 1):
            end_s = (cell + 1) * _CELL_S
            while coming is not None and coming.at_s < end_s:
                last, coming = coming, next(readings, None)
            if last is None or end_s - _CELL_S - last.at_s > _HOLD_S:
                line.append(" ")
                continue
            step = 1 + round(max(0.0, min(1.0, last.confidence)) * (len(heights) - 2))
            line.append(heights[step], style=style_of(last.label))
        return line


def _state(board: Board, link: Link) -> Text:
    """Say in one line how the connection is."""
    if link.refused:
        words, style = "refused: check the keys; still trying", "red"
    elif not link.connected:
        words, style = "no publisher there; still trying", "yellow"
    elif board.stopping:
        words, style = f"the daemon stops: {clean(board.stopping)}", "yellow"
    elif link.silent_s > _SILENCE_S:
        words, style = f"connected, nothing sent for {_span(link.silent_s)}", "yellow"
    else:
        words, style = "live", "green"
    return Text.assemble((words, f"bold {style}"), (f"  {link.address}  Q ends", "dim"))


def _footer(board: Board, link: Link, now_s: float) -> list[Text]:
    """Sum up, and say what was missed and by whom it is read."""
    cameras = board.cameras
    online = sum(row.online is True for row in cameras)
    faces = sum(face.lost is None for row in cameras for face in board.faces(row.camera))
    sums = Text(
        f"{online} of {len(cameras)} cameras online · {faces} face{'' if faces == 1 else 's'} · "
        f"{board.rate(now_s):.1f} events/s · "
    )
    sums.append(f"{link.missed:,} missed", style="yellow" if link.missed else "")
    if board.gap is not None:
        restart = "publisher restarted, " if board.gap.epoch_changed else ""
        sums.append(f" ({restart}last of {clean(board.gap.topic)})", style="yellow")
    lines = [sums]
    if board.daemon is not None:
        about = [clean(part) for part in (board.daemon.bundle, board.daemon.engine) if part]
        if board.daemon.purpose:
            about.append(f"purpose: {clean(board.daemon.purpose)}")
        lines.append(Text(" · ".join(about), style="dim"))
    if link.problem:
        lines.append(Text(clean(link.problem), style="yellow"))
    return lines


def _fit(text: str, width: int) -> str:
    return set_cell_size(text, width)


def _age(age_s: float) -> str:
    return "now" if age_s < 1 else _span(age_s)


def _span(duration_s: float) -> str:
    whole_s = int(duration_s)
    return f"{whole_s} s" if whole_s < _MINUTE_S else f"{whole_s // _MINUTE_S} min"


@contextmanager
def _keyboard() -> Iterator[Callable[[], str]]:
    """Keep what is typed off the screen; gives a function that returns it."""
    if not sys.stdin.isatty():
        yield lambda: ""
        return
    descriptor = sys.stdin.fileno()

    def typed() -> str:
        ready, _, _ = select.select([descriptor], [], [], 0)
        return os.read(descriptor, 1024).decode(errors="replace") if ready else ""

    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield typed
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the table as Ctrl-C does, so that the terminal is given back."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
