"""All workers of a daemon: the cameras shared out, the events in one stream, the counts in one."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from streamer.backoff import Backoff
from streamer.camera import Past
from streamer.cores import usable_cores
from streamer.errors import SourceReason
from streamer.events import CameraOffline, CameraOnline, Event, Sighting, TrackData
from streamer.metrics import DropReason
from streamer.settings import capture_options
from streamer.web.state import CameraView
from streamer.workers.faces import Faces
from streamer.workers.link import Unwatch
from streamer.workers.series import Tally, merged
from streamer.workers.share import share
from streamer.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client import Metric

    from streamer.config import Camera, Config
    from streamer.events import FaceLost
    from streamer.metrics import Metrics
    from streamer.publish import Publisher
    from streamer.source import CaptureOptions
    from streamer.stages import Clock
    from streamer.web import About, WorkerHealth
    from streamer.web.state import TrackView
    from streamer.workers.link import Family, Picture, Watch

__all__ = ["Crew"]

_RENEW_S: Final = 1.0  # what waits for reports goes on with the last ones then
_STOP_SHARE: Final = 0.8
"""Of a deadline for those that are waited for; the rest is for who waits."""
_DIED: Final = SourceReason.WORKER_DIED.value


class Crew:
    """The workers; to the daemon what a ``streamer.station.Station`` is.

    Args:
        config: what to run; each worker gets its share of the cameras and of the threads.
        publisher: numbers and sends all events.
        metrics: this process's own; the workers' are added where they are collected.
        clock: dates changes of state.
    """

    def __init__(
        self, config: Config, *, publisher: Publisher, metrics: Metrics, clock: Clock
    ) -> None:
        self._publisher = publisher
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()  # over what workers' threads and the web thread share
        self._past: dict[str, Past] = {}
        self._faces = Faces(config.emotions.confidence)
        self._about: About | None = None
        self._views: dict[str, CameraView] = {}
        self._before: dict[str, CameraView] = {}
        self._counting = threading.Lock()  # a sum of all metrics takes long, events must not wait
        self._tally = Tally()
        self._shown: dict[int, tuple[Watch, Callable[[Worker, Picture], None]]] = {}
        self._progress: Callable[[], None] = lambda: None
        for reason in ("died", "stuck"):  # a rate needs a start
            metrics.worker_restarts.labels(reason)
        self._cameras = config.cameras
        self._opened: dict[str, CaptureOptions] = {}  # as the workers were told, secrets resolved
        self._held: dict[str, int] = {}
        self._workers = [
            Worker(number, config=_share(config), parent=self, backoff=Backoff(random.random))
            for number in range(1, config.daemon.workers + 1)
        ]

    # What the daemon does with it

    def load(self, progress: Callable[[], None]) -> About:
        """Start the workers, wait until each has loaded its networks, and say what they run.

        Raises:
            StreamerError: when one cannot; the others are ended by ``stop``.
        """
        self._progress = progress
        shares = self._shares(self._cameras)
        for worker, cameras in zip(self._workers, shares, strict=True):
            if cameras:
                worker.start(cameras)
        abouts = [worker.wait_loaded() for worker in self._workers if worker.started]
        self._about = abouts[0]
        return abouts[0]

    def open(self, cameras: Sequence[Camera]) -> None:
        """Begin to watch cameras, those that were loaded for."""
        self._await(cameras)
        options = {camera.name: capture_options(camera) for camera in cameras}
        with self._lock:
            self._opened |= options
        for worker in self._workers:
            if worker.started:
                worker.open()

    def reload(self, cameras: Sequence[Camera]) -> None:
        """Take cameras that were added, removed or changed; none moves to another worker.

        Raises:
            ConfigError: when one cannot be right; nothing is changed then.
            StreamerError: when a worker cannot take its share.
        """
        options = {camera.name: capture_options(camera) for camera in cameras}
        before = {camera.name for camera in self._cameras}
        self._await([camera for camera in cameras if camera.name not in before])
        shares = self._shares(cameras)
        self._cameras = tuple(cameras)
        for worker, wanted in zip(self._workers, shares, strict=True):
            told = {camera.name: options[camera.name] for camera in wanted}
            with self._lock:  # a table that stays may name a file with another password now
                same = wanted == worker.cameras and told.items() <= self._opened.items()
            if worker.started:
                if not same:
                    worker.change(wanted)
            elif wanted:
                worker.start(wanted)
                worker.open()
            with self._lock:
                self._opened |= told
        for name in before - {camera.name for camera in cameras}:
            self._forget(name)

    def stop(self, deadline_s: float) -> tuple[str, ...]:
        """Stop all workers at once, and end those that do not."""
        end_s = time.monotonic() + _STOP_SHARE * deadline_s
        for worker in self._workers:
            worker.order_stop(_STOP_SHARE**2 * deadline_s)
        late = [w for w in self._workers if not w.wait_stopped(max(0.0, end_s - time.monotonic()))]
        return tuple(f"worker {worker.number}" for worker in late)

    def close(self) -> None:
        """There is nothing left to free: the networks ended with the workers."""

    def liveness(self) -> Mapping[str, WorkerHealth]:
        """Tell the progress of every worker and of its parts."""
        return {
            name: health
            for worker in self._workers
            if worker.started
            for name, health in worker.liveness().items()
        }

    def cameras(self) -> Sequence[CameraView]:
        """Tell about every camera, in the order of the configuration."""
        found: dict[str, CameraView] = {}
        with self._lock:
            known = dict(self._views)
            before = dict(self._before)
        for worker in self._workers:
            report = worker.report
            if report is not None:
                found |= {view.name: view for view in report.cameras}
        views = []
        for camera in self._cameras:
            view = found.get(camera.name)
            if view is None:
                view = known.get(camera.name)
            elif camera.name in before:
                view = _added(view, before[camera.name])
            if view is not None:
                views.append(view)
        return views

    def tracks(self, camera: str) -> tuple[TrackView, ...]:
        """Return the faces of a camera's newest frame."""
        index = self._held.get(camera)
        return () if index is None else self._workers[index].tracks(camera)

    def collect(self) -> Iterable[Metric]:
        """Return every metric of all processes; see ``streamer.web.state.Series``."""
        with self._counting:
            own = self._metrics.registry.collect()
            return merged(own, [worker.families for worker in self._workers], self._tally)

    async def renew(self) -> None:
        """Have every worker report, and wait for it, but not for one that cannot."""
        asked = [asyncio.wrap_future(worker.renew()) for worker in self._workers if worker.loaded]
        if asked:
            await asyncio.wait(asked, timeout=_RENEW_S)

    def show_to(self, watch: Watch, viewer: Callable[[Worker, Picture], None]) -> None:
        """Let a watcher see the pictures of all workers, from their threads."""
        with self._lock:
            self._shown[watch.watcher] = (watch, viewer)
        for worker in self._workers:
            worker.tell(watch)

    def hide_from(self, watcher: int) -> None:
        """Let a watcher see no more."""
        with self._lock:
            self._shown.pop(watcher, None)
        for worker in self._workers:
            worker.tell(Unwatch(watcher=watcher))

    # What the workers' threads tell, see ``streamer.workers.worker.Parent``

    def past(self, camera: str) -> Past:
        """Return what was published of a camera."""
        with self._lock:
            return self._past.get(camera, Past())

    def take(self, events: Sequence[Event], lost: Sequence[tuple[str, str | None, int]]) -> None:
        """Publish a worker's events; those that it lost leave a hole in their topic."""
        for kind, camera, count in lost:
            self._publisher.skip(kind, camera, count)
        with self._lock:
            for event in events:
                _note(self._past, event)
                self._faces.note(event.data)
        self._publisher.emit(*events)

    def busy(self) -> None:
        """Take note that a start goes on."""
        self._progress()

    def show(self, worker: Worker, picture: Picture) -> None:
        """Hand a picture to its watcher."""
        with self._lock:
            shown = self._shown.get(picture.watcher)
        if shown is not None:
            shown[1](worker, picture)

    def begun(self, worker: Worker) -> None:
        """Let a worker that is there again know who watches."""
        with self._lock:
            watches = [watch for watch, _ in self._shown.values()]
        for watch in watches:
            worker.tell(watch)

    def ended(self, worker: Worker, *, why: str, stuck: bool) -> None:
        """Tell that a worker's faces are lost and its cameras offline; keep what it had counted."""
        self._metrics.worker_restarts.labels("stuck" if stuck else "died").inc()
        seen = {view.name: view for view in self.cameras()}
        now = datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC)
        with self._counting:  # at once, so that no sum has them twice, or not at all
            lost = _in_flight(worker.families)
            for camera in worker.cameras:  # a camera without a worker is down, not absent
                dropped = self._metrics.camera(camera.name).dropped
                dropped[DropReason.STOPPED].inc(max(0, lost[camera.name]))
            self._tally.add(worker.families)
            worker.families = []
        with self._lock:
            for camera in worker.cameras:
                self._opened.pop(camera.name, None)  # the next process reads the secrets anew
                if (view := seen.get(camera.name)) is not None:
                    self._views[camera.name] = self._before[camera.name] = msgspec.structs.replace(
                        view,
                        state="offline",
                        since=now,
                        reason=_DIED,
                        fps=0.0,
                        analysed_fps=0.0,
                        latency_ms=None,
                    )
        detail = f"{why}; it is started again"
        for camera in worker.cameras:
            self._metrics.camera_reconnects.labels(camera.name, _DIED).inc()
            for face in self._lost(camera.name):
                self._publisher.emit(Event(data=face))
            self._publisher.emit(
                Event(data=CameraOffline(camera=camera.name, reason=_DIED, detail=detail))
            )

    def _lost(self, camera: str) -> list[FaceLost]:
        """End the tracks that a worker can no longer end."""
        about = self._about
        with self._lock:
            return (
                self._faces.end(camera, bundle=about.bundle, classes=about.classes)
                if about is not None
                else []
            )

    def _shares(self, cameras: Sequence[Camera]) -> list[tuple[Camera, ...]]:
        """Share cameras out; one that is held already stays."""
        names = [camera.name for camera in cameras]
        held = self._held = share(names, len(self._workers), self._held)
        return [
            tuple(camera for camera in cameras if held[camera.name] == index)
            for index in range(len(self._workers))
        ]

    def _await(self, cameras: Iterable[Camera]) -> None:
        """Show cameras before their worker has reported."""
        now = datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC)
        with self._lock:
            for camera in cameras:
                place = capture_options(camera).place
                self._views[camera.name] = CameraView(
                    name=camera.name, url=place, state="connecting", since=now
                )

    def _forget(self, camera: str) -> None:
        """Drop everything that is kept of a camera that is no longer configured."""
        with self._lock:
            for kept in (self._past, self._views, self._before, self._opened):
                kept.pop(camera, None)
            self._faces.forget(camera)
        with self._counting:
            self._tally.forget(camera)
        self._metrics.remove_camera(camera)


def _share(config: Config) -> Config:
    """Return what one worker runs: as many threads as are left when all run."""
    workers = min(config.daemon.workers, len(config.cameras))
    threads = max(1, (config.engine.threads or usable_cores()) // workers)
    return msgspec.structs.replace(
        config, engine=msgspec.structs.replace(config.engine, threads=threads)
    )


def _note(past: dict[str, Past], event: Event) -> None:
    """Keep the highest numbers that were published of a camera."""
    data = event.data
    if isinstance(data, TrackData):
        known = past.get(data.camera, Past())
        seq = data.frame.seq if isinstance(data, Sighting) else 0
        if data.track > known.track or seq > known.seq:
            past[data.camera] = Past(
                track=max(known.track, data.track), seq=max(known.seq, seq), seen=True
            )
    elif isinstance(data, CameraOnline):
        known = past.get(data.camera, Past())
        past[data.camera] = msgspec.structs.replace(known, seen=True)


def _in_flight(families: Iterable[Family]) -> Counter[str]:
    """Return the frames of each camera that were captured and neither analysed nor dropped."""
    signs = {
        "streamer_frames_captured_total": 1,
        "streamer_frames_analysed_total": -1,
        "streamer_frames_dropped_total": -1,
    }
    found: Counter[str] = Counter()
    for family in families:
        for name, labels, value in family.samples:
            if name in signs:
                found[labels["camera"]] += signs[name] * int(value)
    return found


def _added(view: CameraView, before: CameraView) -> CameraView:
    """Add what processes before this one had counted."""
    dropped = Counter(before.dropped)
    dropped.update(view.dropped)
    return msgspec.structs.replace(
        view,
        captured=before.captured + view.captured,
        analysed=before.analysed + view.analysed,
        dropped=dict(dropped),
    )
