"""A stream in a pixel format that cannot be read is a fault of that camera, with its reason."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceError, SourceReason
from streamer.source import CaptureOptions

if TYPE_CHECKING:
    from pathlib import Path


def test_pictures_that_cannot_be_read_are_a_typed_error(tmp_path: Path) -> None:
    """FFmpeg decodes this format and cannot convert it; the error does not leave the source."""
    clip = tmp_path / "odd.nut"
    source = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=1")
    encode = ("-c:v", "rawvideo", "-pix_fmt", "bgr4")
    subprocess.run(["ffmpeg", "-v", "error", *source, *encode, clip], check=True)
    opened = open_source(CaptureOptions(camera="a", url=str(clip)), SystemClock())
    with pytest.raises(SourceError, match="bgr4 cannot be read") as caught:
        opened.read()
    opened.close()
    assert caught.value.reason is SourceReason.CODEC_UNSUPPORTED
