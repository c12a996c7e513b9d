"""The demo's built-in feed: two people come in, react, pass in front of one another and leave.

It is composed of two portraits, whose faces are bent between a frown and a smile. Where each face
is, is known: ``truth``.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import av
import cv2
import numpy as np

from streamer.assets import default_folder
from streamer.errors import ConfigError
from streamer.portrait import COLLINS, HOPPER, Portrait, cut_out
from streamer.scene import Actor, Pose, Scene, Truth

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from streamer.types import BGR

__all__ = [
    "EMPTY",
    "FPS",
    "HEIGHT",
    "LARGE",
    "SECONDS",
    "USUAL",
    "WIDTH",
    "Cut",
    "render",
    "showreel",
    "showreels",
    "truth",
]

WIDTH: Final = 640
HEIGHT: Final = 360
FPS: Final = 25
SECONDS: Final = 20
_EDITION = 1
"""In the file's name: counts up whenever the film changes, so that no old one is shown."""
_STEP_S: Final = 4
"""Distance of the beginnings of ``showreels``, so that at any time 1.4 faces are seen in each."""
_COUNTER_Y = 306
"""Rows below are the counter that hides where the portraits end."""
_SEED = 11

_Curve = tuple[tuple[float, float], ...]
"""Times in seconds with the value there; smooth in between, constant outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one person does.

    Attributes:
        portrait: who it is.
        x, height: centre and height of the face over time, frame pixels.
        y: height of the face's centre, frame pixels.
        mood: -1 frown, 0 as the portrait is, 1 smile, over time.
        enters_s, leaves_s: on the stage in between.
    """

    portrait: Portrait
    x: _Curve
    height: _Curve
    y: float
    mood: _Curve
    enters_s: float
    leaves_s: float


_PARTS: Final = (
    _Part(
        portrait=COLLINS,
        x=((0.3, -90), (3.0, 200), (9.5, 215), (12.5, 470), (16.0, 450), (19.0, 740)),
        height=((0.0, 92), (9.5, 96), (12.5, 92)),
        y=118,
        mood=((3.5, 0.0), (5.0, -1.0), (7.5, -1.0), (8.5, 0.4), (12.5, 0.4), (14, -1.0), (16, 0.2)),
        enters_s=0.3,
        leaves_s=19.0,
    ),
    _Part(
        portrait=HOPPER,
        x=((3.5, 770), (6.5, 455), (9.5, 440), (12.8, 170), (16.5, 180), (19.2, -150)),
        height=((3.5, 122), (9.5, 130), (13.0, 124)),
        y=152,
        mood=((6.5, 0.0), (7.5, 1.0), (9.5, 1.0), (10.5, 0.0), (13.5, -1.0), (15.5, -1), (16.5, 1)),
        enters_s=3.5,
        leaves_s=19.2,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A version of the film.

    Attributes:
        name: begins the file's name.
        people: whether anybody is in it.
        scale: how many times as large each side of the picture is.
    """

    name: str
    people: bool = True
    scale: int = 1


USUAL: Final = Cut(name="showreel")
EMPTY: Final = Cut(name="showreel-empty", people=False)
LARGE: Final = Cut(name="showreel-1080p", scale=3)


def showreel(notes: Console, cut: Cut = USUAL) -> Path:
    """Return the film's file, rendered on the first call and kept.

    Args:
        notes: shows a progress bar while it is rendered.
        cut: which version.

    Raises:
        ConfigError: if a portrait's package is missing or the folder cannot be written to.
    """
    path = default_folder() / f"{cut.name}-{_EDITION}.mp4"
    if path.is_file():
        return path
    from rich.progress import Progress  # noqa: PLC0415 (only on the first call)

    with Progress(console=notes, transient=True) as bar:
        task = bar.add_task("Rendering the demo's feed", total=1.0)
        return render(path, cut=cut, progress=lambda share: bar.update(task, completed=share))


def showreels(notes: Console) -> list[Path]:
    """Return the film beginning at different times, for cameras that are not in step.

    Args:
        notes: shows a progress bar while the film is rendered.

    Raises:
        ConfigError: as ``showreel`` does.
    """
    film = showreel(notes)
    paths = [film]
    for begins_s in range(_STEP_S, SECONDS, _STEP_S):
        path = film.with_name(f"{USUAL.name}-from-{begins_s}-{_EDITION}.mp4")
        if not path.is_file():
            part = path.with_suffix(".part.mp4")
            _turn(film, part, begins_s)
            part.replace(path)
        paths.append(path)
    return paths


def _turn(film: Path, path: Path, begins_s: int) -> None:
    """Write the film from a keyframe on, and what was before it after the end."""
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        step = (packets[1].dts or 0) - (packets[0].dts or 0)
        first = next(i for i in range(begins_s * FPS, len(packets)) if packets[i].is_keyframe)
        for i, packet in enumerate(packets[first:] + packets[:first]):
            packet.pts = packet.dts = i * step
            packet.stream = stream
            target.mux(packet)


def render(
    path: Path, *, cut: Cut = USUAL, progress: Callable[[float], None] | None = None
) -> Path:
    """Render the film as H.264 in MP4; the file is complete whenever it is seen.

    Args:
        path: the file to write.
        cut: which version.
        progress: told the share that is done, 0..1.

    Raises:
        ConfigError: if a portrait's package is missing or the folder cannot be written to.
    """
    scene = _scene()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".showreel-") as folder:
            part = Path(folder) / "part.mp4"
            _encode(scene if cut.people else replace(scene, actors=()), part, cut.scale, progress)
            part.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot write the demo's feed: {os.strerror(error.errno or 0)}; "
            "set STREAMER_ASSETS to a folder that can be written to"
        ) from None
    return path


def truth(t: float) -> Truth:
    """Return where the faces are at a time in seconds; 1 is Collins, 2 is Hopper."""
    return _scene().truth(t)


def _encode(scene: Scene, path: Path, scale: int, progress: Callable[[float], None] | None) -> None:
    grain = _grain()
    with av.open(str(path), "w") as container:
        # A keyframe a second, as cameras have it: the demo's reader starts at one.
        options = {"preset": "veryfast", "crf": "21", "g": str(FPS), "bf": "0"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height = scale * WIDTH, scale * HEIGHT
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for i in range(SECONDS * FPS):
            picture = _filmed(scene.draw(i / FPS), i, grain)
            if scale > 1:
                larger = cv2.resize(picture, None, fx=scale, fy=scale)
                picture = np.asarray(larger, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
            if progress is not None:
                progress((i + 1) / (SECONDS * FPS))
        container.mux(stream.encode())


def _filmed(picture_HW3: BGR, i: int, grain: tuple[BGR, BGR]) -> BGR:
    """Add what a camera adds: light that wanders, a focus that hunts now and then, and noise."""
    t = i / FPS
    gain = 1.0 + 0.05 * np.sin(2 * np.pi * t / 9.0) + 0.02 * np.sin(2 * np.pi * t / 1.7)
    blur = max(0.0, float(np.sin(2 * np.pi * t / 7.0)) - 0.7) * 3.0  # at most 0.9 pixels
    if blur > 0.0:
        cv2.GaussianBlur(picture_HW3, (0, 0), 0.3 + blur, dst=picture_HW3)
    cv2.convertScaleAbs(picture_HW3, dst=picture_HW3, alpha=float(gain))
    shift = int(np.random.default_rng(i).integers(0, WIDTH))
    brighter, darker = (np.roll(one, shift, axis=1) for one in grain)
    cv2.add(picture_HW3, brighter, dst=picture_HW3)
    cv2.subtract(picture_HW3, darker, dst=picture_HW3)
    return picture_HW3


def _grain() -> tuple[BGR, BGR]:
    """Return sensor noise of 2.5 levels, split into what is added and what is subtracted."""
    noise = np.random.default_rng(_SEED).normal(0.0, 2.5, (HEIGHT, WIDTH, 1)).round()
    noise = np.repeat(noise, 3, axis=2)
    return noise.clip(0).astype(np.uint8), (-noise).clip(0).astype(np.uint8)


@cache
def _scene() -> Scene:
    """Return the film's scene; built once, for the portraits have to be read and cut out."""
    return Scene(
        background_HW3=_lobby(),
        actors=tuple(_actor(i + 1, part) for i, part in enumerate(_PARTS)),
        counter_y=_COUNTER_Y,
    )


def _lobby() -> BGR:
    """Paint a wall with a window and two panels, and a counter, softly lit."""
    room = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    room[:] = np.linspace(205, 165, HEIGHT, dtype=np.float32)[:, None, None] * (0.92, 0.97, 1.0)
    cv2.rectangle(room, (40, 30), (180, 190), (214, 196, 168), -1)
    cv2.rectangle(room, (40, 30), (180, 190), (120, 128, 132), 4)
    cv2.line(room, (110, 30), (110, 190), (120, 128, 132), 3)
    for x in (330, 470):
        cv2.rectangle(room, (x, 46), (x + 110, 210), (150, 165, 178), -1)
        cv2.rectangle(room, (x + 6, 52), (x + 104, 204), (162, 176, 188), 2)
    room = cv2.GaussianBlur(room, (0, 0), 4.0).astype(np.float32, copy=False)
    light = np.linspace(1.06, 0.86, WIDTH, dtype=np.float32)[None, :, None]
    room *= light
    room[_COUNTER_Y:] = np.array((58, 82, 112), np.float32) * light
    room[_COUNTER_Y : _COUNTER_Y + 5] = np.array((96, 128, 160), np.float32) * light
    return room.clip(0, 255).astype(np.uint8)


def _actor(number: int, part: _Part) -> Actor:
    person = cut_out(part.portrait)
    return Actor(
        number=number,
        pose=partial(_pose, part),
        cutout=lambda t: person.bent(_at(part.mood, t)),
    )


def _pose(part: _Part, t: float) -> Pose | None:
    if not part.enters_s <= t < part.leaves_s:
        return None
    height = _at(part.height, t)
    pace = abs(_at(part.x, t + 0.1) - _at(part.x, t - 0.1)) / (0.2 * height)  # faces a second
    bob = 0.025 * height * min(1.0, pace) * np.sin(2 * np.pi * 1.8 * t)  # 1.8 steps a second
    return Pose(
        x=_at(part.x, t),
        y=float(part.y + bob),
        height=height,
        roll=float(2.5 * np.sin(2 * np.pi * t / 3.7 + part.y)),
    )


def _at(curve: _Curve, t: float) -> float:
    """Return a curve's value, with a smooth step (3u² - 2u³) between its points."""
    times, values = zip(*curve, strict=True)
    i = int(np.clip(np.searchsorted(times, t) - 1, 0, len(times) - 2))
    u = float(np.clip((t - times[i]) / (times[i + 1] - times[i]), 0.0, 1.0))
    return float(values[i] + (values[i + 1] - values[i]) * u * u * (3.0 - 2.0 * u))
