"""The cache: one uncompressed archive a face set, with the sha256 of what it was made from.

Landmarks are found once, by a detector that is passed in, on an enlarged and padded copy of each
picture, so that training can cut its crops with ``streamer.preprocess`` just as the daemon does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer import preprocess
from streamer.errors import ConfigError
from training.data.archive import read_arrays
from training.data.faces import FaceSet
from training.data.hashes import hashes_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.stages import Detector
    from streamer.types import F32, U8

__all__ = ["Cached", "find_landmarks", "load", "recut", "recut_matrix", "save"]

_ENLARGE = 4
"""YuNet finds 93 % of FER2013's faces at four times their size and 85 % at twice (measured)."""
_PAD = 0.25
"""Share of the picture repeated round it: the detector was trained on faces with surroundings."""
_ZOOM = (0.6, 1.7)
"""A re-cut that would zoom by less or more comes from wrong landmarks (FER2013's eye distances
span 0.25 to 0.49 of the side, so right ones need 0.75 to 1.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """A face set as read from the cache, and the hashes of what it was made from."""

    faces: FaceSet
    sources: dict[str, str]


def save(path: Path, faces: FaceSet, sources: list[Path]) -> None:
    """Write a face set and the sha256 of each source, a file or a folder, atomically."""
    hashes = hashes_of(sources, besides=path)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {field.name: getattr(faces, field.name) for field in fields(faces)}
    with part.open("wb") as file:
        np.savez(file, sources=np.array(json.dumps(hashes)), **arrays)
    part.replace(path)


def load(path: Path) -> Cached:
    """Read a face set back.

    Raises:
        ConfigError: when the file is not one that ``save`` wrote.
    """
    names = tuple(field.name for field in fields(FaceSet))
    advice = "make it with `streamer-train data`"
    arrays = read_arrays(path, (*names, "sources"), advice)
    try:
        faces = FaceSet(**{name: arrays[name] for name in names})
        return Cached(faces=faces, sources=json.loads(str(arrays["sources"])))
    except ValueError as error:
        raise ConfigError(f"{path}: not a face cache: {error}; {advice}") from None


def find_landmarks(
    faces: FaceSet, detector: Detector, progress: Callable[[int], None] = lambda _: None
) -> FaceSet:
    """Find the eyes of every picture that has none yet.

    Args:
        faces: any set.
        detector: the daemon's own, or any other.
        progress: told the number of pictures done.

    Returns:
        The same set with ``eyes_N22`` and ``boxes_N4`` filled in where a face was found.
    """
    eyes, boxes = faces.eyes_N22.copy(), faces.boxes_N4.copy()
    for i in range(len(faces)):
        if not np.isfinite(eyes[i]).all():
            found = _landmarks(faces.images_NHW[i], detector)
            if found is not None:
                eyes[i], boxes[i] = found
        progress(i + 1)
    return faces.with_landmarks(eyes, boxes)


def _landmarks(image_HW: U8, detector: Detector) -> tuple[F32, F32] | None:
    pad = int(_PAD * image_HW.shape[0]) * _ENLARGE
    big = cv2.resize(image_HW, None, fx=_ENLARGE, fy=_ENLARGE, interpolation=cv2.INTER_CUBIC)
    big = cv2.copyMakeBorder(big, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    found = detector.detect(np.asarray(big, np.uint8))
    if len(found) == 0:
        return None
    # Pixel centres: small = (big + 0.5) / enlargement - 0.5
    eyes = (found.eyes_N22[0] - pad + 0.5) / _ENLARGE - 0.5
    box = (found.boxes_N4[0] - pad + 0.5) / _ENLARGE - 0.5
    return eyes.astype(np.float32), box.astype(np.float32)


def recut_matrix(eyes_22: F32, box_4: F32, size_px: int) -> np.ndarray | None:
    """Return ``preprocess.align``'s 2x3 matrix, or None where the landmarks cannot be trusted."""
    if not (np.isfinite(eyes_22).all() and np.isfinite(box_4).all()):
        return None
    matrix = preprocess.align(eyes_22, box_4, size_px)
    zoom = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    return matrix if _ZOOM[0] <= zoom <= _ZOOM[1] else None


def recut(faces: FaceSet) -> tuple[U8, np.ndarray]:
    """Cut every face as the daemon would.

    Returns:
        images_NHW: uint8; the raw picture where no eyes were found.
        found_N: bool, where the crop is a new one.
    """
    out = faces.images_NHW.copy()
    found = np.zeros(len(faces), np.bool_)
    size = out.shape[1]
    for i in range(len(faces)):
        eyes, box = faces.eyes_N22[i], faces.boxes_N4[i]
        if recut_matrix(eyes, box, size) is not None:
            out[i] = preprocess.crop(faces.images_NHW[i], eyes, box, size)
            found[i] = True
    return out, found
