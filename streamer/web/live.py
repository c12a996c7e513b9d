"""The live view: the newest analysed frame of each camera, for whoever watches.

The pipeline hands every analysed frame over and goes on at once. A watcher draws: it takes the
newest frame of a camera when its connection has room again, so a slow one sees fewer pictures and
never older ones, and nothing is encoded that nobody takes. Each message carries a picture together
with what was found in that very frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from streamer.web.picture import encode
from streamer.web.state import About, CameraView, TrackView

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from streamer.metrics import Metrics
    from streamer.stages import Clock
    from streamer.types import Frame
    from streamer.web.options import Pictures
    from streamer.web.state import Reading

__all__ = [
    "MAX_WATCHERS",
    "STATUS_S",
    "WIDTHS_PX",
    "FrameMessage",
    "Live",
    "LiveView",
    "StatusMessage",
    "Wanted",
    "pack",
]

WIDTHS_PX: Final = (320, 640, 960, 1280)
"""Widths a watcher may ask for; a closed set, so that watchers share what is encoded."""
MAX_WATCHERS: Final = 32
"""Open streams: 32 of 640 px at 10 fps and 30 kB a picture are 75 Mbit/s a camera."""
STATUS_S: Final = 1.0
"""Between two reports on the cameras; also how soon a watcher notices that the server is gone."""
_MAX_FPS: Final = 15.0
"""Pictures a second and camera for one watcher: smooth enough to follow an expression."""
_NICENESS: Final = 10
"""Encoding yields to the analysis: half-way to the lowest priority of nice(2)."""


class FrameMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="frame"):
    """Header of a picture.

    Attributes:
        camera: whose.
        seq: the frame's number.
        width: of the original frame in pixels, which boxes refer to.
        height: of the original frame in pixels.
        captured_at: when it was captured, UTC.
        age_ms: from capture until it was packed for the watcher.
        picture: what the bytes after the header are.
        tracks: the faces found in this frame.
    """

    camera: str
    seq: int
    width: int
    height: int
    captured_at: datetime
    age_ms: float
    picture: Literal["show", "blur", "omit"]
    tracks: tuple[TrackView, ...]


class StatusMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="status"):
    """Every camera's state, once a second."""

    about: About
    cameras: tuple[CameraView, ...]


def pack(header: FrameMessage | StatusMessage, picture: bytes = b"") -> bytes:
    """Frame one message: two lengths (big-endian u32), the header as JSON, the picture."""
    text = msgspec.json.encode(header)
    return b"".join((struct.pack("!II", len(text), len(picture)), text, picture))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one watcher asked for.

    Attributes:
        cameras: whose frames; None: every camera's.
        pictures: with pictures, or boxes and names alone.
        width_px: how wide, one of ``WIDTHS_PX``.
    """

    cameras: frozenset[str] | None
    pictures: bool
    width_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The newest of one camera; the frame only while someone watches."""

    frame: Frame | None
    tracks: tuple[Reading, ...]


class _Watcher:
    """One open stream; lives in the web thread."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.changed = asyncio.Event()
        self.due: dict[str, None] = {}  # in the order in which they became due
        self.sent_ns: dict[str, int] = {}

    def mark(self, camera: str) -> None:
        """Take note that the camera has a newer frame."""
        if self.wanted.cameras is None or camera in self.wanted.cameras:
            self.due[camera] = None
            self.changed.set()


class Live(Protocol):
    """What the web server asks for frames; ``LiveView`` has those of its own process."""

    @property
    def full(self) -> bool:
        """Whether as many watch as can be served."""
        ...

    def tracks(self, camera: str) -> tuple[TrackView, ...]:
        """Return the faces of the camera's newest analysed frame."""
        ...

    def open(self) -> None:
        """Begin to serve watchers; called in the web thread, with its loop running."""
        ...

    def close(self) -> None:
        """End every stream; called in the web thread."""
        ...

    def watch(
        self, wanted: Wanted, status: Callable[[], StatusMessage]
    ) -> AsyncGenerator[bytes, None]:
        """Yield messages for one watcher until it goes or the server stops."""
        ...


class LiveView:
    """Takes frames from the pipeline and gives them to watchers.

    Args:
        clock: ages of frames are taken from it.
        metrics: counts watchers and pictures.
        pictures: what may be shown at most.
    """

    def __init__(self, *, clock: Clock, metrics: Metrics, pictures: Pictures) -> None:
        self._clock = clock
        self._metrics = metrics
        self._pictures = pictures
        self._newest: dict[str, _Seen] = {}
        self._watchers: set[_Watcher] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._encoded: dict[tuple[str, bool, int], tuple[int, asyncio.Future[bytes]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether as many watch as can be served."""
        return len(self._watchers) >= MAX_WATCHERS

    def offer(self, frame: Frame, readings: Sequence[Reading]) -> None:
        """Take one analysed frame; returns at once, and keeps no picture while nobody watches.

        Args:
            frame: the frame.
            readings: what was found in it.
        """
        watched = bool(self._watchers)
        self._newest[frame.camera] = _Seen(frame=frame if watched else None, tracks=tuple(readings))
        loop = self._loop
        if watched and loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop ended between the check and here
                loop.call_soon_threadsafe(self._mark, frame.camera)

    def tracks(self, camera: str) -> tuple[TrackView, ...]:
        """Return the faces of the camera's newest analysed frame."""
        seen = self._newest.get(camera)
        return () if seen is None else tuple(TrackView.of(reading) for reading in seen.tracks)

    def forget(self, camera: str) -> None:
        """Drop what was last seen, as of a camera that went away."""
        self._newest.pop(camera, None)

    def open(self) -> None:
        """Begin to serve watchers; called in the web thread, with its loop running."""
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._pool = ThreadPoolExecutor(1, "live", _lower_priority)

    def close(self) -> None:
        """End every stream; called in the web thread."""
        self._closed = True
        self._loop = None
        for watcher in self._watchers:
            watcher.changed.set()
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    async def watch(
        self, wanted: Wanted, status: Callable[[], StatusMessage] | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield messages for one watcher until it goes or the server stops.

        Args:
            wanted: what it asked for.
            status: makes the report on the cameras; None: frames alone.
        """
        watcher = _Watcher(wanted)
        self._watchers.add(watcher)
        self._metrics.live_viewers.inc()
        try:
            told_ns = 0
            while not self._closed:
                now_ns = self._clock.monotonic_ns()
                if status is not None and now_ns - told_ns >= STATUS_S * 1e9:
                    told_ns = now_ns
                    yield pack(status())
                camera = self._next_due(watcher, now_ns)
                if camera is None:
                    await _wait(watcher.changed, 1 / _MAX_FPS if watcher.due else STATUS_S)
                    continue
                message = await self._message(camera, wanted)
                if message is not None:
                    yield message
        finally:
            self._watchers.discard(watcher)
            self._metrics.live_viewers.dec()
            if not self._watchers:
                self._let_pictures_go()

    def _next_due(self, watcher: _Watcher, now_ns: int) -> str | None:
        """Return the camera that has waited longest and was not sent too recently."""
        watcher.changed.clear()
        for camera in watcher.due:
            if now_ns - watcher.sent_ns.get(camera, 0) >= 1e9 / _MAX_FPS:
                del watcher.due[camera]
                watcher.sent_ns[camera] = now_ns
                return camera
        return None

    def _mark(self, camera: str) -> None:
        for watcher in self._watchers:
            watcher.mark(camera)

    def _let_pictures_go(self) -> None:
        self._encoded.clear()
        for camera, seen in list(self._newest.items()):
            self._newest[camera] = _Seen(frame=None, tracks=seen.tracks)

    async def _message(self, camera: str, wanted: Wanted) -> bytes | None:
        """Pack the camera's newest frame; watchers who want the same share the work."""
        seen = self._newest.get(camera)
        if seen is None or seen.frame is None or self._pool is None or self._closed:
            return None
        key = (camera, wanted.pictures, wanted.width_px)
        known = self._encoded.get(key)
        if known is None or known[0] != seen.frame.seq:
            loop = asyncio.get_running_loop()
            mode: Pictures = self._pictures if wanted.pictures else "omit"
            task = loop.run_in_executor(
                self._pool, self._pack, seen.frame, seen.tracks, mode, wanted.width_px
            )
            known = self._encoded[key] = (seen.frame.seq, task)
        return await asyncio.shield(known[1])  # a watcher that goes must not cancel the others'

    def _pack(
        self, frame: Frame, readings: tuple[Reading, ...], mode: Pictures, width_px: int
    ) -> bytes:
        """Encode and pack, in the pool's thread."""
        picture = encode(frame, mode, width_px)
        if picture:
            self._metrics.live_pictures.labels(camera=frame.camera).inc()
        header = FrameMessage(
            camera=frame.camera,
            seq=frame.seq,
            width=frame.width,
            height=frame.height,
            captured_at=datetime.fromtimestamp(frame.captured_ns / 1e9, UTC),
            age_ms=round((self._clock.monotonic_ns() - frame.monotonic_ns) / 1e6, 1),
            picture=mode,
            tracks=tuple(TrackView.of(reading) for reading in readings),
        )
        return pack(header, picture)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _lower_priority() -> None:
    """Make this thread yield to the analysis; on Linux the nice value is a thread's own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
