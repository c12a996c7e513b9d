"""Where the files lie that are kept between runs, when no folder is configured."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["kept"]


def kept(name: str, *, chosen: str, service: str) -> Path:
    """Return the folder of one kind of files.

    Args:
        name: what the folder is called in systemd's directory, else in the user's cache.
        chosen: environment variable that a person names another folder with.
        service: environment variable that systemd names the service's directory with.
    """
    if folder := os.environ.get(chosen):
        return Path(folder)
    if folder := os.environ.get(service):
        return Path(folder.partition(":")[0]) / name  # systemd joins several by colons
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification ignores relative paths.
    base = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
    return base / "emotion-streamer" / name
