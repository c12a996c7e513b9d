"""Where results go: places are looked at before the work whose results they are to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.bundle import MANIFEST
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["bundle_place", "file_place"]


def file_place(path: Path) -> Path:
    """Make the folder that a file will be written into; return the file's path.

    Raises:
        ConfigError: when the folder cannot be made, or the path is a folder itself.
    """
    _make(path, path.parent)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file in it")
    return path


def bundle_place(path: Path) -> Path:
    """Make the folder that a bundle's directory will lie in; return the directory's whole path.

    Writing a bundle replaces its directory, so one that holds anything but a bundle is refused.

    Raises:
        ConfigError: when the path is a file, or a directory of something else.
    """
    whole = path.resolve()
    _make(path, whole.parent)
    if whole.is_file():
        raise ConfigError(f"{path}: is a file; name a directory for the bundle")
    if whole.is_dir() and any(whole.iterdir()) and not (whole / MANIFEST).is_file():
        raise ConfigError(
            f"{path}: holds files and is no bundle; name a new or empty directory for the bundle"
        )
    return whole


def _make(path: Path, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror
        raise ConfigError(f"{path}: cannot be written: {why}; name another place") from None
