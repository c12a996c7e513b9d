"""Several recordings at a time: what is done already, what is left, and how it went.

The recordings are spread over threads that share the networks. On two cores with other work on
them, six files of 100 s took 10.6 s with two threads, 11.4 s one after the other and 14.2 s with
two processes, each of which loads the networks for itself (medians of three; FFmpeg and the
runtimes release the interpreter's lock).
"""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.markup import escape

from streamer import bundle as bundles
from streamer import logs
from streamer.analyse import plot, samples, state, video
from streamer.analyse.inputs import find
from streamer.analyse.job import Job, duration_of, passes
from streamer.analyse.order import Output, settings_of
from streamer.analyse.progress import Board
from streamer.analyse.summary import table
from streamer.clock import SystemClock
from streamer.cores import usable_cores
from streamer.errors import ConfigError, SourceError, SourceReason, StreamerError
from streamer.models import load_models

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from rich.console import Console

    from streamer.analyse.inputs import Recording
    from streamer.analyse.job import Finished
    from streamer.analyse.order import Order

__all__ = ["run"]

_SIGNALS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_LOOK_S: Final = 0.1  # how soon a finished file is told
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it: the work is not complete


def run(order: Order, console: Console, notes: Console) -> int:
    """Analyse recordings; those that are finished already are left as they are.

    Args:
        order: what and how.
        console: gets the summary.
        notes: gets the progress and what goes wrong.

    Returns:
        0; 1 if a recording failed; 130 if it was interrupted.

    Raises:
        StreamerError: if nothing can be analysed at all.
    """
    logs.configure("error", "console", clock=SystemClock())
    _check(order)
    recordings = find(order.inputs, order.out)
    bundle = bundles.load(bundles.path_of(order.config.bundle.path))
    settings = settings_of(order, bundle.identity)
    left = {r: o for r in recordings if (o := _outputs_left(r, order, settings)) is not None}
    if done := len(recordings) - len(left):
        notes.print(f"{done} of {len(recordings)} finished before, left as they are")
    code = 0
    if left:
        started_s = time.monotonic()
        work = _Work(order, settings, left, notes)
        code = work.run()
        _report(work.finished, console, notes, seconds=time.monotonic() - started_s)
    _join_summaries(order.out, recordings, settings)
    if code != _INTERRUPTED:
        notes.print(f"Results: {order.out}", soft_wrap=True, highlight=False)
    return code


def _check(order: Order) -> None:
    """Find out what is missing before the work and not after it."""
    if Output.PLOTS in order.outputs:
        plot.require()
    if Output.PARQUET in order.outputs:
        samples.require_parquet()
    if Output.VIDEO in order.outputs:
        video.require_encoder()
    try:
        order.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {order.out}: {error.strerror}; name another folder") from None


def _outputs_left(
    recording: Recording, order: Order, settings: dict[str, Any]
) -> frozenset[Output] | None:
    """Return what is to be written of a recording; None if all of it is there.

    What an earlier run was asked for is written again, so that asking for more takes nothing away.
    """
    before = state.read(order.out / recording.name)
    if before is None:
        return order.outputs
    earlier = frozenset(Output(name) for name in before.outputs if name in set(Output))
    whole = order.outputs <= earlier and _summary_of(order.out / recording.name)
    if whole and state.is_current(before, recording.path, settings):
        return None
    return order.outputs | earlier


class _Work:
    """The jobs of one run."""

    def __init__(
        self,
        order: Order,
        settings: dict[str, Any],
        left: dict[Recording, frozenset[Output]],
        notes: Console,
    ) -> None:
        self.finished: list[Finished] = []
        self._order = order
        self._settings = settings
        self._left = left
        self._notes = notes
        self._stop = threading.Event()
        self._failed = 0

    def run(self) -> int:
        """Run all jobs and return the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # threads inherit it: see _wait
        cores = usable_cores()
        jobs = min(self._order.jobs or cores, len(self._left))
        threads = max(1, cores // jobs)
        config = self._order.config
        if not config.engine.threads:
            engine = msgspec.structs.replace(config.engine, threads=threads)
            config = msgspec.structs.replace(config, engine=engine)
        models = load_models(config)
        try:
            with (
                Board(self._notes, total_s=self._total_s(), files=len(self._left)) as board,
                ThreadPoolExecutor(jobs, thread_name_prefix="analyse") as pool,
            ):
                futures = {
                    pool.submit(
                        Job(
                            recording,
                            order=self._order,
                            settings=self._settings,
                            outputs=outputs,
                            models=models,
                            decode_threads=threads,
                            stop=self._stop,
                            bar=board.bar(recording.name),
                        ).run
                    ): recording
                    for recording, outputs in self._left.items()
                }
                self._wait(futures, board)
        finally:
            models.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return self._code()

    def _total_s(self) -> float:
        """Add up what the files say of their lengths, seconds, each as often as it will be read."""
        return sum(
            (duration_of(recording) or 0.0) * passes(outputs)
            for recording, outputs in self._left.items()
        )

    def _wait(self, futures: dict[Future[Finished], Recording], board: Board) -> None:
        """Tell each file's end as it comes; a signal asks the jobs to stop, a second one kills."""
        waiting = dict(futures)
        try:
            while waiting:
                got = signal.sigtimedwait(_SIGNALS, _LOOK_S)
                if got is not None:
                    if self._stop.is_set():
                        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                        signal.raise_signal(signal.SIGKILL)
                    board.say("stopping; once more ends at once")
                    self._stop.set()
                for future in [future for future in waiting if future.done()]:
                    self._take(future, waiting.pop(future), board)
        finally:
            self._stop.set()  # a bug in one job must not wait for hours of the others

    def _take(self, future: Future[Finished], recording: Recording, board: Board) -> None:
        try:
            finished = future.result()
        except StreamerError as error:
            if isinstance(error, SourceError) and error.reason is SourceReason.STOPPED:
                return
            self._failed += 1
            board.say(f"[bold red]failed[/]   {escape(recording.name)}: {escape(str(error))}")
            return
        self.finished.append(finished)
        done = finished.state
        board.say(
            f"[bold green]finished[/] {escape(recording.name)}: {done.duration_s:.1f} s, "
            f"{done.analysed} of {done.frames} pictures analysed, {_count(done.faces, 'face')}"
        )

    def _code(self) -> int:
        """Say how it went."""
        total, done = len(self._left), len(self.finished)
        if done + self._failed < total:
            self._notes.print(
                f"[bold]interrupted:[/] {done} of {_count(total, 'recording')} finished, the "
                "others left nothing behind; the same command goes on from here",
                soft_wrap=True,
            )
            return _INTERRUPTED
        if self._failed:
            self._notes.print(f"[bold red]{self._failed} of {total} failed[/]")
            return 1
        return 0


def _report(finished: list[Finished], console: Console, notes: Console, *, seconds: float) -> None:
    """Print the summary of the faces and how quick it was."""
    finished.sort(key=lambda one: one.recording.name)
    found = [(one.recording.name, course) for one in finished for course in one.courses]
    if found:
        console.print(table(found))
    media_s = sum(one.state.duration_s for one in finished)
    if finished:
        notes.print(
            f"{media_s:.1f} s of recordings in {seconds:.1f} s: "
            f"{media_s / seconds:.1f} × real time",
            highlight=False,
        )


def _join_summaries(out: Path, recordings: list[Recording], settings: dict[str, Any]) -> None:
    """Put the summaries of all recordings into one table, whenever they were made.

    Raises:
        StreamerError: if it cannot be written.
    """
    lines: list[str] = []
    for recording in recordings:
        before = state.read(out / recording.name)
        if before is None or before.settings != settings:
            continue
        lines += _summary_of(out / recording.name)[1 if lines else 0 :]
    if not lines:
        return
    whole = out / ".summary.csv.unfinished"
    try:
        whole.write_text("\n".join(lines) + "\n")
        whole.rename(out / "summary.csv")
    except OSError as error:
        raise StreamerError(f"{out / 'summary.csv'}: {error.strerror}") from None


def _summary_of(folder: Path) -> list[str]:
    """Return the lines of a recording's table of faces; none where somebody took it away."""
    try:
        return (folder / "summary.csv").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
