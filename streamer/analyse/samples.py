"""Every reading of a recording as one table, and the course of each face in it.

Legend: T readings of one face, K classes.
"""

from __future__ import annotations

import csv
import math
from array import array
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigError
from streamer.events import UNKNOWN, EmotionChanged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.events import Event
    from streamer.lane import Reading
    from streamer.types import I64, Frame

__all__ = ["Course", "Samples", "Spell", "require_parquet"]

F64 = NDArray[np.float64]
_TIME_DIGITS = 4  # a tenth of a millisecond; containers write milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """A label that held.

    Attributes:
        label: it.
        from_s: when it was announced, or the face was first seen; seconds into the recording.
        to_s: when the next was announced, or the face was last seen.
    """

    label: str
    from_s: float
    to_s: float

    @property
    def dwell_s(self) -> float:
        """How long it held, seconds."""
        return self.to_s - self.from_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One face over time.

    Attributes:
        face: its track.
        time_s_T: float64, seconds into the recording, ascending.
        frames_T: number of the picture, int64, from 1.
        boxes_T4: float64, xyxy in pixels.
        probabilities_TK: float64; a row of NaN where the face was too small to be read.
        classes: names of the classes.
        labels_T: of each reading.
        spells: the labels that held, one after the other without a gap.
    """

    face: int
    classes: tuple[str, ...]
    time_s_T: F64
    frames_T: I64
    boxes_T4: F64
    probabilities_TK: F64
    labels_T: tuple[str, ...]
    spells: tuple[Spell, ...]

    @property
    def changes(self) -> int:
        """How often the label changed; that the first one is found is no change."""
        labels = [spell.label for spell in self.spells]
        return len(labels) - 1 - (labels[0] == UNKNOWN and len(labels) > 1)

    def label_at(self, time_s: float) -> str:
        """Return the label that held at a time."""
        row = bisect_right(self.spells, time_s, key=lambda spell: spell.from_s) - 1
        return self.spells[max(row, 0)].label

    def shares_at(self, row: int) -> list[tuple[str, float]]:
        """Return the probability of each class in one reading; nothing where it was not read."""
        probabilities = self.probabilities_TK[row].tolist()
        if math.isnan(probabilities[0]):
            return []
        return list(zip(self.classes, probabilities, strict=True))


class Samples:
    """Collects readings; a ``streamer.pipeline.Viewer``, and takes the changes of labels.

    Args:
        classes: names of the classes, in the order of the network's outputs.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._names = (*self.classes, UNKNOWN)
        self._index = {name: index for index, name in enumerate(self._names)}
        self._time_s = array("d")
        self._frame = array("q")
        self._face = array("q")
        self._box = array("d")
        self._label = array("B")
        self._probability = array("d")
        self._changes: dict[int, list[tuple[float, str]]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._face)

    def offer(self, frame: Frame, readings: Sequence[Reading]) -> None:
        """Take the readings of one analysed picture."""
        for reading in readings:
            self._time_s.append(round(frame.media_s, _TIME_DIGITS))
            self._frame.append(frame.seq)
            self._face.append(reading.track)
            self._box.extend(reading.box)
            self._label.append(self._index[reading.label])
            self._probability.extend(
                reading.probabilities.get(name, math.nan) for name in self.classes
            )

    def changed(self, event: Event, media_s: float) -> None:
        """Take note of an event of this media time, seconds, if it is a change of a label."""
        if isinstance(event.data, EmotionChanged):
            when_s = round(media_s, _TIME_DIGITS)
            self._changes[event.data.track].append((when_s, event.data.label))

    def courses(self) -> list[Course]:
        """Return the course of each face, in the order of their numbers."""
        face, boxes, probabilities = self._arrays()
        time_s, frame = np.array(self._time_s), np.array(self._frame, np.int64)
        found = []
        for number in sorted(set(self._face)):
            rows = np.flatnonzero(face == number)
            times_s = time_s[rows]
            found.append(
                Course(
                    face=number,
                    classes=self.classes,
                    time_s_T=times_s,
                    frames_T=frame[rows],
                    boxes_T4=boxes[rows],
                    probabilities_TK=probabilities[rows],
                    labels_T=tuple(self._names[self._label[row]] for row in rows),
                    spells=_spells(self._changes.get(number, []), times_s[0], times_s[-1]),
                )
            )
        return found

    def write_csv(self, path: Path) -> None:
        """Write one row a reading; what was not read is empty.

        Raises:
            OSError: if it cannot be written.
        """
        _, boxes, probabilities = self._arrays()
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self._columns())
            for row in range(len(self)):
                values = probabilities[row].tolist()
                read = not math.isnan(values[0])
                writer.writerow(
                    [
                        self._time_s[row],
                        self._frame[row],
                        self._face[row],
                        *boxes[row].tolist(),
                        self._names[self._label[row]],
                        max(values) if read else "",
                        *(values if read else [""] * len(values)),
                    ]
                )

    def write_parquet(self, path: Path) -> None:
        """Write the same table as Parquet; what was not read is null.

        Raises:
            ConfigError: if pyarrow is not installed.
            OSError: if it cannot be written.
        """
        require_parquet()
        import pyarrow as pa  # noqa: PLC0415 30 MB that only this needs
        import pyarrow.parquet as pq  # noqa: PLC0415

        _, boxes, probabilities = self._arrays()
        best = probabilities.max(axis=1, initial=-np.inf)
        columns = [
            pa.array(np.array(self._time_s)),
            pa.array(np.array(self._frame, np.int64)),
            pa.array(np.array(self._face, np.int64)),
            *(pa.array(np.ascontiguousarray(boxes[:, i])) for i in range(4)),
            pa.array([self._names[index] for index in self._label], pa.string()),
            pa.array(best, from_pandas=True),
            *(
                pa.array(np.ascontiguousarray(probabilities[:, i]), from_pandas=True)
                for i in range(len(self.classes))
            ),
        ]
        pq.write_table(pa.table(columns, names=list(self._columns())), path, compression="zstd")

    def _columns(self) -> tuple[str, ...]:
        return (
            "time_s",
            "frame",
            "face",
            "x1",
            "y1",
            "x2",
            "y2",
            "label",
            "confidence",
            *tuple(f"p_{name}" for name in self.classes),
        )

    def _arrays(self) -> tuple[I64, F64, F64]:
        """Faces (N,), boxes (N, 4) and probabilities (N, K) of all rows."""
        return (
            np.array(self._face, np.int64),
            np.array(self._box, np.float64).reshape(-1, 4),
            np.array(self._probability, np.float64).reshape(-1, len(self.classes)),
        )


def require_parquet() -> None:
    """Say at the start what a long run would find missing at its end.

    Raises:
        ConfigError: if pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigError(
            "--parquet needs pyarrow; run: pip install 'emotion-streamer[analyse]'"
        ) from None


def _spells(
    changes: Sequence[tuple[float, str]], first_s: float, last_s: float
) -> tuple[Spell, ...]:
    starts = [(float(first_s), UNKNOWN), *changes]
    ends_s = [when_s for when_s, _ in changes] + [float(last_s)]
    spells = [
        Spell(label=label, from_s=from_s, to_s=to_s)
        for (from_s, label), to_s in zip(starts, ends_s, strict=True)
    ]
    return tuple(spell for spell in spells if spell.dwell_s > 0) or (spells[-1],)
