"""What commands are given: networks, faces and clips, by the names a person types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training.data import cache
from training.data.clips import ClipSet
from training.data.faces import SPLITS
from training.data.labels import majority
from training.recipes import config_from
from training.train import averaged_model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamer.types import F32
    from training.data.faces import FaceSet
    from training.model import FaceNet

__all__ = [
    "FERPLUS",
    "Corpus",
    "clips_of",
    "corpus_of",
    "faces_of",
    "network_of",
    "pair",
    "pairs",
    "part_of",
]

FERPLUS = "FER+"
_FERPLUS_FILES = ("ferplus", "fer+", "fer2013plus", "fer2013new.csv")
"""How the names begin of caches of FER+, and of the files that they are made from."""
_NOT_A_SET = "none"  # what a bundle's figures are of that are of no set, as its speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The set that a network learns from.

    Attributes:
        name: under which its figures stand: that of its cache, or FER+.
        faces: with all its splits.
        sources: sha256 of the files it was made from.
    """

    name: str
    faces: FaceSet
    sources: dict[str, str]


def corpus_of(path: Path) -> Corpus:
    """Return a cache of the set that a network learned from, under its name.

    Raises:
        ConfigError: when it is not a cache.
    """
    cached = cache.load(path)
    files = (path.name, *cached.sources)
    known = any(file.lower().startswith(_FERPLUS_FILES) for file in files)
    name = FERPLUS if known else path.stem
    return Corpus(name=name, faces=cached.faces, sources=cached.sources)


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
        ConfigError: when it is not a cache, or nobody is left.
    """
    faces = cache.load(path).faces
    left = faces.rows(~np.isin(faces.group_N, leave_out))
    if not len(left):
        raise ConfigError(f"{path}: nobody is left without {', '.join(leave_out)}")
    return left


def part_of(faces: FaceSet, split: str, name: str) -> FaceSet:
    """Return one split of a set that figures are to be of.

    Args:
        faces: the set.
        split: of it.
        name: of the set, for the error.

    Raises:
        ConfigError: when there is no such split, or nothing in it to be measured on.
    """
    if split not in SPLITS:
        raise ConfigError(f"{name}: no split {split}; it is one of {', '.join(SPLITS)}")
    part = faces.part(split)
    if not majority(part)[1].any():
        raise ConfigError(
            f"{name}: no clearly labelled picture in its split {split}; import it with some "
            f"there, or take another set"
        )
    return part


def clips_of(path: Path, leave_out: list[str]) -> ClipSet:
    """Return a cache's clips without some people.

    Raises:
        ConfigError: when it is not a cache of clips, or nobody is left.
    """
    clips = ClipSet.load(path)
    if np.isin(clips.subjects_M, leave_out).all():
        raise ConfigError(f"{path}: nobody is left without {', '.join(leave_out)}")
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


def pairs(option: str, texts: list[str], *, taken: Iterable[str] = ()) -> dict[str, Path]:
    """Take several NAME=PATH apart, each with a name of its own.

    Args:
        option: that they were given with, for the errors.
        texts: as typed.
        taken: names of sets that are measured beside them.

    Raises:
        ConfigError: when one is not such a pair, or its name is another set's or cannot be one's.
    """
    out: dict[str, Path] = {}
    for text in texts:
        name, path = pair(text)
        if name in out or name in taken:
            raise ConfigError(
                f"{option} {text}: another set is called {name}; give it a name of its own: "
                f"{option} NAME={path}"
            )
        if name == _NOT_A_SET or set(name) & set(",|"):
            raise ConfigError(f"{option} {text}: {name} cannot be a set's name; give another")
        out[name] = path
    return out
