"""A decoded picture: grey for the analysis, in colour for a person who asks to see it.

The analysis picture is the luma plane as the decoder wrote it, without a copy. Its range is left as
it is: most cameras send limited range (16..235), MJPEG and some phones full range (0..255). What
has no 8-bit luma plane (RGB, GIF, 10 bit) is converted to full-range grey.

Legend: H W pixels, S bytes a row takes in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from av.video.reformatter import VideoReformatter

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from streamer.types import BGR, U8

__all__ = ["Upright", "luma_of"]

_LUMA: Final = frozenset(
    {"gray", "nv12", "nv21", "nv16", "nv24", "nv42", "yuv410p", "yuva420p", "yuva422p", "yuva444p"}
    | {f"yuv{full}{sampling}p" for full in ("", "j") for sampling in (411, 420, 422, 440, 444)}
)
"""Pixel formats whose plane 0 is 8-bit luma."""
_PACKED: Final = {"yuyv422": 0, "yvyu422": 0, "uyvy422": 1}
"""Packed formats of web cams: every second byte is luma, from this one on."""


class Upright:
    """A decoded picture, turned as its stream says; keeps the decoder's buffer."""

    __slots__ = ("_frame", "_turns")

    def __init__(self, frame: VideoFrame) -> None:
        self._frame = frame
        self._turns = round(frame.rotation / 90) % 4 if frame.rotation else 0

    def luma(self) -> U8:
        """Return the luma plane, (H, W) uint8, read-only; a copy only where it had to be turned.

        Raises:
            av.FFmpegError: if FFmpeg cannot read the pixel format.
        """
        luma_HW = luma_of(self._frame)
        if self._turns:  # phone videos; OpenCV and the runtimes need rows in order, hence the copy
            luma_HW = np.ascontiguousarray(np.rot90(luma_HW, self._turns))
            luma_HW.flags.writeable = False
        return luma_HW

    def bgr(self) -> BGR:
        """Convert to colour, (H, W, 3) uint8; a converter of its own, so that threads may ask."""
        colour = VideoReformatter().reformat(self._frame, format="bgr24").to_ndarray()
        return np.ascontiguousarray(np.rot90(colour, self._turns)).astype(np.uint8, copy=False)


def luma_of(frame: VideoFrame) -> U8:
    """Return the luma plane as it was decoded, (H, W) uint8, read-only.

    A view of the decoder's buffer, which it keeps alive; a copy only for packed formats, and a
    conversion for those without 8-bit luma.

    Raises:
        av.FFmpegError: if FFmpeg cannot read the pixel format.
    """
    name = frame.format.name
    width, height = frame.width, frame.height
    if name not in _LUMA and name not in _PACKED:
        frame = VideoReformatter().reformat(frame, format="gray")
    plane = frame.planes[0]
    rows_HS: U8 = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    if name in _PACKED:
        luma_HW = np.ascontiguousarray(rows_HS[:height, _PACKED[name] : 2 * width : 2])
    else:
        luma_HW = rows_HS[:height, :width]
    luma_HW.flags.writeable = False  # the decoder predicts the next picture from this memory
    return luma_HW
