"""What is finished: a small file in each recording's folder, so that a run can be taken up again.

A folder is filled under a temporary name and renamed when it is complete, so that under its own
name it is always whole, whatever interrupts the work.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["NAME", "Recorded", "State", "folder_in_work", "is_current", "read", "recorded", "write"]

NAME: Final = "analysis.json"
_FORMAT: Final = 1
_LIMIT: Final = 1 << 20  # bytes; a real one has under 2 kB
_SUFFIX: Final = ".unfinished"


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """Which recording was analysed.

    Attributes:
        path: where it was.
        size: bytes.
        mtime_ns: when it was last written.
        sha256: of its content.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One finished analysis.

    Attributes:
        input: the recording.
        settings: what the results depend on beside it; see ``order.settings_of``.
        outputs: what was written beside the data.
        duration_s: media time from the first to the last picture, seconds.
        frames: pictures decoded.
        analysed: pictures analysed.
        faces: tracks followed.
    """

    format: int = _FORMAT
    input: Recorded
    settings: dict[str, Any]
    outputs: tuple[str, ...]
    duration_s: float
    frames: int
    analysed: int
    faces: int


def recorded(path: Path) -> Recorded:
    """Identify a recording; reads all of it.

    Raises:
        OSError: if it cannot be read.
    """
    stat = path.stat()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Recorded(
        path=str(path.resolve()), size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256
    )


def read(folder: Path) -> State | None:
    """Return what a folder says it holds; None if it holds no finished analysis."""
    try:
        with (folder / NAME).open("rb") as file:
            state = msgspec.json.decode(file.read(_LIMIT), type=State)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return state if state.format == _FORMAT else None


def write(folder: Path, state: State) -> None:
    """Say that a folder is complete."""
    text = msgspec.json.format(msgspec.json.encode(state), indent=2)
    (folder / NAME).write_bytes(text + b"\n")


def is_current(state: State, path: Path, settings: dict[str, Any]) -> bool:
    """Whether a finished analysis is the one wanted now.

    The content is read only where size and settings agree and the time of writing does not, as
    after a copy.
    """
    try:
        stat = path.stat()
        if state.settings != settings or state.input.size != stat.st_size:
            return False
        return (
            state.input.mtime_ns == stat.st_mtime_ns or state.input.sha256 == recorded(path).sha256
        )
    except OSError:
        return False


@contextmanager
def folder_in_work(final: Path) -> Iterator[Path]:
    """Lend a folder that takes its name when the block ends well, and is removed when it does not.

    What a killed run left behind is removed first; an older analysis stays until it is replaced.

    Raises:
        OSError: if it cannot be written.
    """
    work = final.with_name(f".{final.name}{_SUFFIX}")
    old = final.with_name(f".{final.name}.replaced")
    for leftover in (work, old):
        shutil.rmtree(leftover, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        if final.exists():
            final.rename(old)
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
