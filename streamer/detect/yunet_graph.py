"""YuNet's file turned into the network that runs: grey in, one table of anchors out.

Both changes are exact, up to the order of sums. The first layer takes three colours; for r = g = b
= y it computes sum(w_c * y) = (sum w_c) * y, so its weights are summed and it takes one. And each
of the three strides ends in four heads, two thin convolutions each, that read the same features:
they become one pair of convolutions with all their outputs, without the mouth and the nose, which
nobody reads. A convolution of one output costs as much as one of sixteen, so 480 x 288 pixels take
a seventh less time and the 96 x 96 of a window a third less.

Legend: A anchors of all strides, row by row of their grids, finest stride first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["ANCHORS", "STRIDES", "luma_network"]

STRIDES: Final = (8, 16, 32)
"""Distance of the anchors in input pixels, one output of each kind a stride (the file's own)."""
ANCHORS: Final = "anchors"
"""Name of the output, float32 (1, 10, A): logits of class and objectness, box (4), eyes (4)."""
_HEADS: Final = (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 4))
"""The file's outputs and how many of their channels are read: of five points the first two."""
_CONVOLUTIONS: Final = 2
"""Of a head: one over channels, then one over places, each channel by itself."""


def luma_network(model_path: Path) -> bytes:
    """Return the network for luma, float32 ``input`` (1, 1, height, width), with joined heads.

    Raises:
        ConfigError: if the file cannot be read or is no YuNet.
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
    try:
        network = _Network(model.graph)
        network.take_luma()
        network.join_heads()
        model.graph.CopyFrom(network.pruned())
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"{model_path}: no YuNet: {error}; `streamer assets install` fetches the right one"
        ) from None
    return bytes(model.SerializeToString())


class _Network:
    """A graph that is changed in place."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._weights = {one.name: one for one in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}

    def take_luma(self) -> None:
        """Sum the first layer's weights over the colours."""
        first = next(
            (n for n in self._graph.node if n.op_type == "Conv" and "input" in n.input), None
        )
        weights = None if first is None else self._weights.get(first.input[1])
        if weights is None or len(weights.dims) != 4 or weights.dims[1] != 3:  # noqa: PLR2004
            raise ValueError("expected a first convolution of three colours on 'input'")
        summed = numpy_helper.to_array(weights).sum(axis=1, keepdims=True)
        weights.CopyFrom(numpy_helper.from_array(summed, weights.name))
        self._graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1

    def join_heads(self) -> None:
        """Make one pair of convolutions of the four heads of each stride, and one output of all."""
        nodes = [node for stride in STRIDES for node in self._joined(stride)]
        parts = [f"anchors_{stride}" for stride in STRIDES]
        nodes.append(helper.make_node("Concat", parts, [ANCHORS], axis=2))
        self._graph.initializer.append(
            numpy_helper.from_array(np.array([1, sum(n for _, n in _HEADS), -1]), "anchors_shape")
        )
        self._graph.node.extend(nodes)
        shape: list[str | int | None] = [1, sum(n for _, n in _HEADS), "A"]
        del self._graph.output[:]
        self._graph.output.append(helper.make_tensor_value_info(ANCHORS, TensorProto.FLOAT, shape))

    def _joined(self, stride: int) -> Iterator[onnx.NodeProto]:
        heads = [(self._head(f"{kind}_{stride}"), count) for kind, count in _HEADS]
        features = {head[0].input[0] for head, _ in heads}
        if len(features) != 1:
            raise ValueError(f"the heads of stride {stride} do not read the same features")
        name = features.pop()
        for layer in range(_CONVOLUTIONS):
            like = heads[0][0][layer]
            joined = helper.make_node("Conv", [name], [f"joined_{stride}_{layer}"])
            for place in (1, 2):  # weights, biases
                rows = [self._value(head[layer].input[place])[:count] for head, count in heads]
                joined.input.append(f"{joined.output[0]}_{place}")
                self._graph.initializer.append(
                    numpy_helper.from_array(np.concatenate(rows), joined.input[place])
                )
            joined.attribute.extend(a for a in like.attribute if a.name != "group")
            depthwise = layer == _CONVOLUTIONS - 1
            joined.attribute.append(
                helper.make_attribute("group", sum(n for _, n in _HEADS) if depthwise else 1)
            )
            name = joined.output[0]
            yield joined
        yield helper.make_node("Reshape", [name, "anchors_shape"], [f"anchors_{stride}"])

    def _head(self, output: str) -> list[onnx.NodeProto]:
        """Return the last convolutions before an output, in the order they run."""
        found: list[onnx.NodeProto] = []
        while len(found) < _CONVOLUTIONS:
            node = self._makers.get(output)
            if node is None:
                raise LookupError(f"expected heads of {_CONVOLUTIONS} convolutions")
            if node.op_type == "Conv":
                found.insert(0, node)
            output = node.input[0]
        return found

    def _value(self, name: str) -> NDArray[np.float32]:
        if name not in self._weights:
            raise LookupError(f"expected weights {name!r} in the file")
        return numpy_helper.to_array(self._weights[name])

    def pruned(self) -> onnx.GraphProto:
        """Return the graph without what no output needs."""
        graph = self._graph
        needed = {output.name for output in graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.insert(0, node)
        weights = [one for one in graph.initializer if one.name in needed]
        return helper.make_graph(kept, graph.name, graph.input, graph.output, weights)
