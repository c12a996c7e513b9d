"""Files that are broken, no video, or something else altogether: each ends with its reason."""

from __future__ import annotations

import socket
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceReason
from streamer.source import CaptureOptions
from tests.clips import failure, make, opened, read_all, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.source import DiscardReason


def test_broken_packets_are_passed_over(tmp_path: Path) -> None:
    """A stream damaged in the middle goes on behind the damage, and the loss is counted."""
    clip = make(tmp_path / "a.avi", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p")
    data = bytearray(clip.read_bytes())
    third = data.find(b"\xff\xd8", data.find(b"\xff\xd8", data.find(b"\xff\xd8") + 2) + 2)
    data[third : third + 400] = bytes(400)  # one frame without its headers
    clip.write_bytes(data)
    discarded: list[DiscardReason] = []
    source = open_source(
        CaptureOptions(camera="a", url=str(clip), realtime=False),
        SystemClock(),
        on_discard=discarded.append,
    )
    frames, end = read_all(source)
    assert len(frames) == 24
    assert len(discarded) == 1
    assert end.reason is SourceReason.ENDED


def test_a_stream_of_garbage_ends(tmp_path: Path) -> None:
    """Packets that never decode end in an error after fifty of them, not in a silent loop."""
    clip = tmp_path / "a.mkv"
    rng = np.random.default_rng(1)
    with av.open(str(clip), "w") as target:
        stream = target.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.time_base = Fraction(1, 25)
        for n in range(80):
            packet = av.Packet(rng.integers(0, 256, 500, dtype=np.uint8).tobytes())
            packet.pts = packet.dts = n
            packet.time_base = Fraction(1, 25)
            packet.stream = stream
            target.mux(packet)
    assert failure(clip).reason is SourceReason.DECODE_ERROR


def test_a_truncated_file_gives_what_it_has(tmp_path: Path) -> None:
    """Half an MKV gives about half its frames and ends; half an MP4 cannot be read at all."""
    whole = make(tmp_path / "a.mkv", "-pix_fmt", "yuv420p", "-g", "10")
    half = tmp_path / "half.mkv"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames, end = read_all(opened(half))
    assert 3 < len(frames) < 25
    assert end.reason is SourceReason.ENDED
    whole = make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p")
    half = tmp_path / "half.mp4"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert failure(half).reason is SourceReason.DECODE_ERROR


@pytest.mark.parametrize("size", [0, 1, 100, 100_000])
def test_any_bytes_give_an_error(tmp_path: Path, size: int) -> None:
    """A file of noise is refused as no video."""
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes())
    assert failure(noise).reason in {SourceReason.DECODE_ERROR, SourceReason.NO_VIDEO}


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    """A sound file says that there is no video in it."""
    sound = make(tmp_path / "a.wav", source="sine=duration=0.2")
    assert failure(sound).reason is SourceReason.NO_VIDEO


def test_a_playlist_reaches_nothing_else(tmp_path: Path) -> None:
    """A local playlist cannot make the daemon fetch an address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)  # noqa: FBT003 -- the signature of sockets
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
        playlist = tmp_path / "a.m3u8"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{address}\n")
        assert failure(playlist).reason is not SourceReason.ENDED
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_device_that_is_no_camera_is_refused() -> None:
    """A character device that is no video device is told from a missing one."""
    error = refusal("/dev/null")
    assert error.reason is SourceReason.NOT_FOUND
    assert "not a video device" in str(error)
