"""The table of readings, the course of each face, and their summary."""

from __future__ import annotations

import csv
import math
import sys
from typing import TYPE_CHECKING

import cv2
import pyarrow.parquet as pq
import pytest

from streamer.analyse import plot
from streamer.analyse.palette import bgr
from streamer.analyse.samples import Samples, Spell, require_parquet
from streamer.analyse.summary import clock_text, shares, write_dwells, write_summary
from streamer.errors import ConfigError
from streamer.events import EmotionChanged, Event, FrameInfo
from streamer.lane import Reading
from tests.fakes import frame_of

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("neutral", "happiness")
BOX = (10.0, 20.0, 50.5, 64.0)


def reading(track: int, label: str, happiness: float | None) -> Reading:
    """Make a reading; None: the face was too small to be read."""
    probabilities = {} if happiness is None else {"neutral": 1 - happiness, "happiness": happiness}
    return Reading(track=track, box=BOX, label=label, probabilities=probabilities)


def change(track: int, previous: str, label: str) -> Event:
    """Make the event that a label changed."""
    return Event(
        data=EmotionChanged(
            camera="a",
            track=track,
            box=BOX,
            frame=FrameInfo(seq=1, width=320, height=240),
            captured_at="",
            clock="pts",
            label=label,
            confidence=0.9,
            probabilities={},
            bundle="",
            previous=previous,
        )
    )


@pytest.fixture
def samples() -> Samples:
    """Two faces over half a second: one turns happy at 0.2 s, the other is seen once, too small."""
    table = Samples(CLASSES)
    table.offer(frame_of("a", 1), [reading(1, "neutral", 0.25)])
    table.changed(change(1, "unknown", "neutral"), 0.1)
    table.offer(frame_of("a", 2), [reading(1, "happiness", 0.75), reading(2, "unknown", None)])
    table.changed(change(1, "neutral", "happiness"), 0.2)
    table.offer(frame_of("a", 3), [])
    table.offer(frame_of("a", 5), [reading(1, "happiness", 1.0)])
    return table


def test_the_csv_has_one_row_a_reading(samples: Samples, tmp_path: Path) -> None:
    """What was not read is empty, never zero."""
    samples.write_csv(tmp_path / "samples.csv")
    with (tmp_path / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["time_s"], r["frame"], r["face"], r["label"]) for r in rows] == [
        ("0.1", "1", "1", "neutral"),
        ("0.2", "2", "1", "happiness"),
        ("0.2", "2", "2", "unknown"),
        ("0.5", "5", "1", "happiness"),
    ]
    assert [rows[0][x] for x in ("x1", "y1", "x2", "y2")] == ["10.0", "20.0", "50.5", "64.0"]
    assert (rows[0]["confidence"], rows[0]["p_happiness"]) == ("0.75", "0.25")
    assert rows[2]["confidence"] == rows[2]["p_neutral"] == rows[2]["p_happiness"] == ""


def test_parquet_holds_the_same_table(samples: Samples, tmp_path: Path) -> None:
    """Read back by the library itself, row for row; what was not read is null."""
    samples.write_csv(tmp_path / "samples.csv")
    samples.write_parquet(tmp_path / "samples.parquet")
    table = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    with (tmp_path / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(table) == len(rows) == 4
    for ours, theirs in zip(table, rows, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            if key == "label":
                assert value == theirs[key]
            else:
                assert value == (float(theirs[key]) if theirs[key] else None)


def test_an_empty_recording_gives_empty_tables(tmp_path: Path) -> None:
    """Only the header: a recording without a face is no error."""
    samples = Samples(CLASSES)
    samples.write_csv(tmp_path / "samples.csv")
    samples.write_parquet(tmp_path / "samples.parquet")
    write_summary(tmp_path / "summary.csv", "empty", samples.courses(), CLASSES)
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 1
    assert pq.read_table(tmp_path / "samples.parquet").num_rows == 0
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 1


def test_courses_follow_each_face(samples: Samples) -> None:
    """Times, labels and the spells between the changes; a spell of no length is left out."""
    first, second = samples.courses()
    assert first.time_s_T.tolist() == [0.1, 0.2, 0.5]
    assert first.frames_T.tolist() == [1, 2, 5]
    assert first.labels_T == ("neutral", "happiness", "happiness")
    assert first.spells == (
        Spell(label="neutral", from_s=0.1, to_s=0.2),
        Spell(label="happiness", from_s=0.2, to_s=0.5),
    )
    assert first.changes == 1
    assert (first.label_at(0.15), first.label_at(0.2), first.label_at(9.0)) == (
        "neutral",
        "happiness",
        "happiness",
    )
    assert first.shares_at(0) == [("neutral", 0.75), ("happiness", 0.25)]
    assert second.spells == (Spell(label="unknown", from_s=0.2, to_s=0.2),)
    assert second.shares_at(0) == []


def test_finding_the_first_label_is_no_change() -> None:
    """From ``unknown`` to the first label nobody's face has changed."""
    samples = Samples(CLASSES)
    samples.offer(frame_of("a", 1), [reading(1, "neutral", 0.4)])
    samples.changed(change(1, "unknown", "neutral"), 0.6)
    samples.offer(frame_of("a", 9), [reading(1, "neutral", 0.4)])
    (course,) = samples.courses()
    assert [spell.label for spell in course.spells] == ["unknown", "neutral"]
    assert course.changes == 0


def test_the_summary_by_hand(samples: Samples, tmp_path: Path) -> None:
    """Face 1: a third neutral, mean happiness (0.25 + 0.75 + 1) / 3, happy for 0.3 s at most."""
    courses = samples.courses()
    assert shares(courses[0]) == pytest.approx({"happiness": 2 / 3, "neutral": 1 / 3})
    write_summary(tmp_path / "summary.csv", "clip", courses, CLASSES)
    write_dwells(tmp_path / "dwells.csv", "clip", courses)
    with (tmp_path / "summary.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(first["share_neutral"]) == pytest.approx(1 / 3, abs=1e-5)
    assert float(first["mean_happiness"]) == pytest.approx(2 / 3, abs=1e-5)
    assert (first["label"], first["changes"], first["longest_label"]) == (
        "happiness",
        "1",
        "happiness",
    )
    assert float(first["longest_dwell_s"]) == pytest.approx(0.3)
    assert float(first["mean_dwell_s"]) == pytest.approx(0.2)
    assert (second["share_unknown"], second["mean_neutral"], second["height_px"]) == (
        "1.0",
        "",
        "44.0",
    )
    assert (tmp_path / "dwells.csv").read_text().splitlines()[1:] == [
        "clip,1,neutral,0.1,0.2,0.1",
        "clip,1,happiness,0.2,0.5,0.3",
        "clip,2,unknown,0.2,0.2,0.0",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")]
)
def test_positions_as_people_write_them(seconds: float, text: str) -> None:
    """Minutes and seconds, with hours only where there are any."""
    assert clock_text(seconds) == text


def test_a_plot_names_what_it_shows(samples: Samples, tmp_path: Path) -> None:
    """The SVG's text has the title, the classes and their means; the PNG is a picture."""
    course = samples.courses()[0]
    paths = (tmp_path / "timeline.svg", tmp_path / "timeline.png")
    plot.plot(course, CLASSES, "clip.mp4 — face 1", paths)
    text = paths[0].read_text()
    for part in ("clip.mp4 — face 1", "happiness", "67%", "neutral", "33%", "changed once"):
        assert part in text
    assert paths[1].read_bytes()[:4] == b"\x89PNG"


def test_a_plot_of_a_face_never_read(samples: Samples, tmp_path: Path) -> None:
    """One reading, too small: a plot without areas, not an error."""
    course = samples.courses()[1]
    assert math.isnan(course.probabilities_TK[0, 0])
    plot.plot(course, CLASSES, "clip.mp4 — face 2", (tmp_path / "timeline.svg",))
    assert "happiness" not in (tmp_path / "timeline.svg").read_text()


def test_a_reading_without_neighbours_is_drawn(tmp_path: Path) -> None:
    """Seen for one picture, nine seconds after the others: an area of its own, not nothing."""
    samples = Samples(CLASSES)
    for seq in (1, 2, 3, 90):
        samples.offer(frame_of("a", seq), [reading(1, "happiness", 0.9)])
    plot.plot(samples.courses()[0], CLASSES, "clip", (tmp_path / "timeline.png",))
    picture = cv2.imread(str(tmp_path / "timeline.png"))
    assert picture is not None
    right_edge_px = int(0.85 * picture.shape[1])
    middle_px = picture.shape[0] // 2
    assert tuple(picture[middle_px, right_edge_px - 4].tolist()) == bgr("happiness")
    assert tuple(picture[middle_px, right_edge_px - 40].tolist()) != bgr("happiness")


def test_the_same_plot_has_the_same_bytes(samples: Samples, tmp_path: Path) -> None:
    """So that results can be compared and kept under version control."""
    for name in ("a.svg", "b.svg"):
        plot.plot(samples.courses()[0], CLASSES, "clip", (tmp_path / name,))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("module", "require"), [("matplotlib", plot.require), ("pyarrow.parquet", require_parquet)]
)
def test_a_missing_library_is_one_line_that_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, module: str, require: object
) -> None:
    """Asked for at the start, not after hours."""
    monkeypatch.setitem(sys.modules, module, None)
    assert callable(require)
    with pytest.raises(ConfigError, match=r"pip install 'emotion-streamer\[analyse\]'"):
        require()
