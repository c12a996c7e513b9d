"""How well a model reads parts of a set: small faces, dark ones, turned ones, groups of people.

A part with fewer than 30 faces says nothing and is left out.

Legend: N faces, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError
from training.data.coverage import properties
from training.data.faces import CLASSES
from training.data.table import rows_of
from training.evaluate import Interval, intervals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.types import I64
    from training.data.faces import FaceSet

__all__ = ["LEAST", "Slice", "groups_from", "list_from", "slices"]

LEAST = 30
"""Faces under which an interval is wider than any difference worth knowing."""
_SIGNED = ("roll", "turn")  # to either side; their size is what matters
_THIRDS = ("lowest third", "middle third", "highest third")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One part of a set.

    Attributes:
        by: what it was divided by.
        part: which part it is.
        n: faces.
        accuracy, uar, macro_f1: over the classes that occur in it, drawn over groups.
    """

    by: str
    part: str
    n: int
    accuracy: Interval
    uar: Interval
    macro_f1: Interval


def slices(
    faces: FaceSet,
    labels_N: I64,
    guesses_N: I64,
    given: dict[str, NDArray[np.str_]] | None = None,
) -> list[Slice]:
    """Score every part of a set that has enough faces.

    Args:
        faces: any set.
        labels_N: true class indices.
        guesses_N: what was said.
        given: further divisions: a name, and for each face its part; "" is no part.
    """
    parts = [*_thirds(faces)]
    for by, part_N in (given or {}).items():
        parts += [(by, str(p), part_N == p) for p in np.unique(part_N) if p]
    out = []
    for by, part, rows in parts:
        if int(rows.sum()) >= LEAST:
            found = intervals(labels_N[rows], guesses_N[rows], faces.group_N[rows], len(CLASSES))
            out.append(Slice(by=by, part=part, n=int(rows.sum()), **found))
    return out


def groups_from(table: Path, faces: FaceSet) -> dict[str, NDArray[np.str_]]:
    """Read what is known of people or pictures, such as their age group.

    Args:
        table: a CSV with a column ``name`` (of a picture) or ``group`` (of a person), and one a
            division.
        faces: whose parts are wanted.

    Returns:
        A division a column, "" where a face is not in the table.

    Raises:
        ConfigError: naming file and line, when it is no such table or names no face of the set.
    """
    rows = [row for _, row in rows_of(table, ())]
    key = next((k for k in ("name", "group") if rows and k in rows[0]), None)
    if key is None:
        raise ConfigError(f"{table}: line 1: no column name or group, or nothing below it")
    own = faces.name_N if key == "name" else faces.group_N
    of = {row[key]: row for row in rows}
    if not any(str(v) in of for v in own):
        raise ConfigError(f"{table}: no {key} in it is one of the set's, such as {own[0]!r}")
    columns = [c for c in rows[0] if c != key]
    return {
        c: np.array([(of.get(str(v), {}).get(c) or "").strip() for v in own], np.str_)
        for c in columns
    }


def list_from(path: Path, faces: FaceSet) -> NDArray[np.str_]:
    """Read a list of pictures, such as the published lists of turned faces.

    Args:
        path: a picture's name at the beginning of each line, with or without its folder and end.
        faces: whose parts are wanted.

    Returns:
        "in the list" or "not in it", for each face.

    Raises:
        ConfigError: when it cannot be read or names no picture of the set.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable list: {error}") from None
    listed = {_stem(line.split()[0]) for line in lines if line.strip()}
    inside = np.array([_stem(str(name)) in listed for name in faces.name_N])
    if not inside.any():
        raise ConfigError(f"{path}: names no picture of the set, such as {faces.name_N[0]!r}")
    return np.where(inside, "in the list", "not in it")


def _stem(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] or name


def _thirds(faces: FaceSet) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    for by, signed in properties(faces).items():
        values = np.abs(signed) if by in _SIGNED else signed
        known = np.isfinite(values)
        if known.sum() < len(_THIRDS) * LEAST:
            continue
        low, high = np.percentile(values[known], [100 / 3, 200 / 3])
        with np.errstate(invalid="ignore"):
            masks = (values <= low, (values > low) & (values <= high), values > high)
        bounds = (f"up to {low:.3g}", f"{low:.3g} to {high:.3g}", f"over {high:.3g}")
        for third, bound, mask in zip(_THIRDS, bounds, masks, strict=True):
            yield by, f"{third} ({bound})", mask
        if not known.all():
            yield by, "not known", ~known
