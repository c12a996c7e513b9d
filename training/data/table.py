"""Reading of tables of text: any bytes give rows or one line of error."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["cells_of", "lines_of", "rows_in", "rows_of"]


def rows_of(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Return each row of a table with a header, with its line number.

    Raises:
        ConfigError: naming file and line, when a column is missing or it is no table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from rows_in(file, str(path), needed)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def rows_in(
    file: Iterable[str], where: str, needed: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Return each row of a table that is open already; the errors are those of ``rows_of``.

    Args:
        file: its lines, decoded as they are asked for.
        where: its name, for the errors.
        needed: columns that must be there.
    """
    try:
        reader = csv.DictReader(file)
        missing = [n for n in needed if n not in (reader.fieldnames or [])]
        if missing:
            raise ConfigError(f"{where}: line 1: no column {', '.join(missing)}")
        for row in reader:
            if any(row[n] is None for n in needed):
                raise ConfigError(f"{where}: line {reader.line_num}: too few columns")
            yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{where}: not a table of text: {error}") from None


def cells_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Return the cells of each line that is not empty of a table without a header, with its number.

    Raises:
        ConfigError: naming the file, when it is no table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a table of text: {error}") from None


def lines_of(path: Path, words: int) -> Iterator[tuple[int, list[str]]]:
    """Return the words of each line that is not empty, with its number.

    Raises:
        ConfigError: naming file and line, when a line has another number of words.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text: {error}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        found = line.split()
        if found and len(found) != words:
            raise ConfigError(f"{path}: line {number}: {len(found)} words, expected {words}")
        if found:
            yield number, found
