"""The snapshot: the last state of every camera and track, for a subscriber that comes late.

It is kept from the events themselves, so it cannot say anything else than the stream does, and it
names the last sequence of every topic: events up to there are in it, later ones are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from streamer.envelope import Numbered, topic_of
from streamer.events import (
    UNKNOWN,
    CameraData,
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    EmotionChanged,
    EmotionSample,
    Event,
    FaceLost,
    TrackData,
)

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

__all__ = ["CameraState", "LastState", "Snapshot", "TrackState"]


class CameraState(msgspec.Struct, frozen=True, kw_only=True):
    """A camera, as its last ``camera.online`` or ``camera.offline`` said.

    Attributes:
        camera: its configured name.
        online: whether it delivers frames.
        reason: of the last change.
        detail: of the last change; empty when online.
        width: of its pictures, pixels; 0 when offline.
        height: likewise.
    """

    camera: str
    online: bool
    reason: str
    detail: str = ""
    width: int = 0
    height: int = 0


class TrackState(msgspec.Struct, frozen=True, kw_only=True):
    """A face that is being followed.

    Attributes:
        camera: the camera's configured name.
        track: its number.
        label: the label that held last, from ``emotion.changed``; ``unknown`` before the first.
        sample: data of the last ``emotion.sample``; None before the first. Its ``latency_ms`` runs
            to the sending of the snapshot: it is the sample's age.
    """

    camera: str
    track: int
    label: str = UNKNOWN
    sample: EmotionSample | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to ``snapshot``.

    Attributes:
        epoch: the run of the publisher.
        time: when it was sent, RFC 3339 UTC.
        sequences: the last sequence of each topic that is accounted for.
        daemon: data of ``daemon.started``, with the cameras that there are now; None before it.
        cameras: every camera heard of, in order of names.
        tracks: every face being followed, in order of cameras and numbers.
        epochs: of each topic that another run than ``epoch`` has published, the last sequence of
            each such run that is accounted for; a fleet of daemons has one a daemon.
    """

    epoch: str
    time: str
    sequences: dict[str, int]
    daemon: DaemonStarted | None = None
    cameras: list[CameraState] = []
    tracks: list[TrackState] = []
    epochs: dict[str, dict[str, int]] = {}

    def run_of(self, camera: str) -> str:
        """Return the run that had a camera last: who takes one over says that it is online."""
        runs = self.epochs.get(topic_of(CameraOnline.TYPE, camera))
        return next(reversed(runs)) if runs else self.epoch


class _Track(msgspec.Struct, kw_only=True):
    label: str = UNKNOWN
    sample: Numbered | None = None


class _Camera(msgspec.Struct, kw_only=True):
    state: CameraState | None = None
    tracks: dict[int, _Track] = {}


class LastState:
    """What the events said last; bounded by the cameras and the faces that are followed now.

    Not thread-safe: the caller applies events under the lock under which it numbers them.
    """

    def __init__(self) -> None:
        self._daemon: DaemonStarted | None = None
        self._configured: frozenset[str] | None = None  # None: nobody has said it
        self._cameras: dict[str, _Camera] = {}

    def configure(self, cameras: Sequence[str]) -> None:
        """Take which cameras there are from now on.

        Any other is forgotten, and its last words, which may be on their way, do not bring it back.
        """
        self._configured = frozenset(cameras)
        self._cameras = {n: known for n, known in self._cameras.items() if n in self._configured}
        if self._daemon is not None:
            self._daemon = msgspec.structs.replace(self._daemon, cameras=tuple(cameras))

    def apply(self, numbered: Numbered) -> None:
        """Take in one event; types that say nothing about state are passed over."""
        data = numbered.event.data
        if (
            isinstance(data, CameraData)
            and self._configured is not None
            and data.camera not in self._configured
        ):
            return
        if isinstance(data, TrackData):
            self._apply_track(self._camera(data.camera), data, numbered)
        elif isinstance(data, CameraOnline):
            self._camera(data.camera).state = CameraState(
                camera=data.camera,
                online=True,
                reason=data.reason,
                width=data.width,
                height=data.height,
            )
        elif isinstance(data, CameraOffline):
            camera = self._camera(data.camera)
            camera.tracks.clear()
            camera.state = CameraState(
                camera=data.camera, online=False, reason=data.reason, detail=data.detail
            )
        elif isinstance(data, DaemonStarted):
            self._daemon = data

    def seed(self, snapshot: Snapshot, cameras: Container[str], *, monotonic_ns: int) -> None:
        """Take over what another publisher's snapshot says of some cameras.

        Args:
            snapshot: what it answered.
            cameras: the names that count.
            monotonic_ns: when it came; the samples' ages are taken from here.
        """
        for state in snapshot.cameras:
            if state.camera in cameras:
                self._cameras[state.camera] = _Camera(state=state)
        for track in snapshot.tracks:
            if track.camera in cameras:
                sample = None
                if track.sample is not None:
                    captured_ns = monotonic_ns - round(1e6 * track.sample.latency_ms)
                    event = Event(data=track.sample, captured_monotonic_ns=captured_ns)
                    sample = Numbered(
                        event=event, epoch=snapshot.epoch, topic="", source="", sequence=0
                    )
                camera = self._camera(track.camera)
                camera.tracks[track.track] = _Track(label=track.label, sample=sample)

    def copy(self, *, monotonic_ns: int) -> tuple[list[CameraState], list[TrackState]]:
        """Return the cameras and the tracks as of now, samples with their age."""
        cameras: list[CameraState] = []
        tracks: list[TrackState] = []
        for name, camera in sorted(self._cameras.items()):
            if camera.state is not None:
                cameras.append(camera.state)
            tracks.extend(
                TrackState(
                    camera=name,
                    track=number,
                    label=track.label,
                    sample=_sample(track.sample, monotonic_ns),
                )
                for number, track in sorted(camera.tracks.items())
            )
        return cameras, tracks

    @property
    def daemon(self) -> DaemonStarted | None:
        """What ``daemon.started`` said, with the cameras that there are now."""
        return self._daemon

    def _camera(self, name: str) -> _Camera:
        return self._cameras.setdefault(name, _Camera())

    def _apply_track(self, camera: _Camera, data: TrackData, numbered: Numbered) -> None:
        if isinstance(data, FaceLost):
            camera.tracks.pop(data.track, None)
            return
        if camera.state is not None and not camera.state.online:
            return  # a frame that was under way when the camera went: nothing would ever end it
        track = camera.tracks.setdefault(data.track, _Track())
        if isinstance(data, EmotionChanged):
            track.label = data.label
        elif isinstance(data, EmotionSample):
            track.sample = numbered


def _sample(numbered: Numbered | None, monotonic_ns: int) -> EmotionSample | None:
    if numbered is None:
        return None
    data = numbered.completed(monotonic_ns)
    return data if isinstance(data, EmotionSample) else None
