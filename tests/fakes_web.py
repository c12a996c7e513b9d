"""A daemon for the web server to show: cameras that can be killed, faces that move and change."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

from streamer.types import BGR, Frame
from streamer.web import About, CameraView, WorkerHealth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.web import LiveView

CLASSES = (
    *("neutral", "happiness", "surprise", "sadness"),
    *("anger", "disgust", "fear", "contempt"),
)
SINCE = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeReading:
    """One face, as the pipeline would say it."""

    track: int
    box: tuple[float, float, float, float]
    label: str
    probabilities: dict[str, float]


def reading(track: int, box: tuple[float, float, float, float], label: str) -> FakeReading:
    """Return a face that is 0.79 sure of its label and spreads the rest evenly."""
    rest = 0.21 / (len(CLASSES) - 1)
    shares = {name: 0.79 if name == label else rest for name in CLASSES}
    return FakeReading(track=track, box=box, label=label, probabilities=shares)


class Drawing:
    """A colour picture that counts how often somebody asked for it."""

    def __init__(self, picture: BGR) -> None:
        self._picture = picture
        self.asked = 0

    def bgr(self) -> BGR:
        """Return the picture."""
        self.asked += 1
        return self._picture


def frame(camera: str, seq: int, picture: Drawing | None = None, luma: int = 90) -> Frame:
    """Return a 640x360 frame of one brightness, captured now."""
    plane = np.full((360, 640), luma, np.uint8)
    plane.flags.writeable = False
    return Frame(
        camera=camera,
        seq=seq,
        luma_HW=plane,
        captured_ns=time.time_ns(),
        monotonic_ns=time.monotonic_ns(),
        media_s=seq / 10,
        picture=picture,
    )


@dataclass
class FakeState:
    """A daemon's state that a test sets by hand."""

    views: dict[str, CameraView] = field(default_factory=dict)
    workers: dict[str, WorkerHealth] = field(default_factory=dict)
    parts: dict[str, bool] = field(default_factory=dict)
    purpose: str = "Demonstration with synthetic faces"
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def about(self) -> About:
        """Name a version and the classes."""
        return About(
            version="0.1.0",
            bundle="demo-48",
            engines={"features": "onnxruntime, CPU"},
            classes=CLASSES,
            purpose=self.purpose,
        )

    def liveness(self) -> Mapping[str, WorkerHealth]:
        """Return what the test set."""
        return self.workers

    def readiness(self) -> Mapping[str, bool]:
        """Return what the test set."""
        return self.parts

    def cameras(self) -> Sequence[CameraView]:
        """Return what the test set."""
        return tuple(self.views.values())

    def series(self) -> CollectorRegistry:
        """Return what the test registers its metrics in."""
        return self.registry

    async def renew(self) -> None:
        """Everything is up to date."""

    def online(self, name: str, url: str = "rtsp://cam.example/s1") -> None:
        """Bring a camera up."""
        self.views[name] = CameraView(
            name=name,
            url=url,
            state="online",
            since=SINCE,
            codec="h264",
            width=640,
            height=360,
            fps=25.0,
            analysed_fps=10.0,
            latency_ms=62.4,
            captured=1000,
            analysed=400,
            dropped={"superseded": 599, "error": 1},
        )

    def offline(self, name: str, reason: str) -> None:
        """Take a camera down."""
        self.views[name] = msgspec.structs.replace(
            self.views[name], state="offline", reason=reason, since=datetime.now(UTC), fps=0.0
        )


class FakeFeed:
    """Draws moving faces for some cameras and hands them to the live view, ten times a second."""

    def __init__(self, live: LiveView, cameras: Mapping[str, int]) -> None:
        self.live = live
        self.faces = dict(cameras)
        self._index = {camera: index for index, camera in enumerate(cameras)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-feed")
        self.seq = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End and wait for it."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.seq += 1
            for camera, faces in list(self.faces.items()):
                index = self._index[camera]
                readings = [_moving(self.seq, index, face) for face in range(faces)]
                picture = Drawing(_drawn(readings, index))
                self.live.offer(frame(camera, self.seq, picture), readings)


def _moving(seq: int, camera: int, face: int) -> FakeReading:
    """Return a face that circles slowly and whose expression comes and goes."""
    phase = seq / 25 + face * 2.1 + camera
    x = 150 + 200 * face + 60 * math.sin(phase)
    y = 90 + 40 * math.cos(phase * 0.7)
    size = 110 - 14 * face
    scores = np.array(
        [1.6 * math.sin(phase * (0.3 + 0.07 * k) + 1.7 * k) for k in range(len(CLASSES))]
    )
    shares = np.exp(2 * scores) / np.exp(2 * scores).sum()
    best = int(shares.argmax())
    return FakeReading(
        track=camera * 10 + face + 1,
        box=(x, y, x + size, y + size * 1.2),
        label=CLASSES[best] if shares[best] > 0.35 else "unknown",
        probabilities={name: round(float(shares[k]), 4) for k, name in enumerate(CLASSES)},
    )


def _drawn(readings: Sequence[FakeReading], camera: int) -> BGR:
    """Paint a room with a simple face wherever a reading says so."""
    rows = np.linspace(150, 70, 360, dtype=np.float32)[:, None, None]
    tint = np.array([(1.0, 0.92, 0.86), (0.88, 0.97, 1.0), (0.9, 1.0, 0.92)][camera % 3])
    picture = np.ascontiguousarray(np.broadcast_to(rows * tint, (360, 640, 3)), np.uint8)
    cv2.rectangle(picture, (0, 290), (640, 360), (70, 80, 95), -1)
    for face in readings:
        x1, y1, x2, y2 = (int(v) for v in face.box)
        middle, axes = ((x1 + x2) // 2, (y1 + y2) // 2), ((x2 - x1) // 2 - 8, (y2 - y1) // 2 - 6)
        cv2.ellipse(picture, middle, axes, 0, 0, 360, (150, 185, 225), -1, cv2.LINE_AA)
        for side in (-1, 1):
            eye = (middle[0] + side * axes[0] // 2, middle[1] - axes[1] // 5)
            cv2.circle(picture, eye, 5, (60, 50, 40), -1, cv2.LINE_AA)
        smile = face.probabilities["happiness"] - face.probabilities["sadness"]
        curve = (axes[0] // 2, max(2, int(abs(smile) * axes[1] * 0.4)))
        start, end = (0, 180) if smile >= 0 else (180, 360)
        mouth = (middle[0], middle[1] + axes[1] // 2)
        cv2.ellipse(picture, mouth, curve, 0, start, end, (60, 60, 150), 3, cv2.LINE_AA)
    return picture
