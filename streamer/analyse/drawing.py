"""Boxes and labels on a picture: what the thumbnails and the annotated video are drawn with."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from streamer.analyse.palette import bgr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.types import BGR

__all__ = ["chip", "frame_face", "write"]

_WHITE: Final = (255, 255, 255)
_INK: Final = (38, 29, 26)
_FONT: Final = "sans"  # built into OpenCV 5
_LEAST_TEXT_PX: Final = 11
_CHIPS: Final = 2048  # nine labels times a hundred shares, at two sizes


def write(
    picture: BGR,
    text: str,
    origin: tuple[int, int],
    size_px: int,
    *,
    colour: Sequence[int] = _INK,
    weight: int = 500,
) -> None:
    """Write a line into a picture; ``origin`` is the left end of its base line, pixels."""
    face = cv2.FontFace(_FONT)
    cv2.putText(picture, text, origin, tuple(colour), face, size_px, weight=weight)


def width_of(text: str, size_px: int, weight: int = 500) -> int:
    """Return how wide a line is, pixels."""
    rectangle = cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace(_FONT), size_px, weight=weight)
    return int(rectangle[2])


@functools.lru_cache(_CHIPS)
def chip(text: str, label: str, size_px: int) -> BGR:
    """Return a small sign in a label's colour, (H, W, 3) uint8, not to be written to.

    Drawn once: a line of text takes 4 ms, and a video has thousands of pictures.
    """
    pad = round(size_px * 0.45)
    width = width_of(text, size_px, 600) + 2 * pad
    height = size_px + 2 * round(size_px * 0.3)
    sign = np.empty((height, width, 3), np.uint8)
    sign[:] = bgr(label)
    colour = _INK if label == "unknown" else _WHITE
    write(
        sign, text, (pad, round(height * 0.5 + size_px * 0.36)), size_px, colour=colour, weight=600
    )
    sign.flags.writeable = False
    return sign


def frame_face(
    picture: BGR,
    box: Sequence[float],
    *,
    label: str,
    text: str,
    shares: Sequence[tuple[str, float]],
) -> None:
    """Draw a box, its sign and a bar of probabilities into a picture, in place.

    Args:
        picture: (H, W, 3) uint8.
        box: xyxy in pixels of it; may reach outside.
        label: gives the colour.
        text: what the sign says.
        shares: the probabilities, drawn as one bar under the box.
    """
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (round(value) for value in box)
    line = max(2, round(height / 360))
    corners = (max(x1, 0), max(y1, 0)), (min(x2, width - 1), min(y2, height - 1))
    cv2.rectangle(picture, *corners, _WHITE, line + 2, cv2.LINE_AA)
    cv2.rectangle(picture, *corners, bgr(label), line, cv2.LINE_AA)
    _draw_bar(
        picture,
        corners,
        shares,
        height_px=max(4, round(min(height / 45, (y2 - y1) / 14))),
        line_px=line,
    )
    text_px = min(height / 28, (x2 - x1) / 4)  # faces in a crowd would hide each other's signs
    sign = chip(text, label, max(_LEAST_TEXT_PX, round(text_px)))
    rows, columns = sign.shape[:2]
    left = min(max(x1 - line // 2 - 1, 0), max(0, width - columns))
    top = y1 - rows - line
    if top < 0:  # no room above the face
        top = min(max(y2 + line, 0), max(0, height - rows))
    space = picture[top : top + rows, left : left + columns]
    space[:] = sign[: space.shape[0], : space.shape[1]]


def _draw_bar(
    picture: BGR,
    corners: tuple[tuple[int, int], tuple[int, int]],
    shares: Sequence[tuple[str, float]],
    *,
    height_px: int,
    line_px: int,
) -> None:
    """Lay the bar under the box, or inside it where the picture ends."""
    (left, _), (right, bottom) = corners
    bottom = min(bottom + line_px + 1 + height_px, picture.shape[0])
    done = 0.0
    for label, share in shares:
        start, done = done, done + share
        columns = slice(left + round(start * (right - left)), left + round(done * (right - left)))
        picture[max(0, bottom - height_px) : max(0, bottom), columns] = bgr(label)
