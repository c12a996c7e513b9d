"""Where the detector looks: rarely everywhere, and everywhere as soon as anything is unclear."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.gaze import SMALL_PX, WINDOW_PX, Gaze, GazeOptions, window_of
from streamer.metrics import Look
from streamer.types import Expected
from tests.fakes import FakeDetector, frame_of

EYES = (150, 100)
"""The fake face is 36 pixels wide and 44 high."""


class Rig:
    """A gaze of one camera over the fake detector, told what to expect by hand."""

    def __init__(self, whole_s: float = 0.2, *, windowed: bool = True) -> None:
        self.detector = FakeDetector(windowed=windowed)
        self.looks: list[Look] = []
        self.gaze = Gaze(self.detector, GazeOptions(whole_s=whole_s), self.looks.append)

    def look(
        self,
        seq: int,
        faces: list[tuple[int, int]],
        expected: list[tuple[int, int]],
        hidden_s: list[float] | None = None,
        *,
        frugal: bool = False,
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Look at a picture with these faces, a tenth of a second after the last; return boxes."""
        self.looks.clear()
        boxes = FakeDetector().detect(frame_of("a", seq, expected).luma_HW).boxes_N4
        order = np.argsort(np.argsort([y * 320 + x for x, y in expected]))
        hidden = np.array(hidden_s or [0.0] * len(expected))
        found = self.gaze.find(
            frame_of("a", seq, faces).luma_HW,
            seq / 10,
            Expected(boxes_M4=boxes[order], hidden_s_M=hidden),
            frugal=frugal,
        )
        return found.boxes_N4


def test_between_whole_looks_only_the_surroundings_of_known_faces() -> None:
    """Boxes are in pixels of the picture, wherever the window lies."""
    rig = Rig()
    whole = rig.look(0, [EYES], [EYES])
    assert rig.looks == [Look.WHOLE]
    part = rig.look(1, [EYES], [(EYES[0] + 6, EYES[1] - 4)])
    assert rig.looks == [Look.WINDOW]
    height, width, input_px = rig.detector.looks[-1]
    assert (height, width) < (240, 320)
    assert input_px == WINDOW_PX
    np.testing.assert_allclose(part, whole)


def test_a_new_face_is_seen_within_the_time_declared() -> None:
    """It comes in right after a whole look, far from the one that is known."""
    rig = Rig(whole_s=0.2)
    rig.look(0, [EYES], [EYES])
    assert len(rig.look(1, [EYES, (40, 40)], [EYES])) == 1
    assert len(rig.look(2, [EYES, (40, 40)], [EYES])) == 2


def test_nobody_there_nothing_to_do() -> None:
    """An idle camera is looked at as often as a new face asks for, and no more."""
    rig = Rig(whole_s=0.3)
    looks = []
    for seq in range(12):
        rig.look(seq, [], [])
        looks += [(seq, look) for look in rig.looks]
    assert looks == [(0, Look.WHOLE), (3, Look.SMALL), (6, Look.WHOLE), (9, Look.SMALL)]


@pytest.mark.parametrize(
    ("faces", "expected", "hidden_s"),
    [
        ([(40, 180)], [EYES], [0.0]),  # it is not where it should be
        ([EYES], [EYES, (40, 180)], [0.0, 0.1]),  # another was lost from sight a moment ago
        ([EYES, (190, 104)], [EYES, (190, 104)], [0.0, 0.0]),  # two next to one another
    ],
    ids=["moved away", "hidden", "close"],
)
def test_whatever_is_unclear_is_looked_for_everywhere_at_once(
    faces: list[tuple[int, int]], expected: list[tuple[int, int]], hidden_s: list[float]
) -> None:
    """No face goes unseen because nobody looked; by the large input, and in the same picture."""
    rig = Rig(whole_s=10.0)
    rig.look(0, [EYES], [EYES])
    assert len(rig.look(1, faces, expected, hidden_s)) == len(faces)
    assert rig.looks[-1] is Look.WHOLE


def test_a_face_hidden_for_long_waits_for_its_turn() -> None:
    """A person who left costs no whole looks for the two seconds until the track has ended."""
    rig = Rig(whole_s=10.0)
    rig.look(0, [EYES], [EYES])
    rig.look(1, [EYES], [EYES, (40, 180)], [0.0, 0.6])
    assert rig.looks == [Look.WINDOW]


def test_many_faces_are_looked_at_together() -> None:
    """When windows would cost more than half of the whole picture, it is the whole picture."""
    rig = Rig(whole_s=10.0)
    crowd = [(x, y) for y in (30, 115, 200) for x in (40, 120, 200, 280)]
    rig.look(0, crowd, crowd)
    rig.look(1, crowd, crowd)
    assert rig.looks == [Look.WHOLE]


def test_always_means_always() -> None:
    """With 0, and with a detector that gains nothing from windows, every picture is seen whole."""
    for rig in (Rig(whole_s=0.0), Rig(whole_s=0.2, windowed=False)):
        for seq in range(4):
            rig.look(seq, [EYES], [EYES])
            assert rig.looks == [Look.WHOLE]
        assert {input_px for *_, input_px in rig.detector.looks} == {None}


def test_frugal_looks_are_small() -> None:
    """Under overload the smaller input does for every whole look."""
    rig = Rig(whole_s=0.0)
    for seq in range(3):
        rig.look(seq, [EYES], [EYES], frugal=True)
        assert rig.looks == [Look.SMALL]
        assert rig.detector.looks[-1][2] == SMALL_PX


def test_time_that_goes_back_starts_anew() -> None:
    """A file that begins again is looked at whole at once."""
    rig = Rig(whole_s=10.0)
    rig.look(50, [EYES], [EYES])
    rig.look(3, [EYES], [])
    assert Look.WINDOW not in rig.looks
    assert len(rig.looks) == 1


def test_a_window_stays_inside_the_picture() -> None:
    """A face at the corner gives a smaller one; room is half a face on each side."""
    assert window_of(np.array([100, 100, 140, 150], np.float32), (240, 320)) == (75, 75, 165, 175)
    assert window_of(np.array([-10, -20, 30, 30], np.float32), (240, 320)) == (0, 0, 55, 55)
