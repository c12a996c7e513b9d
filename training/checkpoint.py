"""Checkpoints: everything a run needs to go on, written atomically."""

from __future__ import annotations

import io
import json
import pickle
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamer.errors import ConfigError, StreamerError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Checkpoint", "append", "load", "save"]


_DAMAGED = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
)
"""What torch's restricted reader raises on bytes that are no checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """State after a whole epoch.

    Attributes:
        config: the run's complete configuration, as plain values.
        epoch: epochs done.
        model, average: state dictionaries; ``average`` is that of ``optim.Average``.
        optimizer: its state dictionary.
        prior_K: class shares of the training targets before any re-sampling, float32.
        best: the best validation score so far.
        data: sha256 of each source file.
        faces: ``FaceSet.checksum`` of what it learned from and was chosen by; 0: not known.
        stale: validations since the best one.
        seeds: of the runs that this is the mean of; empty for a run of its own.
    """

    config: dict[str, Any]
    epoch: int
    model: dict[str, Tensor]
    average: dict[str, Any]
    optimizer: dict[str, Any]
    prior_K: Tensor
    best: float
    data: dict[str, str]
    faces: int = 0
    stale: int = 0
    seeds: list[int] = field(default_factory=list)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary name and rename, so that an interruption leaves the old one whole.

    Raises:
        StreamerError: when it cannot be written, for instance on a full disk.
    """
    part = path.with_name(path.name + ".part")
    plain = {f: getattr(checkpoint, f) for f in Checkpoint.__dataclass_fields__}
    # Through memory: torch's own writer does not tell that a disk is full.
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    try:
        part.write_bytes(buffer.getbuffer())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _full(path, error) from None


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON to a log, after whatever an interruption left of the last one.

    Raises:
        StreamerError: when it cannot be written.
    """
    try:
        with path.open("ab+") as log:
            torn = log.tell() > 0 and log.seek(-1, io.SEEK_END) >= 0 and log.read(1) != b"\n"
            log.write(("\n" * torn + json.dumps(line) + "\n").encode())
    except OSError as error:
        raise _full(path, error) from None


def _full(path: Path, error: OSError) -> StreamerError:
    return StreamerError(
        f"{path}: cannot be written: {error.strerror}; make room, then go on with --resume"
    )


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; no code in it is run.

    Raises:
        ConfigError: when the file is missing or not a checkpoint.
    """
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; name a checkpoint") from None
    except _DAMAGED as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path}: not a checkpoint of this version: {first}") from None
