"""Files through FFmpeg: from the first keyframe to the end, paced, looped, decoded in time."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceError, SourceReason
from streamer.source import CaptureOptions, Continuity
from tests.clips import ffmpeg, make, opened, read_all

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.burst import Times


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


def test_a_clip_without_a_visible_keyframe_is_read(tmp_path: Path) -> None:
    """The edit list of a clip that was cut hides the pictures before; those after it are clean."""
    encode = ("-c:v", "libx264", "-g", "250", "-pix_fmt", "yuv420p")
    whole = make(tmp_path / "whole.mp4", *encode, source="testsrc=size=320x240:rate=25:duration=4")
    cut = tmp_path / "cut.mp4"
    ffmpeg("-ss", "1", "-i", str(whole), "-c", "copy", str(cut))
    frames, end = read_all(opened(cut))
    assert end.reason is SourceReason.ENDED
    assert len(frames) == pytest.approx(75, abs=2)


def test_unwanted_pictures_are_decoded_together(tmp_path: Path) -> None:
    """Of each go the last is given out; all have their own arrival, number and media time."""
    clip = make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p", "-bf", "0", "-g", "10")
    expected, _ = read_all(opened(clip))
    passed: list[Times] = []
    source = open_source(
        CaptureOptions(camera="a", url=str(clip)),
        SystemClock(),
        wanted_s=lambda: float("inf"),
        on_passed=passed.append,
    )
    frames, returned_s = [], []
    with contextlib.suppress(SourceError):  # at the end
        while True:
            frames.append(source.read())
            returned_s.append(time.monotonic())
    source.close()
    assert 2 <= len(frames) <= 5
    assert len(frames) + len(passed) == len(expected) == frames[-1].seq
    for frame in frames:
        np.testing.assert_array_equal(frame.luma_HW, expected[frame.seq - 1].luma_HW)
    media_s = [frame.media_s for frame in frames] + [times.media_s for times in passed]
    np.testing.assert_allclose(np.diff(sorted(media_s)), 0.04, atol=1e-6)
    arrivals_ns = sorted([f.monotonic_ns for f in frames] + [times.arrival_ns for times in passed])
    assert (np.diff(arrivals_ns) > 0.02e9).mean() > 0.8  # one by one, at their own pace
    assert (np.array([f.monotonic_ns for f in frames]) / 1e9 <= returned_s).all()


def test_a_wanted_picture_is_decoded_at_once(tmp_path: Path) -> None:
    """The reader decodes what waited as soon as a picture is wanted, and gives that out."""
    clip = make(tmp_path / "a.mp4", "-pix_fmt", "yuv420p", "-bf", "0")
    due_s = float("-inf")
    passed: list[Times] = []
    source = open_source(
        CaptureOptions(camera="a", url=str(clip)),
        SystemClock(),
        wanted_s=lambda: due_s,
        on_passed=passed.append,
    )
    first = source.read()
    due_s = first.media_s + 0.16 - 1e-6
    wanted = source.read()
    now_ns = time.monotonic_ns()
    source.close()
    assert wanted.media_s == pytest.approx(first.media_s + 0.16)
    assert wanted.seq == first.seq + 4
    assert len(passed) == 3
    assert now_ns - passed[0].arrival_ns > 100_000_000
    assert now_ns - wanted.monotonic_ns < now_ns - passed[0].arrival_ns - 80_000_000
