"""What commands are given: networks, faces and clips, by the names a person types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training.data import cache
from training.data.clips import ClipSet
from training.recipes import config_from
from training.train import averaged_model

if TYPE_CHECKING:
    from streamer.types import F32
    from training.data.faces import FaceSet
    from training.model import FaceNet

__all__ = ["clips_of", "faces_of", "network_of", "pair"]


def network_of(checkpoint: Path) -> tuple[FaceNet, F32]:
    """Return a checkpoint's averaged network as trained, and its training set's class shares.

    Raises:
        ConfigError: when it is not a checkpoint of this version.
    """
    state = checkpoints.load(checkpoint)
    net = averaged_model(config_from(state.config), state.average["state"])
    return net, state.prior_K.numpy()


def faces_of(path: Path, leave_out: list[str]) -> FaceSet:
    """Return a cache's faces without some groups.

    Raises:
        ConfigError: when it is not a cache.
    """
    faces = cache.load(path).faces
    return faces.rows(~np.isin(faces.group_N, leave_out))


def clips_of(path: Path, leave_out: list[str]) -> ClipSet:
    """Return a cache's clips without some people.

    Raises:
        ConfigError: when it is not a cache of clips.
    """
    clips = ClipSet.load(path)
    for subject in leave_out:
        clips = clips.without(subject)
    return clips


def pair(text: str) -> tuple[str, Path]:
    """Take NAME=PATH apart; a path alone goes by the name of its file.

    Raises:
        ConfigError: when one of the two is empty.
    """
    name, mark, path = text.partition("=")
    if not mark:
        name, path = Path(text).stem, text
    if not (name and path):
        raise ConfigError(f"{text!r} is neither NAME=CACHE nor a cache")
    return name, Path(path)
