"""Importers of the packed archives: FER2013 with FER+ votes, and CK+ at 48 x 48."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.data.archive import read_arrays
from training.data.faces import CLASSES, MISSING, FaceSet

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["CKPLUS_NAMES", "FER2013_NAMES", "read_ckplus48", "read_ferplus", "second_labels"]

FER2013_NAMES = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
}
"""FER2013's words for the classes, in the order of its label numbers."""
CKPLUS_NAMES = {**FER2013_NAMES, "sadness": "sadness", "anger": "anger", "contempt": "contempt"}
_ADVICE = "name the packed archive"
_FERPLUS = ("images", "name", "split", "ferplus_votes", "fer2013_label", "dup_group")
_SUBJECT = 4  # CK+ file names begin with the subject: S010_004_00000017.png


def second_labels(numbers_N: NDArray[np.integer]) -> NDArray[np.int64]:
    """Turn FER2013's label numbers into indices of ``CLASSES``."""
    table = np.array([CLASSES.index(name) for name in FER2013_NAMES.values()], np.int64)
    return np.asarray(table[numbers_N], np.int64)


def read_ferplus(path: Path) -> FaceSet:
    """Read the packed FER2013 with FER+ votes, in FER2013's official splits.

    Raises:
        ConfigError: when the file is missing or lacks an array.
    """
    arrays = read_arrays(
        path, ("images", "name", "split", "ferplus_votes", "fer2013_label", "dup_group"), _ADVICE
    )
    votes = arrays["ferplus_votes"].astype(np.float32)
    n, k = len(votes), len(CLASSES)
    return FaceSet(
        images_NHW=arrays["images"],
        votes_NK=np.ascontiguousarray(votes[:, :k]),
        other_N=votes[:, k:].sum(axis=1),
        second_N=second_labels(arrays["fer2013_label"]),
        split_N=arrays["split"].astype(np.str_),
        group_N=arrays["dup_group"].astype(np.str_),
        name_N=arrays["name"].astype(np.str_),
        leak_N=arrays["eval_leaks_train"]
        if "eval_leaks_train" in arrays
        else np.zeros(n, np.bool_),
        eyes_N22=np.full((n, 2, 2), np.nan, np.float32),
        boxes_N4=np.full((n, 4), np.nan, np.float32),
    )


def read_ckplus48(path: Path) -> FaceSet:
    """Read the packed CK+ apex frames; all of them are test, grouped by subject.

    Raises:
        ConfigError: when the file is missing or lacks an array.
    """
    arrays = read_arrays(path, ("images", "name", "label"), _ADVICE)
    labels = np.array([CLASSES.index(CKPLUS_NAMES.get(v, v)) for v in arrays["label"]], np.int64)
    names = arrays["name"].astype(np.str_)
    n = len(names)
    return FaceSet(
        images_NHW=arrays["images"],
        votes_NK=np.eye(len(CLASSES), dtype=np.float32)[labels],
        other_N=np.zeros(n, np.float32),
        second_N=np.full(n, MISSING, np.int64),
        split_N=np.full(n, "test", dtype="<U5"),
        group_N=np.array([name[:_SUBJECT] for name in names], np.str_),
        name_N=names,
        leak_N=np.zeros(n, np.bool_),
        eyes_N22=np.full((n, 2, 2), np.nan, np.float32),
        boxes_N4=np.full((n, 4), np.nan, np.float32),
    )
