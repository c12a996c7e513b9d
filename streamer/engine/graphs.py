"""Networks as a device wants them: what is compiled, with its axes, its profiles and its precision.

The reader is the CNN and one step of the temporal head in one graph, with the states of all tracks
in a table that stays on the device: rows are gathered by slot, stepped and scattered back. So a
tick is one copy in, one call and one copy out, however many cameras there are.

Legend: N faces of this step, C slots of the table, L layers, U units, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, NodeProto, TensorProto, compose, helper, numpy_helper

from streamer.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "BUCKETS",
    "FIRST_SLOTS",
    "PADDING_SLOT",
    "Network",
    "Profile",
    "batched",
    "detector",
    "reader",
]

Profile = dict[str, tuple[int, int, int]]
"""Least, best and largest size of each free axis, by the axis's name in the ONNX file."""

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes that run; others are padded up, which doubles the work at most, or split. A CUDA
graph has fixed shapes, so each size is captured once."""
_BATCHES = ((1, 1, 2), (4, 8, 16), (32, 32, 64))
"""Profiles over the buckets: one face, a room, a crowd. Kernels are chosen for the middle one."""
FIRST_SLOTS = 256
"""Rows of a fresh table; it doubles when it is full. 256 rows of 96 units take 200 kB."""
_SLOTS = (FIRST_SLOTS, FIRST_SLOTS, 65_536)
PADDING_SLOT = 0
"""The row that padding is stepped in; no track has it."""
_MULTIPLE = 32  # YuNet's coarsest stride: both sides of its input are multiples of it
_CNN, _STEP = "cnn/", "step/"


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network to compile.

    Attributes:
        label: its name in logs, errors and file names.
        onnx: the whole file with its weights, so that a hash of it names the network.
        profiles: ranges of the free axes; the first that holds a shape is used for it.
        resident: inputs that stay on the device, each with the output that replaces it.
    """

    label: str
    onnx: bytes
    profiles: tuple[Profile, ...]
    resident: Mapping[str, str]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in the file's order."""
        return self._names[0]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the file's order."""
        return self._names[1]

    @cached_property
    def axes(self) -> dict[str, tuple[str | int, ...]]:
        """Each input's and output's axes: a number, or the name of a free one."""
        return {
            value.name: tuple(
                dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim
            )
            for value in chain(self._graph.input, self._graph.output)
        }

    @cached_property
    def precision(self) -> str:
        """What the file computes in: ``fp32``, ``fp16`` or ``int8``."""
        if any(node.op_type == "QuantizeLinear" for node in self._graph.node):
            return "int8"
        kinds = {tensor.data_type for tensor in self._graph.initializer}
        return "fp16" if TensorProto.FLOAT16 in kinds else "fp32"

    @cached_property
    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        inputs, outputs = self._graph.input, self._graph.output
        return tuple(v.name for v in inputs), tuple(v.name for v in outputs)

    @cached_property
    def _graph(self) -> GraphProto:
        return onnx.load_model_from_string(self.onnx).graph


def reader(features: Path, temporal: Path | onnx.ModelProto, *, rows: str = "features") -> Network:
    """Join a bundle's two networks, with a table for each state.

    Args:
        features: ``faces`` (N, 1, H, W) to ``features`` (N, D) and ``logits`` (N, K).
        temporal: ``features`` (N, D) and states, each (L, N, U), such as ``h``, to ``logits``
            (N, K) and the new states, such as ``h_out``.
        rows: which output of the first the second reads.

    Returns:
        A network with ``faces`` (N, 1, H, W) float32, ``slots`` (N,) int64, ``kept`` (N,) bool
        (false: start from zeros) and a resident table a state, such as ``h_table`` (C, L, U)
        float32, to ``logits`` (N, K) and the tables of the next step. A row that is padded with
        zeros steps slot ``PADDING_SLOT`` from zeros.

    Raises:
        BundleError: when a file cannot be read or the two do not fit together.
    """
    first = _load(features)
    second = temporal if isinstance(temporal, onnx.ModelProto) else _load(temporal)
    second.ir_version = first.ir_version  # they are merged only where it is the same
    states = [value.name for value in second.graph.input if value.name != "features"]
    try:
        model = compose.merge_models(
            first,
            second,
            io_map=[(rows, "features")],  # the prefixes are put before these
            outputs=[_STEP + name for name in ("logits", *(f"{s}_out" for s in states))],
            prefix1=_CNN,
            prefix2=_STEP,
        )
    except ValueError as error:
        named = temporal if isinstance(temporal, Path) else temporal.graph.name
        raise BundleError(f"{named} does not fit {features.name}: {error}") from None
    _add_tables(model.graph, states)
    model.producer_name, model.producer_version = "streamer", ""
    onnx.checker.check_model(model)
    return Network(
        label="reader",
        onnx=model.SerializeToString(deterministic=True),
        profiles=tuple({"N": batch, "C": _SLOTS} for batch in _BATCHES),
        resident={f"{state}_table": f"{state}_table_out" for state in states},
    )


def batched(path: Path) -> Network:
    """Take a file whose free axis is N, such as one of a bundle's, as it is.

    Raises:
        BundleError: when the file cannot be read.
    """
    return Network(
        label=path.stem,
        onnx=_load(path).SerializeToString(deterministic=True),
        profiles=tuple({"N": batch} for batch in _BATCHES),
        resident={},
    )


def detector(content: bytes, input_px: int) -> Network:
    """Take YuNet, folded to luma, for pictures whose longer side is scaled to ``input_px``.

    Kernels are chosen for a 16:9 picture, which most cameras deliver.
    """
    most = -(-input_px // _MULTIPLE) * _MULTIPLE
    usual = -(-input_px * 9 // 16 // _MULTIPLE) * _MULTIPLE
    return Network(
        label=f"detector-{input_px}",
        onnx=content,
        profiles=({"height": (_MULTIPLE, usual, most), "width": (_MULTIPLE, most, most)},),
        resident={},
    )


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)  # external weights come along
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    except DecodeError:
        raise BundleError(f"{path}: not an ONNX file; install the bundle again") from None


def _add_tables(graph: GraphProto, names: list[str]) -> None:
    """Put the gathering before the step and the scattering behind it."""
    faces = next(value for value in graph.input if value.name == _CNN + "faces")
    _rename(graph, _CNN + "faces", "faces")
    _rename(graph, _STEP + "logits", "logits")
    states = {value.name: value for value in graph.input if value.name != "faces"}
    del graph.input[:]
    graph.input.extend(
        [
            faces,
            helper.make_tensor_value_info("slots", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("kept", TensorProto.BOOL, ["N"]),
        ]
    )
    before, after = _shared_nodes(), []
    _constants(graph)
    for state in names:
        table = f"{state}_table"
        dims = states[_STEP + state].type.tensor_type.shape.dim
        shape = ["C", dims[0].dim_value, dims[2].dim_value]
        graph.input.append(helper.make_tensor_value_info(table, TensorProto.FLOAT, shape))
        graph.output.append(helper.make_tensor_value_info(f"{table}_out", TensorProto.FLOAT, shape))
        before += _gather(table, _STEP + state)
        after += _scatter(table, f"{_STEP}{state}_out")
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    logits = next(value for value in graph.output if value.name == "logits")
    tables = [value for value in graph.output if value.name.endswith("_table_out")]
    del graph.output[:]
    graph.output.extend([logits, *tables])


def _constants(graph: GraphProto) -> None:
    values: dict[str, NDArray[Any]] = {
        "zero": np.zeros((), np.float32),
        "one": np.array([1], np.int64),
        "one_two": np.array([1, 2], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, f"table/{n}") for n, v in values.items())


def _shared_nodes() -> list[NodeProto]:
    return [
        helper.make_node("Unsqueeze", ["slots", "table/one"], ["table/index_N1"]),
        helper.make_node("Unsqueeze", ["kept", "table/one_two"], ["table/kept_N11"]),
    ]


def _gather(table: str, state_LNU: str) -> list[NodeProto]:
    """Take the rows of this step; ``Where`` and no product, so that a bad state can be left."""
    rows, kept = f"{table}/rows_NLU", f"{table}/kept_NLU"
    return [
        helper.make_node("Gather", [table, "slots"], [rows], axis=0),
        helper.make_node("Where", ["table/kept_N11", rows, "table/zero"], [kept]),
        helper.make_node("Transpose", [kept], [state_LNU], perm=[1, 0, 2]),
    ]


def _scatter(table: str, state_LNU: str) -> list[NodeProto]:
    rows = f"{table}/next_NLU"
    return [
        helper.make_node("Transpose", [state_LNU], [rows], perm=[1, 0, 2]),
        helper.make_node("ScatterND", [table, "table/index_N1", rows], [f"{table}_out"]),
    ]


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in chain(graph.input, graph.output):
        if value.name == old:
            value.name = new
