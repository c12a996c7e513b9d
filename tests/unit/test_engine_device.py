"""The GPU's memory, streams and graphs: every call against the real bindings, and their order.

Without a GPU the real bindings take each call, check its arguments and answer with the driver's
error; what a GPU would do is done by a runtime of host memory.
"""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamer.engine.device import CudaDevice, UnavailableError, open_device
from streamer.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

runtime = pytest.importorskip("cuda.bindings.runtime", reason="no wheel of cuda-bindings")
BLOCK = np.zeros(16, np.uint8)
NO_GRAPH = runtime.cudaGraphExec_t()
CALLS: dict[str, tuple[str, Callable[[CudaDevice], object]]] = {
    "allocate": ("cudaMalloc", lambda d: d.allocate(16)),
    "free": ("cudaFree", lambda d: d.free(0)),
    "pinned": ("cudaHostAlloc", lambda d: d.pinned(16)),
    "unpin": ("cudaFreeHost", lambda d: d.unpin(BLOCK)),
    "upload": ("cudaMemcpyAsync", lambda d: d.upload(0, BLOCK)),
    "download": ("cudaMemcpyAsync", lambda d: d.download(BLOCK, 0)),
    "copy": ("cudaMemcpyAsync", lambda d: d.copy(0, 0, 16)),
    "capture": ("cudaStreamBeginCapture", lambda d: d.capture(lambda: None)),
    "launch": ("cudaGraphLaunch", lambda d: d.launch(NO_GRAPH)),
    "discard": ("cudaGraphExecDestroy", lambda d: d.discard(NO_GRAPH)),
    "time": ("cudaEventCreate", lambda d: d.time([lambda: None])),
    "wait": ("cudaStreamSynchronize", lambda d: d.wait()),
    "close": ("cudaStreamDestroy", lambda d: d.close()),
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_real_bindings_take_every_call(name: str) -> None:
    """The arguments are right: the answer is the driver's, and it becomes an EngineError."""
    try:
        open_device().close()
    except UnavailableError:
        pass
    else:
        pytest.skip("a GPU answers here, and these addresses are made up")
    device = CudaDevice(HostRuntime())
    device._cuda = runtime
    call, use = CALLS[name]
    with pytest.raises(EngineError, match=rf"^{call}: .*\(CUDA error \d+\)$"):
        use(device)


class HostRuntime:
    """``cuda.bindings.runtime`` over host memory; every name that is used must be a real one."""

    def __init__(self) -> None:
        self.blocks: dict[int, ctypes.Array[ctypes.c_uint8]] = {}
        self.open: list[str] = []
        self.log: list[str] = []
        self._recording: list[Callable[[], None]] | None = None
        self._events = 0
        self.fail = ""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            return super().__getattribute__(name)
        real = getattr(runtime, name)  # AttributeError: the bindings have no such call
        if not callable(real) or isinstance(real, type):
            return real
        if name == "cudaGetErrorString":
            return real
        self.log.append(name)
        if name == self.fail:
            return lambda *_: (runtime.cudaError_t.cudaErrorMemoryAllocation, None)
        own = re.sub(r"(?=[A-Z])", "_", name.removeprefix("cuda")).lower()
        call = super().__getattribute__(own)
        return lambda *arguments: (runtime.cudaError_t.cudaSuccess, *call(*arguments))

    def _get_device_properties(self, _: int) -> tuple[Any]:
        properties = runtime.cudaDeviceProp()
        properties.name = b"Host GPU".ljust(256, b"\0")
        properties.major, properties.minor = 12, 0
        return (properties,)

    def _stream_create_with_flags(self, _: int) -> tuple[int]:
        self.open.append("stream")
        return (7,)

    def _stream_destroy(self, stream: int) -> tuple[()]:
        assert stream == 7
        self.open.remove("stream")
        return ()

    def _stream_synchronize(self, _: int) -> tuple[()]:
        return ()

    def _malloc(self, size: int) -> tuple[int]:
        block = (ctypes.c_uint8 * size)(*[0xAB] * size)  # fresh device memory is dirty
        self.blocks[ctypes.addressof(block)] = block
        return (ctypes.addressof(block),)

    def _host_alloc(self, size: int, _: int) -> tuple[int]:
        return self._malloc(size)

    def _free(self, address: int) -> tuple[()]:
        del self.blocks[address]
        return ()

    def _free_host(self, address: int) -> tuple[()]:
        return self._free(address)

    def _memset_async(self, address: int, value: int, size: int, _: int) -> tuple[()]:
        ctypes.memset(address, value, size)
        return ()

    def _memcpy_async(self, to: int, source: int, size: int, _: Any, stream: int) -> tuple[()]:
        assert stream == 7

        def move() -> None:
            ctypes.memmove(to, source, size)

        if self._recording is not None:
            self._recording.append(move)
        else:
            move()
        return ()

    def _stream_begin_capture(self, _: int, mode: Any) -> tuple[()]:
        assert mode == runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._recording = []
        self.open.append("capture")
        return ()

    def _stream_end_capture(self, _: int) -> tuple[list[Callable[[], None]]]:
        recorded, self._recording = self._recording or [], None
        self.open.remove("capture")
        self.open.append("graph")
        return (recorded,)

    def _graph_instantiate(self, graph: object, _: int) -> tuple[object]:
        self.open.append("executable")
        return (graph,)

    def _graph_destroy(self, _: object) -> tuple[()]:
        self.open.remove("graph")
        return ()

    def _graph_launch(self, works: list[Callable[[], None]], _: int) -> tuple[()]:
        for work in works:
            work()
        return ()

    def _graph_exec_destroy(self, _: object) -> tuple[()]:
        self.open.remove("executable")
        return ()

    def _event_create(self) -> tuple[int]:
        self._events += 1
        self.open.append("event")
        return (self._events,)

    def _event_record(self, _: int, __: int) -> tuple[()]:
        return ()

    def _event_elapsed_time(self, first: int, second: int) -> tuple[float]:
        return (1.5 * (second - first),)

    def _event_destroy(self, _: int) -> tuple[()]:
        self.open.remove("event")
        return ()


@pytest.fixture
def cuda() -> HostRuntime:
    """Return CUDA's runtime over host memory."""
    return HostRuntime()


def test_bytes_go_there_and_back(cuda: HostRuntime) -> None:
    """Fresh memory is zero, and a copy up, across and down brings the bytes back."""
    device = CudaDevice(cuda)
    assert (device.name, device.architecture) == ("Host GPU", "sm120")
    source, target = device.pinned(8), device.pinned(8)
    assert not source.any()
    one, two = device.allocate(8), device.allocate(8)
    source[:] = np.arange(8)
    device.upload(one, source)
    device.copy(two, one, 8)
    device.download(target, two)
    device.wait()
    assert target.tolist() == list(range(8))
    for address in (one, two):
        device.free(address)
    for block in (source, target):
        device.unpin(block)
    device.close()
    device.close()
    assert not cuda.blocks
    assert not cuda.open
    with pytest.raises(EngineError, match="after it was closed"):
        device.wait()


def test_captured_work_runs_when_it_is_launched(cuda: HostRuntime) -> None:
    """A capture runs nothing; each launch runs all of it, with what is in the buffers then."""
    device = CudaDevice(cuda)
    source, target, between = device.pinned(1), device.pinned(1), device.allocate(1)

    def work() -> None:
        device.upload(between, source)
        device.download(target, between)

    source[:] = 5
    graph = device.capture(work)
    assert target.tolist() == [0]
    for value in (5, 9):
        source[:] = value
        graph.launch()
        assert target.tolist() == [value]
    graph.close()
    device.close()
    assert not cuda.open


def test_a_capture_that_fails_is_closed(cuda: HostRuntime) -> None:
    """What fails inside is told, and the stream can be used again."""
    device = CudaDevice(cuda)

    def work() -> None:
        raise EngineError("reader: TensorRT failed")

    with pytest.raises(EngineError, match="reader: TensorRT failed"):
        device.capture(work)
    assert "capture" not in cuda.open


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaGraphInstantiate", "cudaStreamEndCapture"])
def test_what_cuda_refuses_is_an_engine_error(cuda: HostRuntime, call: str) -> None:
    """The call and CUDA's own words are in the line."""
    device = CudaDevice(cuda)
    cuda.fail = call
    with pytest.raises(EngineError, match=rf"^{call}: out of memory \(CUDA error 2\)$"):
        device.capture(lambda: None) if call != "cudaMalloc" else device.allocate(1)


def test_works_are_timed_one_by_one(cuda: HostRuntime) -> None:
    """Events stand between the works; the device's milliseconds become seconds."""
    device = CudaDevice(cuda)
    ran: list[int] = []
    took = device.time([lambda: ran.append(1), lambda: ran.append(2)])
    assert ran == [1, 2]
    assert took == [0.0015, 0.0015]
    assert "event" not in cuda.open
