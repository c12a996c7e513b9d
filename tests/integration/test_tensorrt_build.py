"""The real parser and compiler of TensorRT for RTX, which need no GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamer import bundle as bundles
from streamer.detect import yunet_graph
from streamer.engine import graphs
from streamer.engine.accelerator import compile_ahead, key_of
from streamer.engine.cache import EngineCache
from streamer.engine.device import UnavailableError, open_device
from streamer.engine.tensorrt import Library
from streamer.errors import ConfigError, EngineError
from tests.engine_fixtures import HostDevice

if TYPE_CHECKING:
    from pathlib import Path

trt = pytest.importorskip("tensorrt_rtx", reason="no TensorRT wheel for this platform")


@pytest.fixture(scope="module")
def library() -> Library:
    """Return the real library."""
    return Library(trt)


@pytest.fixture(scope="module")
def networks(shared_yunet: bytes) -> dict[str, graphs.Network]:
    """Return everything that is compiled for a GPU."""
    shipped = bundles.load(bundles.bundled_path())
    return {
        "features": graphs.batched(shipped.features_path),
        "temporal": graphs.batched(shipped.temporal_path),
        "reader": graphs.reader(shipped.features_path, shipped.temporal_path),
        **{f"detector-{px}": graphs.detector(shared_yunet, px) for px in (320, 480, 640)},
    }


@pytest.fixture(scope="module")
def shared_yunet() -> bytes:
    """Return the face detector, installed or beside the project, folded to luma."""
    from streamer import assets  # noqa: PLC0415 only here

    path = assets.find(assets.ASSETS["yunet"], assets.default_folder())
    if path is None:
        pytest.skip("the face detector's file is not installed (streamer assets install)")
    return yunet_graph.luma_network(path)


@pytest.mark.parametrize("architecture", ["sm86", "sm120"])
@pytest.mark.parametrize(
    "name", ["features", "temporal", "reader", "detector-320", "detector-480", "detector-640"]
)
def test_every_network_compiles_without_a_gpu(
    library: Library,
    networks: dict[str, graphs.Network],
    name: str,
    architecture: str,
    tmp_path: Path,
) -> None:
    """Both networks, their join with the tables and the detector compile, with their profiles."""
    cache = EngineCache(tmp_path)
    network = networks[name]
    assert compile_ahead(network, architecture, library, cache).startswith("built: ")
    assert compile_ahead(network, architecture, library, cache) == "in the cache"
    key = key_of(network, library, gpu="any", architecture=architecture)
    engine = cache.look(key).engine
    assert engine is not None
    assert engine.startswith(b"vtrt")  # the library's own magic
    assert (key.version, key.precision) == (trt.__version__, "fp32")


def test_half_precision_compiles(library: Library, tmp_path: Path) -> None:
    """The precision is the file's: the same network in float16 gives a smaller engine."""
    from training.half import to_half  # noqa: PLC0415 the exporter's own

    shipped = bundles.load(bundles.bundled_path())
    for path in (shipped.features_path, shipped.temporal_path):
        onnx.save(to_half(onnx.load(path)), tmp_path / path.name)
    half = graphs.reader(tmp_path / "features.onnx", tmp_path / "temporal.onnx")
    whole = graphs.reader(shipped.features_path, shipped.temporal_path)
    assert (half.precision, whole.precision) == ("fp16", "fp32")
    sizes = [len(library.build(n, architecture="sm86").engine) for n in (half, whole)]
    assert sizes[0] < sizes[1]


def test_a_build_reports_progress(library: Library, networks: dict[str, graphs.Network]) -> None:
    """The compiler's own steps are what extends the start of the service."""
    steps: list[int] = []
    library.build(networks["temporal"], architecture="sm86", progress=lambda: steps.append(1))
    assert len(steps) > 10


def test_another_architecture_is_another_engine(
    library: Library, networks: dict[str, graphs.Network]
) -> None:
    """What is compiled for one architecture is not what is compiled for another."""
    engines = {
        a: library.build(networks["temporal"], architecture=a).engine for a in ("sm86", "sm120")
    }
    assert engines["sm86"] != engines["sm120"]


def test_turing_wants_half_precision(library: Library, networks: dict[str, graphs.Network]) -> None:
    """The library has no float32 products for Turing (SM75), and says so."""
    with pytest.raises(EngineError, match=r"cannot compile it for sm75: .*FP32 GEMM"):
        library.build(networks["temporal"], architecture="sm75")


def test_an_architecture_that_the_library_lacks_is_a_mistake(
    library: Library, networks: dict[str, graphs.Network]
) -> None:
    """Hopper is not on the list of TensorRT for RTX: the list is in the line."""
    with pytest.raises(
        ConfigError, match=r"cannot compile for sm90 ahead of time: it can for sm75"
    ):
        library.build(networks["temporal"], architecture="sm90")


@pytest.mark.parametrize(
    "content", [b"", b"not a network", bytes(range(256)) * 10], ids=["empty", "text", "bytes"]
)
def test_what_is_no_network_is_an_error_of_one_line(
    library: Library, networks: dict[str, graphs.Network], content: bytes
) -> None:
    """The real parser's reason is told, and nothing crashes."""
    broken = replace(networks["temporal"], onnx=content)
    with pytest.raises(EngineError, match=r"^temporal: tensorrt_rtx \S+ cannot read") as caught:
        library.build(broken, architecture="sm86")
    assert "\n" not in str(caught.value)


def test_an_operator_that_the_library_lacks_is_named(library: Library) -> None:
    """A network that TensorRT does not know is refused with the operator's name."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("StringNormalizer", ["x"], ["y"])],
        "strings",
        [value("x", TensorProto.STRING, ["N"])],
        [value("y", TensorProto.STRING, ["M"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    network = graphs.Network(
        label="strings", onnx=model.SerializeToString(), profiles=(), resident={}
    )
    with pytest.raises(EngineError, match="strings: tensorrt_rtx"):
        library.build(network, architecture="sm86")


def test_a_profile_that_the_network_cannot_have_is_refused(library: Library) -> None:
    """A fixed axis does not take a range: the real builder says no, in one line."""
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "weight")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [value("x", TensorProto.FLOAT, ["N", "D"])],
        [value("y", TensorProto.FLOAT, ["N", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    network = graphs.Network(
        label="product",
        onnx=model.SerializeToString(),
        profiles=({"N": (1, 2, 4), "D": (5, 5, 5)},),
        resident={},
    )
    with pytest.raises(EngineError, match="product: "):
        library.build(network, architecture="sm86")


def test_an_engine_does_not_load_without_its_gpu(
    library: Library, networks: dict[str, graphs.Network]
) -> None:
    """On a machine without a GPU, or with one of another kind, the library's reason is told."""
    engine = library.build(networks["temporal"], architecture="sm121").engine
    with pytest.raises(EngineError, match=r"^temporal: the engine does not load: "):
        library.load(networks["temporal"], engine, HostDevice())


@pytest.mark.parametrize("cut", [0, 10, 1000, -1], ids=["empty", "10", "1000", "last"])
def test_a_damaged_engine_does_not_load(
    library: Library, networks: dict[str, graphs.Network], cut: int
) -> None:
    """Even past the cache's own check, the library refuses it and the process lives on."""
    engine = library.build(networks["temporal"], architecture="sm86").engine
    with pytest.raises(EngineError, match="the engine does not load"):
        library.load(networks["temporal"], engine[:cut], HostDevice())


def streamer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "streamer", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_the_command_line_compiles_for_an_image(tmp_path: Path, shared_yunet: bytes) -> None:
    """Build for two architectures, build again for nothing, list, clear."""
    assert shared_yunet
    cache = ("--cache", str(tmp_path / "engines"))
    build = ("engines", "build", "--compute-capability", "8.6,120", *cache)
    first = streamer(*build)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "reader fp32 for sm86",
        "detector-480 fp32 for sm86",
        "reader fp32 for sm120",
        "detector-480 fp32 for sm120",
    ]
    again = streamer(*build)
    assert [line.rpartition(": ")[2] for line in again.stdout.splitlines()] == ["in the cache"] * 4
    assert streamer("engines", "list", *cache).stdout.count("reader") == 2
    cleared = streamer("engines", "clear", *cache)
    assert re.match(r"removed 12 files, \d+\.\d MB", cleared.stdout)
    assert "no engine is in" in streamer("engines", "list", *cache).stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--compute-capability", "90"), "cannot compile for sm90 ahead of time"),
        (("--compute-capability", "ampere"), "'ampere' is none; expected numbers such as 86"),
    ],
)
def test_mistakes_on_the_command_line_exit_78(
    tmp_path: Path, arguments: tuple[str, str], why: str
) -> None:
    """One line that says what was expected, and the exit code of a wrong configuration."""
    done = streamer("engines", "build", *arguments, "--cache", str(tmp_path))
    assert done.returncode == 78
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_daemon_insists_on_tensorrt_or_says_why_not(tmp_path: Path) -> None:
    """Without a GPU, `tensorrt` exits 78 with one line, which systemd does not restart on."""
    try:
        open_device().close()
    except UnavailableError:
        pass
    else:
        pytest.skip("a GPU answers here")
    (tmp_path / "clip.mp4").write_bytes(b"")
    config = tmp_path / "streamer.toml"
    config.write_text(
        '[[cameras]]\nname = "lobby"\nurl = "' + str(tmp_path / "clip.mp4") + '"\n'
        '[engine]\nbackend = "tensorrt"\n[http]\nbind = "127.0.0.1:0"\n'
        '[publish]\nbind = "tcp://127.0.0.1:0"\nsnapshot = "tcp://127.0.0.1:0"\n'
    )
    done = streamer("run", "--config", str(config))
    assert done.returncode == 78
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("streamer: ")]
    assert "engine.backend is 'tensorrt', but no NVIDIA GPU answers" in line
