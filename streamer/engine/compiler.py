"""What the cache and the choice of an engine need of a library that compiles networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from streamer.engine.gpu import Compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.engine.device import Device
    from streamer.engine.graphs import Network

__all__ = ["Built", "Compiler", "Loaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A compiled network.

    Attributes:
        engine: to be loaded by the same version on the same architecture.
        timings: what the compiler measured, for the next build; empty where there is none.
    """

    engine: bytes
    timings: bytes


class Loaded(Compiled, Protocol):
    """A compiled network on a device, which may finish kernels when they first run."""

    def runtime_cache(self) -> bytes:
        """Return the kernels finished so far; empty where there are none."""
        ...


class Compiler(Protocol):
    """Compiles networks and loads what it compiled; see ``streamer.engine.tensorrt.Library``."""

    @property
    def name(self) -> str:
        """The library."""
        ...

    @property
    def version(self) -> str:
        """Its full version."""
        ...

    @property
    def platform(self) -> str:
        """Operating system and processor."""
        ...

    @property
    def architectures(self) -> tuple[str, ...]:
        """What it can compile for without such a GPU; empty: only for the one here."""
        ...

    def require(self, architecture: str) -> None:
        """Refuse an architecture that it does not run on; raises UnavailableError."""
        ...

    def build(
        self,
        network: Network,
        *,
        architecture: str = "",
        timings: bytes = b"",
        progress: Callable[[], None] = ...,
    ) -> Built:
        """Compile; raises ConfigError or EngineError."""
        ...

    def load(
        self, network: Network, engine: bytes, device: Device, *, runtime_cache: bytes = b""
    ) -> Loaded:
        """Load; raises EngineError."""
        ...
