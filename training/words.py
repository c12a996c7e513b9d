"""Figures in words, for a person who waits."""

from __future__ import annotations

__all__ = ["duration"]

_HOUR_MIN = 60
_SHORT_S = 100.0  # under it seconds say more than minutes


def duration(seconds: float) -> str:
    """Return a time in words: ``1 h 05 min``, ``12 min`` or ``40 s``."""
    minutes = round(seconds / 60.0)
    if minutes >= _HOUR_MIN:
        return f"{minutes // _HOUR_MIN} h {minutes % _HOUR_MIN:02d} min"
    return f"{minutes} min" if seconds >= _SHORT_S else f"{seconds:.0f} s"
