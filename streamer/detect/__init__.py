"""Face detectors: a luma plane goes in, boxes and eyes come out; and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from streamer import assets
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.stages import Engine, ScalingDetector

__all__ = ["Choice", "choose"]

_CONTINUE = 2 / 3
"""Share of the score that does for a face that is known already: over six real clips 0.4 instead of
0.6 gave 687 sightings in 17 tracks instead of 654 in 16 (YuNet at 480 pixels, 2026-11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A detector, ready, and how it came to be this one.

    Attributes:
        detector: to be closed by whoever asked for it.
        backend: ``yunet`` or ``mediapipe``.
        why: one clause for the log and for a person.
    """

    detector: ScalingDetector
    backend: Literal["yunet", "mediapipe"]
    why: str


def choose(
    backend: Literal["auto", "yunet", "mediapipe"],
    *,
    folder: Path,
    mirror: str = "",
    offline: bool = False,
    input_px: int = 480,
    score: float = 0.6,
    threads: int = 1,
    compiled: Callable[[bytes], Engine | None] | None = None,
    report: Callable[[str], None],
) -> Choice:
    """Build the detector that was asked for, with its model file fetched if need be.

    ``auto`` takes YuNet where its file is installed or can be fetched, and MediaPipe otherwise.

    Args:
        backend: which one.
        folder: where model files are installed.
        mirror: a folder or address to fetch them from before the vendor's own.
        offline: do not ask the network.
        input_px: the picture's longer side as YuNet sees it; MediaPipe's is fixed by its model.
        score: least confidence of a face that is new, 0..1; the detector also returns less
            confident ones, for the tracker to continue faces that it knows.
        threads: threads of one inference of YuNet; MediaPipe's are fixed.
        compiled: makes an engine of YuNet's network on another runtime, see ``YuNet``.
        report: told in one line what each source of a file said.

    Raises:
        ConfigError: if none can be had, with the reasons.
        EngineError: if the runtime refuses the network.
    """

    def fetch(name: str) -> Path:
        asset = assets.ASSETS[name]
        return assets.install(asset, folder, mirror=mirror, offline=offline, report=report)

    score *= _CONTINUE
    why = "as configured"
    if backend != "mediapipe":
        try:
            path = fetch("yunet")
        except ConfigError as error:
            if backend == "yunet":
                raise
            why = f"because YuNet cannot be had: {error}"
        else:
            detector = _yunet(
                path, input_px=input_px, score=score, threads=threads, compiled=compiled
            )
            if backend == "auto":
                why = "because its file can be had, and it is the faster and finds more"
            return Choice(detector=detector, backend="yunet", why=why)
    try:
        return Choice(detector=_mediapipe(fetch, score=score), backend="mediapipe", why=why)
    except ConfigError as error:
        if backend == "mediapipe":
            raise
        raise ConfigError(f"no face detector: {error}; {why}") from None


# The runtimes are imported when they are chosen: mediapipe alone takes a second and 100 MB.


def _yunet(
    path: Path,
    *,
    input_px: int,
    score: float,
    threads: int,
    compiled: Callable[[bytes], Engine | None] | None,
) -> ScalingDetector:
    from streamer.detect.yunet import YuNet  # noqa: PLC0415 (see above)

    return YuNet(
        path, input_size=input_px, score_threshold=score, threads=threads, compiled=compiled
    )


def _mediapipe(fetch: Callable[[str], Path], *, score: float) -> ScalingDetector:
    from streamer.detect.mediapipe import FRAMINGS, MediaPipe, require  # noqa: PLC0415 (see above)

    require()  # before 36 MB are fetched in vain
    # The full-range model finds 26 faces in 11 frames of a 1080p crowd, the short-range one none.
    name = "blazeface-full"
    return MediaPipe(fetch(name), framing=FRAMINGS[name], score_threshold=score)
