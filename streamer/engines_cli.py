"""``streamer engines``: compile ahead of time, show what is compiled, clear it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from streamer import assets
from streamer import bundle as bundles
from streamer.detect import yunet_graph
from streamer.engine import graphs
from streamer.engine.accelerator import Accelerator, compile_ahead
from streamer.engine.cache import EngineCache, Header, folder_of
from streamer.engine.device import UnavailableError
from streamer.engine.tensorrt import load_library
from streamer.errors import ConfigError
from streamer.reading import network_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from streamer.config import Bundle, Detector, Engine

__all__ = ["architectures_of", "build", "clear", "show"]

_CAPABILITY = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)")


def build(
    console: Console,
    *,
    bundle: Bundle,
    engine: Engine,
    detector: Detector,
    architectures: tuple[str, ...] = (),
) -> None:
    """Compile what the daemon will load, unless the cache has it.

    Args:
        console: takes a line an engine.
        bundle: ``[bundle]``.
        engine: ``[engine]``.
        detector: ``[detector]``.
        architectures: compile for these without a GPU, such as ``sm86``; empty: for the GPU here.

    Raises:
        ConfigError: when no TensorRT is installed, no GPU answers, the library cannot compile for
            an architecture, or the cache cannot be written.
        BundleError: when the bundle is damaged.
        EngineError: when the library refuses a network.
    """
    cache = EngineCache(folder_of(engine.cache))
    loaded = bundles.load(bundles.path_of(bundle.path))
    networks = [network_of(loaded, engine.precision, bundle.average), *_detector(console, detector)]
    for where, compile_one in _compilers(cache, architectures).items():
        for network in networks:
            done = compile_one(network)
            console.print(
                f"{network.label} {network.precision} for {where}: {done}", soft_wrap=True
            )


def show(console: Console, folder: Path) -> None:
    """Print every engine in a cache."""
    headers = EngineCache(folder).headers()
    if not headers:
        console.print(f"no engine is in {folder}", soft_wrap=True)
        return
    table = Table(title=str(folder))
    for column in ("network", "precision", "library", "for", "MB", "built", "took"):
        table.add_column(column)
    for path, header in headers.items():
        if isinstance(header, Header):
            key = header.key
            table.add_row(
                key.network,
                key.precision,
                f"{key.library} {key.version}",
                f"{key.gpu} {key.architecture}",
                f"{header.size / 1e6:.1f}",
                header.built_at,
                f"{header.build_s:.1f} s",
            )
        else:
            table.add_row(path.stem, "damaged", header)
    console.print(table)


def clear(console: Console, folder: Path) -> None:
    """Remove every engine of a cache, and what belongs to them.

    Raises:
        ConfigError: when a file cannot be removed.
    """
    try:
        files, size = EngineCache(folder).clear()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be cleared: {error.strerror}") from None
    console.print(f"removed {files} files, {size / 1e6:.1f} MB, from {folder}", soft_wrap=True)


def architectures_of(capabilities: str) -> tuple[str, ...]:
    """Read a list such as ``86,120`` or ``8.6,12.0``.

    Raises:
        ConfigError: when one is no compute capability.
    """
    found = []
    for part in filter(None, (part.strip().lower() for part in capabilities.split(","))):
        match = _CAPABILITY.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"--compute-capability: {part!r} is none; expected numbers such as 86 or 12.0"
            )
        found.append(f"sm{match[1]}{match[2]}")
    return tuple(found)


def _compilers(
    cache: EngineCache, architectures: tuple[str, ...]
) -> dict[str, Callable[[graphs.Network], str]]:
    """Return for each target the function that compiles for it."""
    try:
        if not architectures:
            accelerator = Accelerator(cache)
            return {accelerator.name: accelerator.build}
        library = load_library()
    except UnavailableError as error:
        hint = "" if architectures else "; --compute-capability compiles without a GPU"
        raise ConfigError(f"{error}{hint}") from None

    def ahead(architecture: str) -> Callable[[graphs.Network], str]:
        return lambda network: compile_ahead(network, architecture, library, cache)

    return {architecture: ahead(architecture) for architecture in architectures}


def _detector(console: Console, options: Detector) -> list[graphs.Network]:
    if options.backend == "mediapipe":
        console.print("detector: mediapipe runs on the CPU")
        return []
    folder = Path(options.assets) if options.assets else assets.default_folder()
    path = assets.find(assets.ASSETS["yunet"], folder)
    if path is None:
        console.print(
            f"detector: skipped, its file is not in {folder}; run: streamer assets install",
            soft_wrap=True,
        )
        return []
    return [graphs.detector(yunet_graph.luma_network(path), options.input_px)]
