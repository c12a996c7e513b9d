"""This project over one clip after another: ``python tests/peers/ours.py SECONDS MODELS CLIP…``.

The daemon's own reader, networks and compute loop on one camera that is read as fast as it goes:
every frame is decoded, detected, followed, read and made into events, as the peers do it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from streamer import config, logs
from streamer.clock import SystemClock
from streamer.events import EmotionSample
from streamer.metrics import Metrics
from streamer.station import Station

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.events import Event
    from streamer.lane import Reading
    from streamer.types import Frame

_WARM_S = 2.0
_STOP_S = 10.0


class Counter:
    """Takes events and frames, and counts the faces that were read."""

    def __init__(self) -> None:
        self.faces = 0

    def emit(self, *events: Event) -> None:
        """Count the readings."""
        self.faces += sum(isinstance(event.data, EmotionSample) for event in events)

    def offer(self, _frame: Frame, _readings: Sequence[Reading]) -> None:
        """Nobody looks on."""

    def forget(self, _camera: str) -> None:
        """Nothing is kept."""


def main() -> None:
    """Measure the clips that are named."""
    seconds, models, *clips = sys.argv[1:]
    logs.configure("error", "console", clock=SystemClock())
    for clip in clips:
        camera = config.Camera(name="clip", url=clip, realtime=False, loop=True)
        settings = config.Config(
            cameras=(camera,),
            analysis=config.Analysis(fps=0),
            detector=config.Detector(mirror=models, whole_s=0.0),  # the whole of every frame
        )
        metrics, counter = Metrics(CollectorRegistry()), Counter()
        station = Station(
            settings,
            sink=counter,
            metrics=metrics,
            onlooker=counter,
            clock=SystemClock(),
        )
        station.load(lambda: None)
        station.open(settings.cameras)
        time.sleep(_WARM_S)
        start_s, cpu_s = time.perf_counter(), time.process_time()
        frames, faces = analysed(station), counter.faces
        time.sleep(float(seconds))
        spent_s, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s
        frames, faces = analysed(station) - frames, counter.faces - faces
        station.stop(_STOP_S)
        station.close()
        line = {
            "clip": clip,
            "fps": frames / spent_s,
            "faces": faces / frames,
            "cpu_ms": 1e3 * cpu_s / frames,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def analysed(station: Station) -> int:
    """Return how many frames were analysed so far."""
    return station.cameras()[0].analysed


if __name__ == "__main__":
    main()
