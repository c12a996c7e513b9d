"""Importers by the name a person gives on the command line, and the one way to make a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.errors import ConfigError
from training.data import cache
from training.data.ckplus import read_ckplus, read_ckplus_clips
from training.data.clips import ClipSet
from training.data.corpora import read_affectnet, read_expw, read_rafdb
from training.data.duplicates import mark_leaks
from training.data.fer2013 import read_fer2013_with_votes, read_ferplus_folder, votes_beside
from training.data.folders import read_folders, read_unlabelled
from training.data.packed import read_ckplus48, read_ferplus
from training.data.videos import read_video_clips, read_videos, videos_of
from training.outputs import file_place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.stages import Detector
    from training.data.faces import FaceSet

__all__ = ["FORMATS", "Made", "make_cache"]

FORMATS = {
    "ferplus-packed": "one .npz with FER2013's pictures and FER+'s votes",
    "ckplus-packed": "one .npz with CK+'s apex frames at 48 x 48",
    "fer2013": "fer2013.csv, and fer2013new.csv beside it where it is there",
    "ferplus-folder": "FER2013Train, FER2013Valid, FER2013Test with label.csv and pictures",
    "rafdb": "RAF-DB: EmoLabel/list_patition_label.txt and Image/aligned",
    "affectnet": "AffectNet: training.csv and validation.csv, or train_set and val_set",
    "expw": "ExpW: label.lst and the pictures in origin",
    "folders": "a folder a class, with or without train, val and test above",
    "unlabelled": "pictures of faces in any folders, to be learned from by `distill --unlabelled`",
    "videos": "a CSV of video, start_s, end_s, label (subject, split); faces, ten a second",
    "ckplus": "CK+: Emotion and cohn-kanade-images; the last three frames as test pictures",
    "ckplus-clips": "CK+'s sequences, or index.csv and frames/<label>/<sequence>/, as clips",
    "video-clips": "the same CSV as videos; each line a clip",
}
"""What can be imported, in words for a person."""
_PICTURES: dict[str, Callable[[Path], FaceSet]] = {
    "ferplus-packed": read_ferplus,
    "ckplus-packed": read_ckplus48,
    "fer2013": read_fer2013_with_votes,
    "ferplus-folder": read_ferplus_folder,
    "rafdb": read_rafdb,
    "affectnet": read_affectnet,
    "expw": read_expw,
    "folders": read_folders,
    "unlabelled": read_unlabelled,
}
"""Pictures of one face each."""
_DETECTED: dict[str, Callable[[Path, Detector], ClipSet | FaceSet]] = {
    "ckplus": read_ckplus,
    "ckplus-clips": read_ckplus_clips,
    "videos": read_videos,
    "video-clips": read_video_clips,
}
"""Whole frames, in which a face has to be found first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What an import wrote.

    Attributes:
        rows: pictures, or clips.
        groups: what no split may cut: people, videos, or sets of equal pictures.
        leaks: pictures marked as another split's, beside those that the corpus itself marks.
    """

    rows: int
    groups: int
    leaks: int


def make_cache(
    kind: str,
    source: Path,
    out: Path,
    detector: Detector | None,
    progress: Callable[[int], None] = lambda _: None,
    *,
    near: bool = True,
) -> Made:
    """Import a corpus and write its cache.

    Args:
        kind: a key of ``FORMATS``.
        source: the corpus.
        out: the cache.
        detector: finds the eyes, so that crops can be cut as the daemon cuts them; None: the
            corpus' own framing is all there is.
        progress: told the number of pictures whose eyes were looked for.
        near: mark pictures that look like one of another split as leaks, not equal ones alone.

    Returns:
        What the cache holds.

    Raises:
        ConfigError: when the kind is unknown, the corpus is not of that kind, or the cache cannot
            be written there.
    """
    if kind not in FORMATS:
        formats = "; ".join(f"{name}: {words}" for name, words in FORMATS.items())
        raise ConfigError(f"format {kind!r} is not known; choose one of {formats}")
    file_place(out)
    if kind in _DETECTED:
        if detector is None:
            raise ConfigError(f"{kind} needs a face detector; name one with --detector")
        read = _DETECTED[kind](source, detector)
        if isinstance(read, ClipSet):
            read.save(out)
            return Made(rows=len(read), groups=len(set(read.subjects_M.tolist())), leaks=0)
        faces = read
    else:
        faces = _PICTURES[kind](source)
    known = int(faces.leak_N.sum())
    faces = mark_leaks(faces, near=near)
    if detector is not None:
        faces = cache.find_landmarks(faces, detector, progress)
    cache.save(out, faces, _files(kind, source))
    return Made(
        rows=len(faces),
        groups=len(set(faces.group_N.tolist())),
        leaks=int(faces.leak_N.sum()) - known,
    )


def _files(kind: str, source: Path) -> list[Path]:
    """Return what a corpus was read from, beside the source itself."""
    if kind == "fer2013":
        return [source, votes_beside(source)]
    if kind == "videos":
        return [source, *videos_of(source)]
    return [source]
