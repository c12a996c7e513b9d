"""TensorRT and TensorRT for RTX, whichever imports: one API, two libraries; their only importer.

``tensorrt`` (10 and 11) runs on every NVIDIA GPU of its list and compiles on the very GPU.
``tensorrt_rtx`` runs on GeForce and RTX GPUs, compiles for an architecture without a GPU, and
finishes kernels when they first run, which its runtime cache remembers.
"""

from __future__ import annotations

import platform
import re
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from streamer.engine.compiler import Built
from streamer.engine.device import UnavailableError
from streamer.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamer.engine.device import Device
    from streamer.engine.graphs import Network, Profile
    from streamer.engine.plan import Shape

__all__ = ["FLAGS", "Library", "TrtNetwork", "load_library"]

log = structlog.get_logger(__name__)

FLAGS = ("no_tf32",)
"""Builder flags, part of the cache's key. TF32 rounds the inputs of every product to ten bits of
mantissa and would let an fp32 file miss the bundle's parity; precision is the file's to choose."""
_KEPT_MESSAGES = 3  # of the library, for the one line of an error
_SM = re.compile(r"SM(\d+)$")


def load_library() -> Library:
    """Import ``tensorrt``, else ``tensorrt_rtx``.

    Raises:
        UnavailableError: when neither imports, with the reasons.
    """
    reasons = []
    try:
        import tensorrt  # noqa: PLC0415 only where a GPU may be

        return Library(tensorrt)
    except (ImportError, OSError) as error:  # OSError: a wheel without its shared objects
        reasons.append(f"tensorrt: {_one_line(error)}")
    try:
        import tensorrt_rtx  # noqa: PLC0415

        return Library(tensorrt_rtx)
    except (ImportError, OSError) as error:
        reasons.append(f"tensorrt_rtx: {_one_line(error)}")
    raise UnavailableError(
        f"no TensorRT is installed ({'; '.join(reasons)}; pip install 'emotion-streamer[tensorrt]' "
        "or '[tensorrt-rtx]')"
    )


class Library:
    """One of the two libraries.

    Args:
        module: ``tensorrt`` or ``tensorrt_rtx``.
    """

    def __init__(self, module: Any) -> None:
        self._trt = module
        self._logger, self._messages = _logger(module)

    @property
    def name(self) -> str:
        """``tensorrt`` or ``tensorrt_rtx``."""
        return str(self._trt.__name__)

    @property
    def version(self) -> str:
        """The full version: an engine of another one is not read."""
        return str(self._trt.__version__)

    @property
    def platform(self) -> str:
        """Operating system and processor, which an engine is also bound to."""
        return f"{platform.system()}-{platform.machine()}".lower()

    @property
    def finishes_at_runtime(self) -> bool:
        """Whether kernels are finished on first use and kept in a runtime cache (RTX)."""
        return hasattr(self._trt, "IRuntimeCache")

    @property
    def architectures(self) -> tuple[str, ...]:
        """What it can compile for without such a GPU, as ``sm86``; empty: only for the one here."""
        members = getattr(getattr(self._trt, "ComputeCapability", None), "__members__", {})
        return tuple(f"sm{match[1]}" for name in members if (match := _SM.match(name)))

    def require(self, architecture: str) -> None:
        """Refuse an architecture that this library is known not to run on.

        Raises:
            UnavailableError: naming those it runs on.
        """
        if self.architectures and architecture not in self.architectures:
            raise UnavailableError(
                f"{self.name} {self.version} does not support {architecture}, only "
                f"{', '.join(self.architectures)}"
            )

    def build(
        self,
        network: Network,
        *,
        architecture: str = "",
        timings: bytes = b"",
        progress: Callable[[], None] = lambda: None,
    ) -> Built:
        """Compile a network; the GIL is released meanwhile.

        Args:
            network: what to compile; its precision is the one in the file.
            architecture: compile for this one ahead of time; empty: for the GPU here.
            timings: of an earlier build on the same GPU; stale ones are ignored.
            progress: called from any thread whenever the compiler has done a step.

        Raises:
            ConfigError: when it cannot compile for another architecture than this machine's.
            EngineError: when the library refuses the network or fails.
        """
        trt = self._trt
        self._messages.clear()
        builder = trt.Builder(self._logger)
        definition = builder.create_network(
            1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )
        parser = trt.OnnxParser(definition, self._logger)
        # The parser takes some files that hold nothing without a word.
        if not (parser.parse(network.onnx) and definition.num_outputs):
            errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            raise EngineError(
                f"{network.label}: {self.name} {self.version} cannot read the network: "
                f"{_one_line('; '.join(errors[:_KEPT_MESSAGES]) or self._said())}"
            )
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        self._target(config, architecture)
        for profile in network.profiles:
            self._add_profile(builder, config, network, profile)
        monitor = _monitor(trt, progress)
        config.progress_monitor = monitor
        timed = not self.finishes_at_runtime and _use_timings(config, timings)
        plan = builder.build_serialized_network(definition, config)
        if plan is None:
            raise EngineError(
                f"{network.label}: {self.name} {self.version} cannot compile it"
                f"{f' for {architecture}' if architecture else ''}: {self._said()}"
            )
        kept = bytes(config.get_timing_cache().serialize()) if timed else b""
        return Built(engine=bytes(plan), timings=kept)

    def load(
        self, network: Network, engine: bytes, device: Device, *, runtime_cache: bytes = b""
    ) -> TrtNetwork:
        """Deserialise an engine on the GPU here.

        Args:
            network: what the engine was compiled from.
            engine: a ``Built``'s.
            device: where it will run.
            runtime_cache: kernels finished in an earlier run (RTX); one that does not fit is
                ignored.

        Raises:
            EngineError: with the library's reason.
        """
        self._messages.clear()
        runtime = self._trt.Runtime(self._logger)
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise EngineError(f"{network.label}: the engine does not load: {self._said()}")
        return TrtNetwork(
            self._trt,
            runtime,
            loaded,
            device,
            network=network,
            runtime_cache=runtime_cache,
            said=self._said,
        )

    def _target(self, config: Any, architecture: str) -> None:
        if not architecture:
            return
        if architecture not in self.architectures:
            able = ", ".join(self.architectures)
            raise ConfigError(
                f"{self.name} {self.version} cannot compile for {architecture} ahead of time: "
                + (f"it can for {able}" if able else "build on a machine with that GPU")
            )
        capability = getattr(self._trt.ComputeCapability, architecture.upper())
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)

    def _add_profile(self, builder: Any, config: Any, network: Network, profile: Profile) -> None:
        ranges = builder.create_optimization_profile()
        for name in network.inputs:
            sizes = (
                tuple(profile[a][i] if isinstance(a, str) else a for a in network.axes[name])
                for i in range(3)
            )
            ranges.set_shape(name, *sizes)
        if config.add_optimization_profile(ranges) < 0:
            raise EngineError(f"{network.label}: profile {profile} is refused: {self._said()}")

    def _said(self) -> str:
        return _one_line("; ".join(self._messages)) or "it gave no reason"


class TrtNetwork:
    """A deserialised engine, behind ``streamer.engine.gpu.Compiled``.

    Every shape gets a context of its own, as NVIDIA advises for captured graphs; all of them share
    one scratch memory, since one runs at a time.
    """

    def __init__(
        self,
        module: Any,
        runtime: Any,
        engine: Any,
        device: Device,
        *,
        network: Network,
        runtime_cache: bytes,
        said: Callable[[], str],
    ) -> None:
        self._trt = module
        self._runtime = runtime  # must outlive the engine
        self._engine = engine
        self._device = device
        self._network = network
        self._said = said
        self._scratch_size = max(1, int(engine.device_memory_size_v2))
        self._scratch = device.allocate(self._scratch_size)
        self._config, self._cache = self._runtime_config(runtime_cache)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of an input or output."""
        kind: np.dtype[Any] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        return kind

    def runtime_cache(self) -> bytes:
        """Return the kernels finished so far, for the next start; empty where there is none."""
        return b"" if self._cache is None else bytes(self._cache.serialize())

    def close(self) -> None:
        """Free the engine; its contexts must be gone."""
        if self._engine is not None:
            self._engine = self._config = self._cache = self._runtime = None
            self._device.free(self._scratch)

    def context(self, inputs: Mapping[str, Shape]) -> TrtContext:
        """Prepare runs with inputs of these shapes; raises EngineError."""
        if self._config is not None:
            context = self._engine.create_execution_context(self._config)
        else:
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
        label = self._network.label
        if context is None:
            raise EngineError(f"{label}: no execution context: {self._said()}")
        context.set_device_memory(self._scratch, self._scratch_size)
        profile = self._profile_of(inputs)
        if not context.set_optimization_profile_async(profile, self._device.stream):
            raise EngineError(f"{label}: profile {profile}: {self._said()}")
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                raise EngineError(f"{label}: {name} {shape}: {self._said()}")
        return TrtContext(self._network, context, self._device.stream, self._said)

    def _profile_of(self, inputs: Mapping[str, Shape]) -> int:
        """Return the first profile that holds all shapes."""
        for index, profile in enumerate(self._network.profiles):
            if all(
                profile[axis][0] <= size <= profile[axis][2]
                for name, shape in inputs.items()
                for axis, size in zip(self._network.axes[name], shape, strict=True)
                if isinstance(axis, str)
            ):
                return index
        raise EngineError(f"{self._network.label}: no profile holds {dict(inputs)}")

    def _runtime_config(self, runtime_cache: bytes) -> tuple[Any, Any]:
        """RTX: kernels for exactly our shapes, made when they are captured and remembered.

        Its default makes them later in the background, where a captured graph would keep the
        general ones for ever; and we capture ourselves, copies included.
        """
        if not hasattr(self._trt, "IRuntimeCache"):
            return None, None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        config.dynamic_shapes_kernel_specialization_strategy = (
            self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED
        cache = config.create_runtime_cache()
        if runtime_cache and not cache.deserialize(runtime_cache):
            log.info("runtime_cache_refused", network=self._network.label)
        config.set_runtime_cache(cache)
        return config, cache


class TrtContext:
    """An engine bound to shapes, behind ``streamer.engine.plan.Context``."""

    def __init__(
        self, network: Network, context: Any, stream: int, said: Callable[[], str]
    ) -> None:
        self._network = network
        self._context = context
        self._stream = stream
        self._said = said
        self.shapes: dict[str, Shape] = {
            name: tuple(context.get_tensor_shape(name)) for name in network.outputs
        }

    def attach(self, addresses: Mapping[str, int]) -> None:
        """Bind all tensors to where they lie."""
        for name in (*self._network.inputs, *self._network.outputs):
            if not self._context.set_tensor_address(name, addresses[name]):
                raise EngineError(f"{self._network.label}: {name}: {self._said()}")

    def enqueue(self) -> None:
        """Enqueue one run into the stream."""
        if not self._context.execute_async_v3(self._stream):
            raise EngineError(f"{self._network.label}: TensorRT failed: {self._said()}")


def _logger(trt: Any) -> tuple[Any, deque[str]]:
    """Make a logger of the library that keeps the last errors and passes the rest to ours."""
    messages: deque[str] = deque(maxlen=_KEPT_MESSAGES)
    error, warning = int(trt.ILogger.Severity.ERROR), int(trt.ILogger.Severity.WARNING)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the binding asks for its own initialiser

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= error:
                messages.append(message)
            elif int(severity) <= warning:
                log.debug("tensorrt_warned", message=_one_line(message))

    return Logger(), messages


def _monitor(trt: Any, progress: Callable[[], None]) -> Any:
    """Make a progress monitor of the library that reports each step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            del phase, parent, steps
            progress()

        def phase_finish(self, phase: str) -> None:
            del phase

        def step_complete(self, phase: str, step: int) -> bool:
            del phase, step
            progress()
            return True

    return Monitor()


def _use_timings(config: Any, timings: bytes) -> bool:
    """Give the compiler earlier timings, or none where it refuses them; tell whether it has any."""
    for content in dict.fromkeys((timings, b"")):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):  # noqa: FBT003 the library's
            return True
    return False


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:500]  # a line that a person will still read
