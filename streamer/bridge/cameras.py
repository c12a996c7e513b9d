"""What a home automation wants to know: each camera's presence, faces and latest expression."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from streamer.errors import SourceReason
from streamer.events import (
    UNKNOWN,
    CameraData,
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    DaemonStopping,
    EmotionChanged,
    FaceAppeared,
    FaceLost,
)

if TYPE_CHECKING:
    from streamer.client import Received
    from streamer.snapshot import Snapshot

__all__ = ["CAMERA_NAME", "Cameras"]

CAMERA_NAME: Final = re.compile(r"[a-z0-9_-]{1,64}")
"""Names that the daemon's configuration allows; others come from a garbage speaker."""

_TELLING: Final = (CameraOnline, CameraOffline, FaceAppeared, EmotionChanged, FaceLost)
"""What changes a camera's state; samples do not."""


@dataclass(slots=True)
class _Camera:
    run: str  # of the daemon that spoke for it last
    online: bool = False
    labels: dict[int, str] = field(default_factory=dict)  # a track's label, latest change last

    def apply(self, data: CameraData) -> None:
        match data:
            case CameraOnline():
                self.online = True
            case CameraOffline():
                self.online = False
                self.labels.clear()
            case FaceAppeared():
                self.labels[data.track] = UNKNOWN
            case EmotionChanged():
                self.labels.pop(data.track, None)
                self.labels[data.track] = data.label
            case FaceLost():
                self.labels.pop(data.track, None)

    def forget(self) -> None:
        """Nothing is known of it: rather no face than one that left long ago."""
        self.online = False
        self.labels.clear()

    def state(self) -> dict[str, Any]:
        """Return what is published; the expression is the one that changed last."""
        named = [label for label in self.labels.values() if label != UNKNOWN]
        return {
            "online": self.online,
            "faces": len(self.labels),
            "expression": named[-1] if named else None,
        }


def _stops(data: CameraData) -> bool:
    return isinstance(data, CameraOffline) and data.reason == SourceReason.STOPPED


class Cameras:
    """Follows the events; bounded by the cameras and the faces that are there now.

    Behind one address there may be a fleet, whose daemons' events come as each of them sent them.
    So another run is a restart for the camera that it speaks for, and for no other; what the start
    or the end of another run than the publisher's own means, its snapshot knows.

    Attributes:
        changed: cameras whose state has to be published; cleared by whoever does.
        gone: cameras that the daemon no longer has; cleared the same way.
    """

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self.gone: set[str] = set()
        self._cameras: dict[str, _Camera] = {}
        self._epoch = ""  # of the publisher, by its snapshot; empty before the first
        self._contained: dict[tuple[str, str], int] = {}  # by topic and run: what it had already

    @property
    def names(self) -> list[str]:
        """Every camera heard of and still there."""
        return sorted(self._cameras)

    def state(self, name: str) -> dict[str, Any]:
        """Return what is to be published of a camera: ``online``, ``faces``, ``expression``."""
        return self._cameras[name].state()

    def load(self, snapshot: Snapshot) -> None:
        """Begin anew with a snapshot; events that it contains change nothing from now on."""
        self._epoch = snapshot.epoch
        own = {(topic, snapshot.epoch): number for topic, number in snapshot.sequences.items()}
        others = {
            (topic, run): number
            for topic, runs in snapshot.epochs.items()
            for run, number in runs.items()
        }
        self._contained = own | others
        self._forget()
        if snapshot.daemon is not None:
            heard_of = {camera.camera for camera in snapshot.cameras}
            self._keep_only({*snapshot.daemon.cameras, *heard_of})
        for camera in snapshot.cameras:
            if known := self._camera(camera.camera):
                known.online = camera.online
        for track in snapshot.tracks:
            if known := self._camera(track.camera):
                known.labels[track.track] = track.label
        for name, known in self._cameras.items():
            known.run = snapshot.run_of(name)

    def apply(self, event: Received) -> bool:
        """Take in an event; return whether only a new snapshot can tell what it means.

        A camera that stops may be opened anew, be another node's from now on, or be gone for good.
        """
        if event.sequence <= self._contained.get((event.topic, event.epoch), 0):
            return False
        data = event.data
        if isinstance(data, DaemonStarted | DaemonStopping):
            if self._epoch not in {"", event.epoch}:
                return True  # the publisher was started anew, or a node of a fleet was
            if isinstance(data, DaemonStarted):
                self._keep_only({*data.cameras})
            else:
                self._forget()
        elif isinstance(data, _TELLING):
            last_word = isinstance(data, FaceLost) or _stops(data)
            if last_word and data.camera not in self._cameras:
                return False  # it does not bring back who has gone
            if known := self._camera(data.camera):
                return self._apply(known, data, event.epoch) or _stops(data)
        return False

    def _apply(self, known: _Camera, data: CameraData, run: str) -> bool:
        """Take in what is said of a camera; where another run takes over, all before is void."""
        taken_over = known.run not in {"", run}
        if taken_over:
            known.forget()
        known.run = run
        known.apply(data)
        # These two say all; anything else of a new run comes after something was missed.
        return taken_over and not isinstance(data, CameraOnline | CameraOffline)

    def _camera(self, name: str) -> _Camera | None:
        """Return a camera that is about to change; None for a name that no daemon gives."""
        if not CAMERA_NAME.fullmatch(name):
            return None
        self.changed.add(name)
        self.gone.discard(name)
        return self._cameras.setdefault(name, _Camera(run=""))

    def _keep_only(self, names: set[str]) -> None:
        for name in names:
            self._camera(name)
        for name in set(self._cameras) - names:
            del self._cameras[name]
            self.changed.discard(name)
            self.gone.add(name)

    def _forget(self) -> None:
        """Nothing is known of anyone."""
        for name, camera in self._cameras.items():
            camera.forget()
            self.changed.add(name)
