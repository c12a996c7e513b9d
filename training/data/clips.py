"""Real sequences: a clip a row, from CK+'s zip or folder of frames, cropped as the daemon crops.

Legend: N frames of all clips, M clips, T steps, H W pixels, K classes.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer import preprocess
from streamer.errors import ConfigError
from training.data.archive import read_arrays
from training.data.faces import CLASSES
from training.data.hashes import hashes_of
from training.data.table import rows_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.stages import Detector
    from streamer.types import I64, U8

__all__ = ["ClipSet", "Sequence", "Store", "crop_of", "cut_clips", "read_ckplus_sequences"]

_INDEX = "index.csv"
_COLUMNS = ("sequence", "subject", "label")
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)
"""What a zip's member that is broken, enciphered or packed in an unknown way is refused with."""
_FRAME_S = 1.0 / 30.0
"""CK+ was recorded at 30 frames a second (Lucey 2010)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSet:
    """Labelled clips, each from neutral to the apex of one expression.

    Attributes:
        crops_NHW: uint8, the frames of all clips one after the other.
        starts_M: index of each clip's first frame; a clip ends where the next begins.
        labels_M: class index of each clip, int64.
        subjects_M: who is seen.
        names_M: the clip's name in its corpus.
        step_s: seconds between two frames.
        sources: sha256 of the files it was made from.
    """

    crops_NHW: U8
    starts_M: I64
    labels_M: I64
    subjects_M: NDArray[np.str_]
    names_M: NDArray[np.str_]
    step_s: float
    sources: dict[str, str]

    def __len__(self) -> int:
        return len(self.starts_M)

    def spans(self) -> Iterator[slice]:
        """Return each clip's place among the frames."""
        ends = np.append(self.starts_M[1:], len(self.crops_NHW))
        for start, end in zip(self.starts_M, ends, strict=True):
            yield slice(int(start), int(end))

    def without(self, subject: str) -> ClipSet:
        """Return the clips of everybody else, of whom there must be somebody."""
        kept = [i for i, s in enumerate(self.subjects_M) if s != subject]
        spans = list(self.spans())
        crops = [self.crops_NHW[spans[i]] for i in kept]
        lengths = [len(c) for c in crops]
        return ClipSet(
            crops_NHW=np.concatenate(crops),
            starts_M=np.cumsum([0, *lengths[:-1]]).astype(np.int64),
            labels_M=self.labels_M[kept],
            subjects_M=self.subjects_M[kept],
            names_M=self.names_M[kept],
            step_s=self.step_s,
            sources=self.sources,
        )

    def save(self, path: Path) -> None:
        """Write an archive, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.savez(
                file,
                crops=self.crops_NHW,
                starts=self.starts_M,
                labels=self.labels_M,
                subjects=self.subjects_M,
                names=self.names_M,
                step_s=np.float64(self.step_s),
                sources=np.array(json.dumps(self.sources)),
            )
        part.replace(path)

    @staticmethod
    def load(path: Path) -> ClipSet:
        """Read what ``save`` wrote.

        Raises:
            ConfigError: when the file is anything else.
        """
        names = ("crops", "starts", "labels", "subjects", "names", "step_s", "sources")
        arrays = read_arrays(path, names, "make it with `streamer-train data`")
        return ClipSet(
            crops_NHW=arrays["crops"],
            starts_M=arrays["starts"],
            labels_M=arrays["labels"],
            subjects_M=arrays["subjects"],
            names_M=arrays["names"],
            step_s=float(arrays["step_s"]),
            sources=json.loads(str(arrays["sources"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Frames that are a clip once they are cut.

    Attributes:
        name: in its corpus.
        subject: who is seen.
        label: class index.
        frames: the names of its pictures, in order.
    """

    name: str
    subject: str
    label: int
    frames: list[str]


class Store:
    """Files by name, from a folder or a zip alike.

    Attributes:
        path: of the folder or the zip.
        names: of all files, sorted, with slashes.

    Raises:
        ConfigError: when a file is no zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path) if path.is_file() else None
        except zipfile.BadZipFile as error:
            raise ConfigError(f"{path}: not a zip archive: {error}") from None
        names = self._zip.namelist() if self._zip else sorted(self._walk())
        self.names = sorted(n for n in names if not n.endswith("/"))

    def _walk(self) -> Iterator[str]:
        for file in self.path.rglob("*"):
            if file.is_file():
                yield file.relative_to(self.path).as_posix()

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            ConfigError: when it is not there or damaged.
        """
        try:
            return self._zip.read(name) if self._zip else (self.path / name).read_bytes()
        except (KeyError, OSError):
            raise ConfigError(f"{self.path}: holds no {name}") from None
        except _DAMAGED as error:
            raise ConfigError(
                f"{self.path}: {name} is damaged: {error}; fetch the archive again"
            ) from None


def read_ckplus_sequences(path: Path, detector: Detector, size_px: int = 48) -> ClipSet:
    """Read clips listed by an ``index.csv`` with the columns sequence, subject and label.

    Frames lie in ``frames/<label>/<sequence>/``. Each face is found and cut as the daemon does it;
    a frame without a face is left out, as the daemon would leave it out.

    Args:
        path: a zip archive or a folder.
        detector: finds the face.
        size_px: side of the crops.

    Raises:
        ConfigError: when the index is missing, a label is unknown, or no face is found at all.
    """
    store = Store(path)
    sequences = []
    index = f"{path}: {_INDEX}"
    table = io.TextIOWrapper(io.BytesIO(store.read(_INDEX)), encoding="utf-8-sig", newline="")
    for line, row in rows_in(table, index, _COLUMNS):
        if row["label"] not in CLASSES:
            label = f"label {row['label']!r}"
            raise ConfigError(f"{index}: line {line}: {label} is none of {', '.join(CLASSES)}")
        prefix = f"frames/{row['label']}/{row['sequence']}/"
        sequences.append(
            Sequence(
                name=row["sequence"],
                subject=row["subject"],
                label=CLASSES.index(row["label"]),
                frames=[name for name in store.names if name.startswith(prefix)],
            )
        )
    return cut_clips(store, sequences, detector, size_px)


def cut_clips(
    store: Store,
    sequences: list[Sequence],
    detector: Detector,
    size_px: int,
) -> ClipSet:
    """Cut the face out of every frame; what shows none, a frame or a sequence, is left out.

    Args:
        store: holds the frames.
        sequences: of CK+'s rate.
        detector: finds the face.
        size_px: side of the crops.

    Raises:
        ConfigError: when no face is found at all.
    """
    crops: list[U8] = []
    starts: list[int] = []
    kept: list[Sequence] = []
    for sequence in sequences:
        found = (crop_of(store.read(name), detector, size_px) for name in sequence.frames)
        clip = [crop for crop in found if crop is not None]
        if clip:
            kept.append(sequence)
            starts.append(len(crops))
            crops.extend(clip)
    if not crops:
        raise ConfigError(f"{store.path}: no face was found in any of {len(sequences)} sequences")
    return ClipSet(
        crops_NHW=np.stack(crops),
        starts_M=np.array(starts, np.int64),
        labels_M=np.array([s.label for s in kept], np.int64),
        subjects_M=np.array([s.subject for s in kept], np.str_),
        names_M=np.array([s.name for s in kept], np.str_),
        step_s=_FRAME_S,
        sources=hashes_of([store.path]),
    )


def crop_of(coded: bytes, detector: Detector, size_px: int) -> U8 | None:
    """Decode a picture and cut its face as the daemon does; None where none is found."""
    picture = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        return None
    luma = np.asarray(picture, np.uint8)
    found = detector.detect(luma)
    if len(found) == 0:
        return None
    return preprocess.crop(luma, found.eyes_N22[0], found.boxes_N4[0], size_px)
