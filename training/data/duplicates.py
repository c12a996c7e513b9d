"""Pictures that show the same photograph, found by a perceptual hash and confirmed by correlation.

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

__all__ = ["first_of_alike", "hashes", "mark_leaks", "near_duplicates"]

_NEAR_BITS = 6
"""Pictures whose 64-bit hashes differ by so few bits are compared."""
_SAME = 0.9
"""Correlation from which two pictures are the same photograph: of FER2013's pairs, 19 of
the 24 closest above it were and 24 of 24 others above; one of 8 between 0.80 and 0.85."""
_COARSE = 24  # side at which pictures are compared: free of JPEG noise and of a pixel's shift
_HASH_SIDE = 8
_BANDS = 4
_BLOCK = 512  # rows compared with all before them at once: under 100 MB for 36,000


def hashes(images_NHW: U8) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each picture's coarse gradients (dHash).

    Source: Krawetz 2013, "Kind of like that", hackerfactor.com.
    """
    out = np.zeros(len(images_NHW), np.uint64)
    weights = np.uint64(1) << np.arange(_HASH_SIDE * _HASH_SIDE, dtype=np.uint64)
    for i, image in enumerate(images_NHW):
        small = cv2.resize(image, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA)
        rises = (small[:, 1:] > small[:, :-1]).ravel()
        out[i] = (weights * rises.astype(np.uint64)).sum(dtype=np.uint64)
    return out


def near_duplicates(images_NHW: U8) -> list[tuple[int, int]]:
    """Return the pairs of rows that show the same photograph, first row first.

    Only rows whose hashes share one of four bands of 16 bits are compared: that finds every pair
    of hashes within three bits and most within six. What is close is confirmed by correlation.
    """
    near = np.array(_candidates(hashes(images_NHW)), np.int64).reshape(-1, 2)
    flat = _coarse(images_NHW)
    same = (flat[near[:, 0]] * flat[near[:, 1]]).sum(axis=1) >= _SAME
    return [(int(a), int(b)) for a, b in near[same]]


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


def _candidates(hashes_N: NDArray[np.uint64]) -> list[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        key = (hashes_N >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable")
        bounds = np.flatnonzero(np.diff(key[order])) + 1
        for rows in np.split(order, bounds):
            if len(rows) > 1:
                found.update(_close(rows, hashes_N))
    return sorted(found)


def _close(rows: NDArray[np.int64], hashes_N: NDArray[np.uint64]) -> set[tuple[int, int]]:
    pairs: set[tuple[int, int]] = set()
    for place, row in enumerate(rows[:-1]):
        others = rows[place + 1 :]
        bits = np.bitwise_count(hashes_N[others] ^ hashes_N[row])
        pairs.update(
            (min(int(row), int(o)), max(int(row), int(o))) for o in others[bits <= _NEAR_BITS]
        )
    return pairs
