"""Non-maximum suppression: of boxes that overlap, keep the most confident."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from streamer.types import F32, I64

__all__ = ["suppress"]

_MAX_CANDIDATES = 1000
"""Most boxes looked at in one frame; bounds the time of a frame full of faces."""


def suppress(boxes_N4: F32, scores_N: F32, overlap: float) -> I64:
    """Return the rows to keep, best first.

    Args:
        boxes_N4: xyxy boxes in pixels.
        scores_N: their confidence.
        overlap: two boxes whose intersection over union is larger are one object.
    """
    if len(boxes_N4) == 1:  # as in most windows
        return np.zeros(1, np.int64)
    # OpenCV's stubs ask for nested sequences of floats; its binding takes arrays without a copy.
    xywh_N4: Any = np.concatenate([boxes_N4[:, :2], boxes_N4[:, 2:] - boxes_N4[:, :2]], axis=1)
    scores: Any = scores_N
    kept = cv2.dnn.NMSBoxes(xywh_N4, scores, 0.0, overlap, top_k=_MAX_CANDIDATES)
    return np.asarray(kept, np.int64).reshape(-1)
