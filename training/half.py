"""A bundle's networks in half precision, and the proof that they still read the same.

TensorRT 11 takes the precision from the file, so the file says it: weights and everything between
the inputs and the outputs are float16, inputs and outputs stay float32.

Legend: N faces, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from streamer import bundle as bundles
from streamer.bundle import softmax
from streamer.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.bundle import Bundle
    from streamer.types import F32

__all__ = [
    "LARGEST_DIFFERENCE",
    "LEAST_SAME",
    "HalfProof",
    "add_half",
    "prove",
    "rounded",
    "to_half",
]

LEAST_SAME = 0.995
"""Share of faces whose label must be the same in both precisions."""
LARGEST_DIFFERENCE = 0.01
"""Largest difference of any probability."""
_LARGEST = float(np.finfo(np.float16).max)
_BATCH = 256
_TRACKS = 16
"""Tracks that the faces are dealt to, so that a few hundred faces make sequences of some length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfProof:
    """How far the two precisions are apart.

    Attributes:
        faces: how many were read.
        same: share of them with the same label.
        largest: largest difference of any probability.
    """

    faces: int
    same: float
    largest: float


def to_half(model: ModelProto) -> ModelProto:
    """Return a network that computes in float16 between float32 inputs and outputs.

    Raises:
        BundleError: when a weight is too large for float16.
    """
    half = ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    inputs = [v.name for v in graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    outputs = [v.name for v in graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_halved(tensor), tensor.name))
    inner = {name: f"{name}/half" for name in (*inputs, *outputs)}
    for node in graph.node:
        if node.op_type == "Constant" or any(a.name == "to" for a in node.attribute):
            raise BundleError(f"{node.name}: {node.op_type} has a type of its own")
        for names in (node.input, node.output):
            names[:] = [inner.get(name, name) for name in names]
    nodes = [_cast(name, inner[name], TensorProto.FLOAT16) for name in inputs]
    nodes += graph.node
    nodes += [_cast(inner[name], name, TensorProto.FLOAT) for name in outputs]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(half, full_check=True)
    return half


def rounded(half: ModelProto) -> ModelProto:
    """Return a float32 network that rounds to float16 wherever a half network stores a value.

    A GPU multiplies float16 and sums in float32 before it rounds. A CPU runtime that lacks
    float16 kernels would compute whole stretches in float32 and prove nothing; this is what it
    can compute faithfully.
    """
    model = ModelProto()
    model.CopyFrom(half)
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    kinds = _kinds(half)
    nodes = []
    for node in graph.node:
        stored = [name for name in node.output if kinds.get(name) == TensorProto.FLOAT16]
        if node.op_type == "Cast":  # from float32 to float16 at an input, or back at an output
            node.attribute[0].i = TensorProto.FLOAT
        node.output[:] = [f"{name}/exact" if name in stored else name for name in node.output]
        nodes.append(node)
        for name in stored:
            nodes.append(_cast(f"{name}/exact", f"{name}/stored", TensorProto.FLOAT16))
            nodes.append(_cast(f"{name}/stored", name, TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def add_half(bundle: Path, faces_N1HW: F32) -> HalfProof:
    """Write a bundle's networks in half precision beside the others, and prove them.

    Args:
        bundle: its directory; the manifest is written anew.
        faces_N1HW: normalised faces of a validation split.

    Raises:
        BundleError: when the bundle is damaged, or the proof fails; nothing is then added.
    """
    whole = bundles.load(bundle)
    halves = [to_half(onnx.load(path)) for path in (whole.features_path, whole.temporal_path)]
    proof = prove(whole, halves[0], halves[1], faces_N1HW)
    for half, name in zip(halves, (bundles.FEATURES_HALF, bundles.TEMPORAL_HALF), strict=True):
        onnx.save(half, bundle / name)
    bundles.write_manifest(bundle, whole.manifest)
    return proof


def prove(bundle: Bundle, features: ModelProto, temporal: ModelProto, faces_N1HW: F32) -> HalfProof:
    """Compare a bundle in both precisions, the half one rounded as a GPU rounds.

    Faces are read as single pictures and, a few tracks beside one another, as sequences; the state
    is kept in float32 in both.

    Args:
        bundle: with the float32 files.
        features: what ``to_half`` made of the CNN.
        temporal: what it made of the temporal head.
        faces_N1HW: normalised faces of a validation split.

    Raises:
        BundleError: when fewer than ``LEAST_SAME`` of the labels are the same, or a probability
            differs by more than ``LARGEST_DIFFERENCE``.
    """
    whole_NK = _read(
        bundle, onnx.load(bundle.features_path), onnx.load(bundle.temporal_path), faces_N1HW
    )
    half_NK = _read(bundle, rounded(features), rounded(temporal), faces_N1HW)
    proof = HalfProof(
        faces=len(faces_N1HW),
        same=float((whole_NK.argmax(1) == half_NK.argmax(1)).mean()),
        largest=float(np.abs(whole_NK - half_NK).max()),
    )
    if not (proof.same >= LEAST_SAME and proof.largest <= LARGEST_DIFFERENCE):
        raise BundleError(
            f"{bundle.path}: in half precision {proof.same:.2%} of {proof.faces} faces have the "
            f"same label and a probability differs by up to {proof.largest:.2g}; accepted are "
            f"{LEAST_SAME:.1%} and {LARGEST_DIFFERENCE:g}"
        )
    return proof


def _read(bundle: Bundle, features: ModelProto, temporal: ModelProto, faces_N1HW: F32) -> F32:
    """Return the probabilities of all faces alone, then of all of them as sequences."""
    cnn, step = _session(features), _session(temporal)
    parts = [
        cnn.run(["features", "logits"], {"faces": faces_N1HW[i : i + _BATCH]})
        for i in range(0, len(faces_N1HW), _BATCH)
    ]
    features_ND, logits_NK = (np.concatenate(part) for part in zip(*parts, strict=True))
    states = bundle.manifest.temporal.zeros(_TRACKS)
    names = ["logits", *(f"{name}_out" for name in states)]
    stepped = []
    for i in range(0, len(features_ND) - _TRACKS + 1, _TRACKS):
        rows = features_ND[i : i + _TRACKS]
        logits, *new = step.run(names, {"features": rows, **states})
        states = dict(zip(states, new, strict=True))
        stepped.append(logits)
    return softmax(np.concatenate([logits_NK, *stepped]))


def _halved(tensor: TensorProto) -> np.ndarray:
    values = numpy_helper.to_array(tensor)
    if not np.abs(values).max(initial=0.0) <= _LARGEST:
        raise BundleError(f"{tensor.name}: a weight exceeds {_LARGEST:g}, the largest float16")
    return values.astype(np.float16)


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], to=kind)


def _kinds(model: ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # An optimiser that saw a value rounded and widened again would call both casts redundant.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
