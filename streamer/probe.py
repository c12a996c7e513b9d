"""``streamer check``: what is wrong with a configuration, and what its cameras really deliver."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from streamer import bundle as bundles
from streamer import config as configuration
from streamer.app import capture_options
from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceError
from streamer.models import choose_detector

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from streamer.capture import CaptureOptions
    from streamer.stages import Detector

__all__ = ["check"]

_LISTEN_S = 2.0  # long enough for 10 frames of a slow camera, short enough to wait for
_PROBES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What one camera delivered, or why it did not."""

    name: str
    place: str
    fault: str = ""
    codec: str = ""
    size: str = ""
    declared_fps: float | None = None
    measured_fps: float = 0.0
    faces: int = 0


def check(path: Path, console: Console, *, probe: bool) -> int:
    """Validate a configuration, and on request open every camera.

    Args:
        path: the TOML file.
        console: where to print.
        probe: open every camera, listen to it for two seconds and look for faces.

    Returns:
        0; 1 if a camera could not be opened.

    Raises:
        StreamerError: what is wrong, in one line.
    """
    config = configuration.load(path)
    sources = [capture_options(camera) for camera in config.cameras]
    bundle = bundles.load(bundles.path_of(config.bundle.path))
    console.print(f"{path}: valid; {len(sources)} cameras; bundle {bundle.identity}")
    if not config.purpose.declared:
        console.print("note: [purpose] declared is empty; say why faces are read here")
    if not probe:
        return 0
    choice = choose_detector(config.detector)
    detector = choice.detector
    console.print(f"detector: {choice.backend}, {choice.why}", soft_wrap=True)
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
        found = list(pool.map(lambda options: _probe(options, detector), sources))
    detector.close()
    console.print(_table(found))
    return 1 if any(camera.fault for camera in found) else 0


def _probe(options: CaptureOptions, detector: Detector) -> _Found:
    clock = SystemClock()
    try:
        source = open_source(options, clock, interrupt=threading.Event())
        try:
            first = frame = source.read()
            frames = 1
            while frame.monotonic_ns - first.monotonic_ns < _LISTEN_S * 1e9:
                frame = source.read()
                frames += 1
        except SourceError as error:
            if not frames:
                raise
            if error.reason is not error.reason.ENDED:
                raise
        finally:
            source.close()
    except SourceError as error:
        return _Found(name=options.camera, place=options.place, fault=str(error))
    span_s = frame.media_s - first.media_s
    return _Found(
        name=options.camera,
        place=options.place,
        codec=source.info.codec,
        size=f"{frame.width} x {frame.height}",
        declared_fps=source.info.declared_fps,
        measured_fps=(frames - 1) / span_s if span_s > 0 else 0.0,
        faces=len(detector.detect(frame.luma_HW)),
    )


def _table(found: list[_Found]) -> Table:
    table = Table()
    for column in ("camera", "address", "codec", "size", "fps declared", "measured", "faces"):
        table.add_column(column)
    for camera in found:
        if camera.fault:
            table.add_row(camera.name, camera.place, f"[red]{camera.fault}[/]")
            continue
        declared = f"{camera.declared_fps:.4g}" if camera.declared_fps else "-"
        table.add_row(
            camera.name,
            camera.place,
            camera.codec,
            camera.size,
            declared,
            f"{camera.measured_fps:.1f}",
            str(camera.faces),
        )
    return table
