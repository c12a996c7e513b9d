"""From a network to an engine on the GPU here: out of the cache if it fits, else compiled.

The only place where the library, the device and the cache meet.
"""

from __future__ import annotations

import contextlib
import hashlib
from time import perf_counter
from typing import TYPE_CHECKING

import structlog

from streamer.engine.cache import ANY_GPU, EngineKey
from streamer.engine.device import open_device
from streamer.engine.gpu import GpuEngine
from streamer.engine.tensorrt import FLAGS, load_library
from streamer.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.engine.cache import EngineCache
    from streamer.engine.compiler import Compiler, Loaded
    from streamer.engine.device import Device
    from streamer.engine.graphs import Network

__all__ = ["Accelerator", "compile_ahead", "key_of"]

log = structlog.get_logger(__name__)


class Accelerator:
    """TensorRT on the GPU here.

    Args:
        cache: where engines are kept.
        progress: called whenever a build has come further, from any thread; a service manager is
            told by it that the start goes on.
        library: finds the library.
        opener: opens the GPU, once for each engine.

    Raises:
        UnavailableError: when there is no library, no GPU, or not one that the library runs on.
    """

    def __init__(
        self,
        cache: EngineCache,
        *,
        progress: Callable[[], None] = lambda: None,
        library: Callable[[], Compiler] = load_library,
        opener: Callable[[], Device] = open_device,
    ) -> None:
        self._cache = cache
        self._progress = progress
        self._opener = opener
        device = opener()  # before the library, which takes 100 MB that nobody without a GPU needs
        try:
            self._gpu, self._architecture = device.name, device.architecture
        finally:
            device.close()
        self._library = library()
        self._library.require(self._architecture)
        self._open: list[tuple[EngineKey, bytes, Loaded]] = []

    @property
    def name(self) -> str:
        """Library and GPU in words."""
        return f"{self._library.name} {self._library.version} {self._gpu} ({self._architecture})"

    def open(self, network: Network) -> GpuEngine:
        """Load a network's engine, compiled first if need be.

        Raises:
            ConfigError: when the cache cannot be written.
            EngineError: when the library or the GPU fails.
        """
        exact = self._key(network, self._gpu)
        with contextlib.ExitStack() as undo:
            device = self._opener()
            undo.callback(device.close)
            reasons = []
            for key in (exact, self._key(network, ANY_GPU)):
                compiled, why = self._load(network, key, device)
                if compiled is not None:
                    break
                reasons.append(why)
            else:  # what was built on this very GPU tells more about what changed
                content = _build(
                    network,
                    exact,
                    self._library,
                    self._cache,
                    why=reasons[0],
                    progress=self._progress,
                )
                compiled = self._library.load(network, content, device)
                self._open.append((exact, b"", compiled))
            name = f"{self.name} {network.precision}"
            engine = GpuEngine(network, compiled, device, name=name)
            undo.pop_all()
        return engine

    def build(self, network: Network) -> str:
        """Compile a network for the GPU here unless that is done; return what was done.

        Raises:
            ConfigError: when the cache cannot be written.
            EngineError: when the library fails.
        """
        return _build_once(
            network, self._key(network, self._gpu), self._library, self._cache, self._progress
        )

    def keep(self) -> None:
        """Store the kernels that were finished while warming up (RTX), for the next start.

        A cache that cannot be written costs time at the next start, nothing else.
        """
        for key, before, network in self._open:
            content = network.runtime_cache()
            if content == before:
                continue
            try:
                self._cache.store_runtime_cache(key, content)
            except ConfigError as error:
                log.warning("runtime_cache_not_kept", error=str(error))
        self._open.clear()

    def _load(self, network: Network, key: EngineKey, device: Device) -> tuple[Loaded | None, str]:
        """Load what is in the cache; what does not load is forgotten, with the reason."""
        entry = self._cache.look(key)
        if entry.engine is None:
            return None, entry.why
        kernels = self._cache.runtime_cache(key)
        try:
            compiled = self._library.load(network, entry.engine, device, runtime_cache=kernels)
        except EngineError as error:
            self._cache.discard(key)
            return None, str(error)
        self._open.append((key, kernels, compiled))
        return compiled, ""

    def _key(self, network: Network, gpu: str) -> EngineKey:
        return key_of(network, self._library, gpu=gpu, architecture=self._architecture)


def compile_ahead(
    network: Network, architecture: str, library: Compiler, cache: EngineCache
) -> str:
    """Compile for an architecture without such a GPU, unless that is done; return what was done.

    Args:
        network: what to compile.
        architecture: such as ``sm86``.
        library: must be able to, see ``Library.architectures``.
        cache: where the engine goes.

    Raises:
        ConfigError: when the library cannot, or the cache cannot be written.
        EngineError: when the library refuses the network.
    """
    key = key_of(network, library, gpu=ANY_GPU, architecture=architecture)
    return _build_once(network, key, library, cache, lambda: None)


def key_of(network: Network, library: Compiler, *, gpu: str, architecture: str) -> EngineKey:
    """Gather everything that an engine depends on."""
    return EngineKey(
        network=network.label,
        onnx_sha256=hashlib.sha256(network.onnx).hexdigest(),
        library=library.name,
        version=library.version,
        gpu=gpu,
        architecture=architecture,
        platform=library.platform,
        profiles=tuple(
            tuple((axis, *sizes) for axis, sizes in sorted(profile.items()))
            for profile in network.profiles
        ),
        precision=network.precision,
        flags=FLAGS,
    )


def _build_once(
    network: Network,
    key: EngineKey,
    library: Compiler,
    cache: EngineCache,
    progress: Callable[[], None],
) -> str:
    entry = cache.look(key)
    if entry.engine is not None:
        return "in the cache"
    _build(network, key, library, cache, why=entry.why, progress=progress)
    return f"built: {entry.why}"


def _build(
    network: Network,
    key: EngineKey,
    library: Compiler,
    cache: EngineCache,
    *,
    why: str,
    progress: Callable[[], None],
) -> bytes:
    """Compile under the key's lock; what another process has built meanwhile is taken."""
    with cache.locked(key, waiting=progress):
        entry = cache.look(key)
        if entry.engine is not None:
            return entry.engine
        log.info("engine_building", network=network.label, library=library.name, why=why)
        ahead = key.gpu == ANY_GPU
        start_s = perf_counter()
        built = library.build(
            network,
            architecture=key.architecture if ahead or library.architectures else "",
            timings=cache.timings(key),
            progress=progress,
        )
        took_s = perf_counter() - start_s
        cache.store(key, built.engine, build_s=took_s)
        cache.store_timings(key, built.timings)
    log.info("engine_built", network=network.label, size=len(built.engine), took_s=round(took_s, 2))
    return built.engine
