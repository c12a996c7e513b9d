"""YuNet on onnxruntime, fed with luma alone.

The network's first layer takes three colours; its weights are summed over them when it is loaded,
which is exact for grey pictures and saves two thirds of the input.

Legend: N faces, H W pixels, A anchors of one stride; digits are literal.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from streamer.detect.suppress import suppress
from streamer.errors import ConfigError, EngineError, FrameError
from streamer.types import Detections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from streamer.stages import Engine
    from streamer.types import F32, U8

__all__ = ["YuNet", "luma_network"]

_STRIDES = (8, 16, 32)
"""Distance of the anchors in input pixels, one output of each kind a stride (the file's own)."""
_MULTIPLE = 32
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
_RUNTIME_ERRORS = (  # onnxruntime's exceptions share no base but Exception
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NotImplemented,
    runtime.RuntimeException,
)


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
        self._engine: Engine | None = engine or _CpuNetwork(model, threads)
        self._outputs = [f"{kind}_{s}" for s in _STRIDES for kind in ("cls", "obj", "bbox", "kps")]
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
        found = engine.run({"input": input_11HW})
        outputs = [found[name] for name in self._outputs]
        return self._decode(outputs, input_11HW.shape[3], scale_2)

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

    def _decode(self, outputs: list[F32], input_width: int, scale_2: F32) -> Detections:
        """Turn the network's outputs into faces; only anchors above the threshold are decoded."""
        parts = [
            _candidates(
                outputs[4 * i : 4 * i + 4],
                stride=stride,
                columns=input_width // stride,
                threshold=self._score_threshold,
            )
            for i, stride in enumerate(_STRIDES)
        ]
        scores_N, boxes_N4, eyes_N22 = (np.concatenate(part) for part in zip(*parts, strict=True))
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


class _CpuNetwork:
    """YuNet on onnxruntime; ``run`` may be called from several threads."""

    def __init__(self, model: bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; the runtime's warnings are for its developers
        # A spinning pool burns a core between the frames of a slow camera.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except _RUNTIME_ERRORS as error:
            reason = str(error).partition("\n")[0]
            raise EngineError(f"YuNet: onnxruntime refuses the network: {reason}") from None
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def name(self) -> str:
        return f"onnxruntime {onnxruntime.__version__} cpu"

    def run(self, inputs: Mapping[str, F32]) -> dict[str, F32]:
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except _RUNTIME_ERRORS as error:
            reason = str(error).partition("\n")[0]
            raise EngineError(f"YuNet on onnxruntime: {reason}") from None
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        self._session = None


def _candidates(
    outputs: list[F32], *, stride: int, columns: int, threshold: float
) -> tuple[F32, F32, F32]:
    """Decode the anchors of one stride that reach the threshold.

    Args:
        outputs: of this stride, the class (1, A, 1), the objectness (1, A, 1), the box (1, A, 4)
            and the five points (1, A, 10) of each anchor, float32.
        stride: distance of the anchors in input pixels.
        columns: anchors in a row.
        threshold: least confidence.

    Returns:
        Scores (N,), boxes (N, 4) xyxy and eyes (N, 2, 2) in input pixels, float32.

    Source: ``FaceDetectorYNImpl::postProcess`` of OpenCV's modules/objdetect.
    """
    cls_1A1, obj_1A1, bbox_1A4, points_1A10 = outputs
    product_A = cls_1A1[0, :, 0].clip(0.0, 1.0) * obj_1A1[0, :, 0].clip(0.0, 1.0)
    index_N = np.flatnonzero(product_A >= threshold * threshold)
    row_N, column_N = np.divmod(index_N, columns)
    anchor_N2 = np.stack([column_N, row_N], axis=1).astype(np.float32)
    bbox_N4 = bbox_1A4[0, index_N]
    centre_N2 = (anchor_N2 + bbox_N4[:, :2]) * stride
    half_N2 = np.exp(bbox_N4[:, 2:]) * (stride / 2.0)
    # The first two of the five points are the eyes.
    eyes_N22 = (points_1A10[0, index_N, :4].reshape(-1, 2, 2) + anchor_N2[:, None]) * stride
    boxes_N4 = np.concatenate([centre_N2 - half_N2, centre_N2 + half_N2], axis=1)
    return np.sqrt(product_A[index_N]), boxes_N4, eyes_N22


def luma_network(model_path: Path) -> bytes:
    """Return the network with its first layer summed over the three colours.

    With r = g = b = y the layer computes sum(w_c * y) = (sum w_c) * y, so one grey input gives the
    same result as the grey picture copied into three.

    Raises:
        ConfigError: if the file cannot be read or has another first layer.
    """
    try:
        model = onnx.load(model_path)
    except OSError as error:
        raise ConfigError(
            f"{model_path}: cannot read the YuNet model: {error.strerror}; "
            "`streamer assets install` fetches it"
        ) from None
    except DecodeError:
        raise ConfigError(
            f"{model_path}: not an ONNX file; `streamer assets install` fetches the right one"
        ) from None
    graph = model.graph
    first = next((n for n in graph.node if n.op_type == "Conv" and "input" in n.input), None)
    weights = None if first is None else _initializer(graph, first.input[1])
    if weights is None or len(weights.dims) != 4 or weights.dims[1] != 3:  # noqa: PLR2004
        raise ConfigError(
            f"{model_path}: no YuNet: expected a first convolution of three colours on 'input'"
        )
    summed = numpy_helper.to_array(weights).sum(axis=1, keepdims=True)
    weights.CopyFrom(numpy_helper.from_array(summed, weights.name))
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    return bytes(model.SerializeToString())


def _initializer(graph: onnx.GraphProto, name: str) -> onnx.TensorProto | None:
    return next((tensor for tensor in graph.initializer if tensor.name == name), None)
