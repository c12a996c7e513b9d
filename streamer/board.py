"""What a person wants to see of a publisher at a glance, kept from its snapshot and its events.

Pure state without clock, socket or terminal: times are seconds on any one clock of the caller's.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamer.errors import SourceReason
from streamer.events import (
    DATA_TYPES,
    CameraData,
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    DaemonStopping,
    EmotionSample,
    FaceLost,
    TrackData,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.client import Gap, Received
    from streamer.snapshot import Snapshot

__all__ = ["Board", "CameraRow", "FaceRow", "Reading"]

LINGER_S = 3.0  # a lost face stays so long that its end can be read
FORGET_S = 30.0  # without a reading and without its end: that event was missed
HISTORY_S = 120.0  # more than the widest terminal shows
_RATE_WINDOW_S = 3.0  # long enough to be steady at one reading a second
_LATENCIES = 20  # two seconds at ten readings a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reading of a face.

    Attributes:
        at_s: when its frame was captured, as far as the publisher's latency tells.
        label: the most probable class, or ``unknown``.
        confidence: probability of the most probable class.
    """

    at_s: float
    label: str
    confidence: float


@dataclass(slots=True, kw_only=True)
class FaceRow:
    """A face that is followed, or was until a moment ago.

    Attributes:
        camera: its camera.
        track: its number.
        readings: the last ones, oldest first.
        heard_s: when something was last heard of it.
        lost: its end; None while it is followed.
    """

    camera: str
    track: int
    heard_s: float
    readings: deque[Reading] = field(default_factory=deque)
    lost: FaceLost | None = None
    _latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))

    @property
    def latency_ms(self) -> float | None:
        """Median from capture to sending over the last readings, milliseconds."""
        return statistics.median(self._latencies_ms) if self._latencies_ms else None

    def read(self, data: EmotionSample, now_s: float, *, live: bool) -> None:
        """Take a reading; one of a snapshot has its age, and not its latency, in ``latency_ms``."""
        at_s = now_s - data.latency_ms / 1e3
        if self.readings and at_s < self.readings[-1].at_s:
            at_s = self.readings[-1].at_s  # the way here took longer for the one before
        self.readings.append(Reading(at_s=at_s, label=data.label, confidence=data.confidence))
        while self.readings[0].at_s < at_s - HISTORY_S:
            self.readings.popleft()
        if live:
            self._latencies_ms.append(data.latency_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraRow:
    """A camera; ``online`` is None before anything was said about it."""

    camera: str
    online: bool | None = None
    reason: str = ""
    detail: str = ""


class Board:
    """The last state of every camera and face that is subscribed to.

    Behind one address there may be a fleet, whose daemons' events come as each of them sent them.
    So another run is a restart for the camera that it speaks for, and for no other; what the start
    or the end of another run than the publisher's own means, its snapshot knows.

    Args:
        topics: prefixes of the topics subscribed to; a snapshot names other cameras too.

    Attributes:
        epoch: the publisher's run, by its snapshot; empty before the first.
        daemon: what ``daemon.started`` said; None before it.
        stopping: why the publisher said that it stops; empty while it runs.
        gap: the last gap; None as long as nothing was missed.
        events: how many came.
    """

    def __init__(self, topics: Sequence[str] = ("",)) -> None:
        self._topics = tuple(topics)
        self._cameras: dict[str, CameraRow] = {}
        self._runs: dict[str, str] = {}  # the run that spoke for a camera last
        self._faces: dict[tuple[str, int], FaceRow] = {}
        self._arrivals_s: deque[float] = deque()
        self._first_s: float | None = None
        self.epoch = ""
        self.daemon: DaemonStarted | None = None
        self.stopping = ""
        self.gap: Gap | None = None
        self.events = 0

    def start_from(self, snapshot: Snapshot, now_s: float) -> None:
        """Take the state from a snapshot; of faces that go on the history is kept."""
        known, runs = self._faces, self._runs
        self._cameras, self._faces = {}, {}
        if snapshot.epoch != self.epoch:
            self.epoch, self.stopping = snapshot.epoch, ""
        self.daemon = snapshot.daemon
        for name in snapshot.daemon.cameras if snapshot.daemon else ():
            self._camera(name)
        for camera in snapshot.cameras:
            if self._wanted(camera.camera):
                self._cameras[camera.camera] = CameraRow(
                    camera=camera.camera,
                    online=camera.online,
                    reason=camera.reason,
                    detail=camera.detail,
                )
        names = {*self._cameras, *(track.camera for track in snapshot.tracks)}
        self._runs = {name: snapshot.run_of(name) for name in names}
        for track in snapshot.tracks:
            key = track.camera, track.track
            if not self._wanted(track.camera):
                continue
            # In another run the same number is somebody else.
            goes_on = runs.get(track.camera) == self._runs[track.camera]
            face = known.get(key) if goes_on else None
            if face is None:
                face = FaceRow(camera=key[0], track=key[1], heard_s=now_s)
                if track.sample is not None:
                    face.read(track.sample, now_s, live=False)
            self._faces[key] = face

    def take(self, event: Received, now_s: float) -> bool:
        """Take in one event; return whether only a new snapshot can tell what it means.

        A camera that stops may be opened anew, be another node's from now on, or be gone for good.
        """
        self.events += 1
        self._first_s = now_s if self._first_s is None else self._first_s
        self._arrivals_s.append(now_s)
        if event.gap is not None:
            self.gap = event.gap
        data = event.data
        if isinstance(data, DaemonStarted | DaemonStopping):
            if self.epoch not in {"", event.epoch}:
                return True  # the publisher was started anew, or a node of a fleet was
            if not self.epoch:  # nobody has said whose run is whose: it is taken for the only one
                for name in [name for name, run in self._runs.items() if run != event.epoch]:
                    self._drop(name)
            self._apply_daemon(data)
        elif isinstance(data, CameraData):
            return self._take_camera(data, event.epoch, now_s)
        return False

    def _take_camera(self, data: CameraData, run: str, now_s: float) -> bool:
        stops = isinstance(data, CameraOffline) and data.reason == SourceReason.STOPPED
        last_word = isinstance(data, FaceLost) or stops
        if last_word and data.camera not in self._cameras:
            return False  # it does not bring back who has gone
        taken_over = self._runs.get(data.camera, run) != run
        if taken_over:
            self._drop(data.camera)
        self._runs[data.camera] = run
        self._apply(data, now_s)
        # These two say all; anything else of a new run comes after something was missed.
        return stops or (taken_over and not isinstance(data, CameraOnline | CameraOffline))

    def _apply_daemon(self, data: DaemonStarted | DaemonStopping) -> None:
        if isinstance(data, DaemonStopping):
            self.stopping = data.reason or "asked to"
            return
        self.daemon, self.stopping = data, ""
        for name in data.cameras:
            self._camera(name)

    def _apply(self, data: CameraData, now_s: float) -> None:
        match data:
            case TrackData():
                self._apply_track(data, now_s)
            case CameraOnline():
                self._cameras[data.camera] = CameraRow(
                    camera=data.camera, online=True, reason=data.reason
                )
            case CameraOffline():
                self._drop_faces(data.camera)
                self._cameras[data.camera] = CameraRow(
                    camera=data.camera, online=False, reason=data.reason, detail=data.detail
                )
            case _:
                pass  # a type of a newer publisher says nothing that a row could show

    def _apply_track(self, data: TrackData, now_s: float) -> None:
        camera = self._camera(data.camera)
        if camera is None or camera.online is False:
            return  # a frame that was under way when the camera went: nothing would end its row
        key = data.camera, data.track
        face = self._faces.get(key)
        if face is None:
            face = self._faces[key] = FaceRow(camera=key[0], track=key[1], heard_s=now_s)
        face.heard_s = now_s
        if isinstance(data, FaceLost):
            face.lost = data
        elif isinstance(data, EmotionSample):
            face.read(data, now_s, live=True)

    def age(self, now_s: float) -> None:
        """Let go of what has been over for long enough."""
        for key, face in list(self._faces.items()):
            if now_s - face.heard_s > (FORGET_S if face.lost is None else LINGER_S):
                del self._faces[key]
        while self._arrivals_s and self._arrivals_s[0] < now_s - _RATE_WINDOW_S:
            self._arrivals_s.popleft()

    def rate(self, now_s: float) -> float:
        """Events a second over the last three seconds, or since the first one."""
        if self._first_s is None:
            return 0.0
        span_s = min(_RATE_WINDOW_S, max(now_s - self._first_s, 1.0))
        return len(self._arrivals_s) / span_s

    @property
    def cameras(self) -> list[CameraRow]:
        """Every camera, in order of names."""
        return [row for _, row in sorted(self._cameras.items())]

    def faces(self, camera: str) -> list[FaceRow]:
        """The faces of a camera, in order of numbers."""
        return [row for key, row in sorted(self._faces.items()) if key[0] == camera]

    def _camera(self, name: str) -> CameraRow | None:
        if name not in self._cameras and self._wanted(name):
            self._cameras[name] = CameraRow(camera=name)
        return self._cameras.get(name)

    def _wanted(self, camera: str) -> bool:
        mine = [
            f"{name}/{camera}/" for name, kind in DATA_TYPES.items() if issubclass(kind, CameraData)
        ]
        return any(topic.startswith(prefix) for topic in mine for prefix in self._topics)

    def _drop_faces(self, camera: str) -> None:
        for key in [key for key in self._faces if key[0] == camera]:
            del self._faces[key]

    def _drop(self, camera: str) -> None:
        """Whoever spoke for it does no more, and nobody can tell what became of its faces."""
        self._drop_faces(camera)
        self._cameras.pop(camera, None)
        self._runs.pop(camera, None)
