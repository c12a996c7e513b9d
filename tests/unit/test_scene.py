"""Composed scenes: pictures and truth against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.scene import Actor, Cutout, Pose, Scene

RED, WALL = (0, 0, 255), 100


def square(number: int, pose: Pose | None, colour: tuple[int, int, int] = RED) -> Actor:
    """Return an opaque square of 40 pixels whose box is its middle 20."""
    picture = np.empty((40, 40, 4), np.uint8)
    picture[:] = (*colour, 255)
    cutout = Cutout(
        picture_HW4=picture,
        box_4=np.array([10, 10, 30, 30], np.float32),
        eyes_22=np.array([[15, 16], [25, 16]], np.float32),
    )
    return Actor(number=number, pose=lambda _: pose, cutout=lambda _: cutout)


def scene(*actors: Actor, counter_y: int = 200) -> Scene:
    """Return a scene of 300x200 before a plain wall."""
    wall = np.full((200, 300, 3), WALL, np.uint8)
    return Scene(background_HW3=wall, actors=actors, counter_y=counter_y)


def test_a_box_is_where_its_pose_puts_it() -> None:
    """At twice the size the box is 40 pixels round the pose's centre; the eyes scale with it."""
    truth = scene(square(7, Pose(x=100, y=80, height=40))).truth(0.0)
    assert truth.numbers_N.tolist() == [7]
    np.testing.assert_allclose(truth.boxes_N4, [[80, 60, 120, 100]])
    np.testing.assert_allclose(truth.eyes_N22, [[[90, 72], [110, 72]]])
    assert truth.visible_N.tolist() == [1.0]


def test_the_picture_is_drawn_there() -> None:
    """The square of 80 pixels lies round the box, and the wall is untouched elsewhere."""
    frame = scene(square(7, Pose(x=100, y=80, height=40))).draw(0.0)
    assert (frame[45:115, 65:135] == RED).all()
    assert (frame[:, 145:] == WALL).all()
    assert (frame[125:] == WALL).all()


def test_a_turn_is_clockwise() -> None:
    """A quarter turn clockwise puts the eye that was on the left above the other one."""
    truth = scene(square(1, Pose(x=100, y=80, height=20, roll=90.0))).truth(0.0)
    np.testing.assert_allclose(truth.eyes_N22, [[[104, 75], [104, 85]]], atol=1e-4)


def test_who_is_near_covers_who_is_far() -> None:
    """The later actor is drawn over the earlier one and takes its share of visibility."""
    far, near = (
        square(1, Pose(x=100, y=80, height=20)),
        square(2, Pose(x=125, y=80, height=20), (0, 255, 0)),
    )
    both = scene(far, near)
    # The near square spans x 105..145, the far box 90..110: three quarters stay visible.
    assert both.truth(0.0).visible_N.tolist() == pytest.approx([0.75, 1.0], abs=0.051)
    assert (both.draw(0.0)[70:90, 107:143] == (0, 255, 0)).all()


def test_the_frame_and_the_counter_cut_faces() -> None:
    """Half a box outside is half visible; a box behind the counter is no truth at all."""
    truth = scene(square(1, Pose(x=0, y=80, height=20))).truth(0.0)
    assert truth.visible_N.tolist() == [0.5]
    np.testing.assert_allclose(truth.boxes_N4, [[-10, 70, 10, 90]])
    hidden = scene(square(1, Pose(x=100, y=150, height=20)), counter_y=120)
    assert hidden.truth(0.0).numbers_N.tolist() == []
    assert hidden.truth(0.0).boxes_N4.shape == (0, 4)
    assert (hidden.draw(0.0)[120:] == WALL).all()


def test_who_is_off_stage_is_nowhere() -> None:
    """Without a pose nothing is drawn and nothing is true; outside the frame neither."""
    for pose in (None, Pose(x=1000, y=80, height=20)):
        empty = scene(square(1, pose))
        assert (empty.draw(0.0) == WALL).all()
        assert len(empty.truth(0.0).numbers_N) == 0
