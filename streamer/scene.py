"""Composes moving pictures of faces with known truth: cut-out people that move over one another.

Nothing here detects anything: where a face is follows from where it was drawn.

Legend: N people, H W pixels; digits are literal. Pictures are BGR, boxes xyxy in frame pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from streamer.types import BGR, F32, I64, U8

    F64 = NDArray[np.float64]

__all__ = ["Actor", "Cutout", "Pose", "Scene", "Truth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutout:
    """A person cut out of a picture.

    Attributes:
        picture_HW4: blue, green, red and opacity, uint8; the colours are already multiplied by it.
        box_4: the face's box in this picture, as a face detector draws it.
        eyes_22: eye centres (x, y), the left one in the picture first.
    """

    picture_HW4: U8
    box_4: F32
    eyes_22: F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where and how a person is drawn.

    Attributes:
        x, y: centre of the face's box in frame pixels.
        height: of the face's box, frame pixels.
        roll: turned clockwise in the picture, degrees.
    """

    x: float
    y: float
    height: float
    roll: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A person with a part to play.

    Attributes:
        number: who it is, in the truth.
        pose: where at a time in seconds; None while off the stage.
        cutout: what the person looks like at a time in seconds.
    """

    number: int
    pose: Callable[[float], Pose | None]
    cutout: Callable[[float], Cutout]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The faces in one frame.

    Attributes:
        numbers_N: who, int64.
        boxes_N4: xyxy float32 in frame pixels; may reach outside.
        eyes_N22: eye centres, float32.
        visible_N: share of the box that is inside the frame and not covered, float32.
    """

    numbers_N: I64
    boxes_N4: F32
    eyes_N22: F32
    visible_N: F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """People before a background, behind a counter.

    Attributes:
        background_HW3: the empty scene; its size is the frame's.
        actors: far ones first; later ones cover earlier ones.
        counter_y: rows from here on belong to the background again, in front of everyone; the
            picture's height if there is none.
    """

    background_HW3: BGR
    actors: tuple[Actor, ...]
    counter_y: int

    def draw(self, t: float) -> BGR:
        """Return the frame at a time in seconds, (H, W, 3)."""
        width = self.background_HW3.shape[1]
        frame = self.background_HW3.copy()
        for actor in self.actors:
            if (pose := actor.pose(t)) is None:
                continue
            cutout = actor.cutout(t)
            x0, y0, x1, y1 = _extent(cutout, pose, width, self.counter_y)
            if x0 >= x1 or y0 >= y1:
                continue
            matrix = _matrix(cutout, pose)
            matrix[:, 2] -= (x0, y0)
            person = cv2.warpAffine(cutout.picture_HW4, matrix, (x1 - x0, y1 - y0))
            part = frame[y0:y1, x0:x1]
            through = cv2.cvtColor(255 - person[..., 3], cv2.COLOR_GRAY2BGR)
            behind = cv2.multiply(part, through, scale=1 / 255)
            frame[y0:y1, x0:x1] = cv2.add(behind, person[..., :3])
        return frame

    def truth(self, t: float) -> Truth:
        """Return where the faces are at a time in seconds, those out of the frame left out."""
        height, width = self.background_HW3.shape[:2]
        covered_HW = np.zeros((height, width), np.uint8)
        covered_HW[self.counter_y :] = 255
        rows: list[tuple[int, F64, F64, float]] = []
        for actor in reversed(self.actors):
            if (pose := actor.pose(t)) is None:
                continue
            cutout = actor.cutout(t)
            matrix = _matrix(cutout, pose)
            box_4 = _moved_box(matrix, cutout.box_4)
            visible = _uncovered(covered_HW, box_4)
            if visible > 0.0:
                eyes_22 = cutout.eyes_22 @ matrix[:, :2].T + matrix[:, 2]
                rows.append((actor.number, box_4, eyes_22, visible))
            opacity_HW = cv2.warpAffine(
                cv2.extractChannel(cutout.picture_HW4, 3), matrix, (width, height)
            )
            np.maximum(covered_HW, opacity_HW, out=covered_HW)
        rows.sort(key=lambda row: row[0])
        return Truth(
            numbers_N=np.array([row[0] for row in rows], np.int64),
            boxes_N4=np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
            eyes_N22=np.array([row[2] for row in rows], np.float32).reshape(-1, 2, 2),
            visible_N=np.array([row[3] for row in rows], np.float32),
        )


def _matrix(cutout: Cutout, pose: Pose) -> F64:
    """Return the 2x3 matrix from the cut-out's pixels to the frame's."""
    x0, y0, x1, y1 = (float(v) for v in cutout.box_4)
    centre = ((x0 + x1) / 2.0, (y0 + y1) / 2.0)
    # OpenCV turns counter-clockwise.
    turned = cv2.getRotationMatrix2D(centre, -pose.roll, pose.height / (y1 - y0))
    matrix = np.asarray(turned, np.float64)
    matrix[:, 2] += np.array([pose.x - centre[0], pose.y - centre[1]])
    return matrix


def _extent(cutout: Cutout, pose: Pose, width: int, bottom: int) -> tuple[int, int, int, int]:
    """Return the part of the frame that the person can touch, xyxy whole pixels."""
    rows, columns = cutout.picture_HW4.shape[:2]
    box = _moved_box(_matrix(cutout, pose), np.array([0, 0, columns, rows], np.float32))
    x0, y0 = np.floor(box[:2]).astype(int)
    x1, y1 = np.ceil(box[2:]).astype(int)
    return max(0, int(x0)), max(0, int(y0)), min(width, int(x1)), min(bottom, int(y1))


def _moved_box(matrix: F64, box_4: F32) -> F64:
    """Return the upright box round a box that was moved; its own sides where it is not rolled."""
    x0, y0, x1, y1 = box_4
    corners_42 = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    moved_42 = corners_42 @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([moved_42.min(axis=0), moved_42.max(axis=0)])


def _uncovered(covered_HW: U8, box_4: F64) -> float:
    """Return the share of a box that is inside the frame and less than half covered."""
    height, width = covered_HW.shape
    x0, y0, x1, y1 = np.round(box_4).astype(int)
    part = covered_HW[max(0, y0) : max(0, min(height, y1)), max(0, x0) : max(0, min(width, x1))]
    return float((part < 128).sum() / max(1, (x1 - x0) * (y1 - y0)))  # noqa: PLR2004 (half)
