"""Prints what a publisher says, for a person at a terminal or as JSON lines for a pipe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rich.text import Text

from streamer.events import (
    UNKNOWN,
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    DaemonStopping,
    EmotionChanged,
    EmotionSample,
    EventData,
    FaceAppeared,
    FaceLost,
    TrackData,
)

if TYPE_CHECKING:
    from rich.console import Console

    from streamer.client import Received, Subscriber

__all__ = ["clean", "describe", "style_of", "watch"]

_SILENCE_S = 5.0  # a person begins to wonder
_BAR_CELLS = 10
_STYLES = {
    "neutral": "white",
    "happiness": "green",
    "surprise": "cyan",
    "sadness": "blue",
    "anger": "red",
    "disgust": "magenta",
    "fear": "yellow",
    "contempt": "bright_magenta",
    UNKNOWN: "dim",
}


def watch(subscriber: Subscriber, *, console: Console, notes: Console, json: bool) -> int:
    """Print events until interrupted or until the reader of a pipe has gone.

    Args:
        subscriber: where the events come from.
        console: gets one line an event.
        notes: gets what is said about the events: gaps and silence; usually stderr.
        json: print each event as the JSON that came, instead of a line for a person.

    Returns:
        The exit code, 0: both ends are ordinary.
    """
    silent = False
    try:
        while True:
            event = subscriber.receive(_SILENCE_S)
            if event is None:
                if not silent:
                    notes.print(Text(_silence(subscriber), style="dim"), soft_wrap=True)
                silent = True
                continue
            silent = False
            if event.gap is not None:
                notes.print(_gap(event), soft_wrap=True)
            _write(console, event.raw.decode() + "\n" if json else _line(console, event))
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        _discard_output(console)
        return 0


def describe(event: Received) -> Text:
    """Return one line about an event: when, where, what."""
    data = event.data
    line = Text()
    line.append(clean(event.time[11:23]), style="dim")
    camera = data.camera if isinstance(data, (TrackData, CameraOnline, CameraOffline)) else ""
    track = f" #{data.track}" if isinstance(data, TrackData) else ""
    line.append(f"  {clean(camera) + track:<14}  ", style="bold")
    line.append(f"{clean(event.type):<15}  ")
    line.append_text(_what(data))
    return line


def clean(text: str) -> str:
    """Take out what could move the cursor or change the terminal: the text came over a network."""
    return "".join(character if character.isprintable() else "�" for character in text)


def style_of(label: str) -> str:
    """Return the style in which a terminal shows an expression."""
    return _STYLES.get(label.strip(), "bold")


def _what(data: EventData | dict[str, Any]) -> Text:  # noqa: PLR0911 one line for each type
    match data:
        case EmotionChanged():
            arrow = Text.assemble(_label(data.previous), " → ", _label(data.label))
            return arrow.append(f"  {data.confidence:.0%}")
        case EmotionSample():
            return _reading(data.label, data.confidence).append(f"  {data.latency_ms:.0f} ms")
        case FaceLost():
            mean = _reading(data.label, data.confidence)
            return mean.append(f"  {data.duration_s:.1f} s, {data.samples} samples")
        case FaceAppeared():
            x1, y1, x2, y2 = data.box
            return Text(f"{x2 - x1:.0f} × {y2 - y1:.0f} px")
        case CameraOnline():
            return Text(f"{clean(data.reason)}, {data.width} × {data.height}", style="green")
        case CameraOffline():
            return Text(clean(f"{data.reason} {data.detail}").strip(), style="red")
        case DaemonStarted():
            return Text(clean(f"{data.bundle}, {data.engine}, {len(data.cameras)} cameras"))
        case DaemonStopping():
            return Text(clean(data.reason), style="yellow")
        case _:
            return Text(clean(str(data)), style="dim")


def _reading(label: str, confidence: float) -> Text:
    filled = max(0, min(_BAR_CELLS, round(confidence * _BAR_CELLS)))
    bar = "█" * filled + "░" * (_BAR_CELLS - filled)
    text = _label(f"{label:<10}")
    return text.append(f" {bar} ", style=text.style).append(f"{confidence:4.0%}")


def _label(label: str) -> Text:
    return Text(clean(label), style=style_of(label))


def _gap(event: Received) -> Text:
    gap = event.gap
    if gap is None:
        return Text()
    restarted = "publisher restarted; " if gap.epoch_changed else ""
    return Text(f"gap: {restarted}missed {gap.missing} of {clean(gap.topic)}", style="yellow")


def _silence(subscriber: Subscriber) -> str:
    if subscriber.connected:
        return f"nothing sent by {subscriber.address} for {_SILENCE_S:g} s; still listening"
    if subscriber.refused:
        return f"{subscriber.address} refuses the connection: check the keys; still trying"
    return f"no publisher at {subscriber.address} yet; still trying"


def _line(console: Console, event: Received) -> str:
    with console.capture() as capture:
        console.print(describe(event), soft_wrap=True)
    return capture.get()


def _write(console: Console, line: str) -> None:
    console.file.write(line)
    console.file.flush()


def _discard_output(console: Console) -> None:
    """Let the interpreter flush its output at exit without failing once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, console.file.fileno())
    os.close(nowhere)
