"""One frame as a JPEG for a person who watches; never touched unless somebody does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from streamer.errors import FrameError

if TYPE_CHECKING:
    from streamer.types import U8, Frame
    from streamer.web.options import Pictures

__all__ = ["encode"]

_QUALITY: Final = 78
"""JPEG quality: 18 to 42 kB for three clips at a width of 640 px, against 28 to 62 kB at 90, which
looks the same in a tile."""
_BLUR_PX: Final = 20
"""Width a blurred picture is reduced to: a face that fills a third of it is 7 px wide, far below
the 20-odd pixels between the eyes that face recognition asks for (ISO/IEC 19794-5 wants 90)."""


def encode(frame: Frame, mode: Pictures, width_px: int) -> bytes:
    """Return the frame as a JPEG no wider than asked.

    Args:
        frame: an analysed frame; in colour where the source has it.
        mode: ``blur`` blurs the whole picture, for a face may be in it that was not detected;
            ``omit`` returns no bytes at all.
        width_px: the greatest width, pixels.

    Returns:
        the JPEG's bytes; its aspect ratio is the frame's.

    Raises:
        FrameError: if the encoder refuses the picture.
    """
    if mode == "omit":
        return b""
    picture: U8 = frame.luma_HW if frame.picture is None else frame.picture.bgr()
    size = _fit(frame.width, frame.height, width_px)
    if mode == "blur":
        tiny = cv2.resize(
            picture, _fit(frame.width, frame.height, _BLUR_PX), interpolation=cv2.INTER_AREA
        )
        picture = np.asarray(cv2.resize(tiny, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    elif size[0] < frame.width:
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    done, jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    if not done:
        raise FrameError(f"camera {frame.camera}: no JPEG can be made of {picture.shape}")
    return jpeg.tobytes()


def _fit(width: int, height: int, limit: int) -> tuple[int, int]:
    """Scale down to the width given, keeping the aspect ratio and at least one pixel."""
    scale = min(1.0, limit / width)
    return max(1, round(width * scale)), max(1, round(height * scale))
