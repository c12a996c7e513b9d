"""Clips made by FFmpeg, and short ways to open and to read them, from a file or an address."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceError
from streamer.source import CaptureOptions

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.capture import MediaSource
    from streamer.types import Frame

__all__ = [
    "camera_clip",
    "failure",
    "ffmpeg",
    "make",
    "open_url",
    "opened",
    "read",
    "read_all",
    "refusal",
]


def ffmpeg(*arguments: str) -> None:
    """Run the ffmpeg program, which must succeed."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True, timeout=60)


def make(path: Path, *output: str, source: str = "testsrc=size=320x240:rate=25:duration=1") -> Path:
    """Write a clip with FFmpeg's test picture."""
    ffmpeg("-f", "lavfi", "-i", source, *output, str(path))
    return path


def camera_clip(path: Path) -> Path:
    """Write four seconds as a camera sends them: a keyframe a second, no B-frames."""
    x264 = ("-c:v", "libx264", "-bf", "0", "-g", "25", "-pix_fmt", "yuv420p")
    return make(path, *x264, source="testsrc=size=320x240:rate=25:duration=4")


def open_url(url: str, **options: Any) -> MediaSource:
    """Open an address; the options are those of ``CaptureOptions``."""
    return open_source(CaptureOptions(camera="a", url=url, **options), SystemClock())


def opened(path: Path, **options: bool) -> MediaSource:
    """Open a file, unpaced unless told otherwise."""
    return open_url(str(path), **{"realtime": False, **options})


def read(source: MediaSource, count: int) -> list[Frame]:
    """Read some frames and close."""
    frames = [source.read() for _ in range(count)]
    source.close()
    return frames


def read_all(source: MediaSource) -> tuple[list[Frame], SourceError]:
    """Read to the end; return the frames and how it ended."""
    frames = []
    while True:
        try:
            frames.append(source.read())
        except SourceError as error:
            source.close()
            return frames, error


def failure(path: Path) -> SourceError:
    """Return the error that opening or reading a file ends with."""
    try:
        source = opened(path)
    except SourceError as error:
        return error
    return read_all(source)[1]


def refusal(url: str, **options: Any) -> SourceError:
    """Return how the opening of an address fails."""
    with pytest.raises(SourceError) as caught:
        open_url(url, **options)
    return caught.value
