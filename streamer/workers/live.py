"""The live page of a daemon with workers: each packs its own frames, this hands them on.

A worker sends a watcher's next picture when the last one was taken, so a slow watcher sees fewer
pictures and never older ones, as with ``streamer.web.live.LiveView``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING

from streamer.web.live import MAX_WATCHERS, STATUS_S, pack
from streamer.workers.link import More, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from streamer.metrics import Metrics
    from streamer.stages import Clock
    from streamer.web.live import StatusMessage, Wanted
    from streamer.web.state import TrackView
    from streamer.workers.crew import Crew
    from streamer.workers.link import Picture
    from streamer.workers.worker import Worker

__all__ = ["RelayedLive"]


class RelayedLive:
    """What the web server asks for frames, see ``streamer.web.live.Live``.

    Args:
        crew: whose frames.
        clock: times the reports on the cameras.
        metrics: counts watchers.
    """

    def __init__(self, crew: Crew, *, clock: Clock, metrics: Metrics) -> None:
        self._crew = crew
        self._clock = clock
        self._metrics = metrics
        self._numbers = itertools.count(1)
        self._watchers: set[asyncio.Queue[tuple[Worker, Picture] | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def full(self) -> bool:
        """Whether as many watch as can be served."""
        return len(self._watchers) >= MAX_WATCHERS

    def tracks(self, camera: str) -> tuple[TrackView, ...]:
        """Return the faces of the camera's newest analysed frame."""
        return self._crew.tracks(camera)

    def open(self) -> None:
        """Begin to serve watchers; called in the web thread, with its loop running."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """End every stream; called in the web thread."""
        self._loop = None
        for pictures in self._watchers:
            pictures.put_nowait(None)

    async def watch(
        self, wanted: Wanted, status: Callable[[], StatusMessage]
    ) -> AsyncGenerator[bytes, None]:
        """Yield messages for one watcher until it goes or the server stops."""
        pictures: asyncio.Queue[tuple[Worker, Picture] | None] = asyncio.Queue()
        number = next(self._numbers)
        self._watchers.add(pictures)
        self._metrics.live_viewers.inc()
        watch = Watch(
            watcher=number,
            cameras=wanted.cameras,
            pictures=wanted.pictures,
            width_px=wanted.width_px,
        )
        self._crew.show_to(watch, lambda *picture: self._put(pictures, picture))
        try:
            told_ns = 0
            while self._loop is not None:
                now_ns = self._clock.monotonic_ns()
                if now_ns - told_ns >= STATUS_S * 1e9:
                    told_ns = now_ns
                    yield pack(status())
                with contextlib.suppress(TimeoutError):
                    got = await asyncio.wait_for(pictures.get(), STATUS_S)
                    if got is None:
                        break
                    worker, picture = got
                    yield picture.message
                    worker.tell(More(watcher=number))
        finally:
            self._crew.hide_from(number)
            self._watchers.discard(pictures)
            self._metrics.live_viewers.dec()

    def _put(
        self, pictures: asyncio.Queue[tuple[Worker, Picture] | None], got: tuple[Worker, Picture]
    ) -> None:
        """Put a picture where its watcher finds it; called by a worker's thread."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop ended between the check and here
                loop.call_soon_threadsafe(pictures.put_nowait, got)
