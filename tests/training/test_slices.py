"""Parts of a set are scored apart, and several runs are summarised, with figures by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.errors import ConfigError
from training.data.faces import FaceSet
from training.evaluate import Measured, score
from training.seeds import summarise
from training.slices import groups_from, list_from, slices

if TYPE_CHECKING:
    from pathlib import Path


def lit(n: int) -> FaceSet:
    """Return faces of three brightnesses, a third each, of people p0, p1, ... with two faces."""
    images = np.repeat([40, 120, 220], n // 3)[:, None, None].repeat(48, 1).repeat(48, 2)
    noisy = images + np.random.default_rng(0).integers(-9, 9, images.shape)
    labels = np.arange(n) % 2
    faces = FaceSet.of(noisy.astype(np.uint8), labels.astype(np.int64), np.full(n, "test"))
    names = np.array([f"set/{i:04}.png" for i in range(n)])
    return faces.named(names, np.array([f"p{i // 2}" for i in range(n)]))


def test_dark_faces_are_scored_apart() -> None:
    """Wrong on the dark third and right elsewhere: that is what the slices say."""
    faces = lit(120)
    labels = np.arange(120) % 2
    guesses = np.where(np.arange(120) < 40, 1 - labels, labels)
    found = {
        s.part.split(" (")[0]: s for s in slices(faces, labels, guesses) if s.by == "brightness"
    }
    assert [found[k].accuracy.value for k in ("lowest third", "middle third", "highest third")] == [
        0.0,
        1.0,
        1.0,
    ]
    assert sum(s.n for s in found.values()) == 120
    assert {s.by for s in slices(faces, labels, guesses)} == {"brightness", "contrast", "sharpness"}


def test_groups_and_lists(tmp_path: Path) -> None:
    """People by a table and pictures by a list; what has fewer than 30 faces is left out."""
    faces = lit(120)
    table = tmp_path / "people.csv"
    ages = [("old" if i < 20 else "young" if i < 50 else "child") for i in range(59)]
    table.write_text("group,age\n" + "".join(f"p{i},{a}\n" for i, a in enumerate(ages)))
    turned = tmp_path / "turned.txt"
    turned.write_text("".join(f"{i:04}.jpg 3\n" for i in range(31)))
    given = groups_from(table, faces) | {"turned": list_from(turned, faces)}
    labels = np.arange(120) % 2
    guesses = np.where(np.arange(120) < 40, labels, 0)
    found = {(s.by, s.part): s for s in slices(faces, labels, guesses, given)}
    assert ("age", "child") not in found  # nine people of two faces
    assert found["age", "old"].n == 40
    assert found["age", "old"].accuracy.value == 1.0
    assert found["age", "young"].accuracy.value == 0.5
    assert found["turned", "in the list"].n == 31
    assert found["turned", "not in it"].n == 89


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("age\nold\n", "line 1: no column name or group"),
        ("group,age\n", "no column name or group, or nothing below it"),
        ("name,age\nelse.png,old\n", r"no name in it is one of the set's, such as"),
    ],
)
def test_a_table_of_others_is_refused(tmp_path: Path, content: str, message: str) -> None:
    """One line says what is missing."""
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ConfigError, match=message):
        groups_from(tmp_path / "t.csv", lit(12))


def test_a_list_of_others_is_refused(tmp_path: Path) -> None:
    """One line says whose pictures they are not."""
    (tmp_path / "l.txt").write_text("other.png\n")
    with pytest.raises(ConfigError, match=r"l\.txt: names no picture of the set"):
        list_from(tmp_path / "l.txt", lit(12))


def measured(right: int) -> list[Measured]:
    """Return the measurement of a run with so many of 10 faces right."""
    labels = np.zeros(10, np.int64)
    p = np.full((10, 2), 0.1, np.float32)
    p[np.arange(10), (np.arange(10) >= right).astype(int)] = 0.9
    s = score(p, labels, np.arange(10), ("a", "b"))
    return [Measured(dataset="x", split="test", framing="raw", scores=s, ece_before=0.0)]


def test_three_runs_by_hand() -> None:
    """0.7, 0.8, 0.9: mean 0.8, deviation 0.1, and 4.303 x 0.1 / sqrt 3 to either side."""
    accuracy = summarise([measured(7), measured(8), measured(9)])[0]
    assert (accuracy.figure, accuracy.runs) == ("accuracy", 3)
    assert accuracy.mean == pytest.approx(0.8)
    assert accuracy.deviation == pytest.approx(0.1)
    assert accuracy.high - accuracy.mean == pytest.approx(4.302653 * 0.1 / 3**0.5)
    assert [accuracy.least, accuracy.most] == pytest.approx([0.7, 0.9])
