"""The colours of the labels, the same as on the live page."""

from __future__ import annotations

from typing import Final

__all__ = ["bgr", "colour"]

_LABELS: Final = {
    "neutral": "#8790a3",
    "happiness": "#e0a100",
    "surprise": "#3aa5de",
    "sadness": "#2463b8",
    "anger": "#d2541b",
    "disgust": "#14966f",
    "fear": "#c465a0",
    "contempt": "#8a68d4",
}
_OTHER: Final = "#4a5ae0"
_UNKNOWN: Final = "#c9cdd6"


def colour(label: str) -> str:
    """Return the colour of a label as ``#rrggbb``; a class of another bundle gets a common one."""
    return _UNKNOWN if label == "unknown" else _LABELS.get(label, _OTHER)


def bgr(label: str) -> tuple[int, int, int]:
    """Return the same for OpenCV: blue, green, red in 0..255."""
    digits = colour(label)[1:]
    red, green, blue = (int(digits[i : i + 2], 16) for i in (0, 2, 4))
    return blue, green, red
