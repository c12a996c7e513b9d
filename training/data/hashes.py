"""What identifies the files that a cache is made from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from streamer.bundle import file_sha256
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["hashes_of"]


def hashes_of(sources: Iterable[Path], *, besides: Path | None = None) -> dict[str, str]:
    """Return the sha256 of each source under its own name; a folder's ends with a slash.

    A folder's is that of a list, a line for each file below it in the order of their names: its
    content's sha256, two spaces and its name in the folder, as ``sha256sum`` prints them.

    Args:
        sources: files and folders; what is none of them is left out.
        besides: a file that does not count, since it is being made.

    Raises:
        ConfigError: when a file cannot be read.
    """
    out = {}
    for source in sources:
        try:
            if source.is_file():
                out[source.name] = file_sha256(source)
            elif source.is_dir():
                out[f"{source.resolve().name}/"] = _folder_sha256(source, besides)
        except OSError as error:
            why = f"{error.filename or source}: cannot be read: {error.strerror}"
            raise ConfigError(f"{why}; its hash is kept with the cache") from None
    return out


def _folder_sha256(folder: Path, besides: Path | None) -> str:
    skipped = besides.resolve() if besides else None
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path.resolve() != skipped
    }
    digest = hashlib.sha256()
    for name in sorted(files):
        line = f"{file_sha256(files[name])}  {name}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
