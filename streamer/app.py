"""The composition root: builds every object of the daemon from its configuration.

Start goes against the flow, so that whoever sends finds a receiver; stop goes with it, so that what
is under way still arrives.
"""

from __future__ import annotations

import platform
import random
import time
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from streamer import __version__, logs, systemd
from streamer import config as configuration
from streamer.camera import CameraRecord
from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.compute import ComputeLoop
from streamer.errors import ConfigError
from streamer.events import DaemonStarted, DaemonStopping, Event
from streamer.feed import CameraFeed
from streamer.mailbox import Mailbox
from streamer.metrics import Metrics
from streamer.models import load_models, make_pipeline
from streamer.publish import Publisher
from streamer.settings import capture_options, publish_options, web_options
from streamer.supervisor import STUCK_S, block_signals, supervise
from streamer.web import About, LiveView, WebServer, WorkerHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from streamer.config import Config
    from streamer.lane import Reading
    from streamer.models import Models
    from streamer.source import CaptureOptions, Continuity
    from streamer.stages import Clock
    from streamer.types import Frame
    from streamer.web import CameraView

__all__ = ["Service", "run"]

log = structlog.get_logger(__name__)
_RELOAD_S = 2.0  # for captures to end; the watchdog and SIGTERM wait as long


def run(path: Path) -> int:
    """Run the daemon with a configuration file; see ``streamer run``.

    Raises:
        StreamerError: when it cannot start; nothing is left half-started.
    """
    config = configuration.load(path)
    clock = SystemClock()
    logs.configure(config.log.level, config.log.format, clock=clock)
    block_signals()
    service = Service(config, clock=clock, reread=lambda: configuration.load(path))
    return supervise(
        service, notifier=systemd.Notifier(clock), watchdog_s=systemd.watchdog_interval_s()
    )


class Service:
    """The daemon: everything it consists of, and what others may ask about it.

    Args:
        config: what to run.
        clock: the time.
        reread: reads the configuration again, for a reload.
    """

    def __init__(self, config: Config, *, clock: Clock, reread: Callable[[], Config]) -> None:
        self._config = config
        self._clock = clock
        self._reread = reread
        self._metrics = Metrics(CollectorRegistry())
        self._live = LiveView(clock=clock, metrics=self._metrics, pictures=config.http.pictures)
        self._web = WebServer(
            options=web_options(config),
            state=self,
            live=self._live,
            metrics=self._metrics,
            clock=clock,
        )
        self._publisher = Publisher(
            publish_options(config), observer=_PublishMetrics(self._metrics), clock=clock
        )
        self._records: dict[str, CameraRecord] = {}
        self._feeds: dict[str, CameraFeed] = {}
        self._models: Models | None = None
        self._compute: ComputeLoop | None = None
        self._ready = {"bundle": False, "engines": False, "sockets": False, "cameras": False}

    # Life

    def start(self) -> None:
        """Start everything; see ``streamer.supervisor.Daemon``."""
        config = self._config
        sources = [capture_options(camera) for camera in config.cameras]
        if not config.purpose.declared:
            log.warning(
                "purpose_not_declared", do="set [purpose] declared: why faces are read here"
            )
        self._web.start()
        self._publisher.start()
        self._ready["sockets"] = True
        patience = systemd.start_extension(systemd.Notifier(self._clock), self._clock)
        models = self._models = load_models(config, progress=patience)
        self._ready |= {"bundle": True, "engines": True}
        self._metrics.build_info.info({"version": __version__})
        self._metrics.bundle_info.info({"bundle": models.bundle.identity})
        for stage, engine in models.engines.items():
            self._metrics.engine_info.labels(stage).info({"engine": engine})
        pipeline = make_pipeline(
            config, models, sink=self._publisher, metrics=self._metrics, viewers=[self, self._live]
        )
        self._compute = ComputeLoop(
            pipeline,
            fps=config.analysis.fps,
            sink=self._publisher,
            metrics=self._metrics,
            clock=self._clock,
        )
        self._compute.start()
        self._publisher.emit(Event(data=self._started(models)))
        for options in sources:
            self._add(options)
        self._ready["cameras"] = True
        log.info(
            "daemon_started",
            events=self._publisher.bind,
            snapshot=self._publisher.snapshot,
            page=self._web.url,
            cameras=len(self._feeds),
            purpose=config.purpose.declared,
        )

    def stop(self, reason: str, deadline_s: float) -> tuple[str, ...]:
        """Stop in flow order; see ``streamer.supervisor.Daemon``."""
        end_s = time.monotonic() + deadline_s

        def left_s() -> float:
            return max(0.05, end_s - time.monotonic())

        started = self._ready["cameras"]
        if started:
            log.info("daemon_stopping", reason=reason)
        self._stop_feeds(list(self._feeds.values()), left_s() / 2)
        overrun = []
        if self._compute is not None and not self._compute.stop(left_s() / 2):
            overrun.append("compute")
        if started:
            self._publisher.emit(Event(data=DaemonStopping(reason=reason)))
        for name, stop in (("publish", self._publisher.stop), ("web", self._web.stop)):
            if not stop(left_s()):
                overrun.append(name)
        if self._models is not None and not overrun:
            self._models.close()
        if started:
            log.info("daemon_stopped", reason=reason)
        return tuple(overrun)

    def reload(self) -> None:
        """Take cameras that were added, removed or changed; see ``streamer.supervisor.Daemon``."""
        new = self._reread()
        fixed = [
            name
            for name in new.__struct_fields__
            if name != "cameras" and getattr(new, name) != getattr(self._config, name)
        ]
        if fixed:
            raise ConfigError(f"[{fixed[0]}] cannot change while running; restart the service")
        wanted = {camera.name: capture_options(camera) for camera in new.cameras}
        present = dict(self._feeds)
        left = [feed for name, feed in present.items() if wanted.get(name) != feed.options]
        self._stop_feeds(left, _RELOAD_S)
        for feed in left:
            self._remove(feed, stays=feed.camera in wanted)
        for name, options in wanted.items():
            if name not in self._feeds:
                before = present.get(name)
                self._add(options, before.continuity if before else None)
        self._config = new

    def stuck(self) -> tuple[str, ...]:
        """Name the workers that make no progress."""
        return tuple(name for name, health in self.liveness().items() if health.stuck)

    def status(self) -> str:
        """Describe the state in one line."""
        states = [record.state for record in self._records.values()]
        return f"{states.count('online')} of {len(states)} cameras online"

    def pinged(self) -> None:
        """Count a sign of life sent to the service manager."""
        self._metrics.watchdog_pings.inc()

    # What the web server asks

    def about(self) -> About:
        """Tell what runs."""
        models = self._models
        return About(
            version=__version__,
            bundle=models.bundle.identity if models else "",
            engines=models.engines if models else {},
            classes=tuple(models.bundle.manifest.classes) if models else (),
            purpose=self._config.purpose.declared,
        )

    def liveness(self) -> Mapping[str, WorkerHealth]:
        """Tell every worker's progress."""
        now_ns = self._clock.monotonic_ns()
        workers: dict[str, tuple[int, float]] = {}
        if self._compute is not None:
            workers["compute"] = (self._compute.last_progress_ns, STUCK_S)
        if self._ready["sockets"]:
            workers["publish"] = (self._publisher.last_progress_ns, STUCK_S)
        workers["web"] = (self._web.last_progress_ns, STUCK_S)
        for name, feed in list(self._feeds.items()):
            workers[f"camera {name}"] = (feed.last_progress_ns, _patience_s(feed.options) + STUCK_S)
        return {
            name: WorkerHealth(age_s=max(0.0, (now_ns - last_ns) / 1e9), limit_s=limit_s)
            for name, (last_ns, limit_s) in workers.items()
        }

    def readiness(self) -> Mapping[str, bool]:
        """Tell what the daemon needs to be ready, and whether it has it."""
        return dict(self._ready)

    def cameras(self) -> Sequence[CameraView]:
        """Tell about every camera."""
        return [record.view() for record in list(self._records.values())]

    def offer(self, frame: Frame, readings: Sequence[Reading]) -> None:
        """Take an analysed frame from the pipeline, for the camera's record."""
        record = self._records.get(frame.camera)
        if record is not None:
            record.offer(frame, readings)

    @property
    def page(self) -> str:
        """Address of the live page."""
        return self._web.url

    @property
    def events(self) -> tuple[str, str]:
        """Addresses of the stream and of the snapshot."""
        return self._publisher.bind, self._publisher.snapshot

    # Cameras

    def _add(self, options: CaptureOptions, continuity: Continuity | None = None) -> None:
        compute = self._compute
        if compute is None:
            raise RuntimeError("cameras are added after the compute loop")
        record = CameraRecord(
            name=options.camera,
            url=options.place,
            metrics=self._metrics,
            clock=self._clock,
            tell=compute.tell,
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
        self._live.forget(name)
        if not stays:
            self._metrics.remove_camera(name)

    def _started(self, models: Models) -> DaemonStarted:
        return DaemonStarted(
            versions={"streamer": __version__, "python": platform.python_version()},
            bundle=models.bundle.identity,
            engine=models.reading.name,
            cameras=tuple(camera.name for camera in self._config.cameras),
            purpose=self._config.purpose.declared,
        )


class _PublishMetrics:
    """Counts what the publisher does."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def published(self, type_name: str, latency_s: float | None) -> None:
        self._metrics.events_published.labels(type_name).inc()
        if latency_s is not None:
            self._metrics.event_latency_seconds.observe(latency_s)

    def dropped(self, type_name: str) -> None:
        self._metrics.events_dropped.labels(type_name).inc()

    def connections(self, count: int) -> None:
        self._metrics.zmq_connections.set(count)

    def handshake_failed(self) -> None:
        self._metrics.zmq_handshake_failures.inc()


def _patience_s(options: CaptureOptions) -> float:
    """Return the longest that one honest call into FFmpeg may take, see ``CameraFeed``."""
    return 3 * options.open_timeout_s + options.read_timeout_s
