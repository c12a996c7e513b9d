"""Everything that one shape needs: buffers, the bound network and the captured graph."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from streamer.engine.device import ALIGNMENT
from streamer.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from streamer.engine.device import Device, Graph
    from streamer.types import U8

__all__ = ["Block", "Context", "Plan", "Shape"]

Shape = tuple[int, ...]


class Context(Protocol):
    """A compiled network bound to the shapes of its inputs."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each output."""
        ...

    def attach(self, addresses: Mapping[str, int]) -> None:
        """Bind all tensors to where they lie on the device; raises EngineError."""
        ...

    def enqueue(self) -> None:
        """Enqueue one run into the device's stream; raises EngineError."""
        ...


class Block:
    """Tensors that share one page-locked block and one on the device, so that one copy moves all.

    Args:
        device: where it lies.
        tensors: name → shape and type.

    Raises:
        EngineError: when the device or the host has no room.
    """

    def __init__(self, device: Device, tensors: Mapping[str, tuple[Shape, np.dtype[Any]]]) -> None:
        self._device = device
        offsets, size = {}, 0
        for name, (shape, dtype) in tensors.items():
            offsets[name] = size
            size += -(-prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.address = device.allocate(size)
        try:
            self.host: U8 = device.pinned(size)
        except EngineError:
            device.free(self.address)
            raise
        self.addresses = {name: self.address + offset for name, offset in offsets.items()}
        self.views: dict[str, NDArray[Any]] = {
            name: np.ndarray(shape, dtype, buffer=self.host.data, offset=offsets[name])
            for name, (shape, dtype) in tensors.items()
        }

    def close(self) -> None:
        """Give both back; the views are dead from here on."""
        self.views.clear()
        self._device.unpin(self.host)
        self._device.free(self.address)


class Plan:
    """One shape, ready to run.

    Args:
        device: the GPU.
        inputs, outputs: what crosses the bus; owned from here on.
        context: the network, for exactly these shapes.
        resident: addresses of the tensors that stay on the device.
        tables: for each resident input its address, the address of what replaces it, bytes.

    Raises:
        EngineError: when the first run of this shape fails.
    """

    def __init__(
        self,
        device: Device,
        *,
        inputs: Block,
        outputs: Block,
        context: Context,
        resident: Mapping[str, int],
        tables: Sequence[tuple[int, int, int]],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._device = device
        self._context = context
        self._tables = tables
        # Runtimes allocate and choose in the first run of a shape, which a capture forbids. On a
        # fresh plan all inputs are zero: rows of padding, which no track sees.
        try:
            context.attach({**inputs.addresses, **outputs.addresses, **resident})
            self._enqueue()
            device.wait()
            self._graph: Graph = device.capture(self._enqueue)
        except EngineError:
            inputs.close()
            outputs.close()
            raise

    def run(self) -> None:
        """Compute; the outputs' views hold the result."""
        self._graph.launch()
        self._device.wait()

    def time(self) -> list[float]:
        """Return the device's seconds for the copy in, the network and the copy out."""
        return self._device.time([self._copy_in, self._compute, self._copy_out])

    def close(self) -> None:
        """Free the graph and the buffers."""
        self._graph.close()
        self.inputs.close()
        self.outputs.close()

    def _enqueue(self) -> None:
        self._copy_in()
        self._compute()
        self._copy_out()

    def _copy_in(self) -> None:
        self._device.upload(self.inputs.address, self.inputs.host)

    def _compute(self) -> None:
        self._context.enqueue()
        for table, successor, size in self._tables:
            self._device.copy(table, successor, size)

    def _copy_out(self) -> None:
        self._device.download(self.outputs.host, self.outputs.address)
