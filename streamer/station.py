"""The cameras of one process and what reads them: feeds, mailboxes, networks, the compute loop."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Protocol

import structlog

from streamer import __version__
from streamer.camera import CameraRecord, Past
from streamer.capture import open_source
from streamer.compute import ComputeLoop
from streamer.feed import CameraFeed
from streamer.mailbox import Mailbox
from streamer.memory import settle
from streamer.models import load_models, make_pipeline
from streamer.settings import capture_options
from streamer.source import Continuity
from streamer.supervisor import STUCK_S
from streamer.web.state import About, WorkerHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.config import Camera, Config
    from streamer.lane import Reading
    from streamer.metrics import Metrics
    from streamer.models import Models
    from streamer.source import CaptureOptions
    from streamer.stages import Clock, Sink
    from streamer.types import Frame
    from streamer.web.state import CameraView

__all__ = ["Onlooker", "Station"]

log = structlog.get_logger(__name__)
_RELOAD_S = 2.0  # for captures to end; the watchdog and SIGTERM wait as long


class Onlooker(Protocol):
    """Who may look at analysed frames: the live page."""

    def offer(self, frame: Frame, readings: Sequence[Reading]) -> None:
        """Take one analysed frame; returns at once."""
        ...

    def forget(self, camera: str) -> None:
        """Drop what was last seen of a camera that went away."""
        ...


class Station:
    """Cameras, networks and the compute loop, with the events going to one sink.

    Args:
        config: what to run; where events go and what is served over HTTP is not read here.
        sink: takes the events.
        metrics: takes the counts.
        onlooker: sees every analysed frame.
        clock: the time.
        past: of cameras that another process watched before.
    """

    def __init__(
        self,
        config: Config,
        *,
        sink: Sink,
        metrics: Metrics,
        onlooker: Onlooker,
        clock: Clock,
        past: Mapping[str, Past] | None = None,
    ) -> None:
        self._config = config
        self._sink = sink
        self._metrics = metrics
        self._onlooker = onlooker
        self._clock = clock
        self._past = dict(past or {})
        self._records: dict[str, CameraRecord] = {}
        self._feeds: dict[str, CameraFeed] = {}
        self._models: Models | None = None
        self._compute: ComputeLoop | None = None

    def load(self, progress: Callable[[], None]) -> About:
        """Load, prove and warm the networks, start the compute loop, and say what runs.

        Args:
            progress: called while an engine is compiled, from any thread.

        Raises:
            StreamerError: when a network cannot be had, see ``streamer.models.load_models``.
        """
        models = self._models = load_models(self._config, progress=progress)
        pipeline = make_pipeline(
            self._config,
            models,
            sink=self._sink,
            metrics=self._metrics,
            viewers=[self, self._onlooker],
            first_track=lambda camera: self._past.get(camera, Past()).track + 1,
        )
        self._compute = ComputeLoop(
            pipeline,
            fps=self._config.analysis.fps,
            sink=self._sink,
            metrics=self._metrics,
            clock=self._clock,
        )
        self._compute.start()
        settle()
        return About(
            version=__version__,
            bundle=models.bundle.identity,
            engines=models.engines,
            classes=tuple(models.bundle.manifest.classes),
            purpose=self._config.purpose.declared,
        )

    def open(self, cameras: Sequence[Camera]) -> None:
        """Begin to watch cameras; after ``load``."""
        for options in [capture_options(camera) for camera in cameras]:
            past = self._past.get(options.camera)
            self._add(options, Continuity(seq=past.seq) if past else None)

    def reload(self, cameras: Sequence[Camera]) -> None:
        """Take cameras that were added, removed or changed, without disturbing the others.

        Raises:
            ConfigError: when one cannot be right; nothing is changed then.
        """
        wanted = {camera.name: capture_options(camera) for camera in cameras}
        present = dict(self._feeds)
        left = [feed for name, feed in present.items() if wanted.get(name) != feed.options]
        self._stop_feeds(left, _RELOAD_S)
        for feed in left:
            self._remove(feed, stays=feed.camera in wanted)
        for name, options in wanted.items():
            if name not in self._feeds:
                before = present.get(name)
                self._add(options, before.continuity if before else None)

    def stop(self, deadline_s: float) -> tuple[str, ...]:
        """Stop captures, then the compute loop, which ends every track; idempotent.

        Returns:
            Who did not stop within the deadline.
        """
        end_s = time.monotonic() + deadline_s
        self._stop_feeds(list(self._feeds.values()), deadline_s / 2)
        left_s = max(0.05, end_s - time.monotonic())
        if self._compute is not None and not self._compute.stop(left_s / 2):
            return ("compute",)
        return ()

    def close(self) -> None:
        """Free the networks, once nothing can run them any more."""
        if self._models is not None:
            self._models.close()

    def liveness(self) -> Mapping[str, WorkerHealth]:
        """Tell the progress of the compute loop and of every camera."""
        now_ns = self._clock.monotonic_ns()
        workers: dict[str, tuple[int, float]] = {}
        if self._compute is not None:
            workers["compute"] = (self._compute.last_progress_ns, STUCK_S)
        for name, feed in list(self._feeds.items()):
            workers[f"camera {name}"] = (feed.last_progress_ns, _patience_s(feed.options) + STUCK_S)
        return {
            name: WorkerHealth(age_s=max(0.0, (now_ns - last_ns) / 1e9), limit_s=limit_s)
            for name, (last_ns, limit_s) in workers.items()
        }

    def cameras(self) -> Sequence[CameraView]:
        """Tell about every camera."""
        return [record.view() for record in list(self._records.values())]

    def offer(self, frame: Frame, readings: Sequence[Reading]) -> None:
        """Take an analysed frame from the pipeline, for the camera's record."""
        record = self._records.get(frame.camera)
        if record is not None:
            record.offer(frame, readings)

    def _add(self, options: CaptureOptions, continuity: Continuity | None) -> None:
        compute = self._compute
        if compute is None:
            raise RuntimeError("cameras are added after the compute loop")
        past = self._past.get(options.camera)
        record = CameraRecord(
            name=options.camera,
            url=options.place,
            metrics=self._metrics,
            clock=self._clock,
            tell=compute.tell,
            seen=past is not None and past.seen,
        )
        mailbox = Mailbox(compute.ready)
        compute.attach(options.camera, mailbox)
        feed = CameraFeed(
            options,
            mailbox=mailbox,
            observer=record,
            clock=self._clock,
            opener=open_source,
            random=random.random,
            continuity=continuity,
        )
        self._metrics.camera(options.camera).fps.set_function(lambda: feed.fps)
        self._records[options.camera] = record
        self._feeds[options.camera] = feed
        feed.start()

    def _stop_feeds(self, feeds: Sequence[CameraFeed], timeout_s: float) -> None:
        """Stop captures at once; a camera that says nothing holds its thread a while longer."""
        end_s = time.monotonic() + timeout_s
        for feed in feeds:
            feed.stop()
        late = [feed.camera for feed in feeds if not feed.join(max(0, end_s - time.monotonic()))]
        if late:  # each is within its own deadline, so this is no failure
            log.info("cameras_left_waiting", cameras=late)

    def _remove(self, feed: CameraFeed, *, stays: bool) -> None:
        """Take a stopped camera out; one that stays keeps its track numbers and its series."""
        name = feed.camera
        self._feeds.pop(name)
        self._records.pop(name).removed()
        if self._compute is not None:
            self._compute.detach(name, forget=not stays, timeout_s=STUCK_S)
        self._onlooker.forget(name)
        if not stays:
            self._past.pop(name, None)
            self._metrics.remove_camera(name)


def _patience_s(options: CaptureOptions) -> float:
    """Return the longest that one honest call into FFmpeg may take, see ``CameraFeed``."""
    return 3 * options.open_timeout_s + options.read_timeout_s
