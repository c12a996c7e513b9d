"""Every metric of the daemon, declared once on the registry that is given.

Names follow Prometheus' conventions: the prefix ``streamer_``, base units, ``_total`` on counters
(the client library appends it). Labels are ``camera``, ``stage``, ``reason``, ``type`` and ``code``
alone, each from a closed set, so that the number of series is bounded by the configuration; the
``_info`` metrics carry descriptive labels with one series each.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry

__all__ = [
    "BATCH_BUCKETS",
    "LATENCY_BUCKETS_S",
    "PREFIX",
    "STAGE_BUCKETS_S",
    "CameraMetrics",
    "DropReason",
    "Look",
    "Metrics",
]

PREFIX: Final = "streamer_"

LATENCY_BUCKETS_S: Final = (
    *(0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.125),
    *(0.15, 0.175, 0.2, 0.25, 0.35, 0.5, 1.0, 2.5, 5.0),
)
"""Bounds of the capture-to-send latency, seconds.

The goal is 150 ms at the 95th percentile: it is a bound itself, so that the share of events within
the goal is exact, and its neighbours stand 25 ms apart because a quantile is interpolated between
two bounds (prometheus.io, "Histograms and summaries", errors of quantile estimation). The ends
reach from a file read in memory to a camera that stalls.
"""

STAGE_BUCKETS_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.025, 0.05, 0.1, 0.15, 0.5, 1.0),
)
"""Bounds of one call of one stage, seconds.

Dense between 0.5 and 15 ms, where decoding (0.8-8 ms), detection (2.4-9 ms) and the CNN
(1.4 ms a face) were measured on one CPU core; 150 ms is the whole latency goal.
"""

BATCH_BUCKETS: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Bounds of the faces in one batch: the shapes that engines compile for, doubling; 0 is no face."""


class DropReason(StrEnum):
    """Why a captured frame was not analysed; the value of ``reason`` in ``frames_dropped``."""

    SUPERSEDED = "superseded"
    """A newer frame of the same camera arrived first."""
    STOPPED = "stopped"
    """The daemon stopped while the frame waited."""
    OVERLOAD = "overload"
    """The compute loop was behind and skipped it."""


class Look(StrEnum):
    """What the detector was shown; the value of ``type`` in ``detector_looks``."""

    WHOLE = "whole"
    """A whole picture, by the configured input."""
    SMALL = "small"
    """A whole picture, by the smaller input."""
    WINDOW = "window"
    """The surroundings of one known face."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraMetrics:
    """The series of one camera, looked up once: ``labels()`` costs 1-2 µs, an increment 0.3 µs.

    Attributes:
        captured: frames decoded and handed over.
        analysed: frames that went through every stage.
        dropped: captured frames that were not analysed, a counter a reason.
        faces_detected: faces the detector found.
        tracks_active: confirmed tracks now.
        overload_level: how much is given up now, see ``streamer.throttle``.
        up: 1 while the camera delivers, else 0.
        fps: measured rate of captured frames.
    """

    captured: Counter
    analysed: Counter
    dropped: Mapping[DropReason, Counter]
    faces_detected: Counter
    tracks_active: Gauge
    overload_level: Gauge
    up: Gauge
    fps: Gauge


class Metrics:
    """All metrics; an attribute is named as its metric without prefix and ``_total``.

    Args:
        registry: where they are registered; one registry takes one ``Metrics``.
        process: also register ``process_*`` and ``python_*`` of this process.

    Raises:
        ValueError: if the registry already carries these names.
    """

    def __init__(self, registry: CollectorRegistry, *, process: bool = True) -> None:
        self.registry = registry
        self._lock = threading.Lock()
        self._cameras: dict[str, CameraMetrics] = {}
        self._stages: dict[str, Histogram] = {}
        self._by_camera: list[Counter | Gauge] = []
        self._declare_frames()
        self._declare_cameras()
        self._declare_stages()
        self._declare_outputs()
        self._declare_info()
        if process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        metric = Counter(PREFIX + name, text, labels, registry=self.registry)
        if "camera" in labels:
            self._by_camera.append(metric)
        return metric

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        metric = Gauge(PREFIX + name, text, labels, registry=self.registry)
        if "camera" in labels:
            self._by_camera.append(metric)
        return metric

    def _declare_frames(self) -> None:
        self.frames_captured = self._counter(
            "frames_captured", "Frames decoded and handed to the analysis.", "camera"
        )
        self.frames_dropped = self._counter(
            "frames_dropped", "Captured frames that were not analysed.", "camera", "reason"
        )
        self.frames_analysed = self._counter(
            "frames_analysed", "Frames that went through every stage.", "camera"
        )
        self.sources_discarded_frames = self._counter(
            "sources_discarded_frames",
            "Frames a source threw away before capture, as before the first clean keyframe.",
            *("camera", "reason"),
        )
        self.faces_detected = self._counter(
            "faces_detected", "Faces found in analysed frames.", "camera"
        )

    def _declare_cameras(self) -> None:
        self.tracks_active = self._gauge("tracks_active", "Confirmed tracks now.", "camera")
        self.overload_level = self._gauge(
            "overload_level",
            "What is given up to keep up: 0 nothing; 1 to 4 frames are analysed less often; from 5 "
            "the detector also sees a smaller picture; up to 8.",
            "camera",
        )
        self.camera_up = self._gauge("camera_up", "1 while the camera delivers frames.", "camera")
        self.camera_fps = self._gauge(
            "camera_fps", "Measured rate of captured frames per second.", "camera"
        )
        self.camera_reconnects = self._counter(
            "camera_reconnects",
            "Attempts to open a camera again, by the reason it was lost.",
            *("camera", "reason"),
        )

    def _declare_stages(self) -> None:
        self.stage_seconds = Histogram(
            PREFIX + "stage_seconds",
            "Wall time of one call of one stage.",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.detector_looks = self._counter(
            "detector_looks", "Pictures and parts of pictures shown to the face detector.", "type"
        )
        self.looks = {look: self.detector_looks.labels(look.value) for look in Look}
        self.batch_faces = Histogram(
            PREFIX + "batch_faces",
            "Faces in one batch over all cameras.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.event_latency_seconds = Histogram(
            PREFIX + "event_latency_seconds",
            "Time from the capture of a frame to the sending of its event.",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )

    def _declare_outputs(self) -> None:
        self.events_published = self._counter("events_published", "Events sent.", "type")
        self.events_dropped = self._counter(
            "events_dropped", "Events that could not be queued for sending.", "type"
        )
        self.zmq_connections = self._gauge("zmq_connections", "Connected ZeroMQ peers.")
        self.zmq_handshake_failures = self._counter(
            "zmq_handshake_failures", "ZeroMQ peers refused in the handshake."
        )
        self.http_requests = self._counter(
            "http_requests", "HTTP requests answered, by status code.", "code"
        )
        self.live_viewers = self._gauge("live_viewers", "Open streams of the live page.")
        self.live_pictures = self._counter(
            "live_pictures", "Pictures encoded for the live page.", "camera"
        )
        self.watchdog_pings = self._counter(
            "watchdog_pings", "Signs of life sent to the service manager."
        )
        self.worker_restarts = self._counter(
            "worker_restarts",
            "Worker processes started again, by what ended the one before.",
            "reason",
        )

    def _declare_info(self) -> None:
        self.engine_info = Info(
            PREFIX + "engine",
            "Runtime and device that run each network.",
            ["stage"],
            registry=self.registry,
        )
        self.bundle_info = Info(
            PREFIX + "bundle", "The model bundle in use.", registry=self.registry
        )
        self.build_info = Info(PREFIX + "build", "Version of the program.", registry=self.registry)

    def camera(self, name: str) -> CameraMetrics:
        """Return the camera's series, created at zero so that rates have a start.

        Args:
            name: the configured name; never a URL.
        """
        with self._lock:
            found = self._cameras.get(name)
            if found is None:
                found = self._cameras[name] = CameraMetrics(
                    captured=self.frames_captured.labels(name),
                    analysed=self.frames_analysed.labels(name),
                    dropped={r: self.frames_dropped.labels(name, r.value) for r in DropReason},
                    faces_detected=self.faces_detected.labels(name),
                    tracks_active=self.tracks_active.labels(name),
                    overload_level=self.overload_level.labels(name),
                    up=self.camera_up.labels(name),
                    fps=self.camera_fps.labels(name),
                )
            return found

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record one call of a stage; the series is looked up once a stage.

        Args:
            stage: its name, one of a handful.
            seconds: wall time of the call.
        """
        child = self._stages.get(stage)
        if child is None:
            child = self._stages[stage] = self.stage_seconds.labels(stage)
        child.observe(seconds)

    def remove_camera(self, name: str) -> None:
        """Remove every series of a camera that is no longer configured.

        Handles that ``camera()`` gave out for it keep working but are no longer exported.
        """
        with self._lock:
            self._cameras.pop(name, None)
            for metric in self._by_camera:
                metric.remove_by_labels({"camera": name})
