"""Which runtime reads faces: TensorRT where it works and computes the same, else onnxruntime."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from structlog.testing import capture_logs

from streamer import bundle as bundles
from streamer import reading
from streamer.config import Engine as EngineOptions
from streamer.engine.accelerator import Accelerator
from streamer.engine.device import CudaDevice, UnavailableError, open_device
from streamer.engine.onnx import OnnxEngine
from streamer.engine.tensorrt import load_library
from streamer.errors import BundleError, ConfigError, EngineError
from streamer.temporal import TemporalHead
from tests.engine_fixtures import HostCompiler, HostDevice, HostNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.bundle import Bundle
    from streamer.engine.cache import EngineCache


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    """Return the bundle in the package."""
    return bundles.load(bundles.bundled_path())


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    """Return the defaults with a cache of their own."""
    return EngineOptions(cache=str(tmp_path / "engines"))


class Host:
    """Opens an accelerator whose GPU is host memory."""

    def __init__(self, network: type[HostNetwork] = HostNetwork) -> None:
        self.compiler = HostCompiler(network)
        self.devices: list[HostDevice] = []

    def __call__(self, cache: EngineCache, *, progress: Callable[[], None]) -> Accelerator:
        """Open it."""
        return Accelerator(
            cache, progress=progress, library=lambda: self.compiler, opener=self._open
        )

    def _open(self) -> HostDevice:
        self.devices.append(HostDevice())
        return self.devices[-1]


def choose(
    bundle: Bundle, options: EngineOptions, accelerate: reading.Accelerate = Accelerator
) -> tuple[reading.Choice, list[str]]:
    """Choose, and return the reasons of every fall-back that was logged."""
    with capture_logs() as logs:
        choice = reading.choose(bundle, options, detector_px=320, threads=1, accelerate=accelerate)
    fell = [str(line["why"]) for line in logs if line["event"] == "engine_fell_back"]
    return choice, fell


def with_backend(options: EngineOptions, backend: str, precision: str = "fp32") -> EngineOptions:
    """Return the options with another backend."""
    return EngineOptions(backend=backend, cache=options.cache, precision=precision)  # type: ignore[arg-type]


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make both libraries impossible to import."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)


def test_auto_falls_back_when_no_library_is_installed(
    shipped: Bundle, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a GPU answers, one line names both libraries and what to install."""
    without_library(monkeypatch)

    def accelerate(cache: EngineCache, *, progress: Callable[[], None]) -> Accelerator:
        return Accelerator(cache, progress=progress, opener=HostDevice)

    choice, fell = choose(shipped, options, accelerate)
    assert choice.compiled is None
    assert choice.reading.name.startswith("onnxruntime")
    (why,) = fell
    assert why.startswith("no TensorRT is installed (tensorrt: ")
    assert "tensorrt-rtx" in why
    assert "\n" not in why


def test_auto_falls_back_when_no_gpu_answers(shipped: Bundle, options: EngineOptions) -> None:
    """The real library and the real bindings, on a machine without a GPU: the driver's words."""
    pytest.importorskip("tensorrt_rtx", reason="no TensorRT wheel for this platform")
    if _gpu_here():
        pytest.skip("a GPU answers here")
    choice, fell = choose(shipped, options)
    assert choice.compiled is None
    (why,) = fell
    assert why.startswith("no NVIDIA GPU answers: ")
    assert "CUDA error" in why


def test_auto_falls_back_on_an_unsupported_architecture(
    shipped: Bundle, options: EngineOptions
) -> None:
    """A GPU that the library does not know is named."""
    host = Host()
    host.compiler.architectures = ("sm120",)
    choice, fell = choose(shipped, options, host)
    assert choice.compiled is None
    assert fell == ["host does not support sm86"]


def test_auto_falls_back_when_the_build_fails(shipped: Bundle, options: EngineOptions) -> None:
    """A library that cannot compile the network is no reason to watch nothing."""
    host = Host()
    host.compiler.fail_build = "reader: cannot compile it"
    choice, fell = choose(shipped, options, host)
    assert choice.compiled is None
    assert fell == ["reader: cannot compile it"]


@pytest.mark.parametrize("missing", ["library", "gpu"])
def test_tensorrt_insists(
    shipped: Bundle, options: EngineOptions, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Asked for by name and not to be had: one line, exit code 78."""
    if missing == "library":
        without_library(monkeypatch)
    elif _gpu_here():
        pytest.skip("a GPU answers here")
    with pytest.raises(ConfigError, match=r"^engine\.backend is 'tensorrt', but no ") as caught:
        choose(shipped, with_backend(options, "tensorrt"))
    assert caught.value.exit_code == 78


def test_onnxruntime_never_looks_for_a_gpu(shipped: Bundle, options: EngineOptions) -> None:
    """Asked for by name, it is taken without a word about TensorRT."""
    host = Host()
    choice, fell = choose(shipped, with_backend(options, "onnxruntime"), host)
    assert choice.reading.name.startswith("onnxruntime")
    assert not fell
    assert not host.devices


def test_a_gpu_that_computes_the_same_is_taken(shipped: Bundle, options: EngineOptions) -> None:
    """The reader's probabilities are compared over several steps, then it reads; all is freed."""
    host = Host()
    choice, fell = choose(shipped, with_backend(options, "tensorrt"), host)
    assert not fell
    assert choice.reading.features is None
    assert choice.reading.name == "host 1.0 host memory (sm86) fp32"
    head = TemporalHead(choice.reading.states(), gap_reset_s=1.0)
    probabilities = head.step(shipped.parity.faces_N1HW[:1], [("lobby", 1)], [0.0])
    assert probabilities.shape == (1, len(shipped.manifest.classes))
    choice.reading.close()
    assert all(device.closed and not device.memory for device in host.devices)


class Wrong(HostNetwork):
    """Computes logits that are off."""

    def compute(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Add to the first class."""
        out = super().compute(inputs)
        out["logits"] = out["logits"] + np.eye(1, out["logits"].shape[1], dtype=np.float32) / 10
        return out


def test_a_gpu_that_computes_otherwise_is_not_taken(
    shipped: Bundle, options: EngineOptions
) -> None:
    """Auto falls back; by name the daemon refuses to start; the GPU's memory is given back."""
    host = Host(Wrong)
    choice, fell = choose(shipped, options, host)
    assert choice.reading.name.startswith("onnxruntime")
    assert "differs from onnxruntime" in fell[0]
    assert all(device.closed and not device.memory for device in host.devices)
    with pytest.raises(BundleError, match=r"differs from onnxruntime .* by 0\.\d+ in a prob"):
        choose(shipped, with_backend(options, "tensorrt"), Host(Wrong))


def test_a_bundle_without_half_precision_says_so(
    shipped: Bundle, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for fp16, a bundle that has none names the file and the way out."""
    monkeypatch.setattr(type(shipped), "half_paths", None)
    with pytest.raises(ConfigError, match=r"has no features\.fp16\.onnx; choose 'fp32'"):
        choose(shipped, with_backend(options, "tensorrt", "fp16"), Host())


def test_the_detector_may_fall_back_alone(
    shipped: Bundle, options: EngineOptions, shared: Path
) -> None:
    """With auto a detector that does not compile runs on the CPU; by name it is an error."""
    from streamer.detect import yunet_graph  # noqa: PLC0415 needs the file that may be missing

    content = yunet_graph.luma_network(shared / "models" / "face_detection_yunet_2026may.onnx")
    host = Host()
    choice, _ = choose(shipped, options, host)
    assert choice.compiled is not None
    engine = choice.compiled(content)
    assert engine is not None
    picture = np.zeros((1, 1, 192, 320), np.float32)
    assert engine.run({"input": picture})["anchors"].shape == (1, 10, 1260)
    engine.close()
    host.compiler.fail_build = "detector-320: cannot compile it"
    host.compiler.version = "1.1"
    with capture_logs() as logs:
        assert choice.compiled(content) is None
    assert [line["why"] for line in logs if line["event"] == "engine_fell_back"] == [
        "detector-320: cannot compile it"
    ]
    host.compiler.fail_build = ""
    insisting, _ = choose(shipped, with_backend(options, "tensorrt"), host)
    host.compiler.fail_build = "detector-320: cannot compile it"
    assert insisting.compiled is not None
    with pytest.raises(EngineError, match="cannot compile"):
        insisting.compiled(content)


def test_the_library_is_named_when_it_is_there() -> None:
    """Whichever imports, it says its own name and full version."""
    trt = pytest.importorskip("tensorrt_rtx", reason="no TensorRT wheel for this platform")
    library = load_library()
    if library.name == "tensorrt_rtx":
        assert library.version == trt.__version__
        assert {"sm86", "sm120"} <= set(library.architectures)
        assert "sm90" not in library.architectures
        with pytest.raises(UnavailableError, match="does not support sm90, only sm75"):
            library.require("sm90")


class _Refusing:
    """CUDA's runtime where every call fails, with its own codes and words."""

    def __init__(self, runtime: object) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> object:
        if name in {"cudaGetErrorString", "cudaError_t"} or not name.startswith("cuda"):
            return getattr(self._runtime, name)
        return lambda *_: (self._runtime.cudaError_t.cudaErrorMemoryAllocation, None)  # type: ignore[attr-defined]


def test_what_cuda_refuses_is_said_in_its_words() -> None:
    """The name of the call, CUDA's text and its number are in the line."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="no wheel of cuda-bindings")
    with pytest.raises(
        EngineError, match=r"^cudaGetDeviceProperties: out of memory \(CUDA error 2\)$"
    ):
        CudaDevice(_Refusing(runtime))


def test_missing_bindings_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library without NVIDIA's bindings: the package to install is named."""
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(UnavailableError, match="cuda-bindings is not installed"):
        open_device()


def _gpu_here() -> bool:
    try:
        open_device().close()
    except UnavailableError:
        return False
    return True


def test_a_moving_average_reads_instead_of_the_head(
    shipped: Bundle, options: EngineOptions
) -> None:
    """On the CPU and joined for a GPU it is 0.25 of the newest frame and 0.75 of what was."""
    faces = shipped.parity.faces_N1HW
    frames = OnnxEngine(shipped.features_path, threads=1).run({"faces": faces})["logits"]
    seen = bundles.softmax(frames)
    expected = [seen[:2], 0.25 * seen[2:4] + 0.75 * seen[:2]]
    expected.append(0.25 * seen[4:6] + 0.75 * expected[1])
    for host, backend in ((Accelerator, "onnxruntime"), (Host(), "tensorrt")):
        choice = reading.choose(
            shipped,
            with_backend(options, backend),
            detector_px=320,
            threads=1,
            newest=0.25,
            accelerate=host,
        )
        head = TemporalHead(choice.reading.states(), gap_reset_s=1.0)
        for t, wanted in enumerate(expected):
            rows = faces[2 * t : 2 * t + 2]
            if choice.reading.features is not None:
                rows = choice.reading.features.run({"faces": rows})["features"]
            got = head.step(rows, [("c", 1), ("c", 2)], [t / 10] * 2)
            np.testing.assert_allclose(got, wanted, atol=1e-5)
        choice.reading.close()
