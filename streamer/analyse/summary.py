"""The summary of each face: shares of the labels, changes, and how long labels held."""

from __future__ import annotations

import csv
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from streamer.events import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.analyse.samples import Course

__all__ = ["clock_text", "shares", "span_text", "table", "write_dwells", "write_summary"]

_FINE_BELOW_S = 60.0
_NAME_CELLS = 24
_ROWS = 24  # as many as fit on a screen beside the progress; the files have all


def shares(course: Course) -> dict[str, float]:
    """Return the share of a face's readings with each label, the most frequent first."""
    counts = Counter(course.labels_T)
    return {label: count / len(course.labels_T) for label, count in counts.most_common()}


def write_summary(path: Path, name: str, courses: Sequence[Course], classes: Sequence[str]) -> None:
    """Write one row a face.

    ``share_`` columns are shares of its readings by their label and sum to 1; ``mean_`` columns are
    mean probabilities, empty where it was never read; ``longest_`` is the spell that held longest.

    Raises:
        OSError: if it cannot be written.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["recording", "face", "from_s", "to_s", "duration_s", "readings", "height_px", "label"]
            + [f"share_{name}" for name in (*classes, UNKNOWN)]
            + [f"mean_{name}" for name in classes]
            + ["changes", "mean_dwell_s", "longest_dwell_s", "longest_label"]
        )
        writer.writerows([name, *_row(course, classes)] for course in courses)


def write_dwells(path: Path, name: str, courses: Sequence[Course]) -> None:
    """Write one row for each label that held, by face and time.

    Raises:
        OSError: if it cannot be written.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["recording", "face", "label", "from_s", "to_s", "dwell_s"])
        for course in courses:
            for spell in course.spells:
                times = (round(t, 4) for t in (spell.from_s, spell.to_s, spell.dwell_s))
                writer.writerow([name, course.face, spell.label, *times])


def table(found: Sequence[tuple[str, Course]]) -> Table:
    """Lay out the summary of faces for a terminal: the longest seen, in their order."""
    kept = sorted(found, key=lambda item: float(item[1].time_s_T[0] - item[1].time_s_T[-1]))
    shown = {id(course) for _, course in kept[:_ROWS]}
    caption = f"{len(found) - _ROWS} more in summary.csv" if len(found) > _ROWS else None
    view = Table(
        title="Faces", caption=caption, title_justify="left", header_style="bold", box=SIMPLE_HEAD
    )
    view.add_column("recording", no_wrap=True, max_width=_NAME_CELLS)
    view.add_column("face", justify="right")
    view.add_column("seen", justify="right", no_wrap=True)
    view.add_column("labels")
    view.add_column("changes", justify="right")
    for name, course in found:
        if id(course) in shown:
            top = [f"{label} {share:.0%}" for label, share in shares(course).items()][:3]
            view.add_row(
                name,
                str(course.face),
                span_text(course),
                " · ".join(top),
                str(course.changes),
            )
    return view


def span_text(course: Course) -> str:
    """Write when a face was seen: seconds with a decimal where whole ones would hide it."""
    first_s, last_s = float(course.time_s_T[0]), float(course.time_s_T[-1])
    if last_s < _FINE_BELOW_S:
        return f"{first_s:.1f}–{last_s:.1f} s"
    return f"{clock_text(first_s)}–{clock_text(last_s)}"


def clock_text(seconds: float) -> str:
    """Write a position in a recording as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _row(course: Course, classes: Sequence[str]) -> list[object]:
    by_label = shares(course)
    read = course.probabilities_TK[~np.isnan(course.probabilities_TK[:, 0])]
    means = (
        [round(float(mean), 5) for mean in read.mean(axis=0)] if len(read) else [""] * len(classes)
    )
    from_s, to_s = float(course.time_s_T[0]), float(course.time_s_T[-1])
    heights = course.boxes_T4[:, 3] - course.boxes_T4[:, 1]
    dwells = [spell.dwell_s for spell in course.spells]
    longest = max(course.spells, key=lambda spell: spell.dwell_s)
    return [
        course.face,
        from_s,
        to_s,
        round(to_s - from_s, 4),
        len(course.labels_T),
        round(float(np.median(heights)), 1),
        next(iter(by_label)),
        *(round(by_label.get(name, 0.0), 5) for name in (*classes, UNKNOWN)),
        *means,
        course.changes,
        round(float(np.mean(dwells)), 4),
        round(longest.dwell_s, 4),
        longest.label,
    ]
