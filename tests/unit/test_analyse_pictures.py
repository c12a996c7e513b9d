"""What is drawn for a person: thumbnails, boxes, signs, in colours that mean labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer.analyse.drawing import chip, frame_face
from streamer.analyse.palette import bgr, colour
from streamer.analyse.samples import Samples
from streamer.analyse.thumbnails import ThumbnailSheet
from streamer.lane import Reading
from tests.fakes import frame_of

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.types import BGR, Frame

CLASSES = ("neutral", "happiness")


class Plain:
    """A picture of one colour."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.asked = 0

    def bgr(self) -> BGR:
        """Return it, and remember that somebody asked."""
        self.asked += 1
        return np.full((240, 320, 3), self.level, np.uint8)


def frames(count: int) -> list[Frame]:
    """Make frames that become brighter."""
    return [replace(frame_of("a", seq), picture=Plain(2 * seq)) for seq in range(1, count + 1)]


def test_a_sheet_shows_each_face_over_its_time(tmp_path: Path) -> None:
    """Eight pictures from the first reading to the last; only those are converted to colour."""
    samples = Samples(CLASSES)
    film = frames(100)
    for frame in film[9:80]:
        probabilities = {"neutral": 0.2, "happiness": 0.8}
        samples.offer(
            frame,
            [
                Reading(
                    track=1, box=(100, 60, 180, 160), label="happiness", probabilities=probabilities
                )
            ],
        )
    sheet = ThumbnailSheet(samples.courses())
    for frame in film:
        sheet.take(frame)
    sheet.write(tmp_path / "sheet.jpg")
    assert sum(f.picture.asked for f in film if isinstance(f.picture, Plain)) == 8
    picture = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert picture is not None
    centres = [int(picture[40 + 66, 10 + 66 + column * 142, 0]) for column in range(8)]
    wanted = [2 * (10 + round(step * 10)) for step in range(8)]
    assert np.allclose(centres, wanted, atol=3)


def test_a_face_at_the_edge_is_shown_with_what_there_is(tmp_path: Path) -> None:
    """Beyond the picture's edge the thumbnail is light grey."""
    samples = Samples(CLASSES)
    film = frames(3)
    reading = Reading(track=1, box=(-40, -40, 40, 40), label="unknown", probabilities={})
    samples.offer(film[2], [reading])
    sheet = ThumbnailSheet(samples.courses())
    sheet.take(film[2])
    sheet.write(tmp_path / "sheet.jpg")
    picture = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert picture is not None
    assert abs(int(picture[40 + 20, 10 + 20, 0]) - 236) < 4
    assert abs(int(picture[40 + 110, 10 + 110, 0]) - 6) < 4


def test_without_a_face_there_is_no_sheet(tmp_path: Path) -> None:
    """Nothing to show is no error."""
    ThumbnailSheet([]).write(tmp_path / "sheet.jpg")
    assert not list(tmp_path.iterdir())


def test_a_box_is_drawn_in_the_labels_colour() -> None:
    """Its edge, the sign above it, and under it a bar that is split as the probabilities are."""
    picture = np.zeros((360, 640, 3), np.uint8)
    shares = [("neutral", 0.25), ("happiness", 0.75)]
    frame_face(picture, (200, 100, 300, 200), label="happiness", text="1", shares=shares)
    assert tuple(picture[150, 200].tolist()) == bgr("happiness")
    sign = chip("1", "happiness", 13)
    assert picture[98 - sign.shape[0] + 1, 200].tolist() == sign[1, 1].tolist()
    assert tuple(picture[205, 210].tolist()) == bgr("neutral")
    assert tuple(picture[205, 290].tolist()) == bgr("happiness")


def test_boxes_beyond_the_picture_do_no_harm() -> None:
    """A face half out on each side, and one wholly out, are drawn as far as there is picture."""
    for box in ((-50, -50, 20, 20), (620, 340, 700, 420), (-90, -90, -10, -10), (0, 0, 640, 360)):
        picture = np.zeros((360, 640, 3), np.uint8)
        frame_face(picture, box, label="fear", text="12 · fear", shares=[("fear", 1.0)])
        assert picture.shape == (360, 640, 3)
        assert picture.any()


def test_every_label_has_a_colour() -> None:
    """Classes of other bundles too; ``unknown`` is none of them."""
    known = {colour(name) for name in ("neutral", "happiness", "surprise", "sadness", "anger")}
    assert len(known) == 5
    assert colour("boredom") == colour("pain")
    assert colour("unknown") not in known
    assert bgr("happiness") == (0x00, 0xA1, 0xE0)
