"""Pictures through FFmpeg: luma, colour, formats, sizes; expected values by OpenCV and by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pytest

from streamer.errors import SourceReason
from streamer.picture import luma_of
from tests.clips import failure, make, opened, read_all

if TYPE_CHECKING:
    from pathlib import Path


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


def test_pictures_that_cannot_be_read_are_a_typed_error(tmp_path: Path) -> None:
    """FFmpeg decodes this format and cannot convert it; the error does not leave the source."""
    encode = ("-c:v", "rawvideo", "-pix_fmt", "bgr4")
    clip = make(tmp_path / "odd.nut", *encode, source="testsrc=size=64x48:rate=5:duration=1")
    error = failure(clip)
    assert error.reason is SourceReason.CODEC_UNSUPPORTED
    assert "bgr4 cannot be read" in str(error)
