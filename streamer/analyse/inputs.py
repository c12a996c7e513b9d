"""Which recordings are meant, and what each is called."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streamer.analyse import state
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["SUFFIXES", "Recording", "find"]

SUFFIXES: Final = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"}
    | {".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)
"""What counts as a video when a folder is searched; a file that is named is taken as it is."""

_ADDRESS: Final = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:/")
"""A scheme with what a path keeps of its two slashes."""
_UNFIT: Final = re.compile(r"[^a-z0-9_-]+")
_NAME_LIMIT: Final = 56  # a camera's name has 64 characters; the rest is for telling twins apart
_DIGITS: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One video file.

    Attributes:
        path: where it is.
        name: its folder in the output and its ``camera`` in the events; ``[a-z0-9_-]+``.
    """

    path: Path
    name: str


def find(inputs: Sequence[Path], out: Path) -> list[Recording]:
    """List the recordings, each once, in a stable order.

    Two files that would get the same name, now or in an earlier run, are told apart by digits of
    the hash of their path, so that neither takes the other's folder.

    Args:
        inputs: files and folders.
        out: the folder of the results, which is not searched.

    Raises:
        ConfigError: if a folder holds no video, or an input is the address of a camera.
    """
    if any(_ADDRESS.match(str(given)) for given in inputs):  # not quoted: it may hold a password
        raise ConfigError(
            "an input is an address; only recorded files are analysed, `streamer run` watches a "
            "camera"
        )
    paths = list(dict.fromkeys(p.resolve() for given in inputs for p in _expand(given, out)))
    wanted = Counter(_plain_name(path) for path in paths)
    recordings = []
    for path in paths:
        name = _plain_name(path)
        before = state.read(out / name)
        if wanted[name] > 1 or (before is not None and before.input.path != str(path)):
            digest = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()
            name = f"{name}-{digest[:_DIGITS]}"
        recordings.append(Recording(path=path, name=name))
    return recordings


def _expand(given: Path, out: Path) -> Iterator[Path]:
    if not given.is_dir():
        yield given  # if it is not there, that is told when its turn comes
        return
    ours = out.resolve()
    found = [
        path
        for path in sorted(given.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not path.resolve().is_relative_to(ours)
    ]
    if not found:
        raise ConfigError(
            f"{given}: there is no video in this folder (looked for {' '.join(sorted(SUFFIXES))}); "
            "name the files themselves"
        )
    yield from found


def _plain_name(path: Path) -> str:
    return _UNFIT.sub("-", path.stem.lower()).strip("-")[:_NAME_LIMIT] or "recording"
