"""The value every importer returns: pictures of faces with votes, splits and subjects.

Legend: N faces, H W pixels, K classes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.types import F32, U8

__all__ = ["CLASSES", "MISSING", "SPLITS", "FaceSet", "concatenate"]

CLASSES = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
"""The order of every class axis: FER+'s own, without its columns 'unknown' and 'NF'."""
SPLITS = ("train", "valid", "test")
MISSING = -1
"""The value of ``second_N`` where a picture has no second label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceSet:
    """Faces of one or several corpora, row for row.

    Attributes:
        images_NHW: grey pictures, uint8, all of one size.
        votes_NK: how many people (or which share of them) saw which class, float32.
        other_N: votes for anything else (unknown, not a face), float32.
        second_N: a second, independent label's class index, int64; ``MISSING`` where there is none.
        split_N: one of ``SPLITS``.
        group_N: what must not be cut by a split: a subject, a video or a set of duplicates.
        name_N: the picture's name in its corpus.
        leak_N: an evaluation picture that is also in another split; every score leaves it out.
        eyes_N22: eye centres (x, y) in pixels of the picture, float32; NaN where none were found.
        boxes_N4: the face's box, xyxy in pixels of the picture, float32; NaN likewise.
    """

    images_NHW: U8
    votes_NK: F32
    other_N: F32
    second_N: NDArray[np.int64]
    split_N: NDArray[np.str_]
    group_N: NDArray[np.str_]
    name_N: NDArray[np.str_]
    leak_N: NDArray[np.bool_]
    eyes_N22: F32
    boxes_N4: F32

    def __post_init__(self) -> None:
        n = len(self.images_NHW)
        if self.images_NHW.ndim != 3 or self.images_NHW.dtype != np.uint8:  # noqa: PLR2004 - N, H, W
            got = f"{self.images_NHW.dtype} {self.images_NHW.shape}"
            raise ValueError(f"images_NHW is {got}, expected uint8 (N, H, W)")
        if self.votes_NK.shape != (n, len(CLASSES)):
            raise ValueError(f"votes_NK is {self.votes_NK.shape}, expected {(n, len(CLASSES))}")
        for field in fields(self):
            rows = len(getattr(self, field.name))
            if rows != n:
                raise ValueError(f"{field.name} has {rows} rows, expected {n}")
        unknown = set(np.unique(self.split_N)) - set(SPLITS)
        if unknown:
            raise ValueError(f"split_N holds {sorted(unknown)}, expected only {SPLITS}")

    def __len__(self) -> int:
        return len(self.images_NHW)

    def checksum(self) -> int:
        """Return a number that changes with any picture, vote, split or eye."""
        told = (self.images_NHW, self.votes_NK, self.other_N, self.second_N, self.eyes_N22)
        sum_ = zlib.crc32("\n".join(self.split_N.tolist()).encode())
        for array in told:
            sum_ = zlib.crc32(np.ascontiguousarray(array).data, sum_)
        return sum_

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> FaceSet:
        """Return the chosen rows, by mask or by index."""
        return FaceSet(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def part(self, split: str) -> FaceSet:
        """Return one split, without the evaluation pictures that are also in train."""
        return self.rows((self.split_N == split) & ~self.leak_N)

    def with_landmarks(self, eyes_N22: F32, boxes_N4: F32) -> FaceSet:
        """Return the same faces with eyes and boxes as a detector found them."""
        return replace(self, eyes_N22=eyes_N22, boxes_N4=boxes_N4)

    def leaking(self, leak_N: NDArray[np.bool_]) -> FaceSet:
        """Return the same faces with other marks of what is also in train."""
        return replace(self, leak_N=leak_N)

    def named(self, name_N: NDArray[np.str_], group_N: NDArray[np.str_]) -> FaceSet:
        """Return the same faces under other names and in other groups."""
        return replace(self, name_N=name_N, group_N=group_N)

    @staticmethod
    def of(images_NHW: U8, labels_N: NDArray[np.int64], split_N: NDArray[np.str_]) -> FaceSet:
        """Build a set of singly labelled faces, each a group of its own."""
        n = len(images_NHW)
        names = np.array([f"{i:07d}" for i in range(n)], dtype=np.str_)
        return FaceSet(
            images_NHW=images_NHW,
            votes_NK=np.eye(len(CLASSES), dtype=np.float32)[labels_N],
            other_N=np.zeros(n, np.float32),
            second_N=np.full(n, MISSING, np.int64),
            split_N=split_N,
            group_N=names,
            name_N=names,
            leak_N=np.zeros(n, np.bool_),
            eyes_N22=np.full((n, 2, 2), np.nan, np.float32),
            boxes_N4=np.full((n, 4), np.nan, np.float32),
        )


def concatenate(parts: list[FaceSet]) -> FaceSet:
    """Join sets of the same picture size, in order."""
    return FaceSet(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(FaceSet)}
    )
