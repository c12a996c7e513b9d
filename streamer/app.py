"""The composition root: builds every object of the daemon from its configuration.

Start goes against the flow, so that whoever sends finds a receiver; stop goes with it, so that what
is under way still arrives.
"""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from streamer import __version__, logs, systemd
from streamer import config as configuration
from streamer.clock import SystemClock
from streamer.cores import processes
from streamer.errors import ConfigError, StreamerError
from streamer.events import DaemonStarted, DaemonStopping, Event
from streamer.metrics import Metrics
from streamer.publish import Publisher
from streamer.settings import capture_options, publish_options, web_options
from streamer.supervisor import STUCK_S, block_signals, supervise
from streamer.web import About, LiveView, WebServer, WorkerHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from streamer.config import Camera, Config
    from streamer.stages import Clock
    from streamer.web import CameraView
    from streamer.web.live import Live
    from streamer.web.state import Series
    from streamer.workers.crew import Crew

__all__ = ["Service", "run"]

log = structlog.get_logger(__name__)


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


class Cameras(Protocol):
    """All that watches and reads cameras: in this process, or in workers."""

    def load(self, progress: Callable[[], None]) -> About:
        """Load the networks and say what runs; see ``streamer.station.Station``."""
        ...

    def open(self, cameras: Sequence[Camera]) -> None:
        """Begin to watch cameras."""
        ...

    def reload(self, cameras: Sequence[Camera]) -> None:
        """Take cameras that were added, removed or changed."""
        ...

    def stop(self, deadline_s: float) -> tuple[str, ...]:
        """Stop within the deadline; return who did not."""
        ...

    def close(self) -> None:
        """Free the networks."""
        ...

    def liveness(self) -> Mapping[str, WorkerHealth]:
        """Tell the progress of each part."""
        ...

    def cameras(self) -> Sequence[CameraView]:
        """Tell about every camera."""
        ...


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
        self._publisher = Publisher(
            publish_options(config), observer=_PublishMetrics(self._metrics), clock=clock
        )
        self._crew: Crew | None = None
        self._processes = processes(config.daemon.workers, len(config.cameras))
        self._cameras, live = self._crewed() if self._processes > 1 else self._alone()
        self._web = WebServer(
            options=web_options(config), state=self, live=live, metrics=self._metrics, clock=clock
        )
        self._about: About | None = None
        self._ready = {"bundle": False, "engines": False, "sockets": False, "cameras": False}

    def _alone(self) -> tuple[Cameras, Live]:
        """Watch the cameras in this process."""
        # Only here: a process that has workers needs no decoder and no networks, 80 MB.
        from streamer.station import Station  # noqa: PLC0415

        live = LiveView(
            clock=self._clock, metrics=self._metrics, pictures=self._config.http.pictures
        )
        station = Station(
            self._config,
            sink=self._publisher,
            metrics=self._metrics,
            onlooker=live,
            clock=self._clock,
        )
        return station, live

    def _crewed(self) -> tuple[Cameras, Live]:
        """Have worker processes watch the cameras, each its share."""
        from streamer.workers.crew import Crew  # noqa: PLC0415 as above
        from streamer.workers.live import RelayedLive  # noqa: PLC0415

        daemon = configuration.Daemon(workers=self._processes)
        config = msgspec.structs.replace(self._config, daemon=daemon)
        crew = self._crew = Crew(
            config, publisher=self._publisher, metrics=self._metrics, clock=self._clock
        )
        return crew, RelayedLive(crew, clock=self._clock, metrics=self._metrics)

    # Life

    def start(self) -> None:
        """Start everything; see ``streamer.supervisor.Daemon``."""
        config = self._config
        for camera in config.cameras:
            capture_options(camera)  # a mistake is told before anything starts
        if not config.purpose.declared:
            log.warning(
                "purpose_not_declared", do="set [purpose] declared: why faces are read here"
            )
        self._web.start()
        self._publisher.start()
        self._ready["sockets"] = True
        patience = systemd.start_extension(systemd.Notifier(self._clock), self._clock)
        about = self._about = self._cameras.load(patience)
        self._ready |= {"bundle": True, "engines": True}
        self._metrics.build_info.info({"version": __version__})
        self._metrics.bundle_info.info({"bundle": about.bundle})
        for stage, engine in about.engines.items():
            self._metrics.engine_info.labels(stage).info({"engine": engine})
        self._publisher.emit(Event(data=self._started(about)))
        self._cameras.open(config.cameras)
        self._ready["cameras"] = True
        log.info(
            "daemon_started",
            events=self._publisher.bind,
            snapshot=self._publisher.snapshot,
            page=self._web.url,
            cameras=len(config.cameras),
            workers=self._processes,
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
        overrun = list(self._cameras.stop(left_s()))
        if started:
            self._publisher.emit(Event(data=DaemonStopping(reason=reason)))
        for name, stop in (("publish", self._publisher.stop), ("web", self._web.stop)):
            if not stop(left_s()):
                overrun.append(name)
        if not overrun:
            self._cameras.close()
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
        for camera in new.cameras:
            capture_options(camera)  # a mistake is told before anything changes
        # First, so that whoever hears that a camera stops finds in the snapshot whether it is gone.
        self._publisher.configure([camera.name for camera in new.cameras])
        try:
            self._cameras.reload(new.cameras)
        except StreamerError:
            self._publisher.configure([camera.name for camera in self._config.cameras])
            raise
        self._config = new

    def stuck(self) -> tuple[str, ...]:
        """Name the workers that make no progress."""
        return tuple(name for name, health in self.liveness().items() if health.stuck)

    def status(self) -> str:
        """Describe the state in one line."""
        states = [view.state for view in self._cameras.cameras()]
        return f"{states.count('online')} of {len(states)} cameras online"

    def pinged(self) -> None:
        """Count a sign of life sent to the service manager."""
        self._metrics.watchdog_pings.inc()

    # What the web server asks

    def about(self) -> About:
        """Tell what runs."""
        return self._about or About(
            version=__version__,
            bundle="",
            engines={},
            classes=(),
            purpose=self._config.purpose.declared,
        )

    def liveness(self) -> Mapping[str, WorkerHealth]:
        """Tell every worker's progress."""
        now_ns = self._clock.monotonic_ns()
        own = {"web": self._web.last_progress_ns}
        if self._ready["sockets"]:
            own["publish"] = self._publisher.last_progress_ns
        return {
            **self._cameras.liveness(),
            **{
                name: WorkerHealth(age_s=max(0.0, (now_ns - last_ns) / 1e9), limit_s=STUCK_S)
                for name, last_ns in own.items()
            },
        }

    def readiness(self) -> Mapping[str, bool]:
        """Tell what the daemon needs to be ready, and whether it has it."""
        return dict(self._ready)

    def cameras(self) -> Sequence[CameraView]:
        """Tell about every camera."""
        return self._cameras.cameras()

    def series(self) -> Series:
        """Return every metric, of the workers too."""
        return self._metrics.registry if self._crew is None else self._crew

    async def renew(self) -> None:
        """Have the workers report; nothing to do without them."""
        if self._crew is not None:
            await self._crew.renew()

    @property
    def page(self) -> str:
        """Address of the live page."""
        return self._web.url

    @property
    def events(self) -> tuple[str, str]:
        """Addresses of the stream and of the snapshot."""
        return self._publisher.bind, self._publisher.snapshot

    def _started(self, about: About) -> DaemonStarted:
        return DaemonStarted(
            versions={"streamer": __version__, "python": platform.python_version()},
            bundle=about.bundle,
            engine=about.engines["features"],
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
