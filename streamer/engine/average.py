"""A moving average of the frames as a network of one step, which any bundle can be read with.

It stands in for a bundle's own temporal head where the configuration asks for it. It is no code of
its own but a small graph, so that it runs wherever a head runs: in onnxruntime and on a GPU.

Legend: N faces, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["average", "shapes"]

_OPSET = 18  # that of a bundle's own networks
_IR = 10  # read by onnxruntime 1.19 and later; what the exporter writes
_LEAST = 1e-6  # of a probability whose logarithm is taken


def average(classes: int, newest: float) -> ModelProto:
    """Return the step of an exponential moving average of probabilities.

    Args:
        classes: K.
        newest: weight of the newest frame, 0..1; a face's first frame counts in full.

    Returns:
        A network from ``features``, here the logits of the frames (N, K), and ``mean``
        (1, N, K + 1), the average so far and whether there is one, to ``logits`` (N, K), the
        logarithms of the average, and ``mean_out``.
    """
    row = helper.make_tensor_value_info
    state = (1, "N", classes + 1)
    constants: dict[str, NDArray[Any]] = {
        "keep": np.array(1.0 - newest, np.float32),
        "least": np.array(_LEAST, np.float32),
        "first": np.array([0], np.int64),
        "split": np.array([classes, 1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Softmax", ["features"], ["seen"], axis=1),
        node("Squeeze", ["mean", "first"], ["state"]),
        node("Split", ["state", "split"], ["past", "filled"], axis=1),
        # seen + keep * filled * (past - seen): the frame itself where nothing came before it.
        node("Sub", ["past", "seen"], ["away"]),
        node("Mul", ["filled", "keep"], ["kept"]),
        node("Mul", ["kept", "away"], ["back"]),
        node("Add", ["seen", "back"], ["now"]),
        node("Max", ["now", "least"], ["positive"]),
        node("Log", ["positive"], ["logits"]),
        node("Sub", ["filled", "filled"], ["nothing"]),
        node("Exp", ["nothing"], ["one"]),
        node("Concat", ["now", "one"], ["next"], axis=1),
        node("Unsqueeze", ["next", "first"], ["mean_out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "average",
        [
            row("features", TensorProto.FLOAT, ["N", classes]),
            row("mean", TensorProto.FLOAT, state),
        ],
        [
            row("logits", TensorProto.FLOAT, ["N", classes]),
            row("mean_out", TensorProto.FLOAT, state),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def shapes(classes: int) -> dict[str, tuple[int, int]]:
    """Return the state's name with its (L, U), as a manifest gives it."""
    return {"mean": (1, classes + 1)}
