"""Pictures that show the same photograph, found by comparing small copies of all with all.

The small copy is the perceptual hash: two cuts, codings or exposures of a photograph correlate in
it. Hashes of 64 bits were tried first; of FER2013's look-alikes across splits they missed over a
third.

Legend: N faces, H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.types import F32, U8
    from training.data.faces import FaceSet

__all__ = ["first_of_alike", "mark_leaks", "near_duplicates"]

_SAME = 0.9
"""Correlation from which two pictures are the same photograph: of FER2013's pairs, 17 of
the 24 closest above it were, and all 24 closest above 0.93."""
_COARSE = 24  # side at which pictures are compared: free of JPEG noise and of a pixel's shift
_BLOCK, _TILE = 512, 16_384  # rows compared at once: some 50 MB


def near_duplicates(images_NHW: U8) -> list[tuple[int, int]]:
    """Return the pairs of rows that show the same photograph, first row first, in order.

    All are compared with all: some 10 seconds of one core for 36,000 pictures, some 11 minutes
    for 290,000.
    """
    flat = _coarse(images_NHW)
    pairs: list[tuple[int, int]] = []
    for a in range(0, len(flat), _BLOCK):
        for b in range(a, len(flat), _TILE):
            rows, others = np.nonzero(flat[a : a + _BLOCK] @ flat[b : b + _TILE].T >= _SAME)
            rows, others = rows + a, others + b
            later = others > rows
            pairs += zip(rows[later].tolist(), others[later].tolist(), strict=True)
    return sorted(pairs)


def mark_leaks(faces: FaceSet, *, near: bool = True) -> FaceSet:
    """Mark what shows the same photograph as a picture of another split.

    Of a training and an evaluation picture the latter is marked; of a validation and a test
    picture the former, so that what is reported on stays as it is. Marks that are there stay.

    Args:
        faces: any set.
        near: mark pictures that look alike too; otherwise equal ones alone.
    """
    leak = faces.leak_N.copy()
    for pair in near_duplicates(faces.images_NHW):
        splits = [str(faces.split_N[row]) for row in pair]
        if splits[0] == splits[1] or leak[list(pair)].any():
            continue
        if not near and (faces.images_NHW[pair[0]] != faces.images_NHW[pair[1]]).any():
            continue
        if "train" in splits:
            leak[pair[1 - splits.index("train")]] = True
        else:
            leak[pair[splits.index("valid")]] = True
    return faces.leaking(leak)


def first_of_alike(images_NHW: U8, least: float) -> NDArray[np.bool_]:
    """Go through pictures in order and keep those that are like none kept before.

    Args:
        images_NHW: any.
        least: correlation from which two are alike.

    Returns:
        True for those kept.
    """
    flat, kept = _coarse(images_NHW), np.ones(len(images_NHW), np.bool_)
    for start in range(0, len(flat), _BLOCK):
        like = flat[start : start + _BLOCK] @ flat[: start + _BLOCK].T >= least
        for place, row in enumerate(range(start, min(start + _BLOCK, len(flat)))):
            kept[row] = not (like[place, :row] & kept[:row]).any()
    return kept


def _coarse(images_NHW: U8) -> F32:
    """Return small copies in rows whose product is their correlation."""
    side = (_COARSE, _COARSE)
    flat = np.stack(
        [cv2.resize(i, side, interpolation=cv2.INTER_AREA).ravel() for i in images_NHW]
    ).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), np.float32)
