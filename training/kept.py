"""Results of long work kept in a folder, so that an interrupted command goes on where it was."""

from __future__ import annotations

import hashlib
import json
import zipfile
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Kept", "key_of"]


def key_of(*parts: object) -> str:
    """Return a short name of everything that a result depends on: plain values, JSON-like."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Kept:
    """A folder of named results; one that was made of something else is made anew."""

    def __init__(self, folder: Path) -> None:
        """Keep results in a folder, which is made when the first one is there."""
        self._folder = folder

    def arrays(
        self, name: str, key: str, make: Callable[[], Mapping[str, NDArray[np.generic]]]
    ) -> Mapping[str, NDArray[np.generic]]:
        """Return what is kept under a name and a key, or make and keep it.

        Args:
            name: of the file, without its ending.
            key: see ``key_of``.
            make: the work.
        """
        path = self._folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as found:
                if str(found["key"]) == key:
                    return {n: found[n] for n in found.files if n != "key"}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # never made, or broken: made anew
        made = make()
        self._folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, key=np.array(key), **made)
        part.replace(path)
        return made
