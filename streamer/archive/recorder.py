"""The recorder: collects events into batches, writes them, and rotates the files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from streamer.archive import rotation
from streamer.archive.rows import row_of
from streamer.errors import ConfigError, StreamerError
from streamer.logs import Repeated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamer.archive.rotation import Rotation
    from streamer.archive.rows import Row
    from streamer.client import Received
    from streamer.stages import Clock

__all__ = ["Format", "Recorder", "RowFile", "parquet_format", "sqlite_format"]

_MOST_WAITING: Final = 100_000
"""Rows kept while a database is locked: four minutes of 400 events a second, some 100 MB."""

log = structlog.get_logger(__name__)


class RowFile(Protocol):
    """A file that takes rows; ``SqliteFile`` and ``ParquetFile`` say more."""

    path: Path

    @property
    def size_bytes(self) -> int:
        """How large it is."""
        ...

    def write(self, rows: Sequence[Row]) -> bool:
        """Add rows as a whole; False: not now, try again; raises a StreamerError."""
        ...

    def close(self) -> None:
        """Complete it; raises a StreamerError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: of a finished file's name.
        unfinished: what the name ends in beyond that while it is written; empty: nothing.
        open: makes an empty file one of this kind, or opens one to go on with.
        batch_rows: rows that are written at once, at the latest …
        batch_s: … when the first of them has waited so long.
    """

    suffix: str
    unfinished: str
    open: Callable[[Path], RowFile]
    batch_rows: int
    batch_s: float


def sqlite_format() -> Format:
    """Return the kind that can be asked while it is written; a crash loses a second at most."""
    from streamer.archive import sqlite  # noqa: PLC0415 each format imports what it needs

    return Format(
        suffix=sqlite.SUFFIX, unfinished="", open=sqlite.SqliteFile, batch_rows=500, batch_s=1.0
    )


def parquet_format() -> Format:
    """Return the kind that is small and fast to analyse; a crash loses the file being written.

    Raises:
        ConfigError: if its library is absent.
    """
    try:
        from streamer.archive import parquet  # noqa: PLC0415 an optional library
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"parquet: {error.name} is not installed; run: pip install 'emotion-streamer[record]'"
        ) from None
    return Format(
        suffix=parquet.SUFFIX,
        unfinished=parquet.UNFINISHED,
        open=parquet.ParquetFile,
        batch_rows=20_000,  # a row group of a few MB: smaller ones compress and scan badly
        batch_s=300.0,
    )


class Recorder:
    """Writes what it takes; a ``streamer.relay.Destination`` for one thread.

    Args:
        folder: where the files lie; made where it is missing.
        form: which kind.
        limits: when to begin a new one.
        clock: dates the files.

    Raises:
        ConfigError: if the folder cannot be used, or the file to go on with is damaged.
        StreamerError: if no file can be opened.
    """

    def __init__(self, *, folder: Path, form: Format, limits: Rotation, clock: Clock) -> None:
        rotation.prepare_folder(folder)
        self._folder = folder
        self._form = form
        self._limits = limits
        self._clock = clock
        self._waiting: list[Row] = []
        self._since_s = 0.0  # when the oldest of them came, or was refused last
        self._refused = False  # another process held the file when they were to be written
        self._begun_s = 0.0  # when the file was begun, on the clock's scale
        self._repeated = Repeated(clock)
        self._tell_of_unfinished()
        present = self._resume()
        if present is None:
            self._use(self._begin(), rows=0)
        else:
            self._use(present, rows=1)  # some, most likely
            self._rotate_if_due()

    def take(self, event: Received) -> None:
        """Keep an event for the next batch."""
        if not self._waiting:
            self._since_s = time.monotonic()
        self._waiting.append(row_of(event))

    def tick(self, *, connected: bool) -> None:  # noqa: ARG002 - the daemon's presence changes nothing
        """Write a batch that is due and rotate.

        Raises:
            StreamerError: if the file cannot be written, or has been locked for too long.
        """
        count = len(self._waiting)
        waited_s = time.monotonic() - self._since_s
        # Each attempt at a locked file waits by itself: one a batch, or taking events falls behind.
        full = count >= self._form.batch_rows and not self._refused
        if count and (full or waited_s >= self._form.batch_s):
            if self._flush():
                self._rotate_if_due()
            elif count > _MOST_WAITING:
                raise StreamerError(
                    f"{self._file.path}: locked by another process while {count} events wait; "
                    "end that process's transaction"
                )
        elif not count:
            self._rotate_if_due()

    def close(self, deadline_s: float) -> int:
        """Write what waits and complete the file; return how many events could not be written."""
        end_s = time.monotonic() + deadline_s
        try:
            while self._waiting and not self._flush() and time.monotonic() < end_s:
                pass  # each attempt waits for the lock by itself
            self._file.close()
        except StreamerError as error:
            log.error("recording_failed", error=str(error))  # noqa: TRY400 it says all
            return len(self._waiting) + (self._rows if self._form.unfinished else 0)
        return len(self._waiting)

    def _flush(self) -> bool:
        """Write what waits; False while another process holds the file."""
        if self._file.write(self._waiting):
            self._rows += len(self._waiting)
            self._waiting = []
            self._refused = False
            return True
        if self._repeated.offer("busy") is not None:
            log.warning("recording_locked", path=str(self._file.path), waiting=len(self._waiting))
        self._since_s = time.monotonic()
        self._refused = True
        return False

    def _rotate_if_due(self) -> None:
        """Go on in a new file; one without rows stays, so that nights do not fill a folder."""
        now_s = self._clock.time_ns() / 1e9
        self._begun_s = min(self._begun_s, now_s)  # the clock went back: it is as old as that tells
        age_s = now_s - self._begun_s
        if self._rows and (
            age_s >= self._limits.age_s or self._file.size_bytes >= self._limits.size_bytes
        ):
            self._file.close()
            self._use(self._begin(), rows=0)

    def _begin(self) -> RowFile:
        """Open a new file, then delete the ones that are too many."""
        form = self._form
        path = rotation.create(
            self._folder, suffix=form.suffix + form.unfinished, time_ns=self._clock.time_ns()
        )
        opened = form.open(path)
        if self._limits.keep:
            old = rotation.delete_old(
                self._folder, suffix=form.suffix, keep=self._limits.keep, current=path
            )
            if old:
                log.info("recordings_deleted", files=[path.name for path in old])
        return opened

    def _resume(self) -> RowFile | None:
        """Return the newest file, to go on with, if rows can be added to it."""
        found = [] if self._form.unfinished else rotation.files(self._folder, self._form.suffix)
        return self._form.open(found[-1]) if found else None

    def _use(self, opened: RowFile, *, rows: int) -> None:
        self._file = opened
        self._rows = rows
        self._begun_s = rotation.started_at(opened.path)
        log.info("recording_to", path=str(opened.path))

    def _tell_of_unfinished(self) -> None:
        """Name the files that a crash has left: nothing can read them, but they stay."""
        ending = self._form.suffix + self._form.unfinished
        left = rotation.files(self._folder, ending) if self._form.unfinished else []
        if left:
            log.warning("unfinished_files_found", files=[path.name for path in left])
