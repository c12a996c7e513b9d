"""From a frame and two eyes to a network input: the one crop function, shared with training.

The framing is that of FER2013 and CK+ as published: over both sets the eyes lie at (0.31, 0.39)
and (0.68, 0.39) of the crop (medians of YuNet's landmarks over 600 pictures of each, 2026-11), so a
crop cut here looks like the pictures the network learned from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from streamer.types import F32, U8


__all__ = ["BOX_HEIGHT", "EYE_DISTANCE", "EYE_HEIGHT", "align", "crop", "normalise"]

EYE_DISTANCE = 0.37
"""Distance of the eyes as a share of the crop's side; the margin round the face follows from it."""
EYE_HEIGHT = 0.39
"""Height of the eyes as a share of the crop's side, from the top."""
BOX_HEIGHT = 1.15
"""A crop is at least box height / this: a face turned aside has its eyes close together and would
be cut far too tight by them alone (FER2013's own boxes are 1.03 crop heights)."""


def align(
    eyes_22: F32, box_4: F32, size_px: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the 2x3 matrix that maps frame pixels onto a square crop with level eyes.

    Args:
        eyes_22: eye centres (x, y) in frame pixels, the eye left in the picture first.
        box_4: the face's box, xyxy in frame pixels; bounds the zoom when the eyes are close.
        size_px: side of the crop in pixels.

    Returns:
        float64 (2, 3), to be used with ``cv2.warpAffine``.
    """
    (x0, y0), (x1, y1) = eyes_22.astype(np.float64)
    dx, dy = x1 - x0, y1 - y0
    distance = float(np.hypot(dx, dy))
    side = max(distance / EYE_DISTANCE, float(box_4[3] - box_4[1]) / BOX_HEIGHT, 1.0)
    if distance > 0.0:
        cos, sin = dx / distance, dy / distance
    else:
        cos, sin = 1.0, 0.0
    scale = size_px / side
    a, b = scale * cos, scale * sin
    mid_x, mid_y = (x0 + x1) / 2.0, (y0 + y1) / 2.0
    # Pixel centres lie at half-integers of the crop's extent, hence the - 0.5.
    tx = 0.5 * size_px - 0.5 - (a * mid_x + b * mid_y)
    ty = EYE_HEIGHT * size_px - 0.5 - (-b * mid_x + a * mid_y)
    return np.array([[a, b, tx], [-b, a, ty]])


def crop(luma_HW: U8, eyes_22: F32, box_4: F32, size_px: int) -> U8:
    """Cut one face out of the full-resolution luma.

    Where the crop is much smaller than the face, the picture is averaged down first, so that no
    detail is aliased away; outside the frame the border is repeated.

    Args:
        luma_HW: the frame's luma plane, uint8; not modified.
        eyes_22: eye centres (x, y) in frame pixels, the eye left in the picture first.
        box_4: the face's box, xyxy in frame pixels.
        size_px: side of the crop in pixels.

    Returns:
        uint8 (size_px, size_px).
    """
    matrix = align(eyes_22, box_4, size_px)
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    shrink = int(1.0 / scale)
    if shrink > 1:
        # cv2.warpAffine samples four pixels whatever the scale: shrink by averaging before it.
        side = size_px / scale
        centre = _centre(matrix, size_px)
        x0, y0 = (max(0, int(v - side)) for v in centre)
        x1, y1 = (int(v + side) + 1 for v in centre)
        part = luma_HW[y0:y1, x0:x1]
        height, width = part.shape[0] // shrink, part.shape[1] // shrink
        if height > 0 and width > 0:
            part = part[: height * shrink, : width * shrink]
            small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
            # frame = shrink * small + offset, at pixel centres
            offset = (shrink - 1) / 2.0
            matrix = matrix.copy()
            matrix[:, 2] += matrix[:, :2] @ np.array([x0 + offset, y0 + offset])
            matrix[:, :2] *= shrink
            luma_HW = small  # type: ignore[assignment]
    return cv2.warpAffine(  # type: ignore[return-value]
        luma_HW,
        matrix,
        (size_px, size_px),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def normalise(crops_NHW: U8, mean: float, std: float) -> F32:
    """Turn uint8 crops into the network's input.

    Args:
        crops_NHW: uint8 crops, (N, H, W).
        mean: subtracted from each pixel, in 0..255.
        std: divides the difference, in 0..255.

    Returns:
        float32 (N, 1, H, W), contiguous.
    """
    batch = crops_NHW[:, None].astype(np.float32)
    batch -= np.float32(mean)
    batch /= np.float32(std)
    return batch


def _centre(
    matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]], size_px: int
) -> tuple[float, float]:
    """Return the frame position that the crop's centre is taken from."""
    (a, b, tx), (_, _, ty) = matrix.tolist()
    dx, dy = size_px / 2.0 - tx, size_px / 2.0 - ty
    square = a * a + b * b  # a rotation times a scale is undone by its transpose over this
    return (a * dx - b * dy) / square, (b * dx + a * dy) / square
