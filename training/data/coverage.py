"""What pictures of faces cover: brightness, contrast, sharpness, size and pose, a face and in all.

Legend: N faces, H W pixels, B bars of a histogram.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.data.faces import FaceSet

__all__ = ["PROPERTIES", "Spread", "known_eyes", "properties", "spread"]

PROPERTIES = {
    "brightness": "mean of the pixels, 0 to 255",
    "contrast": "deviation of the pixels",
    "sharpness": "variance of the Laplacian; small is blurred",
    "face height": "of the face's box, pixels of the picture",
    "eye distance": "as a share of the picture's side",
    "roll": "tilt of the line through the eyes, degrees",
    "turn": "from the box's middle to the eyes' middle, in box widths; grows with the yaw",
    "nod": "height of the eyes in the box, as a share of it; small: looks up",
}
"""What is known of each face; those of the pose need its eyes."""
_BARS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a property is distributed over the faces where it is known.

    Attributes:
        known: share of all faces.
        p5, p25, p50, p75, p95: percentiles.
        edges: of the histogram's bars, B + 1, from the first to the 99th percentile.
        counts: faces a bar, B; those beyond the edges stand in the outermost ones.
    """

    known: float
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float
    edges: list[float]
    counts: list[int]


def properties(faces: FaceSet) -> dict[str, NDArray[np.float64]]:
    """Return each property of each face, NaN where it is not known."""
    flat = faces.images_NHW.reshape(len(faces), -1)
    edges = [cv2.Laplacian(image, cv2.CV_32F).var() for image in faces.images_NHW]
    eyes = np.where(known_eyes(faces)[:, None, None], faces.eyes_N22, np.nan).astype(np.float64)
    boxes = np.where(known_eyes(faces)[:, None], faces.boxes_N4, np.nan).astype(np.float64)
    wide = np.maximum(boxes[:, 2] - boxes[:, 0], 1.0)
    high = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
    line, middle = eyes[:, 1] - eyes[:, 0], eyes.mean(axis=1)
    return {
        "brightness": flat.mean(axis=1),
        "contrast": flat.std(axis=1),
        "sharpness": np.array(edges, np.float64),
        "face height": boxes[:, 3] - boxes[:, 1],
        "eye distance": np.hypot(line[:, 0], line[:, 1]) / faces.images_NHW.shape[2],
        "roll": np.degrees(np.arctan2(line[:, 1], line[:, 0])),
        "turn": (middle[:, 0] - (boxes[:, 0] + boxes[:, 2]) / 2.0) / wide,
        "nod": (middle[:, 1] - boxes[:, 1]) / high,
    }


def known_eyes(faces: FaceSet) -> NDArray[np.bool_]:
    """Tell which faces have eyes and a box."""
    eyes = np.isfinite(faces.eyes_N22).all(axis=(1, 2))
    return np.asarray(eyes & np.isfinite(faces.boxes_N4).all(axis=1))


def spread(values_N: NDArray[np.float64]) -> Spread | None:
    """Describe a property; None where it is known of nobody."""
    known = values_N[np.isfinite(values_N)]
    if not len(known):
        return None
    p1, p5, p25, p50, p75, p95, p99 = map(float, np.percentile(known, [1, 5, 25, 50, 75, 95, 99]))
    bins = np.linspace(p1, max(p99, p1 + 1e-6), _BARS + 1)
    counts, _ = np.histogram(known.clip(bins[0], bins[-1]), bins)
    return Spread(
        known=len(known) / len(values_N),
        p5=p5,
        p25=p25,
        p50=p50,
        p75=p75,
        p95=p95,
        edges=[float(b) for b in bins],
        counts=[int(c) for c in counts],
    )
