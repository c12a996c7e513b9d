"""A clip that was cut without encoding it again: its first keyframe is decoded but never shown."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceError, SourceReason
from streamer.source import CaptureOptions

if TYPE_CHECKING:
    from pathlib import Path


def test_a_clip_without_a_visible_keyframe_is_read(tmp_path: Path) -> None:
    """The edit list hides the pictures before the cut; those after it are clean."""
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    ffmpeg = ("ffmpeg", "-v", "error")
    source = ("-f", "lavfi", "-i", "testsrc=size=320x240:rate=25:duration=4")
    encode = ("-c:v", "libx264", "-g", "250", "-pix_fmt", "yuv420p")
    subprocess.run([*ffmpeg, *source, *encode, whole], check=True)
    subprocess.run([*ffmpeg, "-ss", "1", "-i", whole, "-c", "copy", cut], check=True)
    options = CaptureOptions(camera="a", url=str(cut), realtime=False)
    frames = 0
    opened = open_source(options, SystemClock(), interrupt=threading.Event())
    with pytest.raises(SourceError) as caught:  # noqa: PT012 the end comes after the frames
        while True:
            opened.read()
            frames += 1
    opened.close()
    assert caught.value.reason is SourceReason.ENDED
    assert frames == pytest.approx(75, abs=2)
