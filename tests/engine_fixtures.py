"""A device that is made of host memory, and a runtime on it: what a GPU does, without one.

Addresses are real, so that a wrong offset reads the wrong bytes; work that is captured does not run
until its graph is launched, as on a GPU; everything in use is counted.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from streamer.engine.compiler import Built
from streamer.engine.device import UnavailableError
from streamer.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.engine.device import Device
    from streamer.engine.graphs import Network
    from streamer.engine.plan import Shape
    from streamer.types import U8

__all__ = ["UNITS", "HostCompiler", "HostDevice", "HostGraph", "HostNetwork", "write_networks"]

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class HostDevice:
    """``streamer.engine.device.Device`` in host memory; fresh memory is dirty, as on a GPU."""

    name = "host memory"
    architecture = "sm86"
    stream = 0

    def __init__(self) -> None:
        self.memory: dict[int, U8] = {}
        self.locked: dict[int, U8] = {}
        self.launches = 0
        self.captures = 0
        self.closed = False
        self.room = 1 << 30
        self._recording: list[Callable[[], None]] | None = None

    def allocate(self, size: int) -> int:
        """Return the address of zero bytes, while there is room."""
        if sum(block.nbytes for block in self.memory.values()) + size > self.room:
            raise EngineError("cudaMalloc: out of memory (CUDA error 2)")
        block = np.zeros(size, np.uint8)
        self.memory[block.ctypes.data] = block
        return int(block.ctypes.data)

    def free(self, address: int) -> None:
        """Overwrite and forget; a second time is an error."""
        self.memory.pop(address)[:] = 0xFF

    def pinned(self, size: int) -> U8:
        """Return zero bytes."""
        block = np.zeros(size, np.uint8)
        self.locked[block.ctypes.data] = block
        return block

    def unpin(self, block: U8) -> None:
        """Forget; a second time is an error."""
        self.locked.pop(block.ctypes.data)

    def upload(self, destination: int, source: U8) -> None:
        """Copy, or record it."""
        assert source.ctypes.data in self.locked
        self.enqueue(lambda: self._move(destination, source.ctypes.data, source.nbytes))

    def download(self, destination: U8, source: int) -> None:
        """Copy, or record it."""
        assert destination.ctypes.data in self.locked
        self.enqueue(lambda: self._move(destination.ctypes.data, source, destination.nbytes))

    def copy(self, destination: int, source: int, size: int) -> None:
        """Copy, or record it."""
        self.enqueue(lambda: self._move(destination, source, size))

    def capture(self, work: Callable[[], None]) -> HostGraph:
        """Record what ``work`` enqueues."""
        self._recording = []
        work()
        recorded, self._recording = self._recording, None
        self.captures += 1
        return HostGraph(self, recorded)

    def time(self, works: Sequence[Callable[[], None]]) -> list[float]:
        """Run; every work takes a millisecond of this device's clock."""
        for work in works:
            work()
        return [1e-3 for _ in works]

    def wait(self) -> None:
        """Work is done when it is enqueued, so there is nothing to wait for."""

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def enqueue(self, work: Callable[[], None]) -> None:
        """Run it now, or record it while a capture is open."""
        if self._recording is not None:
            self._recording.append(work)
        else:
            work()

    def _move(self, destination: int, source: int, size: int) -> None:
        ctypes.memmove(destination, source, size)


class HostGraph:
    """What was captured."""

    def __init__(self, device: HostDevice, works: list[Callable[[], None]]) -> None:
        self._device = device
        self._works = works

    def launch(self) -> None:
        """Run all of it."""
        self._device.launches += 1
        for work in self._works:
            work()

    def close(self) -> None:
        """Forget it; launching it again does nothing, and a test would see that."""
        self._works = []


class HostNetwork:
    """``streamer.engine.gpu.Compiled`` on onnxruntime, reading and writing raw addresses."""

    def __init__(self, network: Network, device: HostDevice) -> None:
        self._session = onnxruntime.InferenceSession(
            network.onnx, providers=["CPUExecutionProvider"]
        )
        self._device = device
        self._values = [*self._session.get_inputs(), *self._session.get_outputs()]
        self.network = network
        self.fail = ""
        self.rows: list[int] = []
        self.closed = 0

    def dtype(self, name: str) -> np.dtype[Any]:
        """Look it up in the session."""
        return np.dtype(next(_TYPES[v.type] for v in self._values if v.name == name))

    def context(self, inputs: Mapping[str, Shape]) -> HostContext:
        """Find the outputs' shapes by running zeros through."""
        zeros = {name: np.zeros(shape, self.dtype(name)) for name, shape in inputs.items()}
        outputs = self.compute(zeros)
        return HostContext(self, self._device, inputs, {n: o.shape for n, o in outputs.items()})

    def compute(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the session."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def runtime_cache(self) -> bytes:
        """Return kernels, one for each shape that ran."""
        return b"kernel" * len(set(self.rows))

    def close(self) -> None:
        """Count it."""
        self.closed += 1


class HostCompiler:
    """``streamer.engine.compiler.Compiler`` whose engines are the ONNX files themselves."""

    name = "host"
    version = "1.0"
    platform = "linux-host"
    architectures: tuple[str, ...] = ("sm86", "sm120")

    def __init__(self, network: type[HostNetwork] | None = None) -> None:
        self._network = network or HostNetwork
        self.builds: list[tuple[str, str, bytes]] = []
        self.loads: list[bytes] = []
        self.fail_build = ""
        self.fail_loads = 0

    def require(self, architecture: str) -> None:
        """Refuse what is not on the list."""
        if architecture not in self.architectures:
            raise UnavailableError(f"host does not support {architecture}")

    def build(
        self,
        network: Network,
        *,
        architecture: str = "",
        timings: bytes = b"",
        progress: Callable[[], None] = lambda: None,
    ) -> Built:
        """Take the file as it is."""
        self.builds.append((network.label, architecture, timings))
        progress()
        if self.fail_build:
            raise EngineError(self.fail_build)
        return Built(engine=b"host:" + network.onnx, timings=b"measured")

    def load(
        self, network: Network, engine: bytes, device: Device, *, runtime_cache: bytes = b""
    ) -> HostNetwork:
        """Run the file on onnxruntime."""
        assert isinstance(device, HostDevice)
        self.loads.append(runtime_cache)
        if self.fail_loads:
            self.fail_loads -= 1
            raise EngineError(f"{network.label}: the engine does not load: wrong driver")
        assert engine == b"host:" + network.onnx
        return self._network(network, device)


class HostContext:
    """``streamer.engine.plan.Context``: tensors are arrays over addresses."""

    def __init__(
        self,
        network: HostNetwork,
        device: HostDevice,
        inputs: Mapping[str, Shape],
        outputs: dict[str, Shape],
    ) -> None:
        self._network = network
        self._device = device
        self._inputs = inputs
        self.shapes = outputs
        self._addresses: Mapping[str, int] = {}

    def attach(self, addresses: Mapping[str, int]) -> None:
        """Keep them."""
        self._addresses = addresses

    def enqueue(self) -> None:
        """Run on what lies at the addresses, or record it."""
        if self._network.fail:
            raise EngineError(self._network.fail)
        self._device.enqueue(self._run)

    def _run(self) -> None:
        inputs = {name: self._at(name, shape).copy() for name, shape in self._inputs.items()}
        self._network.rows.append(len(next(iter(inputs.values()))))
        for name, value in self._network.compute(inputs).items():
            self._at(name, self.shapes[name])[...] = value

    def _at(self, name: str, shape: Shape) -> NDArray[Any]:
        dtype = self._network.dtype(name)
        size = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_uint8 * size).from_address(self._addresses[name])
        return np.ndarray(shape, dtype, buffer=memoryview(raw))


Axes = tuple[str | int, ...]

UNITS = 3
"""Units of the networks that ``write_networks`` writes; its features are as many."""


def write_networks(folder: Path) -> tuple[Path, Path]:
    """Write two small networks whose logits depend on every step so far.

    The feature is the picture's mean, times 1, 2, 3. The step is ``h' = h / 2 + features`` and
    ``c' = c + h'``; the logits are ``h'`` beside ``c'``.

    Returns:
        the CNN and the step, with the names and axes of a bundle.
    """
    scale = numpy_helper.from_array(np.arange(1, UNITS + 1, dtype=np.float32)[None], "scale")
    cnn = [
        helper.make_node("ReduceMean", ["faces", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["mean_N1"]),
        helper.make_node("Mul", ["mean_N1", "scale"], ["features"]),
        helper.make_node("Identity", ["features"], ["logits"]),
    ]
    step = [
        helper.make_node("Mul", ["h", "half"], ["decayed"]),
        helper.make_node("Unsqueeze", ["features", "zero"], ["features_1NU"]),
        helper.make_node("Add", ["decayed", "features_1NU"], ["h_out"]),
        helper.make_node("Add", ["c", "h_out"], ["c_out"]),
        helper.make_node("Concat", ["h_out", "c_out"], ["both"], axis=2),
        helper.make_node("Squeeze", ["both", "zero"], ["logits"]),
    ]
    face: Axes = ("N", 1, 8, 8)
    row: Axes = ("N", UNITS)
    state: Axes = (1, "N", UNITS)
    constants = {
        "axes": np.array([1, 2, 3]),
        "one": np.array([1]),
        "zero": np.array([0]),
        "half": np.array(0.5, np.float32),
    }
    initial = [scale, *(numpy_helper.from_array(v, n) for n, v in constants.items())]
    paths = folder / "features.onnx", folder / "temporal.onnx"
    _save(paths[0], cnn, {"faces": face}, {"features": row, "logits": row}, initial)
    _save(
        paths[1],
        step,
        {"features": row, "h": state, "c": state},
        {"logits": ("N", 2 * UNITS), "h_out": state, "c_out": state},
        initial,
    )
    return paths


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, Axes],
    outputs: Mapping[str, Axes],
    initial: list[onnx.TensorProto],
) -> None:
    used = {name for node in nodes for name in node.input}

    def values(of: Mapping[str, Axes]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in of.items()]

    graph = helper.make_graph(
        nodes, path.stem, values(inputs), values(outputs), [t for t in initial if t.name in used]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
