"""YuNet on onnxruntime, fed with luma alone; ``yunet_graph`` makes its network.

Legend: N faces, H W pixels, A anchors; digits are literal.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer.detect.suppress import suppress
from streamer.detect.yunet_graph import ANCHORS, STRIDES, luma_network
from streamer.errors import ConfigError, EngineError, FrameError
from streamer.session import Session
from streamer.types import Detections

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.stages import Engine
    from streamer.types import F32, U8

__all__ = ["YuNet"]

_MULTIPLE = max(STRIDES)
"""Both input sides are padded to the coarsest stride, or the three grids do not line up."""
_MAX_ENLARGE = 2.0
"""A picture smaller than the input grows at most so much: more adds no detail, and YuNet was
trained on faces of about 10 to 300 pixels (README of the model in OpenCV's model zoo)."""
_AVERAGE_BELOW = 0.25
"""A picture that shrinks more is averaged down: two-tap sampling would skip pixels. Above, on
1080p, averaging cost 0.8 ms more a frame and found 116 faces instead of 114 (320, 480 and 640
together), so the fast way is taken."""
_KEPT_FROM_PX = 256
"""Buffers for a smaller input are made anew: that takes 5 us, and windows come in many sizes."""
_BUFFERS = 8
"""Sizes of pictures that a thread keeps buffers for: 8 of 640 x 384 take 10 MB."""


@dataclass(frozen=True, slots=True)
class _Scratch:
    """One thread's buffers for one input size, reused from frame to frame."""

    small_HW: U8
    input_11HW: F32


class YuNet:
    """Finds faces with YuNet; ``detect`` may be called from several threads.

    Args:
        model_path: a YuNet file of OpenCV's model zoo whose input height and width are free.
        input_size: longer side of the network's input in pixels, a multiple of 32; 320 is
            fastest, 640 finds the small faces too.
        score_threshold: least confidence of a face, 0..1.
        nms_threshold: two boxes that overlap by more (intersection over union) are one face.
        threads: threads of one inference; several cameras gain more from one thread each.
        compiled: makes an engine of the network on another runtime; where there is none, or it
            returns None, onnxruntime on the CPU is taken.

    Raises:
        ConfigError: if the file cannot be read or is no YuNet, or the size is no multiple of 32.
        EngineError: if the runtime refuses the network.

    Source: Wu, Peng & Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector".
    """

    def __init__(
        self,
        model_path: Path,
        *,
        input_size: int = 640,
        score_threshold: float = 0.6,
        nms_threshold: float = 0.3,
        threads: int = 1,
        compiled: Callable[[bytes], Engine | None] | None = None,
    ) -> None:
        if input_size < _MULTIPLE or input_size % _MULTIPLE:
            raise ConfigError(
                f"detector.input_size is {input_size}, expected a multiple of {_MULTIPLE} "
                "such as 320, 480 or 640"
            )
        model = luma_network(model_path)
        engine = None if compiled is None else compiled(model)
        # A GPU looks at the whole picture faster than it is told about the windows of it.
        self.windowed = engine is None
        self._engine: Engine | None = engine or _on_cpu(model, threads)
        self._input_size = input_size
        self._score_threshold = score_threshold
        self._nms_threshold = nms_threshold
        self._local = threading.local()

    def detect(self, luma_HW: U8, *, input_px: int | None = None) -> Detections:
        """Return the faces found, best first.

        Args:
            luma_HW: luma plane, uint8; may be a view with padded rows; not modified.
            input_px: longer side of the network's input for this picture; None: as constructed.

        Returns:
            Boxes and eyes in pixels of ``luma_HW``, scores descending.

        Raises:
            FrameError: if the picture is empty or not two-dimensional uint8.
            EngineError: if the detector is closed or the runtime fails.
        """
        if luma_HW.ndim != 2 or luma_HW.dtype != np.uint8 or not luma_HW.size:  # noqa: PLR2004
            raise FrameError(
                f"picture is {luma_HW.dtype} {luma_HW.shape}, expected uint8 (height, width)"
            )
        engine = self._engine
        if engine is None:
            raise EngineError("the YuNet detector was used after it was closed")
        input_11HW, scale_2 = self._prepare(luma_HW, input_px or self._input_size)
        anchors_10A = engine.run({"input": input_11HW})[ANCHORS][0]
        return self._decode(anchors_10A, _grid(*input_11HW.shape[2:]), scale_2)

    def close(self) -> None:
        """Release the network; may be called twice."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _prepare(self, luma_HW: U8, input_px: int) -> tuple[F32, F32]:
        """Scale into this thread's input buffer; return it and input pixels a frame pixel, x y."""
        height, width = luma_HW.shape
        scale = min(input_px / max(height, width), _MAX_ENLARGE)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        scratch = self._scratch(inner)
        how = cv2.INTER_AREA if scale < _AVERAGE_BELOW else cv2.INTER_LINEAR
        cv2.resize(luma_HW, inner, dst=scratch.small_HW, interpolation=how)
        scratch.input_11HW[0, 0, : inner[1], : inner[0]] = scratch.small_HW
        return scratch.input_11HW, np.array([inner[0] / width, inner[1] / height], np.float32)

    def _scratch(self, inner: tuple[int, int]) -> _Scratch:
        """Return buffers for a picture of (width, height), black to the right and below."""
        buffers: dict[tuple[int, int], _Scratch] | None = getattr(self._local, "buffers", None)
        if buffers is None:
            buffers = self._local.buffers = {}
        kept = buffers.get(inner)
        if kept is None:
            width, height = inner
            padded = (-(-side // _MULTIPLE) * _MULTIPLE for side in (height, width))
            kept = _Scratch(
                small_HW=np.zeros((height, width), np.uint8),
                input_11HW=np.zeros((1, 1, *padded), np.float32),
            )
            if max(inner) >= _KEPT_FROM_PX:
                if len(buffers) >= _BUFFERS:
                    buffers.clear()
                buffers[inner] = kept
        return kept

    def _decode(self, anchors_10A: F32, grid: _Grid, scale_2: F32) -> Detections:
        """Turn the network's output into faces."""
        scores_N, boxes_N4, eyes_N22 = _candidates(anchors_10A, grid, self._score_threshold)
        if not len(scores_N):
            return Detections.empty()
        kept = suppress(boxes_N4, scores_N, self._nms_threshold)
        boxes_N22, eyes_N22 = boxes_N4[kept].reshape(-1, 2, 2), eyes_N22[kept]
        swapped_N = eyes_N22[:, 0, 0] > eyes_N22[:, 1, 0]
        eyes_N22[swapped_N] = eyes_N22[swapped_N, ::-1]
        return Detections(
            boxes_N4=np.divide(boxes_N22, scale_2, dtype=np.float32).reshape(-1, 4),
            scores_N=scores_N[kept],
            eyes_N22=np.divide(eyes_N22, scale_2, dtype=np.float32),
        )


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where the anchors of one input size are, in input pixels; A of them."""

    place_A2: F32
    stride_A1: F32


@functools.lru_cache(maxsize=32)
def _grid(height: int, width: int) -> _Grid:
    """Return the anchors of an input, in the order of the network's output."""
    places, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        place_A2 = np.stack([columns, rows], axis=-1).reshape(-1, 2) * stride
        places.append(place_A2)
        strides.append(np.full((len(place_A2), 1), stride))
    return _Grid(
        place_A2=np.concatenate(places).astype(np.float32),
        stride_A1=np.concatenate(strides).astype(np.float32),
    )


def _on_cpu(network: bytes, threads: int) -> Session:
    try:
        return Session(network, threads=threads, label="YuNet on onnxruntime")
    except EngineError as error:
        raise EngineError(f"YuNet: {error}") from None


def _candidates(anchors_10A: F32, grid: _Grid, threshold: float) -> tuple[F32, F32, F32]:
    """Decode the anchors that reach the threshold.

    Args:
        anchors_10A: see ``yunet_graph.ANCHORS``; box and eyes in strides from the anchor, sizes as
            logarithms.
        grid: the anchors.
        threshold: least confidence, the root of the product of class and objectness.

    Returns:
        Scores (N,), boxes (N, 4) xyxy and eyes (N, 2, 2) in input pixels, float32.

    Source: ``FaceDetectorYNImpl::postProcess`` of OpenCV's modules/objdetect.
    """
    least = threshold * threshold
    # The product reaches the least only if both factors do: few anchors are left to compute.
    logit = -np.inf if least <= 0.0 else np.log(least) - np.log1p(-min(least, 1.0 - 1e-7))
    index_N = np.flatnonzero(anchors_10A[:2].min(axis=0) >= logit)
    part_N10 = anchors_10A[:, index_N].T
    product_N = 1.0 / (1.0 + np.exp(-part_N10[:, :2])).prod(axis=1)
    kept_N = product_N >= least
    index_N, part_N10 = index_N[kept_N], part_N10[kept_N]
    stride_N1, place_N2 = grid.stride_A1[index_N], grid.place_A2[index_N]
    centre_N2 = part_N10[:, 2:4] * stride_N1 + place_N2
    half_N2 = np.exp(part_N10[:, 4:6]) * (stride_N1 / 2.0)
    eyes_N22 = (part_N10[:, 6:] * stride_N1).reshape(-1, 2, 2) + place_N2[:, None]
    boxes_N4 = np.concatenate([centre_N2 - half_N2, centre_N2 + half_N2], axis=1)
    return np.sqrt(product_N[kept_N]), boxes_N4, eyes_N22
