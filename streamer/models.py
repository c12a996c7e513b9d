"""The networks of one process, loaded, proved and warm: the bundle's two and the face detector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import structlog

from streamer import bundle as bundles
from streamer import reading
from streamer.assets import default_folder
from streamer.cores import usable_cores
from streamer.detect import choose
from streamer.gaze import GazeOptions
from streamer.hands import Hands
from streamer.lane import Lane, LaneOptions
from streamer.pipeline import Pipeline
from streamer.temporal import TemporalHead
from streamer.track import FaceTracker, TrackOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamer.bundle import Bundle
    from streamer.config import Config
    from streamer.config import Detector as DetectorOptions
    from streamer.detect import Choice
    from streamer.metrics import Metrics
    from streamer.pipeline import Viewer
    from streamer.reading import Reading
    from streamer.stages import Engine, ScalingDetector, Sink

__all__ = ["Models", "choose_detector", "load_models", "make_pipeline"]

log = structlog.get_logger(__name__)

_WARM_FRAME = (360, 640)  # the size of a camera's usual substream
_RATE_TOLERANCE = 0.2  # cameras' own rates seldom divide evenly into the step
_WARM_ROUNDS = 2  # the first call of a session allocates and the second shows that it is done


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What a pipeline runs.

    Attributes:
        bundle: what is run, verified.
        reading: the CNN and the temporal network.
        detector: finds faces.
        backend: which detector it is.
        hands: threads for what can be shared out; as many as there are cores to use.
    """

    bundle: Bundle
    reading: Reading
    detector: ScalingDetector
    backend: str
    hands: Hands

    @property
    def engines(self) -> dict[str, str]:
        """Runtime and device of each network."""
        return {
            "detect": self.backend,
            "features": self.reading.name,
            "temporal": self.reading.name,
        }

    def close(self) -> None:
        """Free the runtimes; may be called twice."""
        self.hands.close()
        self.detector.close()
        self.reading.close()


def load_models(config: Config, *, progress: Callable[[], None] = lambda: None) -> Models:
    """Load, prove and warm all networks of a configuration.

    Args:
        config: which, and on what.
        progress: called while an engine is compiled, from any thread.

    Raises:
        BundleError: when the bundle is damaged or does not compute what it promises.
        ConfigError: when no face detector can be had, or TensorRT is insisted on and cannot be had.
        EngineError: when a runtime fails.
    """
    cv2.setNumThreads(1)  # its pool would compete with ours for the same cores
    bundle = bundles.load(bundles.path_of(config.bundle.path))
    chosen = reading.choose(
        bundle,
        config.engine,
        detector_px=config.detector.input_px,
        threads=1,  # a batch is shared out instead: it costs a tenth less than splitting each layer
        newest=config.bundle.average,
        progress=progress,
    )
    trained_fps = 1 / bundle.manifest.temporal.step_s
    if abs(config.analysis.fps - trained_fps) > _RATE_TOLERANCE * trained_fps:
        log.warning("analysis_rate_unlike_training", fps=config.analysis.fps, trained=trained_fps)
    choice = choose_detector(config.detector, compiled=chosen.compiled)
    _warm(choice.detector)
    chosen.keep()
    return Models(
        bundle=bundle,
        reading=chosen.reading,
        detector=choice.detector,
        backend=choice.backend,
        hands=Hands(config.engine.threads or usable_cores()),
    )


def choose_detector(
    options: DetectorOptions, *, compiled: Callable[[bytes], Engine | None] | None = None
) -> Choice:
    """Build the configured face detector and log which it is and why.

    Args:
        options: of ``[detector]``.
        compiled: makes an engine of YuNet's network on a GPU, see ``streamer.reading``.

    Raises:
        ConfigError: if none can be had, with the reasons.
        EngineError: if its runtime refuses the network.
    """
    choice = choose(
        options.backend,
        folder=Path(options.assets) if options.assets else default_folder(),
        mirror=options.mirror,
        input_px=options.input_px,
        score=options.score,
        compiled=compiled,
        report=lambda line: log.info("asset_reported", line=line),
    )
    log.info("detector_chosen", detector=choice.backend, why=choice.why)
    return choice


def make_pipeline(
    config: Config,
    models: Models,
    *,
    sink: Sink,
    metrics: Metrics,
    viewers: Iterable[Viewer] = (),
    first_track: Callable[[str], int] = lambda _: 1,
) -> Pipeline:
    """Put a pipeline together; several may share the models, each with its own tracks.

    Args:
        config: how to follow, read and name faces.
        models: what is run.
        sink: takes the events.
        metrics: takes counts and stage times.
        viewers: who may look on.
        first_track: number of a camera's first track.
    """
    manifest = models.bundle.manifest
    track_options = TrackOptions(
        confirm_s=config.tracker.confirm_s,
        lost_s=config.tracker.lost_s,
        start_score=config.detector.score,
    )
    lane_options = LaneOptions(
        classes=tuple(manifest.classes),
        bundle=models.bundle.identity,
        confidence=config.emotions.confidence,
        enter=config.emotions.enter,
        exit=config.emotions.exit,
        min_dwell_s=config.emotions.min_dwell_s,
    )
    return Pipeline(
        detector=models.detector,
        features=models.reading.features,
        temporal=TemporalHead(models.reading.states(), gap_reset_s=config.analysis.gap_reset_s),
        lane=lambda camera: Lane(
            camera,
            FaceTracker(replace(track_options, first_id=first_track(camera))),
            lane_options,
        ),
        sink=sink,
        metrics=metrics,
        crops=manifest.input,
        min_face_px=config.analysis.min_face_px,
        hands=models.hands,
        gaze=GazeOptions(whole_s=config.detector.whole_s, input_px=config.detector.input_px),
        viewers=viewers,
    )


def _warm(detector: ScalingDetector) -> None:
    for _ in range(_WARM_ROUNDS):
        detector.detect(np.zeros(_WARM_FRAME, np.uint8))
