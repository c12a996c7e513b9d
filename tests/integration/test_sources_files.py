"""Files through FFmpeg: luma, pacing, loops, damage; expected values by OpenCV and by hand."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pytest

from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceError, SourceReason
from streamer.picture import luma_of
from streamer.source import CaptureOptions, Continuity

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.capture import MediaSource
    from streamer.source import DiscardReason
    from streamer.types import Frame


def ffmpeg(*arguments: str) -> None:
    """Run the ffmpeg program, which must succeed."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True, timeout=60)


def make(path: Path, *output: str, source: str = "testsrc=size=320x240:rate=25:duration=1") -> Path:
    """Write a clip with FFmpeg's test picture."""
    ffmpeg("-f", "lavfi", "-i", source, *output, str(path))
    return path


def opened(path: Path, **options: bool) -> MediaSource:
    """Open a file, unpaced unless told otherwise."""
    return open_source(
        CaptureOptions(camera="a", url=str(path), **{"realtime": False, **options}),  # type: ignore[arg-type]
        SystemClock(),
    )


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


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    """All 25 frames come, numbered, 40 ms apart, and then the file has ended."""
    source = opened(make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p"))
    assert (source.info.codec, source.info.width, source.info.height) == ("h264", 320, 240)
    assert source.info.declared_fps == 25
    assert source.info.regular_file
    assert not source.info.live
    frames, end = read_all(source)
    assert [frame.seq for frame in frames] == list(range(1, 26))
    media_s = np.array([frame.media_s for frame in frames])
    assert np.diff(media_s) == pytest.approx(0.04, abs=1e-4)
    captured_s = np.array([frame.captured_ns for frame in frames]) / 1e9
    assert np.diff(captured_s) == pytest.approx(0.04, abs=1e-4)
    assert {frame.clock for frame in frames} == {"pts"}
    assert end.reason is SourceReason.ENDED


def test_the_luma_is_the_decoders_own_memory(tmp_path: Path) -> None:
    """The picture shares memory with the decoder, is read-only, and outlives the source."""
    path = make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p")
    source = opened(path)
    frame = source.read()
    assert frame.luma_HW.base is not None
    assert not frame.luma_HW.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        frame.luma_HW[0, 0] = 1
    before_HW = frame.luma_HW.copy()
    read_all(source)
    assert np.array_equal(frame.luma_HW, before_HW)
    with av.open(str(path)) as container:
        expected_HW = next(container.decode(video=0)).to_ndarray(format="yuv420p")[:240]
    assert np.array_equal(before_HW, expected_HW)


def test_a_picture_can_be_had_in_colour(tmp_path: Path) -> None:
    """The colours are those OpenCV reads from the same file, within the rounding of converters."""
    path = make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p")
    source = opened(path)
    picture = source.read().picture
    source.close()
    assert picture is not None
    bgr = picture.bgr()
    assert bgr.shape == (240, 320, 3)
    assert bgr.dtype == np.uint8
    found, expected = cv2.VideoCapture(str(path)).read()
    assert found
    assert np.abs(bgr.astype(int) - expected.astype(int)).mean() < 2


@pytest.mark.parametrize(
    "pixels",
    ["yuv420p", "yuvj420p", "nv12", "gray", "yuyv422", "uyvy422", "rgb24", "yuv420p10le", "gbrp"],
)
def test_every_pixel_format_gives_a_grey_picture(pixels: str) -> None:
    """The same ramp is seen in any format: same shape, 8 bit, in the right order."""
    ramp_HW = np.tile(np.linspace(40, 200, 64).astype(np.uint8), (48, 1))
    grey = av.VideoFrame.from_ndarray(ramp_HW, format="gray")
    luma_HW = luma_of(grey.reformat(format=pixels))
    assert luma_HW.shape == (48, 64)
    assert luma_HW.dtype == np.uint8
    assert not luma_HW.flags.writeable
    # limited range squeezes 255 steps into 219 and lifts them by 16
    assert np.abs(luma_HW.astype(float) - ramp_HW).max() < 25
    assert np.corrcoef(luma_HW[0], ramp_HW[0])[0, 1] > 0.999


def test_odd_widths_are_cut_at_the_picture(tmp_path: Path) -> None:
    """The padding of the decoder's rows is not part of the picture."""
    path = make(
        tmp_path / "a.avi",
        "-c:v",
        "mjpeg",
        "-pix_fmt",
        "yuvj444p",
        source="testsrc=size=317x211:rate=25:duration=0.2",
    )
    source = opened(path)
    assert source.read().luma_HW.shape == (211, 317)
    source.close()


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    """Palette pictures are converted to grey."""
    frames, end = read_all(opened(make(tmp_path / "a.gif")))
    assert len(frames) == 25
    assert frames[0].luma_HW.shape == (240, 320)
    assert frames[0].luma_HW.std() > 30
    assert end.reason is SourceReason.ENDED


@pytest.mark.parametrize(
    ("turn", "shape"), [(90, (320, 240)), (180, (240, 320)), (270, (320, 240))]
)
def test_phone_videos_stand_upright(tmp_path: Path, turn: int, shape: tuple[int, int]) -> None:
    """A clip marked as turned is turned back, as OpenCV turns it, in grey and in colour alike."""
    flat = make(tmp_path / "flat.mp4", "-pix_fmt", "yuv420p")
    turned = tmp_path / "turned.mp4"
    with av.open(str(flat)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(turn)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    reader = opened(turned)
    frame = reader.read()
    reader.close()
    found, expected = cv2.VideoCapture(str(turned)).read()
    assert found
    assert frame.luma_HW.shape == expected.shape[:2] == shape
    grey_HW = cv2.cvtColor(expected, cv2.COLOR_BGR2GRAY)
    assert np.corrcoef(frame.luma_HW.ravel(), grey_HW.ravel())[0, 1] > 0.99
    assert frame.luma_HW.flags.c_contiguous
    assert frame.picture is not None
    assert np.abs(frame.picture.bgr().astype(int) - expected.astype(int)).mean() < 2


def test_the_resolution_may_change_in_mid_stream(tmp_path: Path) -> None:
    """A stream that goes from 320×240 to 160×120 is followed without a reopening."""
    for name, size in (("a", "320x240"), ("b", "160x120")):
        make(
            tmp_path / f"{name}.ts",
            "-pix_fmt",
            "yuv420p",
            "-bf",
            "0",
            source=f"testsrc=size={size}:rate=25:duration=0.4",
        )
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    frames, _ = read_all(opened(both))
    assert {frame.luma_HW.shape for frame in frames} == {(240, 320), (120, 160)}
    assert frames[-1].luma_HW.shape == (120, 160)
    assert np.diff([frame.media_s for frame in frames]).min() > 0


def test_a_paced_file_takes_as_long_as_it_is(tmp_path: Path) -> None:
    """A second of video takes a second, and its frames come when they are due."""
    source = opened(make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p"), realtime=True)
    frames, _ = read_all(source)
    arrivals_s = np.array([frame.monotonic_ns for frame in frames]) / 1e9
    late_s = (arrivals_s - arrivals_s[0]) - np.arange(25) * 0.04
    assert late_s.min() > -0.002  # never early
    assert np.median(late_s) < 0.02  # and on a busy machine mostly in time


def test_an_interrupt_wakes_a_paced_wait(tmp_path: Path) -> None:
    """A file of a frame in five seconds is left at once when asked to stop."""
    path = make(
        tmp_path / "a.mp4", "-pix_fmt", "yuv420p", source="testsrc=size=64x48:rate=1/5:duration=15"
    )
    interrupt = threading.Event()
    source = open_source(
        CaptureOptions(camera="a", url=str(path)), SystemClock(), interrupt=interrupt
    )
    source.read()
    threading.Timer(0.1, interrupt.set).start()
    started_s = time.monotonic()
    with pytest.raises(SourceError) as caught:
        source.read()
    source.close()
    assert time.monotonic() - started_s < 2
    assert caught.value.reason is SourceReason.STOPPED


def test_a_looped_file_goes_on(tmp_path: Path) -> None:
    """Three rounds: numbers and media time go on over the seams, evenly."""
    source = opened(make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p"), loop=True)
    frames = [source.read() for _ in range(75)]
    source.close()
    assert [frame.seq for frame in frames] == list(range(1, 76))
    assert np.diff([frame.media_s for frame in frames]) == pytest.approx(0.04, abs=1e-4)
    assert np.array_equal(frames[0].luma_HW, frames[50].luma_HW)


def test_a_looped_file_that_vanishes_fails(tmp_path: Path) -> None:
    """A looped file that is deleted ends with the reason, not in a frozen picture."""
    path = make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p")
    source = opened(path, loop=True)
    path.unlink()
    frames, end = read_all(source)
    assert len(frames) == 25
    assert end.reason is SourceReason.NOT_FOUND


def test_numbers_and_media_time_go_on_over_openings(tmp_path: Path) -> None:
    """A second opening counts on, and its media time is later than that of the first."""
    path = make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p")
    continuity = Continuity()
    options = CaptureOptions(camera="a", url=str(path), realtime=False)
    first, _ = read_all(open_source(options, SystemClock(), continuity=continuity))
    second, _ = read_all(open_source(options, SystemClock(), continuity=continuity))
    assert second[0].seq == 26
    assert second[0].media_s >= first[-1].media_s


def test_nothing_is_given_out_before_the_first_keyframe(tmp_path: Path) -> None:
    """A stream joined in mid-GOP starts with its next keyframe; the rest is thrown away."""
    whole = make(
        tmp_path / "a.ts",
        "-pix_fmt",
        "yuv420p",
        "-g",
        "20",
        "-bf",
        "0",
        "-x264-params",
        "scenecut=0",
        source="testsrc=size=320x240:rate=25:duration=2",
    )
    joined = tmp_path / "joined.ts"
    with av.open(str(whole)) as source, av.open(str(joined), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for n, packet in enumerate(source.demux(source.streams.video[0])):
            if n >= 7 and packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    frames, _ = read_all(opened(joined))
    whole_frames, _ = read_all(opened(whole))
    assert len(frames) == 30  # 50 frames, of which the first keyframe after the join is the 21st
    assert np.array_equal(frames[0].luma_HW, whole_frames[20].luma_HW)


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
    with pytest.raises(SourceError) as caught:
        open_source(CaptureOptions(camera="a", url="/dev/null"), SystemClock())
    assert caught.value.reason is SourceReason.NOT_FOUND
    assert "not a video device" in str(caught.value)


def test_unwanted_pictures_are_decoded_together(tmp_path: Path) -> None:
    """Each keeps its own arrival, number and media time; none is lost, at the end either."""
    clip = make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p", "-bf", "0", "-g", "10")
    plain = opened(clip)
    expected, _ = read_all(plain)
    source = open_source(
        CaptureOptions(camera="a", url=str(clip)), SystemClock(), wanted_s=lambda: float("inf")
    )
    frames, returned_s = [], []
    for _ in expected:
        frames.append(source.read())
        returned_s.append(time.monotonic())
    with pytest.raises(SourceError, match="ended"):
        source.read()
    source.close()
    assert [frame.seq for frame in frames] == list(range(1, 26))
    for frame, alone in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.luma_HW, alone.luma_HW)
    arrivals_s = np.array([frame.monotonic_ns for frame in frames]) / 1e9
    media_s = np.array([frame.media_s for frame in frames])
    np.testing.assert_allclose(np.diff(media_s), 0.04, atol=1e-6)
    assert (np.diff(arrivals_s) > 0.02).mean() > 0.8  # one by one, at their own pace
    assert (np.diff(returned_s) < 0.02).mean() > 0.8  # in a few goes
    assert (arrivals_s <= returned_s).all()


def test_a_wanted_picture_is_decoded_at_once(tmp_path: Path) -> None:
    """The reader gives out what waited as soon as a picture is wanted, up to it."""
    clip = make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p", "-bf", "0")
    due_s = float("-inf")
    source = open_source(
        CaptureOptions(camera="a", url=str(clip)), SystemClock(), wanted_s=lambda: due_s
    )
    first = source.read()
    due_s = first.media_s + 0.16 - 1e-6
    frames = [source.read() for _ in range(4)]
    now_ns = time.monotonic_ns()
    source.close()
    assert frames[-1].media_s == pytest.approx(first.media_s + 0.16)
    assert now_ns - frames[0].monotonic_ns > 100_000_000
    assert now_ns - frames[-1].monotonic_ns < now_ns - frames[0].monotonic_ns - 80_000_000
