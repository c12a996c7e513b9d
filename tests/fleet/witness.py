"""A subscriber in a process of its own that writes down what reaches it, and the sums over it.

``python tests/fleet/witness.py STREAM FILE`` writes one JSON line an event, as it comes.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from streamer.client import Subscriber

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Seen", "longest_silence_s", "overlaps", "seen", "untold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One event of a camera.

    Attributes:
        at_s: when it came, seconds since 1970.
        sent_s: when it was sent, in the same.
        camera: whose it is.
        type: of the event.
        epoch: the run of the daemon that published it.
        sequence: its number.
        missing: events of its topic that were missed just before.
    """

    at_s: float
    sent_s: float
    camera: str
    type: str
    epoch: str
    sequence: int
    missing: int


def main() -> None:
    """Write until killed."""
    address, name = sys.argv[1:]
    with Subscriber(connect=address, snapshot=None) as subscriber, open(name, "w") as file:  # noqa: PTH123
        for event in subscriber:
            camera = event.source.removeprefix("/cameras/")
            line = [
                time.time(),
                datetime.fromisoformat(event.time).timestamp(),
                camera,
                event.type,
                event.epoch,
                event.sequence,
                event.gap.missing if event.gap else 0,
            ]
            file.write(json.dumps(line) + "\n")
            file.flush()


def seen(path: Path) -> list[Seen]:
    """Return what a witness has written so far."""
    text = path.read_text()
    names = Seen.__dataclass_fields__
    return [
        Seen(**dict(zip(names, json.loads(line), strict=True)))
        for line in text[: text.rfind("\n") + 1].splitlines()
    ]


def longest_silence_s(events: list[Seen], camera: str, start_s: float, end_s: float) -> float:
    """Return the longest time within a period in which no reading of a camera came, seconds."""
    times = [e.at_s for e in events if e.camera == camera and e.type == "emotion.sample"]
    within = [start_s, *(t for t in times if start_s <= t <= end_s), end_s]
    return max(later - earlier for earlier, later in pairwise(within))


def overlaps(events: list[Seen]) -> list[str]:
    """Return every reading of a daemon that did not have the camera, by when they were sent.

    A daemon has a camera from its ``camera.online``, or from its first reading, until another one
    has it. The first may come later than the second, from the snapshot: who has had a camera
    before, however, has it back only with another ``camera.online``.
    """
    owners: dict[str, str] = {}
    past: set[tuple[str, str]] = set()
    found = []
    for event in sorted(events, key=lambda e: e.sent_s):
        if event.type not in {"camera.online", "emotion.sample"}:
            continue
        who, owner = (event.camera, event.epoch), owners.get(event.camera)
        if event.type == "emotion.sample" and owner != event.epoch and who in past:
            found.append(f"{event.camera} at {event.sent_s}: {event.epoch}, not {owner}")
        else:
            owners[event.camera] = event.epoch
            past.add(who)
    return found


def untold(events: list[Seen]) -> set[tuple[str, str]]:
    """Return camera and run of every daemon that had readings and no ``camera.online``."""
    by_type = {
        name: {(event.camera, event.epoch) for event in events if event.type == name}
        for name in ("emotion.sample", "camera.online")
    }
    return by_type["emotion.sample"] - by_type["camera.online"]


if __name__ == "__main__":
    main()
