"""An event as one row of a table: what is asked for often has a column, nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.client import Received

__all__ = ["COLUMNS", "Kind", "Row", "row_of"]

Kind = Literal["text", "integer", "real"]
Row = tuple[str | int | float | None, ...]
"""The values of one event in the order of ``COLUMNS``."""

COLUMNS: Final[dict[str, Kind]] = {
    "id": "text",  # unique over all daemons and restarts
    "epoch": "text",
    "topic": "text",
    "sequence": "integer",
    "missed": "integer",  # events of this topic that were sent just before and never arrived
    "type": "text",
    "time": "text",  # RFC 3339 UTC with six digits: sorts as text
    "camera": "text",
    "track": "integer",
    "captured_at": "text",
    "clock": "text",
    "latency_ms": "real",
    "frame_seq": "integer",
    "frame_width": "integer",  # pixels
    "frame_height": "integer",
    "x1": "real",  # the box, pixels of the original frame
    "y1": "real",
    "x2": "real",
    "y2": "real",
    "label": "text",
    "previous": "text",
    "confidence": "real",
    "duration_s": "real",
    "samples": "integer",
    "reason": "text",
    "bundle": "text",
    "probabilities": "text",  # JSON object: class -> probability; of face.lost: the mean
    "rest": "text",  # JSON object of the fields that have no column
}
"""Name and kind of each column; from ``camera`` on, null where a type has no such field."""

_SIMPLE: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(
        ("camera", "captured_at", "clock", "label", "previous", "reason", "bundle"), (str,)
    ),
    **dict.fromkeys(("track", "samples"), (int,)),
    **dict.fromkeys(("latency_ms", "confidence", "duration_s"), (float, int)),
}
"""Fields of the data that are columns as they are, and the types that fit."""
_CORNERS: Final = ("x1", "y1", "x2", "y2")
_FRAME: Final = ("seq", "width", "height")
_PROBABILITIES: Final = ("probabilities", "mean_probabilities")
_INTEGER_BITS: Final = 63  # what a column of integers can hold, in SQLite and in Parquet

_json: Callable[[Any], bytes] = msgspec.json.encode


def row_of(event: Received) -> Row:
    """Flatten an event.

    A field of a newer publisher, or one of another type than its column, goes into ``rest``.
    """
    data: dict[str, Any] = dict(msgspec.to_builtins(event.data))
    values: dict[str, Any] = {
        "id": event.id,
        "epoch": event.epoch,
        "topic": event.topic,
        "sequence": _bounded(event.sequence),
        "missed": _bounded(event.gap.missing) if event.gap is not None else 0,
        "type": event.type,
        "time": event.time,
    }
    for name, types in _SIMPLE.items():
        if name in data and _fits(data[name], types):
            values[name] = data.pop(name)
    box = data.get("box")
    if _all_fit(box, len(_CORNERS), (float, int)):
        values.update(zip(_CORNERS, data.pop("box"), strict=True))
    frame = data.get("frame")
    if isinstance(frame, dict) and set(frame) == set(_FRAME):
        numbers = [frame[name] for name in _FRAME]
        if _all_fit(numbers, len(_FRAME), (int,)):
            del data["frame"]
            values.update(zip((f"frame_{name}" for name in _FRAME), numbers, strict=True))
    for name in _PROBABILITIES:
        if name in data and "probabilities" not in values:
            values["probabilities"] = _json(data.pop(name)).decode()
    if data:
        values["rest"] = _json(data).decode()
    return tuple(values.get(name) for name in COLUMNS)


def _bounded(value: int) -> int | None:
    """Return a number of the envelope, None where only a garbage speaker can have made it."""
    return value if _fits(value, (int,)) else None


def _fits(value: object, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool) or not isinstance(value, types):
        return False
    return not isinstance(value, int) or value.bit_length() <= _INTEGER_BITS


def _all_fit(values: object, count: int, types: tuple[type, ...]) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(_fits(value, types) for value in values)
    )
