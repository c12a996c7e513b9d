"""One GPU's memory, streams and graphs, by NVIDIA's own bindings; the only importer of them.

``Device`` is what running a network needs of a GPU, so that the order of copies and calls can be
tested on a machine without one.
"""

from __future__ import annotations

import ctypes
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from streamer.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.types import U8

__all__ = ["ALIGNMENT", "CudaDevice", "Device", "Graph", "UnavailableError", "open_device"]

ALIGNMENT = 256
"""Bytes between tensors that share a buffer: what cudaMalloc itself keeps to (CUDA C++ Programming
Guide, "Device Memory Accesses"), so that kernels may use their widest loads."""


class UnavailableError(EngineError):
    """TensorRT cannot be used on this machine; the text is one clause that says why."""


class Graph(Protocol):
    """A captured sequence of work."""

    def launch(self) -> None:
        """Enqueue the whole sequence in one call."""
        ...

    def close(self) -> None:
        """Forget it."""
        ...


class Device(Protocol):
    """A GPU with one stream; addresses are integers, work is enqueued and ``wait`` waits for it."""

    @property
    def name(self) -> str:
        """The GPU's own name."""
        ...

    @property
    def architecture(self) -> str:
        """The compute capability, such as ``sm86``."""
        ...

    @property
    def stream(self) -> int:
        """Handle of the stream, for a runtime that enqueues into it."""
        ...

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` zero bytes on the device."""
        ...

    def free(self, address: int) -> None:
        """Give device memory back."""
        ...

    def pinned(self, size: int) -> U8:
        """Return ``size`` zero bytes of page-locked host memory, which copies overlap with."""
        ...

    def unpin(self, block: U8) -> None:
        """Give page-locked memory back; the array and its views must not be used any more."""
        ...

    def upload(self, destination: int, source: U8) -> None:
        """Enqueue a copy from page-locked memory to the device."""
        ...

    def download(self, destination: U8, source: int) -> None:
        """Enqueue a copy from the device to page-locked memory."""
        ...

    def copy(self, destination: int, source: int, size: int) -> None:
        """Enqueue a copy on the device."""
        ...

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what ``work`` enqueues, without running it."""
        ...

    def time(self, works: Sequence[Callable[[], None]]) -> list[float]:
        """Run works one after the other; return the seconds that the device took for each."""
        ...

    def wait(self) -> None:
        """Return when everything enqueued is done."""
        ...

    def close(self) -> None:
        """Give the stream back; may be called twice."""
        ...


def open_device() -> CudaDevice:
    """Open the first GPU that the process may see (``CUDA_VISIBLE_DEVICES`` says which).

    Raises:
        UnavailableError: when the bindings are missing or no GPU answers.
    """
    try:
        from cuda.bindings import runtime  # noqa: PLC0415 only where a GPU may be
    except ImportError:
        raise UnavailableError(
            "the Python package cuda-bindings is not installed "
            "(pip install 'emotion-streamer[tensorrt]')"
        ) from None
    status, count = runtime.cudaGetDeviceCount()
    if status != runtime.cudaError_t.cudaSuccess:
        raise UnavailableError(f"no NVIDIA GPU answers: {_reason(runtime, status)}")
    if not count:
        raise UnavailableError("no NVIDIA GPU is visible")
    return CudaDevice(runtime)


class CudaDevice:
    """The first visible GPU with a stream of its own; see ``Device``.

    Args:
        runtime: the module ``cuda.bindings.runtime``.

    Raises:
        EngineError: when CUDA refuses anything, here as in every method.
    """

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        properties = self._call("cudaGetDeviceProperties", 0)
        self._name = bytes(properties.name).split(b"\0")[0].decode()
        self._architecture = f"sm{properties.major}{properties.minor}"
        self._stream: int | None = int(
            self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        )

    @property
    def name(self) -> str:
        """The GPU's own name."""
        return self._name

    @property
    def architecture(self) -> str:
        """The compute capability, such as ``sm86``."""
        return self._architecture

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        if self._stream is None:
            raise EngineError("the GPU was used after it was closed")
        return self._stream

    def allocate(self, size: int) -> int:
        """Return the address of zero bytes on the device."""
        address = int(self._call("cudaMalloc", size))
        self._call("cudaMemsetAsync", address, 0, size, self.stream)
        return address

    def free(self, address: int) -> None:
        """Give device memory back; waits for the work that may use it."""
        self._call("cudaFree", address)

    def pinned(self, size: int) -> U8:
        """Return zero bytes of page-locked host memory."""
        address = int(self._call("cudaHostAlloc", size, self._cuda.cudaHostAllocDefault))
        block = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        block[:] = 0
        return block

    def unpin(self, block: U8) -> None:
        """Give page-locked memory back."""
        self._call("cudaFreeHost", block.ctypes.data)

    def upload(self, destination: int, source: U8) -> None:
        """Enqueue a copy from page-locked memory to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(destination, source.ctypes.data, source.nbytes, kind)

    def download(self, destination: U8, source: int) -> None:
        """Enqueue a copy from the device to page-locked memory."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(destination.ctypes.data, source, destination.nbytes, kind)

    def copy(self, destination: int, source: int, size: int) -> None:
        """Enqueue a copy on the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._copy(destination, source, size, kind)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what ``work`` enqueues, without running it.

        Other threads go on allocating meanwhile, hence the thread-local mode.
        """
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        except EngineError:  # a capture that is left open would make the stream unusable
            self._cuda.cudaStreamEndCapture(self.stream)
            raise
        graph = self._call("cudaStreamEndCapture", self.stream)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        return _CudaGraph(self, executable)

    def time(self, works: Sequence[Callable[[], None]]) -> list[float]:
        """Run works one after the other; return the seconds that the device took for each."""
        events = [self._call("cudaEventCreate") for _ in range(len(works) + 1)]
        self._call("cudaEventRecord", events[0], self.stream)
        for work, event in zip(works, events[1:], strict=True):
            work()
            self._call("cudaEventRecord", event, self.stream)
        self.wait()
        took_ms = [self._call("cudaEventElapsedTime", a, b) for a, b in pairwise(events)]
        for event in events:
            self._call("cudaEventDestroy", event)
        return [ms / 1e3 for ms in took_ms]

    def wait(self) -> None:
        """Return when everything enqueued is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def close(self) -> None:
        """Give the stream back."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            self._call("cudaStreamDestroy", stream)

    def launch(self, executable: Any) -> None:
        """Enqueue an instantiated graph."""
        self._call("cudaGraphLaunch", executable, self.stream)

    def discard(self, executable: Any) -> None:
        """Forget an instantiated graph."""
        self._call("cudaGraphExecDestroy", executable)

    def _copy(self, destination: int, source: int, size: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", destination, source, size, kind, self.stream)

    def _call(self, name: str, *arguments: object) -> Any:
        status, *values = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"{name}: {_reason(self._cuda, status)}")
        return values[0] if values else None


class _CudaGraph:
    def __init__(self, device: CudaDevice, executable: Any) -> None:
        self._device = device
        self._executable = executable

    def launch(self) -> None:
        self._device.launch(self._executable)

    def close(self) -> None:
        self._device.discard(self._executable)


def _reason(runtime: Any, status: Any) -> str:
    text = runtime.cudaGetErrorString(status)[1]
    words = text.decode() if isinstance(text, bytes) else str(text)
    return f"{words} (CUDA error {int(status)})"
