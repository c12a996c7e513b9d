"""When a recording goes on in a new file, how the files are named, and which are deleted."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from streamer.errors import ConfigError, StreamerError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Rotation", "create", "delete_old", "files", "prepare_folder", "started_at"]

_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"
_NAME: Final = re.compile(r"events-(\d{8}T\d{6}\.\d{6}Z)")
_NO_TIME: Final = "99991231"  # the last day that there is, with no later name
_FILE_MODE: Final = 0o640  # what was read from faces is for the owner and one group of readers
_FOLDER_MODE: Final = 0o750


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """When to begin a new file, checked after each batch.

    Attributes:
        size_bytes: when the file has become so large.
        age_s: when it was begun so long ago.
        keep: how many finished files stay; 0: all of them.

    Raises:
        ConfigError: if a limit is not positive, or no number.
    """

    size_bytes: float
    age_s: float
    keep: int = 0

    def __post_init__(self) -> None:
        limits = (self.size_bytes, self.age_s)
        if not all(math.isfinite(limit) and limit > 0 for limit in limits) or self.keep < 0:
            raise ConfigError("rotation: expected a size and an age above 0, and keep 0 or more")


def prepare_folder(folder: Path) -> None:
    """Make the folder where it is missing.

    Raises:
        ConfigError: if it cannot be made or written to.
    """
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}; name a folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: cannot be written to by this user; choose another folder")


def create(folder: Path, *, suffix: str, time_ns: int) -> Path:
    """Create an empty file whose name says when it was begun; an existing one is never reused.

    Names are in the order in which the files were begun, also after the clock went back: then the
    name is that of the newest recording there is, and a microsecond.

    Args:
        folder: where.
        suffix: with its dot.
        time_ns: now, nanoseconds since the epoch of Unix.

    Raises:
        StreamerError: if that fails.
    """
    start = datetime.fromtimestamp(time_ns // 1000 / 1e6, UTC)
    for present in folder.glob("events-*"):
        begun = _begun(present.name)
        if begun is not None and begun >= start:
            start = begun + timedelta(microseconds=1)
    while True:
        path = folder / f"events-{start.strftime(_STAMP)}{suffix}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE_MODE))
        except FileExistsError:
            start += timedelta(microseconds=1)
        except OSError as error:
            raise StreamerError(f"{path}: cannot be created: {error.strerror}") from None
        else:
            return path


def files(folder: Path, suffix: str) -> list[Path]:
    """Return the recordings of a folder, oldest first; other files are left alone."""
    return sorted(
        path
        for path in folder.glob(f"events-*{suffix}")
        if _begun(path.name) is not None and _NAME.fullmatch(path.name[: -len(suffix)])
    )


def started_at(path: Path) -> float:
    """Return when a recording was begun, seconds since the epoch of Unix, by its name.

    Raises:
        ValueError: if it is not the name of one.
    """
    begun = _begun(path.name)
    if begun is None:
        raise ValueError(f"{path.name} is not the name of a recording")
    return begun.timestamp()


def delete_old(folder: Path, *, suffix: str, keep: int, current: Path) -> list[Path]:
    """Delete all but the newest recordings, with what SQLite keeps beside them.

    Args:
        folder: where.
        suffix: of one kind of recording.
        keep: how many stay; 0: all.
        current: the one that is written now: stays, and is not counted.

    Returns:
        those deleted.

    Raises:
        StreamerError: if one cannot be deleted.
    """
    found = [path for path in files(folder, suffix) if path != current]
    old = found[: max(0, len(found) - keep)] if keep else []
    for path in old:
        try:
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StreamerError(f"{path}: cannot be deleted: {error.strerror}") from None
    return old


def _begun(name: str) -> datetime | None:
    """Return when a recording was begun; None for a name that none of ours has."""
    match = _NAME.match(name)
    if match is None or match[1] >= _NO_TIME:
        return None
    try:
        return datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
