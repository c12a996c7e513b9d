"""``streamer check``: what is wrong with a configuration, and what its cameras really deliver."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from streamer import bundle as bundles
from streamer import config as configuration
from streamer import logs
from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceError, SourceReason
from streamer.models import choose_detector
from streamer.publish import check_options
from streamer.settings import capture_options, publish_options, web_options
from streamer.web import tls_context

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from streamer.source import CaptureOptions
    from streamer.stages import Detector, Source
    from streamer.types import Frame

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
    logs.configure("error", "console", clock=SystemClock())  # what matters is printed
    config = configuration.load(path)
    sources = [capture_options(camera) for camera in config.cameras]
    tls_context(web_options(config))
    check_options(publish_options(config))
    bundle = bundles.load(bundles.path_of(config.bundle.path))
    _say(console, f"{path}: valid; {len(sources)} cameras; bundle {bundle.identity}")
    if not config.purpose.declared:
        _say(console, "note: [purpose] declared is empty; say why faces are read here")
    if not probe:
        return 0
    choice = choose_detector(config.detector)
    _say(console, f"detector: {choice.backend}, {choice.why}")
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool, closing(choice.detector) as detector:
        found = list(pool.map(lambda options: _probe(options, detector), sources))
    console.print(_table(found))
    for camera in found:
        if camera.fault:
            console.print(Text(f"{camera.name}: {camera.fault}", style="red"), soft_wrap=True)
    return 1 if any(camera.fault for camera in found) else 0


def _say(console: Console, text: str) -> None:
    """Print a line as it is; brackets are no markup here."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _probe(options: CaptureOptions, detector: Detector) -> _Found:
    try:
        with closing(open_source(options, SystemClock())) as source:
            first, last = _listen(source)
            info = source.info
    except SourceError as error:
        return _Found(name=options.camera, place=options.place, fault=str(error))
    span_s = last.media_s - first.media_s
    return _Found(
        name=options.camera,
        place=options.place,
        codec=info.codec,
        size=f"{last.width} x {last.height}",
        declared_fps=info.declared_fps,
        measured_fps=(last.seq - first.seq) / span_s if span_s > 0 else 0.0,
        faces=len(detector.detect(last.luma_HW)),
    )


def _listen(source: Source) -> tuple[Frame, Frame]:
    """Read for a while; return the first and the last frame.

    Raises:
        SourceError: if it fails before the end of a file.
    """
    first = last = source.read()
    try:
        while last.monotonic_ns - first.monotonic_ns < _LISTEN_S * 1e9:
            last = source.read()
    except SourceError as error:
        if error.reason is not SourceReason.ENDED:
            raise
    return first, last


def _table(found: list[_Found]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("camera", "codec", "size"):
        table.add_column(column, no_wrap=True)
    for column in ("fps", "declared", "faces"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("address")  # alone may be cut: the others keep their width
    for camera in found:
        if camera.fault:
            name = Text(camera.name, style="red")
            table.add_row(name, "-", "-", "-", "-", "-", _cut(camera.place))
            continue
        table.add_row(
            camera.name,
            camera.codec,
            camera.size,
            f"{camera.measured_fps:.1f}",
            f"{camera.declared_fps:.4g}" if camera.declared_fps else "-",
            str(camera.faces),
            _cut(camera.place),
        )
    return table


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
