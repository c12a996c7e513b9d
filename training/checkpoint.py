"""Checkpoints: everything a run needs to go on, written atomically."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Checkpoint", "load", "save"]


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
    """

    config: dict[str, Any]
    epoch: int
    model: dict[str, Tensor]
    average: dict[str, Any]
    optimizer: dict[str, Any]
    prior_K: Tensor
    best: float
    data: dict[str, str]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary name and rename, so that an interruption leaves the old one whole."""
    part = path.with_name(path.name + ".part")
    torch.save({f: getattr(checkpoint, f) for f in Checkpoint.__dataclass_fields__}, part)
    part.replace(path)


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
