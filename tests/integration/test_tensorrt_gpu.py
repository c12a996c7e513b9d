"""The compiled engines on a real GPU: the same numbers as onnxruntime, and states that stay apart.

They need an NVIDIA GPU that the installed TensorRT runs on, and skip with its reason elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from structlog.testing import capture_logs

from streamer import assets, reading
from streamer import bundle as bundles
from streamer.config import Engine as EngineOptions
from streamer.detect.yunet import YuNet
from streamer.engine import graphs
from streamer.engine.accelerator import Accelerator
from streamer.engine.cache import EngineCache
from streamer.engine.device import UnavailableError
from streamer.engine.onnx import OnnxEngine
from streamer.engine.resident import ResidentStates
from streamer.temporal import HostStates, TemporalHead
from tests.engine_fixtures import UNITS, write_networks

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.bundle import Bundle
    from streamer.types import F32

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    """Return a cache for all of these tests."""
    return EngineCache(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def accelerator(cache: EngineCache) -> Accelerator:
    """Return TensorRT on the GPU here, or skip with the reason."""
    try:
        return Accelerator(cache)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    """Return the bundle in the package."""
    return bundles.load(bundles.bundled_path())


def faces_of(n: int, size_px: int, seed: int = 0) -> F32:
    """Return noise around another brightness a face."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.2, 0.8, size=(n, 1, 1, 1))
    return (level + rng.normal(0, 0.1, size=(n, 1, size_px, size_px))).astype(np.float32)


@pytest.mark.parametrize("n", [1, 3, 16, 64, 65, 150])
def test_the_cnn_equals_onnxruntime(accelerator: Accelerator, shipped: Bundle, n: int) -> None:
    """Any batch size, padded or split, gives the CPU's features and logits."""
    engine = accelerator.open(graphs.batched(shipped.features_path))
    faces = faces_of(n, shipped.manifest.input.size_px)
    expected = OnnxEngine(shipped.features_path, threads=1).run({"faces": faces})
    got = engine.run({"faces": faces})
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=2e-3)
    engine.close()


def test_both_networks_pass_the_bundles_own_proof(
    accelerator: Accelerator, shipped: Bundle
) -> None:
    """Batches, one face and the sequence step by step: what PyTorch computed at export."""
    features = accelerator.open(graphs.batched(shipped.features_path))
    temporal = accelerator.open(graphs.batched(shipped.temporal_path))
    assert bundles.verify_parity(shipped, features, temporal) <= bundles.PARITY_TOLERANCE
    features.close()
    temporal.close()


def test_the_joined_network_equals_the_two(accelerator: Accelerator, shipped: Bundle) -> None:
    """Captured graphs and resident states give the CPU's probabilities, step after step."""
    cpu = reading.CpuReading(shipped, threads=1)
    engine = accelerator.open(reading.network_of(shipped, "fp32"))
    gpu = reading.GpuReading(engine, size_px=shipped.manifest.input.size_px)
    faces = shipped.parity.faces_N1HW
    assert reading.largest_difference(gpu, cpu, faces) <= bundles.PARITY_TOLERANCE
    gpu.close()


def test_half_precision_is_within_its_tolerance(
    accelerator: Accelerator, shipped: Bundle, tmp_path: Path
) -> None:
    """The float16 networks on the GPU against the float32 ones on the CPU."""
    from training.half import to_half  # noqa: PLC0415 the exporter's own

    for path in (shipped.features_path, shipped.temporal_path):
        onnx.save(to_half(onnx.load(path)), tmp_path / path.name)
    network = graphs.reader(tmp_path / "features.onnx", tmp_path / "temporal.onnx")
    size_px = shipped.manifest.input.size_px
    gpu = reading.GpuReading(accelerator.open(network), size_px=size_px)
    cpu = reading.CpuReading(shipped, threads=1)
    faces = shipped.parity.faces_N1HW
    assert reading.largest_difference(gpu, cpu, faces) <= bundles.HALF_TOLERANCE
    gpu.close()


def test_tracks_that_come_and_go_never_mix(accelerator: Accelerator, tmp_path: Path) -> None:
    """Random tracks over many steps, more than the first table holds: as in host memory."""
    files = write_networks(tmp_path)
    features, temporal = (OnnxEngine(path, threads=1) for path in files)
    engine = accelerator.open(graphs.reader(*files))
    on_host = TemporalHead(
        HostStates(temporal, {"h": (1, UNITS), "c": (1, UNITS)}), gap_reset_s=1.0
    )
    on_device = TemporalHead(ResidentStates(engine), gap_reset_s=1.0)
    rng = np.random.default_rng(0)
    for step in range(40):
        tracks = rng.choice(600, size=rng.integers(1, 200), replace=False)
        keys = [("lobby", int(track)) for track in tracks]
        faces, times = faces_of(len(keys), 8, seed=step), [0.2 * step] * len(keys)
        read = features.run({"faces": faces})["features"]
        np.testing.assert_allclose(
            on_device.step(faces, keys, times), on_host.step(read, keys, times), atol=1e-4
        )
        gone = keys[: len(keys) // 4]
        on_host.evict(gone)
        on_device.evict(gone)
    assert engine.slots > graphs.FIRST_SLOTS
    engine.close()


def test_the_detector_finds_the_same_faces(accelerator: Accelerator) -> None:
    """Pictures of several shapes, on the GPU and on the CPU."""
    path = assets.find(assets.ASSETS["yunet"], assets.default_folder())
    if path is None:
        pytest.skip("the face detector's file is not installed (streamer assets install)")
    skimage = pytest.importorskip("skimage.data", reason="needs a portrait (extra demo)")
    grey = skimage.astronaut().mean(axis=2).astype(np.uint8)
    on_gpu = YuNet(path, compiled=lambda c: accelerator.open(graphs.detector(c, 640)))
    on_cpu = YuNet(path)
    for picture in (grey, grey[:360], grey[:, 100:400]):
        got, expected = on_gpu.detect(picture), on_cpu.detect(picture)
        assert len(got) == len(expected) > 0
        np.testing.assert_allclose(got.boxes_N4, expected.boxes_N4, atol=0.5)
    on_gpu.close()


def test_the_second_start_builds_nothing(
    accelerator: Accelerator, cache: EngineCache, shipped: Bundle
) -> None:
    """Engines and finished kernels are taken from the cache, and one that is cut is built again."""
    network = graphs.batched(shipped.temporal_path)
    accelerator.open(network).close()
    with capture_logs() as logs:
        Accelerator(cache).open(network).close()
    assert not [line for line in logs if line["event"] == "engine_building"]
    for path in cache.folder.glob("temporal-*.engine"):
        path.write_bytes(path.read_bytes()[:1000])
    with capture_logs() as logs:
        Accelerator(cache).open(network).close()
    (line,) = [line for line in logs if line["event"] == "engine_building"]
    assert "is truncated: 1000 of" in line["why"]


def test_tensorrt_is_chosen(accelerator: Accelerator, shipped: Bundle, cache: EngineCache) -> None:
    """With `auto` on this machine the GPU reads, and its shares of the time add up."""
    options = EngineOptions(cache=str(cache.folder))
    choice = reading.choose(shipped, options, detector_px=480, threads=1)
    assert choice.compiled is not None
    assert choice.reading.name.startswith(accelerator.name)
    choice.reading.close()
    engine = accelerator.open(graphs.batched(shipped.features_path))
    shares = engine.measure({"faces": faces_of(64, shipped.manifest.input.size_px)}, rounds=20)
    parts = shares.transfer_s + shares.compute_s + shares.launch_s
    assert 0 < shares.compute_s < shares.total_s
    assert parts == pytest.approx(shares.total_s, rel=0.5)
    engine.close()
