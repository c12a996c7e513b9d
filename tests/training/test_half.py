"""Half precision: what is written, what is proved, what is refused."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamer import bundle as bundles
from streamer import preprocess
from streamer.errors import BundleError
from training import half

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.types import F32


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the bundle in the package, without networks in half precision."""
    out = tmp_path / "bundle"
    shutil.copytree(bundles.bundled_path(), out)
    manifest = bundles.load(out).manifest
    for name in (bundles.FEATURES_HALF, bundles.TEMPORAL_HALF):
        (out / name).unlink(missing_ok=True)
    bundles.write_manifest(out, manifest)
    return out


def network_of(scale: float) -> onnx.ModelProto:
    """Return y = x * scale."""
    weight = numpy_helper.from_array(np.array([scale], np.float32), "scale")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        "scaling",
        [value("x", TensorProto.FLOAT, ["N"])],
        [value("y", TensorProto.FLOAT, ["N"])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, x: F32) -> F32:
    """Run a network with an input x and an output y."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    y: F32 = session.run(["y"], {"x": x})[0]
    return y


def test_inputs_and_outputs_stay_float32() -> None:
    """A half network takes and gives float32; its weights are float16."""
    model = half.to_half(network_of(3.0))
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT16}
    assert run(model, np.array([2.0], np.float32)).tolist() == [6.0]


def test_the_proof_rounds_like_float16() -> None:
    """NumPy's own float16 gives the expected digits: weight, input and product are rounded."""
    x = np.array([0.1, 1.001, 333.3], np.float32)
    expected = x.astype(np.float16) * np.float16(1.1)
    assert not np.array_equal(expected.astype(np.float32), x * np.float32(1.1))
    got = run(half.rounded(half.to_half(network_of(1.1))), x)
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_a_weight_beyond_float16_is_refused() -> None:
    """65504 is the largest float16; more would become infinite in silence."""
    with pytest.raises(BundleError, match="scale: a weight exceeds 65504"):
        half.to_half(network_of(7e4))


def test_a_bundle_gets_its_half_networks_proved(copied: Path) -> None:
    """The drawings of the parity samples are read the same, and the manifest lists both files."""
    before = bundles.load(copied)
    assert before.half_paths is None
    faces = np.concatenate([before.parity.faces_N1HW] * 6)
    proof = half.add_half(copied, faces)
    assert proof.faces == 36
    assert proof.same == 1.0
    assert 0 < proof.largest < half.LARGEST_DIFFERENCE
    after = bundles.load(copied)
    assert after.half_paths == (copied / "features.fp16.onnx", copied / "temporal.fp16.onnx")
    (copied / "features.fp16.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"features\.fp16\.onnx is damaged"):
        bundles.load(copied)


def test_a_network_that_reads_otherwise_is_refused(copied: Path) -> None:
    """A half network with other weights fails the proof, and nothing is written."""
    whole = bundles.load(copied)
    cnn, step = (half.to_half(onnx.load(p)) for p in (whole.features_path, whole.temporal_path))
    for tensor in cnn.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16 and len(tensor.dims) == 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    with pytest.raises(BundleError, match=r"accepted are 99\.5% and 0\.01"):
        half.prove(whole, cnn, step, np.concatenate([whole.parity.faces_N1HW] * 4))
    assert not (copied / "features.fp16.onnx").exists()


def test_real_faces_read_the_same(copied: Path, shared: Path) -> None:
    """400 faces of FER+'s validation split agree in label and within 0.01."""
    with np.load(shared / "data" / "fer2013plus_48.npz") as archive:
        pixels = archive["images"][archive["split"] == "valid"][:400]
    faces = preprocess.normalise(pixels, 0.0, 255.0)
    proof = half.add_half(copied, faces)
    assert proof.same >= half.LEAST_SAME
    assert proof.largest <= half.LARGEST_DIFFERENCE
