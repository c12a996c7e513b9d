"""Look into a face set before training on it: counts, duplicates, doubts, coverage.

Legend: N faces, H W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from training.data.faces import CLASSES, SPLITS
from training.data.labels import majority

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.types import F32, U8
    from training.data.faces import FaceSet

__all__ = ["Audit", "Poses", "Spread", "audit", "doubtful", "hashes", "near_duplicates"]

_NEAR_BITS = 6
"""Pictures whose 64-bit hashes differ by so few bits are compared."""
_SAME = 0.9
"""Correlation from which two pictures are the same photograph: of FER2013's pairs looked at, all 32
above were, and one of 8 between 0.80 and 0.85."""
_COARSE = 24  # side at which pictures are compared: free of JPEG noise and of a pixel's shift
_HASH_SIDE = 8
_BANDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a property is distributed over the pictures: five percentiles."""

    p5: float
    p25: float
    p50: float
    p75: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Poses:
    """How the faces lie in their pictures.

    Attributes:
        eyes_found: share of pictures whose eyes are known.
        eye_distance: as a share of the picture's side.
        roll_deg: tilt of the line through the eyes.
        turn: from the eyes' middle to the box's middle, in box widths; grows with the yaw.
    """

    eyes_found: float
    eye_distance: Spread
    roll_deg: Spread
    turn: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What is known about a set.

    Attributes:
        faces: how many.
        counts: pictures a split and a class, by the majority of votes.
        imbalance: largest class over smallest, a split.
        clear: share of pictures on which over half of the voters agree, a split.
        agreement: share of clear pictures whose second label agrees, a class.
        exact_duplicates: pictures equal to an earlier one.
        near_pairs: pairs that look the same, within a split and across two.
        leaks_marked: evaluation pictures marked as being in train.
        brightness, contrast, sharpness: mean and deviation of pixels; variance of the Laplacian.
        poses: None where no eyes are known.
    """

    faces: int
    counts: dict[str, dict[str, int]]
    imbalance: dict[str, float]
    clear: dict[str, float]
    agreement: dict[str, float]
    exact_duplicates: int
    near_pairs: dict[str, int]
    leaks_marked: int
    brightness: Spread
    contrast: Spread
    sharpness: Spread
    poses: Poses | None


def audit(faces: FaceSet) -> Audit:
    """Describe a set; a few seconds for 36,000 pictures."""
    labels, clear = majority(faces)
    counts: dict[str, dict[str, int]] = {}
    imbalance, clarity = {}, {}
    flat = faces.images_NHW.reshape(len(faces), -1)
    edges = np.array([cv2.Laplacian(image, cv2.CV_32F).var() for image in faces.images_NHW])
    for split in SPLITS:
        here = faces.split_N == split
        if not here.any():
            continue
        each = np.bincount(labels[here], minlength=len(CLASSES))
        counts[split] = {name: int(v) for name, v in zip(CLASSES, each, strict=True)}
        imbalance[split] = float(each.max() / max(1, each[each > 0].min()))
        clarity[split] = float(clear[here].mean())
    return Audit(
        faces=len(faces),
        counts=counts,
        imbalance=imbalance,
        clear=clarity,
        agreement=_agreement(faces, labels, clear),
        exact_duplicates=len(faces) - len({row.tobytes() for row in faces.images_NHW}),
        near_pairs=_pairs_by_split(faces),
        leaks_marked=int(faces.leak_N.sum()),
        brightness=_spread(flat.mean(axis=1)),
        contrast=_spread(flat.std(axis=1)),
        sharpness=_spread(edges),
        poses=_poses(faces),
    )


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
    side = (_COARSE, _COARSE)
    flat = np.stack(
        [cv2.resize(i, side, interpolation=cv2.INTER_AREA).ravel() for i in images_NHW]
    ).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6
    same = (flat[near[:, 0]] * flat[near[:, 1]]).sum(axis=1) >= _SAME
    return [(int(a), int(b)) for a, b in near[same]]


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


def doubtful(probabilities_NK: F32, labels_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the rows whose label is least credible to a model that did not train on them.

    Each probability is compared with the model's mean confidence in that class on rows so
    labelled, so that classes the model is shy of are not all called wrong.

    Args:
        probabilities_NK: out-of-fold predictions.
        labels_N: the labels in doubt.
        count: how many rows to return, most doubtful first.

    Source: Northcutt et al. 2021, "Confident Learning", arXiv 1911.00068, section 3.
    """
    k = probabilities_NK.shape[1]
    own = probabilities_NK[np.arange(len(labels_N)), labels_N]
    usual = np.array(
        [own[labels_N == c].mean() if (labels_N == c).any() else 1.0 for c in range(k)]
    )
    margin = (probabilities_NK - usual[None]).max(axis=1) - (own - usual[labels_N])
    return np.argsort(-margin, kind="stable")[:count]


def _agreement(
    faces: FaceSet, labels: NDArray[np.int64], clear: NDArray[np.bool_]
) -> dict[str, float]:
    out = {}
    for k, name in enumerate(CLASSES):
        rows = clear & (faces.second_N >= 0) & (labels == k)
        if rows.any():
            out[name] = float((faces.second_N[rows] == k).mean())
    return out


def _pairs_by_split(faces: FaceSet) -> dict[str, int]:
    out: dict[str, int] = {}
    for a, b in near_duplicates(faces.images_NHW):
        names = sorted((str(faces.split_N[a]), str(faces.split_N[b])))
        key = names[0] if names[0] == names[1] else "/".join(names)
        out[key] = out.get(key, 0) + 1
    return out


def _spread(values: NDArray[np.floating]) -> Spread:
    p5, p25, p50, p75, p95 = (float(v) for v in np.percentile(values, [5, 25, 50, 75, 95]))
    return Spread(p5=p5, p25=p25, p50=p50, p75=p75, p95=p95)


def _poses(faces: FaceSet) -> Poses | None:
    known = np.isfinite(faces.eyes_N22).all(axis=(1, 2)) & np.isfinite(faces.boxes_N4).all(axis=1)
    if not known.any():
        return None
    eyes, boxes = faces.eyes_N22[known], faces.boxes_N4[known]
    line = eyes[:, 1] - eyes[:, 0]
    width = np.maximum(boxes[:, 2] - boxes[:, 0], 1.0)
    off = np.abs(eyes[:, :, 0].mean(axis=1) - (boxes[:, 0] + boxes[:, 2]) / 2.0) / width
    return Poses(
        eyes_found=float(known.mean()),
        eye_distance=_spread(np.hypot(line[:, 0], line[:, 1]) / faces.images_NHW.shape[2]),
        roll_deg=_spread(np.degrees(np.arctan2(line[:, 1], line[:, 0]))),
        turn=_spread(off),
    )
