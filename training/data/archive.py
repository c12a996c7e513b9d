"""Reading of NumPy archives from anywhere: any bytes give the arrays or one line of error."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_arrays"]


def read_arrays(path: Path, needed: tuple[str, ...], advice: str) -> dict[str, Any]:
    """Read every array of an archive.

    Args:
        path: an ``.npz``; nothing pickled in it is loaded.
        needed: names that must be there.
        advice: what to do where the file is missing or wrong, for the error.

    Raises:
        ConfigError: when the file is missing, damaged, or lacks one of the names.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {advice}") from None
    # AttributeError: a bare .npy is no archive. The rest is what damaged zip members raise.
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path}: not a readable archive: {error}; {advice}") from None
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ConfigError(f"{path}: holds no array {', '.join(missing)}; {advice}")
    return arrays
