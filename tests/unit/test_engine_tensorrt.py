"""How a loaded engine is driven: strategies, profiles, addresses, refusals.

An engine loads on its GPU only, so the library's objects are stood in for; each name that is used
of them must exist on the real classes, which a test checks.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamer import bundle as bundles
from streamer.engine import graphs
from streamer.engine.graphs import BUCKETS, FIRST_SLOTS
from streamer.engine.tensorrt import TrtNetwork
from streamer.errors import EngineError
from tests.engine_fixtures import HostDevice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.engine.plan import Shape

trt = pytest.importorskip("tensorrt_rtx", reason="no TensorRT wheel for this platform")


class StandIn:
    """Remembers what is called of one of the library's classes; a call returns what it is told."""

    def __init__(self, real: type, log: deque[tuple[Any, ...]], **returns: Any) -> None:
        object.__setattr__(self, "_real", real)
        object.__setattr__(self, "_log", log)
        object.__setattr__(self, "_returns", returns)

    def __getattr__(self, name: str) -> Any:
        assert hasattr(self._real, name), f"{self._real.__name__} has no {name}"
        if not callable(getattr(self._real, name)):
            return self._returns[name]

        def call(*arguments: Any) -> Any:
            self._log.append((name, *arguments))
            value = self._returns.get(name, True)
            return value(*arguments) if callable(value) else value

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        assert hasattr(self._real, name), f"{self._real.__name__} has no {name}"
        self._log.append((name, value))


class Rig:
    """A loaded engine over stand-ins."""

    def __init__(self, *, runtime_cache: bytes = b"", **context: Any) -> None:
        self.log: deque[tuple[Any, ...]] = deque()
        self.device = HostDevice()
        shipped = bundles.load(bundles.bundled_path())
        self.network = graphs.reader(shipped.features_path, shipped.temporal_path)
        shape_of = {"get_tensor_shape": lambda name: self.shape(name, 4)}
        self.context = StandIn(trt.IExecutionContext, self.log, **(shape_of | context))
        self.cache = StandIn(
            trt.IRuntimeCache,
            self.log,
            deserialize=lambda blob: blob == b"kernels",
            serialize=b"finished",
        )
        config = StandIn(trt.IRuntimeConfig, self.log, create_runtime_cache=self.cache)
        kinds = {"slots": trt.DataType.INT64, "kept": trt.DataType.BOOL}
        engine = StandIn(
            trt.ICudaEngine,
            self.log,
            device_memory_size_v2=4096,
            create_runtime_config=config,
            create_execution_context=self.context,
            get_tensor_dtype=lambda name: kinds.get(name, trt.DataType.FLOAT),
        )
        self.loaded = TrtNetwork(
            trt,
            object(),
            engine,
            self.device,
            network=self.network,
            runtime_cache=runtime_cache,
            said=lambda: "it said so",
        )

    def shape(self, name: str, rows: int, slots: int = FIRST_SLOTS) -> Shape:
        """Return the shape of one input or output of the shipped networks."""
        free = {"N": rows, "C": slots}
        return tuple(free[a] if isinstance(a, str) else a for a in self.network.axes[name])

    def shapes(self, rows: int, slots: int = FIRST_SLOTS) -> Mapping[str, Shape]:
        """Return the shapes of all inputs."""
        return {name: self.shape(name, rows, slots) for name in self.network.inputs}

    def said(self, name: str) -> list[Any]:
        """Return the arguments of every call of one name."""
        return [call[1:] for call in self.log if call[0] == name]


def test_types_are_the_librarys() -> None:
    """Faces are float32, slots int64, marks bool: what the blocks are laid out with."""
    loaded = Rig().loaded
    assert loaded.dtype("faces") == np.float32
    assert loaded.dtype("slots") == np.int64
    assert loaded.dtype("kept") == np.bool_


def test_kernels_are_made_for_our_shapes_when_they_are_captured() -> None:
    """Eager specialisation, no graphs of the library's own, memory from us."""
    rig = Rig()
    (strategy,) = rig.said("dynamic_shapes_kernel_specialization_strategy")
    assert strategy == (trt.DynamicShapesKernelSpecializationStrategy.EAGER,)
    assert rig.said("cuda_graph_strategy") == [(trt.CudaGraphStrategy.DISABLED,)]
    assert rig.said("set_execution_context_allocation_strategy") == [
        (trt.ExecutionContextAllocationStrategy.USER_MANAGED,)
    ]
    assert rig.said("set_runtime_cache") == [(rig.cache,)]


@pytest.mark.parametrize("kernels", [b"kernels", b"of another driver"])
def test_earlier_kernels_are_offered(kernels: bytes) -> None:
    """The library judges them; those that it refuses cost time and nothing else."""
    rig = Rig(runtime_cache=kernels)
    assert rig.said("deserialize") == [(kernels,)]
    assert rig.loaded.runtime_cache() == b"finished"


def test_each_batch_size_has_its_profile() -> None:
    """One face, a room and a crowd are three profiles; the first that holds the shape is taken."""
    rig = Rig()
    for bucket in BUCKETS:
        rig.loaded.context(rig.shapes(bucket))
    chosen = [profile for profile, _ in rig.said("set_optimization_profile_async")]
    assert chosen == [0, 0, 1, 1, 1, 2, 2]


def test_a_context_gets_memory_shapes_and_addresses() -> None:
    """Scratch is shared, every input has its shape, every tensor its address, and it runs."""
    rig = Rig()
    context = rig.loaded.context(rig.shapes(4))
    (memory,) = rig.said("set_device_memory")
    assert memory[1] == 4096
    assert memory[0] in rig.device.memory
    assert dict(rig.said("set_input_shape")) == dict(rig.shapes(4))
    assert context.shapes == {name: rig.shape(name, 4) for name in rig.network.outputs}
    assert context.shapes["logits"] == (4, 8)
    tensors = [*rig.network.inputs, *rig.network.outputs]
    context.attach({name: 256 * i for i, name in enumerate(tensors)})
    assert rig.said("set_tensor_address") == [(n, 256 * i) for i, n in enumerate(tensors)]
    context.enqueue()
    assert rig.said("execute_async_v3") == [(rig.device.stream,)]


@pytest.mark.parametrize(
    "call", ["set_optimization_profile_async", "set_input_shape", "set_tensor_address"]
)
def test_what_the_library_refuses_is_said(call: str) -> None:
    """A call that answers no becomes an error with the library's own reason."""
    refusing: dict[str, Any] = {call: False}
    rig = Rig(**refusing)
    with pytest.raises(EngineError, match=r"^reader: .*it said so$"):
        rig.loaded.context(rig.shapes(4)).attach(dict.fromkeys(rig.network.axes, 0))


def test_a_run_that_fails_is_an_engine_error() -> None:
    """TensorRT reports a failed launch by a plain no."""
    rig = Rig(execute_async_v3=False)
    with pytest.raises(EngineError, match="reader: TensorRT failed: it said so"):
        rig.loaded.context(rig.shapes(1)).enqueue()


def test_a_shape_outside_all_profiles_is_refused() -> None:
    """More tracks than any table may hold end in one line, not in the library."""
    rig = Rig()
    with pytest.raises(EngineError, match="reader: no profile holds"):
        rig.loaded.context(rig.shapes(1, slots=10**6))


def test_closing_frees_the_scratch_once() -> None:
    """The only memory of its own goes back."""
    rig = Rig()
    rig.loaded.close()
    rig.loaded.close()
    assert not rig.device.memory
