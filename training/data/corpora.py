"""Importers of RAF-DB, AffectNet and ExpW as their makers publish them.

Where a corpus has no validation split of its own, a tenth of its training pictures becomes one;
AffectNet's published validation set is what everybody reports on, so here it is the test split.

Legend: N faces, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer.errors import ConfigError
from training.data.faces import CLASSES, FaceSet
from training.data.splits import by_group
from training.data.table import lines_of, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.types import F32, U8

__all__ = ["read_affectnet", "read_expw", "read_rafdb"]

_RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""In the order of its numbers, from 1."""
_AFFECTNET = (
    "neutral",
    "happiness",
    "sadness",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
)
_NO_LABEL = ("8", "9", "10")  # AffectNet: none, uncertain, no face
_EXPW = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
_MARGIN = 0.15  # of a box on each side, so that a crop can still be turned and moved
_LEFT, _RIGHT = slice(36, 42), slice(42, 48)
"""The eyes among the 68 points of AffectNet's landmarks; the eye left in the picture first."""
_POINTS = 68


def read_rafdb(folder: Path, *, size_px: int = 48, seed: int = 0) -> FaceSet:
    """Read RAF-DB's basic set: ``EmoLabel/list_patition_label.txt`` and ``Image/aligned``.

    Args:
        folder: what holds both, at whatever depth.
        size_px: side of the pictures.
        seed: of the validation split.

    Raises:
        ConfigError: naming what is missing, or file and line.
    """
    table = _find(folder, "list_patition_label.txt")
    pictures = _find(folder, "aligned")
    rows = _Rows(size_px)
    for line, (name, label) in lines_of(table, 2):
        stem, _, suffix = name.rpartition(".")
        split = name.partition("_")[0]
        if split not in ("train", "test"):
            raise ConfigError(f"{table}: line {line}: {name!r} begins neither with train nor test")
        k = _class(table, line, label, _RAFDB, first=1)
        rows.add(pictures / f"{stem}_aligned.{suffix}", k, split)
    return rows.faces(table, seed)


def read_expw(folder: Path, *, size_px: int = 48, seed: int = 0) -> FaceSet:
    """Read ExpW: ``label.lst`` and the pictures in ``origin``; faces of one picture stay together.

    Args:
        folder: what holds both, at whatever depth.
        size_px: side of the pictures.
        seed: of the splits, which the corpus does not have.

    Raises:
        ConfigError: naming what is missing, or file and line.
    """
    table = _find(folder, "label.lst")
    pictures = _find(folder, "origin")
    rows = _Rows(size_px)
    for line, words in lines_of(table, 8):
        name, face, top, left, right, bottom, _, label = words
        box = _box(table, line, (left, top, right, bottom))
        k = _class(table, line, label, _EXPW)
        rows.add(pictures / name, k, "", box=box, name=f"{name}#{face}", group=name)
    return rows.faces(table, seed)


def read_affectnet(source: Path, *, size_px: int = 48, seed: int = 0) -> FaceSet:
    """Read AffectNet in either of the layouts that its makers hand out.

    Args:
        source: a folder with ``training.csv`` and ``validation.csv`` beside the pictures, or one
            with ``train_set`` and ``val_set``, each with ``images`` and ``annotations``.
        size_px: side of the pictures.
        seed: of the validation split.

    Raises:
        ConfigError: naming what is missing, or file and line.
    """
    rows = _Rows(size_px)
    tables = [p for p in (source / "training.csv", source / "validation.csv") if p.is_file()]
    sets = [p for p in (source / "train_set", source / "val_set") if p.is_dir()]
    for table in tables:
        _affectnet_table(table, rows)
    for folder in sets if not tables else []:
        _affectnet_set(folder, rows)
    if not tables and not sets:
        raise ConfigError(
            f"{source}: holds neither training.csv and validation.csv nor train_set and val_set; "
            "name AffectNet's own folder"
        )
    return rows.faces(source, seed)


def _affectnet_table(table: Path, rows: _Rows) -> None:
    needed = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height")
    split = "train" if table.stem == "training" else "test"
    for line, row in rows_of(table, (*needed, "facial_landmarks", "expression")):
        if row["expression"] in _NO_LABEL:
            continue
        x, y, wide, high = _box(table, line, tuple(row[n] for n in needed[1:]))
        k = _class(table, line, row["expression"], _AFFECTNET)
        path = row[needed[0]]
        picture = next(
            (p for d in table.parent.glob("*/") if (p := d / path).is_file()), table.parent / path
        )
        rows.add(
            picture,
            k,
            split,
            box=np.array([x, y, x + wide, y + high], np.float32),
            eyes=_eyes(table, line, row["facial_landmarks"]),
            name=path,
        )


def _affectnet_set(folder: Path, rows: _Rows) -> None:
    split = "train" if folder.name == "train_set" else "test"
    for picture in sorted((folder / "images").glob("*.jpg"), key=lambda p: (len(p.stem), p.stem)):
        note = folder / "annotations" / f"{picture.stem}_exp.npy"
        try:
            label = str(np.load(note, allow_pickle=False))
        except (OSError, ValueError, EOFError):
            raise ConfigError(f"{note}: not a readable annotation of {picture.name}") from None
        if label not in _NO_LABEL:
            k = _class(note, 1, label, _AFFECTNET)
            rows.add(picture, k, split, name=f"{folder.name}/{picture.name}")


class _Rows:
    """Collects pictures until they are a set."""

    def __init__(self, size_px: int) -> None:
        self._size_px = size_px
        self._images: list[U8] = []
        self._labels: list[int] = []
        self._splits: list[str] = []
        self._names: list[str] = []
        self._groups: list[str] = []
        self._eyes: list[F32] = []
        self._boxes: list[F32] = []

    def add(
        self,
        path: Path,
        label: int,
        split: str,
        *,
        box: F32 | None = None,
        eyes: F32 | None = None,
        name: str = "",
        group: str = "",
    ) -> None:
        """Read a picture; with a box, the square round it with a margin."""
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise ConfigError(f"{path}: not a readable picture; it is listed as one")
        luma = np.asarray(picture, np.uint8)
        high, wide = luma.shape
        whole = np.array([0, 0, wide, high], np.float32) if box is None else box
        margin = 0.0 if box is None else _MARGIN
        crop, scale, corner = _square(luma, whole, margin, self._size_px)
        nothing = np.full((2, 2), np.nan, np.float32)
        self._images.append(crop)
        self._labels.append(label)
        self._splits.append(split)
        self._names.append(name or path.name)
        self._groups.append(group or name or path.name)
        self._eyes.append(nothing if eyes is None else (eyes - corner) * scale)
        placed = (whole.reshape(2, 2) - corner) * scale
        self._boxes.append((nothing if eyes is None else placed).reshape(4))

    def faces(self, source: Path, seed: int) -> FaceSet:
        """Return the set, with the splits that the corpus lacks."""
        if not self._images:
            raise ConfigError(f"{source}: lists no picture with a label")
        names, groups = np.array(self._names, np.str_), np.array(self._groups, np.str_)
        labels = np.array(self._labels, np.int64)
        split = np.array(self._splits, dtype="<U5")
        if not (split == "test").any():
            split = by_group(groups, labels, (0.8, 0.1, 0.1), seed).astype("<U5")
        elif (split == "train").any():
            own = np.flatnonzero(split == "train")
            split[own] = by_group(groups[own], labels[own], (0.9, 0.1, 0.0), seed)
        faces = FaceSet.of(np.stack(self._images), labels, split).named(names, groups)
        eyes, boxes = np.stack(self._eyes), np.stack(self._boxes)
        return faces.with_landmarks(eyes.astype(np.float32), boxes.astype(np.float32))


def _square(luma_HW: U8, box_4: F32, margin: float, size_px: int) -> tuple[U8, float, F32]:
    """Cut the square round a box; return it, its scale and its corner in the picture."""
    x, y = (box_4[0] + box_4[2]) / 2.0, (box_4[1] + box_4[3]) / 2.0
    half = max(1.0, max(box_4[2] - box_4[0], box_4[3] - box_4[1]) * (0.5 + margin))
    scale = size_px / (2.0 * half)
    side = max(2, round(2.0 * half))
    # The middle in pixel centres; what lies outside the picture repeats its edge.
    cut = cv2.getRectSubPix(luma_HW, (side, side), (float(x) - 0.5, float(y) - 0.5))
    small = cv2.resize(cut, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), scale, np.array([x - half, y - half], np.float32)


def _find(folder: Path, name: str) -> Path:
    found = next(iter(sorted(folder.rglob(name))), None)
    if found is None:
        raise ConfigError(f"{folder}: holds no {name}; name the folder of the unpacked corpus")
    return found


def _class(table: Path, line: int, text: str, names: tuple[str, ...], first: int = 0) -> int:
    if text not in map(str, range(first, first + len(names))):
        last = first + len(names) - 1
        raise ConfigError(f"{table}: line {line}: label {text!r}, expected {first} to {last}")
    return CLASSES.index(names[int(text) - first])


def _box(table: Path, line: int, words: tuple[str, ...]) -> F32:
    try:
        return np.array([float(w) for w in words], np.float32)
    except ValueError:
        raise ConfigError(f"{table}: line {line}: the box {words} is not of numbers") from None


def _eyes(table: Path, line: int, text: str) -> F32 | None:
    """Return the middles of both eyes from 68 points ``x;y;x;y;…``; None where there are none."""
    try:
        points = np.array([float(v) for v in text.split(";")], np.float32).reshape(-1, 2)
    except ValueError:
        raise ConfigError(f"{table}: line {line}: facial_landmarks are not numbers") from None
    if len(points) != _POINTS:
        return None
    return np.stack([points[_LEFT].mean(axis=0), points[_RIGHT].mean(axis=0)])
