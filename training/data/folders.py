"""Importers of plain folders: one a class, as corpora are mostly passed on, or without labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer import preprocess
from streamer.errors import ConfigError
from training.data.faces import CLASSES, SPLITS, FaceSet
from training.data.packed import CKPLUS_NAMES
from training.data.splits import by_group

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.stages import Detector
    from streamer.types import U8

__all__ = ["WORDS", "read_folders", "read_unlabelled"]

WORDS = {
    **CKPLUS_NAMES,
    **{name: name for name in CLASSES},
    "happyness": "happiness",
    "surprised": "surprise",
    "disgusted": "disgust",
    "fearful": "fear",
    "scared": "fear",
}
"""Folder names that are understood, in lower case."""
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm")
_SPLIT_WORDS = {"train": "train", "training": "train", "val": "valid", "valid": "valid"}
_SPLIT_WORDS |= {"validation": "valid", "test": "test", "testing": "test"}
_PEOPLE = 10
"""Beginnings of names from which they are taken for people; fewer are mostly splits or classes."""
_MOST = 0.2
"""Share of the pictures that a person may have; img_1, img_2 and so on would have them all."""


def read_folders(
    folder: Path,
    *,
    size_px: int = 48,
    detector: Detector | None = None,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> FaceSet:
    """Read ``folder/<class>/picture`` or ``folder/<split>/<class>/picture``.

    Names such as subject_take.png keep a person's pictures in one group, which no split cuts: the
    part before the first underscore is taken for a person where there are ten of them or more and
    none has over a fifth of the pictures. Otherwise (img_1.png, Training_1.jpg) each picture is a
    group of its own.

    Args:
        folder: the corpus.
        size_px: side of the crops.
        detector: where given, the first face of each picture is cut as the daemon does, and a
            picture without one is left out; otherwise pictures are taken to be faces and resized.
        shares: of train, valid and test where the folder has no splits of its own.
        seed: of that split.

    Raises:
        ConfigError: when no folder is named after a class, some pictures alone lie in splits, or
            a picture cannot be read.
    """
    images: list[U8] = []
    labels: list[int] = []
    splits: list[str] = []
    names: list[str] = []
    for path, split, label in _pictures(folder):
        crop = _read(path, size_px, detector)
        if crop is not None:
            images.append(crop)
            labels.append(label)
            splits.append(split)
            names.append(path.relative_to(folder).as_posix())
    if not images:
        raise ConfigError(
            f"{folder}: no face in any folder named after a class; expected folders such as "
            f"{', '.join(CLASSES)}, directly or under {', '.join(SPLITS)}"
        )
    if any(splits) and not all(splits):
        stray = names[splits.index("")]
        raise ConfigError(
            f"{folder}: {stray} lies in no split and others do; call the folders above the classes "
            "train, val, test"
        )
    groups = _groups(names)
    split_N = np.array(splits, np.str_)
    if not any(splits):
        split_N = by_group(groups, np.array(labels), shares, seed)
    faces = FaceSet.of(np.stack(images), np.array(labels, np.int64), split_N)
    return faces.named(np.array(names, np.str_), groups)


def read_unlabelled(folder: Path, *, size_px: int = 48) -> FaceSet:
    """Read every picture below a folder as a face of which nobody has said what it shows.

    All are for training, with no vote: ``distill`` has teachers say what they see. Groups are those
    of ``read_folders``.

    Args:
        folder: pictures of one face each, in any folders.
        size_px: side that they are resized to.

    Raises:
        ConfigError: when there is no picture, or one cannot be read.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _PICTURES]
    if not paths:
        raise ConfigError(f"{folder}: no picture ({', '.join(_PICTURES)}) in it or below it")
    images = np.stack([_resized(_luma(path), size_px) for path in paths])
    names = [path.relative_to(folder).as_posix() for path in paths]
    faces = FaceSet.of(images, np.zeros(len(paths), np.int64), np.full(len(paths), "train"))
    return replace(
        faces.named(np.array(names, np.str_), _groups(names)),
        votes_NK=np.zeros_like(faces.votes_NK),
    )


def _pictures(folder: Path) -> Iterator[tuple[Path, str, int]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PICTURES:
            above = [part.lower() for part in path.relative_to(folder).parts[:-1]]
            if above and above[-1] in WORDS:
                split = next((_SPLIT_WORDS[p] for p in above[:-1] if p in _SPLIT_WORDS), "")
                yield path, split, CLASSES.index(WORDS[above[-1]])


def _groups(names: list[str]) -> NDArray[np.str_]:
    """Return who is seen in each picture where the names tell, else the pictures' own names."""
    stems = (name.rpartition("/")[2].rpartition(".")[0] for name in names)
    people = [stem.partition("_")[0] if "_" in stem else "" for stem in stems]
    counts = Counter(person for person in people if person)
    told = len(counts) >= _PEOPLE and max(counts.values()) <= _MOST * counts.total()
    groups = [person if told and person else n for person, n in zip(people, names, strict=True)]
    return np.array(groups, np.str_)


def _read(path: Path, size_px: int, detector: Detector | None) -> U8 | None:
    luma = _luma(path)
    if detector is None:
        return _resized(luma, size_px)
    found = detector.detect(luma)
    if len(found) == 0:
        return None
    return preprocess.crop(luma, found.eyes_N22[0], found.boxes_N4[0], size_px)


def _luma(path: Path) -> U8:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise ConfigError(f"{path}: not a readable picture; remove it or save it again")
    return np.asarray(picture, np.uint8)


def _resized(luma: U8, size_px: int) -> U8:
    small = cv2.resize(luma, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)
