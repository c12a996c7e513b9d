"""How far the work is: a bar a file with its rate and the time left, on a terminal."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console
    from rich.progress import Task, TaskID

__all__ = ["Bar", "Board"]

_NAME_CELLS = 28


class _Rate(ProgressColumn):
    """Seconds of recording done in a second of ours."""

    def render(self, task: Task) -> Text:
        """Write the rate of a bar."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:5.1f} × real time", style="cyan")


class Bar:
    """The bar of one file; its unit is a second of the recording."""

    def __init__(self, progress: Progress, task: TaskID, whole: TaskID | None) -> None:
        self._progress = progress
        self._task = task
        self._whole = whole
        self._done_s = 0.0
        self._total_s = 0.0

    def begin(self, total_s: float | None) -> None:
        """Say how much there is to do, seconds; None where the file does not tell."""
        self._total_s = total_s or 0.0
        self._progress.start_task(self._task)
        self._progress.update(self._task, total=total_s, visible=True)

    def reach(self, done_s: float) -> None:
        """Say how far it is, seconds."""
        self._progress.update(self._task, completed=done_s)
        self._count(min(done_s, self._total_s))

    def end(self) -> None:
        """Take the bar away; the rest counts as done."""
        self._count(self._total_s)
        self._progress.update(self._task, visible=False)

    def _count(self, done_s: float) -> None:
        if self._whole is not None:
            self._progress.advance(self._whole, done_s - self._done_s)
        self._done_s = done_s


class Board:
    """All bars together; lines that are printed meanwhile stand above them.

    Args:
        console: where; without a terminal there are no bars.
        total_s: all there is to do, seconds of recordings, where it is known.
        files: how many there are; a single one needs no bar for the whole.
    """

    def __init__(self, console: Console, *, total_s: float | None, files: int) -> None:
        self._lock = threading.Lock()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            _Rate(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            expand=True,
            disable=not console.is_terminal,
            speed_estimate_period=10.0,
        )
        self._whole: TaskID | None = None
        if files > 1:
            self._whole = self._progress.add_task(f"[bold]{files} files", total=total_s)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def bar(self, name: str) -> Bar:
        """Add the bar of one file; it shows when it begins."""
        short = name if len(name) <= _NAME_CELLS else name[: _NAME_CELLS - 1] + "…"
        with self._lock:
            task = self._progress.add_task(short, start=False, visible=False, total=None)
            return Bar(self._progress, task, self._whole)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, highlight=False, soft_wrap=True)
