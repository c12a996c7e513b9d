"""What every run of an ablation is measured by.

Legend: F framings, N faces, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.data.cache import recut
from training.data.labels import majority

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamer.types import I64, U8
    from training.data.faces import FaceSet

__all__ = ["VALID", "Yardstick"]

VALID = "validation"
"""The name of the set that a run's operating point is chosen on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """A set of clearly labelled faces that every run reads.

    Attributes:
        views_FNHW: the faces in one framing or in several, uint8.
        labels_N: class indices.
        groups_N: what belongs together: a subject, or copies of one picture.
    """

    views_FNHW: list[U8]
    labels_N: I64
    groups_N: NDArray[np.str_]

    @staticmethod
    def of(faces: FaceSet, *, raw: bool) -> Yardstick:
        """Cut the clear faces as the daemon does; ``raw``: and as they were published."""
        labels, clear = majority(faces)
        kept = faces.rows(clear)
        views = [recut(kept)[0]] + ([kept.images_NHW] if raw else [])
        return Yardstick(views_FNHW=views, labels_N=labels[clear], groups_N=kept.group_N)
