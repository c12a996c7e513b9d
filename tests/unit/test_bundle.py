"""A bundle is what its manifest says, or it is refused with one line."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer import bundle
from streamer.engine.onnx import OnnxEngine
from streamer.errors import BundleError
from tests.fakes import FakeEngine

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the shipped bundle that a test may damage."""
    return shutil.copytree(bundle.bundled_path(), tmp_path / "bundle")


def edit(path: Path, **changes: object) -> None:
    """Change top-level keys of a manifest."""
    manifest = path / bundle.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


def engines(loaded: bundle.Bundle) -> tuple[OnnxEngine, OnnxEngine]:
    """Return the bundle's two networks."""
    return (
        OnnxEngine(loaded.features_path, threads=1),
        OnnxEngine(loaded.temporal_path, threads=1),
    )


def test_the_shipped_bundle_computes_what_it_promises() -> None:
    """Its hashes are right and this machine agrees with the exporter."""
    loaded = bundle.load(bundle.bundled_path())
    assert bundle.verify_parity(loaded, *engines(loaded)) <= bundle.PARITY_TOLERANCE


def test_the_shipped_bundle_says_what_was_measured() -> None:
    """Every figure has its data set, split, count and date, and real data was hashed."""
    manifest = bundle.load(bundle.bundled_path()).manifest
    assert manifest.metrics
    for metric in manifest.metrics:
        assert metric.dataset
        assert metric.split
        assert metric.n > 0
        assert metric.date
    assert manifest.training.data
    assert manifest.training.seeds


@pytest.mark.parametrize("name", ["features.onnx", "temporal.onnx", "parity.npz", "MODEL_CARD.md"])
def test_a_damaged_file_is_named(copy: Path, name: str) -> None:
    """One flipped bit is enough."""
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} is damaged"):
        bundle.load(copy)


@pytest.mark.parametrize("name", ["manifest.json", "features.onnx", "MODEL_CARD.md"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    """The message says which."""
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"cannot read {name}: No such file"):
        bundle.load(copy)


def test_another_format_is_refused(copy: Path) -> None:
    """A bundle from the future is not half understood."""
    edit(copy, format=2)
    with pytest.raises(BundleError, match="format 2, this version reads 1"):
        bundle.load(copy)


def test_a_manifest_that_contradicts_the_samples_is_refused(copy: Path) -> None:
    """The number of classes is that of the network."""
    edit(copy, classes=["yes", "no"])
    with pytest.raises(BundleError, match="the manifest means float32"):
        bundle.load(copy)


def test_crops_cut_otherwise_are_refused(copy: Path) -> None:
    """A bundle trained on another framing would lose accuracy unseen."""
    manifest = json.loads((copy / bundle.MANIFEST).read_text())
    edit(copy, input=manifest["input"] | {"eye_distance": 0.5})
    with pytest.raises(BundleError, match="this version cuts them with"):
        bundle.load(copy)


def test_networks_that_do_not_fit_are_a_bundle_error() -> None:
    """With other inputs or outputs it is the bundle that is wrong: a restart cannot help."""
    loaded = bundle.load(bundle.bundled_path())
    features, temporal = engines(loaded)
    for pair in ((temporal, temporal), (features, features)):
        with pytest.raises(BundleError, match="its networks do not fit"):
            bundle.verify_parity(loaded, *pair)
    mute = FakeEngine({"features": lambda x: features.run(x)["features"]})
    with pytest.raises(BundleError, match="its networks do not fit"):
        bundle.verify_parity(loaded, mute, temporal)


def test_a_network_that_computes_something_else_is_refused() -> None:
    """The right file in a runtime that gets it wrong is not served; nor is one that gives NaN."""
    loaded = bundle.load(bundle.bundled_path())
    features, temporal = engines(loaded)
    for wrong in (0.5, np.nan):
        broken = FakeEngine(
            {
                "features": lambda x: features.run(x)["features"],
                "logits": lambda x, w=wrong: features.run(x)["logits"] * np.float32(w),
            }
        )
        with pytest.raises(BundleError, match="differs from the exported probabilities"):
            bundle.verify_parity(loaded, broken, temporal)


def test_the_parity_samples_hold_no_pictures_of_data_sets() -> None:
    """They are few, as made for the purpose."""
    assert len(bundle.load(bundle.bundled_path()).parity.faces_N1HW) <= 64


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400))
@pytest.mark.parametrize("name", ["manifest.json", "parity.npz"])
def test_any_bytes_give_an_error(copy: Path, name: str, content: bytes) -> None:
    """Whatever lies there, it is a BundleError and never a crash."""
    (copy / name).write_bytes(content)
    read = {"manifest.json": bundle._read_manifest, "parity.npz": bundle._read_parity}[name]
    with pytest.raises(BundleError):
        read(copy / name)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400))
def test_any_bytes_as_a_network_give_an_error(tmp_path: Path, content: bytes) -> None:
    """The runtime's own parser is behind a BundleError too."""
    path = tmp_path / "features.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError):
        OnnxEngine(path, threads=1)
