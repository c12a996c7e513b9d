"""Importers by the name a person gives on the command line, and the one way to make a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.errors import ConfigError
from training.data import cache
from training.data.clips import read_ckplus_sequences
from training.data.fer2013 import read_fer2013, read_ferplus_folder
from training.data.folders import read_folders
from training.data.packed import read_ckplus48, read_ferplus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.stages import Detector
    from training.data.faces import FaceSet

__all__ = ["FORMATS", "make_cache"]

FORMATS = {
    "ferplus-packed": "one .npz with FER2013's pictures and FER+'s votes",
    "ckplus-packed": "one .npz with CK+'s apex frames at 48 x 48",
    "fer2013": "fer2013.csv, and fer2013new.csv beside it where it is there",
    "ferplus-folder": "FER2013Train, FER2013Valid, FER2013Test with label.csv and pictures",
    "folders": "a folder a class, with or without train, val and test above",
    "ckplus-clips": "index.csv and frames/<label>/<sequence>/, a folder or a zip",
}
"""What can be imported, in words for a person."""


def make_cache(
    kind: str,
    source: Path,
    out: Path,
    detector: Detector | None,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Import a corpus and write its cache.

    Args:
        kind: a key of ``FORMATS``.
        source: the corpus.
        out: the cache.
        detector: finds the eyes, so that crops can be cut as the daemon cuts them; None: the
            corpus' own framing is all there is.
        progress: told the number of pictures whose eyes were looked for.

    Returns:
        The number of pictures, or of clips.

    Raises:
        ConfigError: when the kind is unknown or the corpus is not of that kind.
    """
    if kind == "ckplus-clips":
        if detector is None:
            raise ConfigError("ckplus-clips needs a face detector; name one with --detector")
        clips = read_ckplus_sequences(source, detector)
        clips.save(out)
        return len(clips)
    faces = _read(kind, source)
    if detector is not None:
        faces = cache.find_landmarks(faces, detector, progress)
    cache.save(out, faces, [source] if source.is_file() else [])
    return len(faces)


def _read(kind: str, source: Path) -> FaceSet:
    match kind:
        case "ferplus-packed":
            return read_ferplus(source)
        case "ckplus-packed":
            return read_ckplus48(source)
        case "fer2013":
            votes = source.with_name("fer2013new.csv")
            return read_fer2013(source, votes if votes.is_file() else None)
        case "ferplus-folder":
            return read_ferplus_folder(source)
        case "folders":
            return read_folders(source)
        case _:
            known = "; ".join(f"{name}: {words}" for name, words in FORMATS.items())
            raise ConfigError(f"format {kind!r} is not known; choose one of {known}")
