"""What a person sees of a run: a line an epoch, the time left, and curves in TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from training.words import duration

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["Watching"]


class Watching:
    """Shows a run; a context, so that the bar is gone when it ends.

    Every epoch is a line of JSON on stdout. On a terminal a bar on stderr tells the time left;
    elsewhere each epoch's line is followed by one on stderr that does.

    Args:
        epochs: of the run.
        curves: directory for TensorBoard's files; None: none are written.
        quiet: show nothing: one process of several speaks.
    """

    def __init__(self, epochs: int, *, curves: Path | None = None, quiet: bool = False) -> None:
        self._epochs, self._quiet = epochs, quiet
        self._began: tuple[float, float] | None = None  # the clock and the share at the first step
        self._left_s: float | None = None
        self._writer = None
        if curves is not None and not quiet:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - only where wanted

            self._writer = SummaryWriter(str(curves))
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        console = Console(stderr=True)
        self._bar = Progress(
            *columns, console=console, disable=quiet or not console.is_terminal, transient=True
        )
        self._task = self._bar.add_task("", total=1.0, left="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def tick(self, share: float) -> None:
        """Take note of the share of the run that is done."""
        now = time.monotonic()
        if self._began is None:
            self._began = (now, share)
        first, start = self._began
        if share > start:
            self._left_s = (now - first) / (share - start) * (1.0 - share)
        left = "" if self._left_s is None else f"{duration(self._left_s)} left"
        words = f"epoch {min(self._epochs, int(share * self._epochs) + 1)} of {self._epochs}"
        self._bar.update(self._task, completed=share, description=words, left=left)

    def epoch(self, line: dict[str, Any]) -> None:
        """Show an epoch's figures."""
        if self._quiet:
            return
        done = line["epoch"] / self._epochs
        self.tick(done)
        typer.echo(
            json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()})
        )
        if self._bar.disable and self._left_s is not None and done < 1.0:
            typer.echo(
                f"epoch {line['epoch']} of {self._epochs}; {duration(self._left_s)} left",
                file=sys.stderr,
            )
        if self._writer is not None:
            for name, value in line.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, line["epoch"])
            self._writer.flush()
