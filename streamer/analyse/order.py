"""What a run of ``streamer analyse`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

import streamer
from streamer import config as configuration
from streamer.config import Camera, Config
from streamer.errors import ConfigError
from streamer.events import parse_time

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Order", "Output", "config_of", "outputs_of", "settings_of", "start_of"]

_ANY = Camera(name="recording", url="recording")  # a configuration needs one; nobody opens it


class Output(StrEnum):
    """What is written beside ``events.jsonl``, ``samples.csv`` and the tables."""

    PLOTS = "plots"
    PARQUET = "parquet"
    THUMBNAILS = "thumbnails"
    VIDEO = "video"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to analyse, and what to write.

    Attributes:
        inputs: files and folders; folders are searched for videos at any depth.
        out: each recording gets a folder of its own in this one.
        config: how; its cameras are not looked at.
        outputs: what to write beside the data.
        jobs: files at a time; 0: as many as the process may use cores.
        start_ns: wall-clock time of a recording's first picture, nanoseconds since the epoch; 0
            makes ``captured_at`` the position in the file, counted from 1970-01-01T00:00:00Z.
    """

    inputs: tuple[Path, ...]
    out: Path
    config: Config
    outputs: frozenset[Output]
    jobs: int = 0
    start_ns: int = 0


def settings_of(order: Order, bundle: str) -> dict[str, Any]:
    """Return everything that the results depend on but the recording itself.

    Args:
        order: the run.
        bundle: identity of the model bundle.
    """
    config = order.config
    detector = msgspec.structs.replace(config.detector, assets="", mirror="")  # where, not what
    return {
        "program": streamer.__version__,
        "bundle": bundle,
        "analysis": msgspec.to_builtins(config.analysis),
        "detector": msgspec.to_builtins(detector),
        "tracker": msgspec.to_builtins(config.tracker),
        "emotions": msgspec.to_builtins(config.emotions),
        "start_ns": order.start_ns,
    }


def outputs_of(*, plots: bool, parquet: bool, thumbnails: bool, video: bool) -> frozenset[Output]:
    """Return what a command line asks to be written."""
    asked = {
        Output.PLOTS: plots,
        Output.PARQUET: parquet,
        Output.THUMBNAILS: thumbnails,
        Output.VIDEO: video,
    }
    return frozenset(output for output, wanted in asked.items() if wanted)


def config_of(path: Path | None, *, fps: float | None, mirror: str) -> Config:
    """Return the configuration of a run.

    Args:
        path: the daemon's, whose cameras are passed over; None: the defaults.
        fps: goes before it, unless None.
        mirror: goes before it, unless empty.

    Raises:
        ConfigError: if the file is not right.
    """
    config = configuration.load(path) if path else Config(cameras=(_ANY,))
    if fps is not None:
        analysis = msgspec.structs.replace(config.analysis, fps=fps)
        config = msgspec.structs.replace(config, analysis=analysis)
    if mirror:
        detector = msgspec.structs.replace(config.detector, mirror=mirror)
        config = msgspec.structs.replace(config, detector=detector)
    return config


def start_of(text: str) -> int:
    """Return the start of the recordings, nanoseconds since the epoch; 0 for an empty text.

    Raises:
        ConfigError: if it is no time with its zone.
    """
    if not text:
        return 0
    try:
        when = parse_time(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise ConfigError(f"--start {text!r}: expected a time with its zone: 2026-01-31T12:00:00Z")
    return round(when.timestamp() * 1e6) * 1000
