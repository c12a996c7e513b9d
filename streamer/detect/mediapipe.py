"""MediaPipe's face detector (BlazeFace) by its Tasks API, over the whole picture and square tiles.

BlazeFace sees 128 or 192 pixels of a square, so a face in a wide picture is too small for it; the
picture is looked at once whole, for the near faces, and again in overlapping squares.

Legend: N faces, H W pixels; digits are literal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from streamer.detect.suppress import suppress
from streamer.errors import ConfigError, EngineError, FrameError
from streamer.types import Detections

try:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision
except ImportError as error:  # the extra is optional; the constructor says so
    mediapipe = None
    _missing: str = str(error)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.types import F32, U8

__all__ = ["FRAMINGS", "Framing", "MediaPipe", "require"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a model's box becomes the box that YuNet draws, so that crops do not depend on it.

    The edges are in widths and heights of the model's own box, from its centre: medians over 250
    pictures each of CK+ and FER2013 in which both detectors find one face (2026-11).
    """

    left: float
    top: float
    right: float
    bottom: float


FRAMINGS: Final = {
    "blazeface-short": Framing(left=-0.46, top=-0.70, right=0.46, bottom=0.48),
    "blazeface-full": Framing(left=-0.43, top=-0.61, right=0.43, bottom=0.50),
}
"""By the asset's name; BlazeFace ends at the brows where YuNet takes in the forehead."""

_TILE_PX = 384
"""Longer side of what MediaPipe is given: twice the larger model's input, for it scales with two
taps; a whole 1080p picture would cost 5 ms more to copy and convert."""
_OVERLAP = 0.2
"""Least overlap of two tiles as a share of their side: a face up to so wide is whole in one of
them, and a wider one is seen in the whole picture."""
_EDGE = 0.02
"""A box nearer to a tile's inner edge than this share of its side is taken for a cut face."""
_INSIDE = 0.7
"""A box that lies so far inside a better one is the same face, seen in another tile."""


def require() -> None:
    """Make sure that the optional package is there.

    Raises:
        ConfigError: with the command that installs it.
    """
    if mediapipe is None:
        raise ConfigError(
            f"detector.backend mediapipe needs an extra that is not installed ({_missing}): "
            "pip install 'emotion-streamer[mediapipe]'"
        )


@dataclass(frozen=True, slots=True)
class _Tile:
    """A part of the picture, in pixels."""

    x: int
    y: int
    width: int
    height: int


class MediaPipe:
    """Finds faces with MediaPipe; ``detect`` may be called from several threads.

    MediaPipe itself runs one call after the other, so more threads do not make it faster.

    Args:
        model_path: a BlazeFace file.
        framing: how this model's boxes are to be drawn, of ``FRAMINGS``.
        rows: rows of tiles; two find faces half as large and take about three times as long.
            0: the whole picture only.
        score_threshold: least confidence of a face, 0..1.
        nms_threshold: two boxes that overlap by more (intersection over union) are one face.

    Raises:
        ConfigError: if mediapipe is not installed, or the file is no model for it.

    Source: Bazarevsky et al. 2019, "BlazeFace: Sub-millisecond Neural Face Detection on Mobile
    GPUs".
    """

    def __init__(
        self,
        model_path: Path,
        *,
        framing: Framing,
        rows: int = 1,
        score_threshold: float = 0.5,
        nms_threshold: float = 0.3,
    ) -> None:
        require()
        try:
            options = vision.FaceDetectorOptions(
                base_options=BaseOptions(model_asset_buffer=model_path.read_bytes()),
                min_detection_confidence=score_threshold,
                min_suppression_threshold=nms_threshold,
            )
            self._detector: Any = vision.FaceDetector.create_from_options(options)
        except OSError as error:
            raise ConfigError(
                f"{model_path}: cannot read the BlazeFace model: {error.strerror}; "
                "`streamer assets install` fetches it"
            ) from None
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"{model_path}: no model for MediaPipe: {reason}") from None
        self._framing = framing
        self._rows = rows
        self._nms_threshold = nms_threshold

    @property
    def windowed(self) -> bool:
        """Whether a part of a picture is cheaper to look at; its input is the same for any part."""
        return False

    def detect(self, luma_HW: U8, *, input_px: int | None = None) -> Detections:  # noqa: ARG002 fixed by the model
        """Return the faces found, best first.

        Args:
            luma_HW: luma plane, uint8; may be a view with padded rows; not modified.
            input_px: not looked at: the model's input has one size.

        Returns:
            Boxes and eyes in pixels of ``luma_HW``, scores descending.

        Raises:
            FrameError: if the picture is empty or not two-dimensional uint8.
            EngineError: if the detector is closed or MediaPipe fails.
        """
        if luma_HW.ndim != 2 or luma_HW.dtype != np.uint8 or not luma_HW.size:  # noqa: PLR2004
            raise FrameError(
                f"picture is {luma_HW.dtype} {luma_HW.shape}, expected uint8 (height, width)"
            )
        parts = [self._detect_tile(luma_HW, tile) for tile in _tiles(luma_HW.shape, self._rows)]
        scores_N, boxes_N4, eyes_N22 = (np.concatenate(part) for part in zip(*parts, strict=True))
        if not len(scores_N):
            return Detections.empty()
        kept = suppress(boxes_N4, scores_N, self._nms_threshold)
        kept = kept[_not_inside(boxes_N4[kept])]
        return Detections(boxes_N4=boxes_N4[kept], scores_N=scores_N[kept], eyes_N22=eyes_N22[kept])

    def close(self) -> None:
        """Release the native object; may be called twice.

        Left to the interpreter's exit, its destructor prints a traceback.
        """
        detector, self._detector = self._detector, None
        if detector is not None:
            detector.close()

    def _detect_tile(self, luma_HW: U8, tile: _Tile) -> tuple[F32, F32, F32]:
        """Return scores (N,), boxes (N, 4) and eyes (N, 2, 2) in pixels of the whole picture."""
        detector = self._detector
        if detector is None:
            raise EngineError("the MediaPipe detector was used after it was closed")
        part = luma_HW[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
        shrink = min(1.0, _TILE_PX / max(tile.width, tile.height))
        size = (max(1, round(tile.width * shrink)), max(1, round(tile.height * shrink)))
        if size != (tile.width, tile.height):
            part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        image = mediapipe.Image(
            image_format=mediapipe.ImageFormat.SRGB,
            data=cv2.cvtColor(part, cv2.COLOR_GRAY2RGB),
        )
        try:
            found = detector.detect(image).detections
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise EngineError(f"BlazeFace on MediaPipe: {reason}") from None
        if not found:
            empty = Detections.empty()
            return empty.scores_N, empty.boxes_N4, empty.eyes_N22
        return self._decode(found, tile, size, luma_HW.shape)

    def _decode(
        self, found: list[Any], tile: _Tile, size: tuple[int, int], shape: tuple[int, ...]
    ) -> tuple[F32, F32, F32]:
        """Bring one tile's detections into the picture; drop those that the tile cuts."""
        scale_2 = np.array([tile.width / size[0], tile.height / size[1]])
        corner_2 = np.array([tile.x, tile.y])
        scores_N = np.array([one.categories[0].score for one in found], np.float32)
        boxes = [one.bounding_box for one in found]
        boxes_N4 = np.array([(b.origin_x, b.origin_y, b.width, b.height) for b in boxes])
        size_N2 = boxes_N4[:, 2:] * scale_2
        centre_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:] / 2) * scale_2 + corner_2
        # Key points are shares of the tile's sides; the first two are the eyes.
        eyes_N22 = np.array([[(p.x, p.y) for p in one.keypoints[:2]] for one in found])
        eyes_N22 = eyes_N22 * (tile.width, tile.height) + corner_2
        swapped_N = eyes_N22[:, 0, 0] > eyes_N22[:, 1, 0]
        eyes_N22[swapped_N] = eyes_N22[swapped_N, ::-1]
        whole_N = _whole(centre_N2 - size_N2 / 2, centre_N2 + size_N2 / 2, tile, shape)
        frame = self._framing
        drawn_N4 = np.concatenate(
            [
                centre_N2 + size_N2 * (frame.left, frame.top),
                centre_N2 + size_N2 * (frame.right, frame.bottom),
            ],
            axis=1,
        )
        return (
            scores_N[whole_N],
            drawn_N4[whole_N].astype(np.float32),
            eyes_N22[whole_N].astype(np.float32),
        )


def _tiles(shape: tuple[int, ...], rows: int) -> Iterator[_Tile]:
    """Yield the whole picture, then squares that cover it, if it is wider or higher than one."""
    height, width = shape
    yield _Tile(0, 0, width, height)
    if not rows:
        return
    # With r rows of squares that overlap by a share o: short side = side * (1 + (r - 1)(1 - o)).
    side = math.ceil(min(height, width) / (1 + (rows - 1) * (1 - _OVERLAP)))
    columns_x, rows_y = _starts(width, side), _starts(height, side)
    if len(columns_x) * len(rows_y) > 1:
        for y in rows_y:
            for x in columns_x:
                yield _Tile(x, y, min(side, width), min(side, height))


def _starts(length: int, side: int) -> list[int]:
    """Return where tiles of one side start along a length, evenly, overlapping enough."""
    if length <= side * (1 + _OVERLAP):  # nearly one tile: the whole picture does for it
        return [0]
    count = math.ceil((length - _OVERLAP * side) / ((1 - _OVERLAP) * side))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _whole(
    low_N2: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    high_N2: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    tile: _Tile,
    shape: tuple[int, ...],
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell which boxes keep away from those edges of their tile that are inside the picture."""
    height, width = shape
    margin = _EDGE * max(tile.width, tile.height)
    right, bottom = tile.x + tile.width, tile.y + tile.height
    keep_N = np.ones(len(low_N2), np.bool_)
    if tile.x > 0:
        keep_N &= low_N2[:, 0] > tile.x + margin
    if tile.y > 0:
        keep_N &= low_N2[:, 1] > tile.y + margin
    if right < width:
        keep_N &= high_N2[:, 0] < right - margin
    if bottom < height:
        keep_N &= high_N2[:, 1] < bottom - margin
    return keep_N


def _not_inside(boxes_N4: F32) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell which boxes, best first, do not lie mostly inside a better one or round it."""
    low = np.maximum(boxes_N4[:, None, :2], boxes_N4[None, :, :2])
    high = np.minimum(boxes_N4[:, None, 2:], boxes_N4[None, :, 2:])
    shared_NN = (high - low).clip(0).prod(axis=2)
    area_N = (boxes_N4[:, 2:] - boxes_N4[:, :2]).prod(axis=1)
    smaller_NN = np.minimum(area_N[:, None], area_N[None, :]).clip(1e-6)
    better_NN = np.tri(len(boxes_N4), k=-1, dtype=np.bool_)
    return ~((shared_NN / smaller_NN > _INSIDE) & better_NN).any(axis=1)  # type: ignore[no-any-return]
