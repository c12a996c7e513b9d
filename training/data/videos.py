"""Importer of videos with a table of what is seen when: your own recordings, labelled by hand.

``annotations.csv`` has the columns video, start_s, end_s and label; subject and split may follow.
A label holds from its start to its end. The faces of a video that shows one person are what it is
for: of several faces in a frame the surest is taken.

Legend: N frames, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer import preprocess
from streamer.errors import ConfigError
from training.data.clips import ClipSet
from training.data.faces import CLASSES, SPLITS, FaceSet
from training.data.folders import WORDS
from training.data.hashes import hashes_of
from training.data.splits import by_group
from training.data.table import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.stages import Detector
    from streamer.types import U8

__all__ = ["read_video_clips", "read_videos", "videos_of"]

_NEEDED = ("video", "start_s", "end_s", "label")
_STEP_S = 0.1  # between two frames that are kept: the daemon's own pace


def read_videos(table: Path, detector: Detector, *, size_px: int = 48, seed: int = 0) -> FaceSet:
    """Read the labelled frames of videos as faces, ten a second, cut as the daemon cuts them.

    Args:
        table: the annotations; videos are named relative to its folder.
        detector: finds the face; a frame without one is left out.
        size_px: side of the crops.
        seed: of the splits, where the table has none.

    Returns:
        Frames in groups of their subject, or of their video where no subject is given.

    Raises:
        ConfigError: naming file and line, when a label, a time or a video is wrong.
    """
    images: list[U8] = []
    labels: list[int] = []
    groups: list[str] = []
    names: list[str] = []
    splits: list[str] = []
    for piece in _pieces(table, detector, size_px):
        for place, crop in enumerate(piece.crops):
            images.append(crop)
            labels.append(piece.label)
            groups.append(piece.subject)
            names.append(f"{piece.name}#{place}")
            splits.append(piece.split)
    groups_N, labels_N = np.array(groups, np.str_), np.array(labels, np.int64)
    split_N = np.array(splits, np.str_)
    if not all(splits):
        split_N = by_group(groups_N, labels_N, (0.8, 0.1, 0.1), seed)
    faces = FaceSet.of(np.stack(images), labels_N, split_N)
    return faces.named(np.array(names, np.str_), groups_N)


def read_video_clips(table: Path, detector: Detector, *, size_px: int = 48) -> ClipSet:
    """Read each labelled piece of a video as a clip; the arguments are those of ``read_videos``."""
    pieces = list(_pieces(table, detector, size_px))
    lengths = [len(p.crops) for p in pieces]
    return ClipSet(
        crops_NHW=np.concatenate([np.stack(p.crops) for p in pieces]),
        starts_M=np.cumsum([0, *lengths[:-1]]).astype(np.int64),
        labels_M=np.array([p.label for p in pieces], np.int64),
        subjects_M=np.array([p.subject for p in pieces], np.str_),
        names_M=np.array([p.name for p in pieces], np.str_),
        step_s=_STEP_S,
        sources=hashes_of([table, *videos_of(table)]),
    )


def videos_of(table: Path) -> list[Path]:
    """Return the videos that a table names, each once."""
    return sorted({table.parent / row["video"] for _, row in rows_of(table, _NEEDED)})


class _Piece:
    """One line of the table, and the faces in it."""

    def __init__(self, table: Path, line: int, row: dict[str, str]) -> None:
        where = f"{table}: line {line}"
        word = row["label"].strip().lower()
        if word not in WORDS:
            raise ConfigError(f"{where}: label {row['label']!r} is none of {', '.join(CLASSES)}")
        try:
            self.start_s, self.end_s = float(row["start_s"]), float(row["end_s"])
        except ValueError:
            raise ConfigError(f"{where}: start_s and end_s are not numbers") from None
        if not self.start_s < self.end_s:
            raise ConfigError(f"{where}: end_s is not after start_s")
        self.split = (row.get("split") or "").strip()
        if self.split and self.split not in SPLITS:
            raise ConfigError(f"{where}: split {self.split!r} is none of {', '.join(SPLITS)}")
        self.label = CLASSES.index(WORDS[word])
        self.video = table.parent / row["video"]
        self.subject = (row.get("subject") or row["video"]).strip()
        self.name = f"{row['video']}@{self.start_s:g}"
        self.crops: list[U8] = []


def _pieces(table: Path, detector: Detector, size_px: int) -> Iterator[_Piece]:
    found = 0
    for line, row in rows_of(table, _NEEDED):
        piece = _Piece(table, line, row)
        for luma_HW in _frames(piece):
            faces = detector.detect(luma_HW)
            if len(faces):
                crop = preprocess.crop(luma_HW, faces.eyes_N22[0], faces.boxes_N4[0], size_px)
                piece.crops.append(crop)
        if piece.crops:
            found += 1
            yield piece
    if not found:
        raise ConfigError(f"{table}: no face was found in any labelled piece")


def _frames(piece: _Piece) -> Iterator[U8]:
    """Return the grey frames of a piece, a step apart; every frame is decoded, none is sought."""
    video = cv2.VideoCapture(str(piece.video))
    try:
        if not video.isOpened():
            raise ConfigError(f"{piece.video}: not a readable video; it is listed in the table")
        due_s = piece.start_s
        while video.grab():
            at_s = video.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            if at_s > piece.end_s:
                return
            if at_s < due_s - 1e-6:
                continue
            due_s += _STEP_S
            read, picture = video.retrieve()
            if read:
                yield np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)
    finally:
        video.release()
