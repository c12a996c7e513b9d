"""Importer of CK+ as its makers hand it out: ``Emotion`` beside ``cohn-kanade-images``.

Both hold a folder a subject and in it one a sequence; a sequence that has a label has one file in
``Emotion`` with a number. Frames go from neutral to the apex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError
from training.data.clips import (
    ClipSet,
    Sequence,
    Store,
    crop_of,
    cut_clips,
    read_ckplus_sequences,
)
from training.data.faces import CLASSES, FaceSet

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.stages import Detector
    from streamer.types import U8

__all__ = ["read_ckplus", "read_ckplus_clips"]

_LABELS = (
    "neutral",
    "anger",
    "contempt",
    "disgust",
    "fear",
    "happiness",
    "sadness",
    "surprise",
)
"""In the order of its numbers, from 0 (Lucey et al. 2010, section 2.3)."""
_NOTE = "_emotion.txt"
_APEX = 3  # last frames that show the expression, as CK+'s users take them


def read_ckplus(path: Path, detector: Detector, *, size_px: int = 48) -> FaceSet:
    """Read the last three frames of each labelled sequence, cut as the daemon cuts them.

    All are test pictures, in groups of their subject: CK+ is for measuring, not for training.

    Args:
        path: the folder or zip that holds ``Emotion`` and ``cohn-kanade-images``.
        detector: finds the face; a frame without one is left out.
        size_px: side of the crops.

    Raises:
        ConfigError: when the layout is another, a label is none, or no face is found at all.
    """
    store = Store(path)
    images: list[U8] = []
    labels: list[int] = []
    groups: list[str] = []
    names: list[str] = []
    for sequence in _sequences(path, store):
        for frame in sequence.frames[-_APEX:]:
            crop = crop_of(store.read(frame), detector, size_px)
            if crop is not None:
                images.append(crop)
                labels.append(sequence.label)
                groups.append(sequence.subject)
                names.append(frame.rpartition("/")[2])
    if not images:
        raise ConfigError(f"{path}: no face was found in any sequence")
    split = np.full(len(images), "test", dtype="<U5")
    faces = FaceSet.of(np.stack(images), np.array(labels, np.int64), split)
    return faces.named(np.array(names, np.str_), np.array(groups, np.str_))


def read_ckplus_clips(path: Path, detector: Detector, *, size_px: int = 48) -> ClipSet:
    """Read whole sequences as clips; also those listed by an ``index.csv``.

    The arguments and the errors are those of ``read_ckplus``.
    """
    store = Store(path)
    if "index.csv" in store.names:
        return read_ckplus_sequences(path, detector, size_px)
    return cut_clips(store, _sequences(path, store), detector, size_px)


def _sequences(path: Path, store: Store) -> list[Sequence]:
    notes = [name for name in store.names if name.endswith(_NOTE)]
    if not notes:
        raise ConfigError(
            f"{path}: holds neither index.csv nor Emotion/…{_NOTE}; name the folder that holds "
            "Emotion and cohn-kanade-images"
        )
    frames: dict[str, list[str]] = {}
    for name in store.names:
        *_, subject, number, file = ("", "", *name.split("/"))
        if file.lower().endswith(".png") and "cohn-kanade-images/" in name:
            frames.setdefault(f"{subject}_{number}", []).append(name)
    out = []
    for note in notes:
        *_, subject, number, _ = ("", "", *note.split("/"))
        name = f"{subject}_{number}"
        if name not in frames:
            raise ConfigError(f"{path}: cohn-kanade-images holds no {subject}/{number} for {note}")
        out.append(
            Sequence(
                name=name,
                subject=subject,
                label=_label(path, note, store.read(note)),
                frames=sorted(frames[name]),
            )
        )
    return out


def _label(path: Path, note: str, content: bytes) -> int:
    """Read what looks like `` 3.0000000e+00``."""
    try:
        number = float(content.decode("ascii").strip())
    except (UnicodeDecodeError, ValueError):
        raise ConfigError(f"{path}: {note}: not a label") from None
    if number not in range(len(_LABELS)):
        raise ConfigError(f"{path}: {note}: label {number:g}, expected 0 to {len(_LABELS) - 1}")
    return CLASSES.index(_LABELS[int(number)])
