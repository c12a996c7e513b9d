"""``streamer check``: what is wrong with a configuration, and what its cameras really deliver."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from streamer import bundle as bundles
from streamer import config as configuration
from streamer import logs
from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import ConfigError, SourceError, SourceReason
from streamer.fleet import settings
from streamer.logs import redact
from streamer.models import choose_detector
from streamer.publish import check_options
from streamer.settings import capture_options, publish_options, web_options
from streamer.web import tls_context

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from streamer.config import Config
    from streamer.fleet.settings import Fleet
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
    """Validate a configuration of a daemon or of a fleet, and on request open every camera.

    Args:
        path: the TOML file; one with a table ``[fleet]`` is a fleet's.
        console: where to print.
        probe: open every camera, listen to it for two seconds and look for faces.

    Returns:
        0; 1 if a camera could not be opened.

    Raises:
        StreamerError: what is wrong, in one line.
    """
    logs.configure("error", "console", clock=SystemClock())  # what matters is printed
    config, fleet = _load(path)
    sources, refused = _sources(config, fleet)
    tls_context(web_options(config))
    check_options(publish_options(config))
    bundle = bundles.load(bundles.path_of(config.bundle.path))
    kind = "" if fleet is None else " for a fleet"
    _say(console, f"{path}: valid{kind}; {len(config.cameras)} cameras; bundle {bundle.identity}")
    if fleet is not None:
        for line in _words(fleet, config):
            _say(console, line)
    for fault in refused:
        _say(console, f"note: on this machine {fault.fault}; a node like it would not read it")
    if not config.purpose.declared:
        _say(console, "note: [purpose] declared is empty; say why faces are read here")
    if not probe:
        return 0
    choice = choose_detector(config.detector)
    _say(console, f"detector: {choice.backend}, {choice.why}")
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool, closing(choice.detector) as detector:
        found = [*pool.map(lambda options: _probe(options, detector), sources), *refused]
    console.print(_table(found))
    for camera in found:
        if camera.fault:
            console.print(Text(f"{camera.name}: {camera.fault}", style="red"), soft_wrap=True)
    return 1 if any(camera.fault for camera in found) else 0


def _load(path: Path) -> tuple[Config, Fleet | None]:
    """Return what daemons run, and the fleet that the file is for, if it is for one."""
    text, _ = configuration.read(path)
    if "fleet" not in configuration.tree_of(text, place=str(path)):
        return configuration.load(path), None
    found = settings.load(path)
    settings.link_keys(found.fleet)  # can they be read?
    return found.daemon, found.fleet


def _sources(config: Config, fleet: Fleet | None) -> tuple[list[CaptureOptions], list[_Found]]:
    """Return what to open, and the cameras that only other machines of a fleet could open."""
    sources, refused = [], []
    for camera in config.cameras:
        try:
            sources.append(capture_options(camera))
        except ConfigError as error:
            if fleet is None or fleet.local:
                raise
            refused.append(_Found(name=camera.name, place=redact(camera.url), fault=str(error)))
    return sources, refused


def _words(fleet: Fleet, config: Config) -> list[str]:
    """Say what a fleet's own table means."""
    where = "all on this machine" if fleet.local else "on several machines, with keys"
    lines = [f"fleet {fleet.name}, {where}; nodes report to {fleet.link}"]
    asking = [name for name, need in fleet.cameras.items() if need.needs or need.gpu]
    for name in asking:
        need = fleet.cameras[name]
        wanted = [*(f"{key} = {value}" for key, value in need.needs.items()), *["a GPU"] * need.gpu]
        lines.append(f"{name} only runs on a node with {' and '.join(wanted)}")
    if not fleet.local and not config.http.token:
        lines.append("note: without [http] token nobody but a node itself can read its metrics")
    if find_spec("ray") is None:
        lines.append(
            "note: Ray is not installed here, which `streamer fleet run` needs; run: pip install "
            "'emotion-streamer[fleet]'"
        )
    return lines


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
