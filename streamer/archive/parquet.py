"""Rows in a Parquet file: readable once it is complete, a row group a batch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from pyarrow import parquet

from streamer.archive.rows import COLUMNS
from streamer.errors import StreamerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.archive.rows import Kind, Row

__all__ = ["SUFFIX", "UNFINISHED", "ParquetFile"]

SUFFIX: Final = ".parquet"
UNFINISHED: Final = ".part"
"""What is added to the name until the file has its footer, without which nothing can read it."""

_TYPES: Final[dict[Kind, pa.DataType]] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "real": pa.float64(),
}
_SCHEMA: Final = pa.schema([pa.field(name, _TYPES[kind]) for name, kind in COLUMNS.items()])


class ParquetFile:
    """A file that row groups are added to; it gets its name when it is closed.

    Args:
        path: an empty file, whose name ends in ``UNFINISHED``.

    Raises:
        StreamerError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = False
        try:
            self._file = path.open("wb")
            self._writer = parquet.ParquetWriter(self._file, _SCHEMA, compression="zstd")
        except OSError as error:
            raise StreamerError(f"{path}: cannot be opened: {error}") from None

    @property
    def size_bytes(self) -> int:
        """How much was written."""
        return self._file.tell()

    def write(self, rows: Sequence[Row]) -> bool:
        """Add rows as a row group.

        Returns:
            True: there is nobody else to wait for.

        Raises:
            StreamerError: if it cannot be written, as when the disk is full.
        """
        columns = zip(*rows, strict=True)
        arrays = [
            pa.array(values, type=field.type)
            for values, field in zip(columns, _SCHEMA, strict=True)
        ]
        try:
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))
            self._file.flush()
        except OSError as error:
            raise StreamerError(f"{self.path}: cannot be written: {error}") from None
        self._written = True
        return True

    def close(self) -> None:
        """Complete the file and give it its name; one without rows is removed.

        Raises:
            StreamerError: if that fails; what is there keeps its unfinished name.
        """
        try:
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if self._written:
                self.path.rename(self.path.with_name(self.path.name.removesuffix(UNFINISHED)))
            else:
                self.path.unlink()
        except OSError as error:
            raise StreamerError(f"{self.path}: cannot be completed: {error}") from None
