"""A run's log: a line of JSON an epoch, the last of which a crash may have cut off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_log"]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a run's log, or nothing where there is none."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = (_parsed(line) for line in lines)
    return [line for line in found if isinstance(line, dict) and "epoch" in line]


def _parsed(line: str) -> object:
    for start in (0, line.rfind('{"')):  # the second: what was written after a line's torn piece
        try:
            return json.loads(line[start:])
        except ValueError:
            continue
    return None
