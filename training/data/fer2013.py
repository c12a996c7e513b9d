"""Importers of FER2013 and FER+ as published: ``fer2013.csv``, ``fer2013new.csv``, PNG folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer.errors import ConfigError
from training.data.faces import CLASSES, MISSING, FaceSet
from training.data.packed import FER2013_NAMES, second_labels
from training.data.table import cells_of, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.types import F32, U8

__all__ = ["read_fer2013", "read_fer2013_with_votes", "read_ferplus_folder", "votes_beside"]

_SIDE = 48
_USAGE = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
_FOLDERS = {"FER2013Train": "train", "FER2013Valid": "valid", "FER2013Test": "test"}
_OTHER = ("unknown", "NF")


def read_fer2013(pictures: Path, votes: Path | None = None) -> FaceSet:
    """Read ``fer2013.csv`` and, beside it, FER+'s ``fer2013new.csv``.

    Args:
        pictures: columns emotion, pixels, Usage.
        votes: FER+'s votes, row for row; None: FER2013's own label is the only vote.

    Returns:
        All pictures in the official splits. With votes, FER2013's label is the second label.

    Raises:
        ConfigError: naming file and line, when a row is not what the format says.
    """
    rows = list(rows_of(pictures, ("emotion", "pixels", "Usage")))
    images = np.stack([_picture(pictures, i, row["pixels"]) for i, row in rows])
    numbers = np.array([_label(pictures, i, row["emotion"]) for i, row in rows], np.int64)
    split = np.array([_usage(pictures, i, row["Usage"]) for i, row in rows], np.str_)
    own = second_labels(numbers)
    if votes is None:
        return FaceSet.of(images, own, split)
    counted, other, names = _votes(votes)
    if len(counted) != len(images):
        raise ConfigError(
            f"{votes}: {len(counted)} rows for the {len(images)} of {pictures.name}; "
            "use the two files of one release"
        )
    return _set(images, counted, other=other, second=own, split=split, names=names)


def read_fer2013_with_votes(pictures: Path) -> FaceSet:
    """Read ``fer2013.csv``, with FER+'s votes where ``fer2013new.csv`` lies beside it."""
    votes = votes_beside(pictures)
    return read_fer2013(pictures, votes if votes.is_file() else None)


def votes_beside(pictures: Path) -> Path:
    """Return where FER+'s votes lie if they lie beside ``fer2013.csv``."""
    return pictures.with_name("fer2013new.csv")


def read_ferplus_folder(folder: Path) -> FaceSet:
    """Read FER+'s folder layout: FER2013Train, FER2013Valid and FER2013Test with ``label.csv``.

    Each ``label.csv`` has no header: picture, box in brackets, then the ten votes.

    Raises:
        ConfigError: when no folder is there, or a row or a picture is not readable.
    """
    images: list[U8] = []
    votes: list[list[float]] = []
    names: list[str] = []
    split: list[str] = []
    for name, part in _FOLDERS.items():
        table = folder / name / "label.csv"
        if not table.is_file():
            continue
        for line, row in cells_of(table):
            votes.append(_numbers(table, line, row[1:][-len(CLASSES) - len(_OTHER) :]))
            images.append(_png(folder / name / row[0]))
            names.append(row[0])
            split.append(part)
    if not images:
        raise ConfigError(f"{folder}: holds none of {', '.join(_FOLDERS)} with a label.csv")
    counted = np.array(votes, np.float32)
    k, n = len(CLASSES), len(images)
    return _set(
        np.stack(images),
        counted[:, :k],
        other=counted[:, k:].sum(axis=1),
        second=np.full(n, MISSING, np.int64),
        split=np.array(split, np.str_),
        names=names,
    )


def _set(
    images: U8,
    votes: F32,
    *,
    other: F32,
    second: np.ndarray,
    split: np.ndarray,
    names: list[str],
) -> FaceSet:
    """Build the set; equal pictures form a group, and one also in train is a leak."""
    n = len(images)
    digests = np.array([row.tobytes() for row in images.reshape(n, -1)], dtype=object)
    _, group = np.unique(digests, return_inverse=True)
    in_train = set(group[split == "train"].tolist())
    leak = np.array([g in in_train for g in group]) & (split != "train")
    return FaceSet(
        images_NHW=images,
        votes_NK=np.ascontiguousarray(votes),
        other_N=other,
        second_N=second,
        split_N=split,
        group_N=group.astype(np.str_),
        name_N=np.array(names, np.str_),
        leak_N=leak,
        eyes_N22=np.full((n, 2, 2), np.nan, np.float32),
        boxes_N4=np.full((n, 4), np.nan, np.float32),
    )


def _picture(path: Path, line: int, text: str) -> U8:
    try:
        values = np.array(text.split(), np.int64)
    except ValueError:
        raise ConfigError(f"{path}: line {line}: pixels are not numbers") from None
    if len(values) != _SIDE * _SIDE or values.min() < 0 or values.max() > 255:  # noqa: PLR2004
        raise ConfigError(f"{path}: line {line}: {len(values)} pixels, expected 2304 in 0..255")
    return values.reshape(_SIDE, _SIDE).astype(np.uint8)


def _label(path: Path, line: int, text: str) -> int:
    if text not in map(str, range(len(FER2013_NAMES))):
        raise ConfigError(f"{path}: line {line}: emotion is {text!r}, expected 0 to 6")
    return int(text)


def _usage(path: Path, line: int, text: str) -> str:
    if text not in _USAGE:
        raise ConfigError(f"{path}: line {line}: Usage is {text!r}, expected {', '.join(_USAGE)}")
    return _USAGE[text]


def _votes(path: Path) -> tuple[F32, F32, list[str]]:
    columns = (*CLASSES, *_OTHER)
    rows = list(rows_of(path, ("Image name", *columns)))
    values = np.array([_numbers(path, i, [row[c] for c in columns]) for i, row in rows], np.float32)
    k = len(CLASSES)
    return values[:, :k], values[:, k:].sum(axis=1), [row["Image name"] for _, row in rows]


def _numbers(path: Path, line: int, cells: list[str]) -> list[float]:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        raise ConfigError(f"{path}: line {line}: votes are not numbers") from None
    if len(values) != len(CLASSES) + len(_OTHER):
        raise ConfigError(f"{path}: line {line}: {len(values)} votes, expected 10")
    return values


def _png(path: Path) -> U8:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise ConfigError(f"{path}: not a readable picture")
    if picture.shape != (_SIDE, _SIDE):
        picture = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(picture, np.uint8)
