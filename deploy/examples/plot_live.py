# ruff: noqa: INP001 # a script that is copied, not a module
"""Plot what a running daemon reads in the faces it sees, live, one strip a face.

    pip install emotion-streamer matplotlib
    streamer demo &
    python plot_live.py

It subscribes to ``emotion.sample`` and draws the last half minute of the faces seen last. Close the
window or press Ctrl-C to end. Without a display, or to keep a picture: ``--save live.png``.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from pathlib import Path
from typing import Any

import matplotlib as mpl

from streamer.client import Subscriber
from streamer.events import EmotionSample, parse_time

WINDOW_S = 30.0
STRIPS = 3  # more faces than this would be too small to read
REDRAW_S = 0.2
STALE_S = 5.0  # a face unseen for longer gives its strip to another
COLOURS = {
    "neutral": "#8790a3",
    "happiness": "#e0a100",
    "surprise": "#3aa5de",
    "sadness": "#2463b8",
    "anger": "#d2541b",
    "disgust": "#14966f",
    "fear": "#c465a0",
    "contempt": "#8a68d4",
}

Face = tuple[str, int]
Samples = deque[tuple[float, dict[str, float]]]


class Faces:
    """The last half minute of each face."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._samples: dict[Face, Samples] = {}

    def add(self, sample: EmotionSample) -> None:
        """Take a reading; its time is that of the picture, not of its arrival."""
        when_s = parse_time(sample.captured_at).timestamp()
        self.now_s = max(self.now_s, when_s)
        samples = self._samples.setdefault((sample.camera, sample.track), deque())
        samples.append((when_s, sample.probabilities))
        while samples[0][0] < when_s - WINDOW_S:
            samples.popleft()

    def newest(self) -> list[tuple[Face, Samples]]:
        """Return the faces to draw, and forget those that left."""
        self._samples = {
            face: samples
            for face, samples in self._samples.items()
            if samples[-1][0] > self.now_s - WINDOW_S
        }
        fresh = [item for item in self._samples.items() if item[1][-1][0] > self.now_s - STALE_S]
        return sorted(fresh, key=lambda item: -len(item[1]))[:STRIPS]


def draw(strips: list[Any], faces: Faces) -> None:
    """Draw the faces into the strips, each as a stack of its probabilities."""
    shown = faces.newest()
    for strip in strips:
        strip.clear()
        strip.set(xlim=(-WINDOW_S, 0), ylim=(0, 1), yticks=[])
    for strip, ((camera, track), samples) in zip(strips, shown, strict=False):
        names = list(samples[-1][1])
        strip.stackplot(
            [when_s - faces.now_s for when_s, _ in samples],
            *([probabilities[name] for _, probabilities in samples] for name in names),
            colors=[COLOURS.get(name, "#4a5ae0") for name in names],
        )
        best = max(samples[-1][1].items(), key=lambda item: item[1])
        strip.set_title(f"{camera}, face {track}: {best[0]} {best[1]:.0%}", loc="left", fontsize=10)
    strips[-1].set_xlabel("seconds ago")


def main() -> None:
    """Read the command line, subscribe and draw until the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--connect", default="tcp://127.0.0.1:5556", help="the daemon's events")
    parser.add_argument("--camera", default="", help="only this one")
    parser.add_argument("--seconds", type=float, default=0, help="end after so long; 0: never")
    parser.add_argument("--save", type=Path, help="write the last picture here, open no window")
    options = parser.parse_args()
    if options.save:
        mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 after the choice of a backend

    figure, strips = plt.subplots(
        STRIPS, sharex=True, figsize=(9, 6), layout="constrained", squeeze=True
    )
    handles = [mpl.patches.Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False, fontsize=9)
    topic = f"emotion.sample/{options.camera}/" if options.camera else "emotion.sample/"
    faces = Faces()
    end_s = time.monotonic() + options.seconds if options.seconds else float("inf")
    drawn_s = 0.0
    count = 0
    with Subscriber(connect=options.connect, snapshot=None, topics=(topic,)) as subscriber:
        try:
            while time.monotonic() < end_s and plt.fignum_exists(figure.number):
                event = subscriber.receive(0.05)
                if event is not None and isinstance(event.data, EmotionSample):
                    faces.add(event.data)
                    count += 1
                if not options.save and time.monotonic() - drawn_s > REDRAW_S:
                    draw(list(strips), faces)
                    plt.pause(0.001)
                    drawn_s = time.monotonic()
        except KeyboardInterrupt:
            pass
    if options.save:
        draw(list(strips), faces)
        figure.savefig(options.save, dpi=120)
    print(f"{count} readings, {subscriber.missed} missed")  # noqa: T201 an example talks


if __name__ == "__main__":
    main()
