"""Runs a compiled network on a device: packed copies, padded batches, one captured graph a shape.

A tick is four host calls: fill the page-locked block, launch the graph of this shape (copy in, the
network, the tables' rows, copy out), wait, read. Nothing is allocated after the first batch of a
shape.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.engine.graphs import BUCKETS, FIRST_SLOTS, PADDING_SLOT
from streamer.engine.plan import Block, Plan
from streamer.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.engine.device import Device
    from streamer.engine.graphs import Network
    from streamer.engine.plan import Context, Shape
    from streamer.types import F32, I64

__all__ = ["Compiled", "GpuEngine", "Shares"]

Array = NDArray[Any]

_MOST_SHAPES = 32
"""Captured shapes of a network without batches, such as the detector: one a kind of camera. Beyond,
the oldest is forgotten and captured again when it comes back."""


class Compiled(Protocol):
    """A network as the runtime has it."""

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of an input or output."""
        ...

    def context(self, inputs: Mapping[str, Shape]) -> Context:
        """Prepare runs with inputs of these shapes; raises EngineError."""
        ...

    def close(self) -> None:
        """Free the runtime's memory; its contexts are gone; may be called twice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Where the time of one batch goes, seconds, best of the rounds.

    Attributes:
        total_s: as the caller sees it, one captured graph.
        transfer_s: copies in and out, on the device's clock.
        compute_s: the network and its tables, on the device's clock.
        launch_s: the rest: filling, launching, waiting, reading.
    """

    total_s: float
    transfer_s: float
    compute_s: float
    launch_s: float


class GpuEngine:
    """A network on one GPU, behind ``streamer.stages.Engine``; calls are one at a time.

    Args:
        network: what it is: its axes, and which inputs stay on the device.
        compiled: the network in a runtime; owned from here on.
        device: the GPU; owned from here on.
        name: runtime and device in words.

    Raises:
        EngineError: when the device has no room for the tables.
    """

    def __init__(self, network: Network, compiled: Compiled, device: Device, *, name: str) -> None:
        self._network = network
        self._compiled = compiled
        self._device = device
        self._name = name
        self._lock = threading.Lock()
        self._plans: dict[tuple[Shape, ...], Plan] = {}
        self._rows = {n: axes.index("N") for n, axes in network.axes.items() if "N" in axes}
        self._inputs = [n for n in network.inputs if n not in network.resident]
        self._outputs = [n for n in network.outputs if n not in network.resident.values()]
        self._slots = 0
        self._tables: dict[str, int] = {}  # resident inputs and the outputs that replace them
        self._free: list[int] = []  # rows that belong to nobody
        self._closed = False
        if network.resident:
            self._resize(FIRST_SLOTS)

    @property
    def name(self) -> str:
        """Runtime and device in words."""
        return self._name

    @property
    def slots(self) -> int:
        """Rows of the resident tables, the one of the padding among them."""
        return self._slots

    def run(self, inputs: Mapping[str, Array]) -> dict[str, F32]:
        """Compute all outputs that leave the device; batches of any size.

        Raises:
            EngineError: when an input is missing or has a wrong shape, or the GPU fails; resident
                tables must then be taken as lost.
        """
        with self._lock:
            rows = self._check(inputs)
            if not self._rows:
                return self._run(inputs, rows=0)
            largest = BUCKETS[-1]
            parts = [
                self._run(self._cut(inputs, i, i + largest), rows=min(largest, rows - i))
                for i in range(0, max(rows, 1), largest)
            ]
        if len(parts) == 1:
            return parts[0]
        return {
            name: np.concatenate([part[name] for part in parts], axis=self._rows[name])
            for name in self._outputs
        }

    def warm(self, inputs: Mapping[str, Array]) -> None:
        """Capture the graphs before the first batch needs them: this shape, or every batch size.

        Args:
            inputs: any batch; of its shapes all but the number of rows is used.

        Raises:
            EngineError: as ``run`` does.
        """
        with self._lock:
            self._check(inputs)
            for bucket in BUCKETS if self._rows else (0,):
                self._plan(inputs, bucket)

    def take(self, count: int) -> I64:
        """Take free rows of the resident tables; they grow when there are too few.

        Raises:
            EngineError: when the device has no room.
        """
        with self._lock:
            while len(self._free) < count:
                self._resize(2 * self._slots)
            rows, self._free = self._free[:count], self._free[count:]
        return np.array(rows, np.int64)

    def give(self, rows: I64) -> None:
        """Give rows back; their next owner starts from zeros."""
        with self._lock:
            self._free.extend(map(int, rows))

    def measure(self, inputs: Mapping[str, Array], rounds: int) -> Shares:
        """Time one batch of at most the largest bucket; tables move on as by ``run``.

        Raises:
            EngineError: as ``run`` does.
        """
        self.run(inputs)
        totals = []
        for _ in range(rounds):
            start_s = perf_counter()
            self.run(inputs)
            totals.append(perf_counter() - start_s)
        with self._lock:
            plan = self._plan(inputs, _bucket(self._check(inputs)) if self._rows else 0)
            timed = [plan.time() for _ in range(rounds)]
        in_s, compute_s, out_s = (min(column) for column in zip(*timed, strict=True))
        total_s = min(totals)
        return Shares(
            total_s=total_s,
            transfer_s=in_s + out_s,
            compute_s=compute_s,
            launch_s=max(0.0, total_s - in_s - compute_s - out_s),
        )

    def close(self) -> None:
        """Free everything; may be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._device.wait()
            self._forget_plans()
            self._compiled.close()
            for address in self._tables.values():
                self._device.free(address)
            self._device.close()

    def _run(self, inputs: Mapping[str, Array], *, rows: int) -> dict[str, F32]:
        """Run at most one bucket; rows of zeros fill it up."""
        plan = self._plan(inputs, _bucket(rows) if self._rows else 0)
        for name in self._inputs:
            view = plan.inputs.views[name]
            if name in self._rows:
                view = np.moveaxis(view, self._rows[name], 0)
                view[:rows] = np.moveaxis(inputs[name], self._rows[name], 0)
                view[rows:] = 0
            else:
                view[...] = inputs[name]
        plan.run()
        return {name: self._read(plan.outputs.views[name], name, rows) for name in self._outputs}

    def _read(self, view: Array, name: str, rows: int) -> F32:
        """Copy what belongs to the caller out of the block, which the next batch overwrites."""
        return view.take(range(rows), axis=self._rows[name]) if name in self._rows else view.copy()

    def _plan(self, inputs: Mapping[str, Array], bucket: int) -> Plan:
        """Return the plan of these shapes with ``bucket`` rows; make it where there is none."""
        shapes = {name: self._shape(name, inputs[name], bucket) for name in self._inputs}
        key = tuple(shapes.values())
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_SHAPES:
                self._plans.pop(next(iter(self._plans))).close()
            plan = self._plans[key] = self._make_plan(shapes)
        return plan

    def _make_plan(self, shapes: Mapping[str, Shape]) -> Plan:
        resident = {name: self._table_shape(name) for name in self._network.resident}
        of_inputs = {**shapes, **resident}
        context = self._compiled.context(of_inputs)
        dtype = self._compiled.dtype
        inputs = Block(self._device, {n: (s, dtype(n)) for n, s in shapes.items()})
        try:
            outputs = Block(self._device, {n: (context.shapes[n], dtype(n)) for n in self._outputs})
        except EngineError:
            inputs.close()
            raise
        return Plan(
            self._device,
            inputs=inputs,
            outputs=outputs,
            context=context,
            resident=self._tables,
            tables=[
                (self._tables[name], self._tables[successor], self._table_bytes(name, self._slots))
                for name, successor in self._network.resident.items()
            ],
        )

    def _resize(self, slots: int) -> None:
        """Allocate tables of so many rows, with the old rows in them."""
        device, old, old_slots = self._device, self._tables, self._slots
        resident = self._network.resident
        tables: dict[str, int] = {}
        try:
            for name, successor in resident.items():
                for tensor in (name, successor):
                    tables[tensor] = device.allocate(self._table_bytes(name, slots))
        except EngineError:
            for address in tables.values():
                device.free(address)
            raise
        self._tables = tables
        self._slots = slots
        self._free.extend(range(max(old_slots, PADDING_SLOT + 1), slots))
        for name in resident if old else ():
            device.copy(self._tables[name], old[name], self._table_bytes(name, old_slots))
        device.wait()
        self._forget_plans()  # they hold the old addresses
        for address in old.values():
            device.free(address)

    def _forget_plans(self) -> None:
        for plan in self._plans.values():
            plan.close()
        self._plans.clear()

    def _table_shape(self, name: str) -> Shape:
        return tuple(self._slots if a == "C" else int(a) for a in self._network.axes[name])

    def _table_bytes(self, name: str, slots: int) -> int:
        axes = self._network.axes[name]
        return (
            prod(slots if a == "C" else int(a) for a in axes) * self._compiled.dtype(name).itemsize
        )

    def _shape(self, name: str, array: Array, bucket: int) -> Shape:
        axis = self._rows.get(name)
        return tuple(bucket if i == axis else size for i, size in enumerate(array.shape))

    def _cut(self, inputs: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
        """Return some rows of every input, as views."""
        return {
            name: np.moveaxis(
                np.moveaxis(inputs[name], self._rows[name], 0)[start:stop], 0, self._rows[name]
            )
            for name in self._inputs
        }

    def _check(self, inputs: Mapping[str, Array]) -> int:
        """Refuse what does not fit before anything is copied; return the number of rows."""
        label = self._network.label
        if self._closed:
            raise EngineError(f"{label}: used after it was closed")
        if set(inputs) != set(self._inputs):
            raise EngineError(f"{label}: got {sorted(inputs)}, expected {sorted(self._inputs)}")
        for name in self._inputs:
            axes, shape = self._network.axes[name], inputs[name].shape
            if len(axes) != len(shape) or any(
                isinstance(a, int) and a != size for a, size in zip(axes, shape, strict=True)
            ):
                raise EngineError(f"{label}: {name} has shape {shape}, expected {axes}")
        rows = {inputs[name].shape[self._rows[name]] for name in self._inputs if self._rows}
        if len(rows) > 1:
            raise EngineError(f"{label}: the inputs have {sorted(rows)} rows, expected as many")
        return rows.pop() if rows else 0


def _bucket(rows: int) -> int:
    """Return the smallest batch size that holds so many rows."""
    return next(bucket for bucket in BUCKETS if bucket >= rows)
