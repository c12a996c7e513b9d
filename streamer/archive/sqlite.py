"""Rows in a SQLite database: one table, write-ahead logging, a transaction a batch."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Final

from streamer.archive.rows import COLUMNS
from streamer.errors import ConfigError, StreamerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.archive.rows import Row

__all__ = ["SUFFIX", "SqliteFile"]

SUFFIX: Final = ".sqlite"
_APPLICATION_ID: Final = 0x656D6F73  # "emos", so that no other program's database is written to
_VERSION: Final = 1  # of the table; a new one when a column changes
_BUSY_S: Final = 0.4
"""How long one attempt waits for another process's lock: two of them fit into the stop."""

_SCHEMA: Final = f"""
CREATE TABLE events ({", ".join(f"{name} {kind.upper()}" for name, kind in COLUMNS.items())},
  PRIMARY KEY (id));
CREATE INDEX events_by_time ON events (time);
CREATE INDEX events_by_track ON events (camera, track, time);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
"""
_INSERT: Final = f"INSERT OR IGNORE INTO events VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 no input in it


class SqliteFile:
    """A database that rows are added to; readers are welcome at any time.

    A batch is there as a whole or not at all, also after a crash of this process; a power cut may
    take the last batches (``synchronous=NORMAL``; sqlite.org, "Write-Ahead Logging").

    Args:
        path: an empty file, or one that this class has made.

    Raises:
        ConfigError: if it is something else.
        StreamerError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        except sqlite3.Error as error:
            raise StreamerError(f"{path}: cannot be opened: {error}") from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._database.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise ConfigError(f"{path}: not a database; move it out of the way") from None
            raise StreamerError(f"{path}: cannot be prepared: {error}") from None
        except ConfigError:
            self._database.close()
            raise

    def _prepare(self) -> None:
        run = self._database.execute
        ours = (
            run("PRAGMA application_id").fetchone()[0],
            run("PRAGMA user_version").fetchone()[0],
        )
        if ours == (0, 0) and not run("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            run("PRAGMA journal_mode = WAL")
            self._database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif ours != (_APPLICATION_ID, _VERSION):
            raise ConfigError(
                f"{self.path}: not a recording of this version; move it out of the way"
            )
        run("PRAGMA synchronous = NORMAL")

    @property
    def size_bytes(self) -> int:
        """How large it is, what still lies in the log included."""
        (pages,) = self._database.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = self._database.execute("PRAGMA page_size").fetchone()
        return int(pages) * int(page_bytes)

    def write(self, rows: Sequence[Row]) -> bool:
        """Add rows in one transaction; those with a known ``id`` are passed over.

        Returns:
            False if another process holds the database: nothing was written, try again.

        Raises:
            StreamerError: if it cannot be written, as when the disk is full.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(_INSERT, rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # a full disk rolls back by itself
                    self._database.execute("ROLLBACK")
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                return False
            raise StreamerError(f"{self.path}: cannot be written: {error}") from None
        return True

    def close(self) -> None:
        """Fold the log into the file and close it."""
        self._database.close()
