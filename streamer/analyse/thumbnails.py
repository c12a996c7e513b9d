"""The thumbnail sheet: a row a face, pictures of it over its time with what they were read as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from streamer.analyse.drawing import chip, write
from streamer.analyse.summary import shares, span_text
from streamer.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamer.analyse.samples import Course
    from streamer.types import BGR, Frame

__all__ = ["ThumbnailSheet"]

_COLUMNS: Final = 8  # pictures a face: a sheet as wide as a screen
_SIDE: Final = 132
_GAP: Final = 10
_HEAD: Final = 30  # above a row: which face it is
_FOOT: Final = 24  # under a picture: the label and when
_TEXT: Final = 12
_MARGIN: Final = 1.35  # box heights that a thumbnail shows: the face and a little around it
_QUALITY: Final = 90
_MUTED: Final = (114, 96, 89)
_PAPER: Final = 255
_OUTSIDE: Final = 236


class ThumbnailSheet:
    """Cuts the pictures as they pass, then lays them out.

    Args:
        courses: the faces, known from the analysis.
    """

    def __init__(self, courses: Sequence[Course]) -> None:
        self._courses = courses
        self._wanted: dict[int, list[tuple[int, int, int]]] = {}
        self._cut: dict[tuple[int, int], BGR] = {}
        for line, course in enumerate(courses):
            for column, row in enumerate(_spread(len(course.frames_T))):
                frame = int(course.frames_T[row])
                self._wanted.setdefault(frame, []).append((line, column, row))

    def take(self, frame: Frame) -> None:
        """Look at a picture of the recording, and cut out what is wanted of it."""
        wanted = self._wanted.get(frame.seq)
        if not wanted or frame.picture is None:
            return
        picture = frame.picture.bgr()
        for line, column, row in wanted:
            self._cut[line, column] = _cut(picture, self._courses[line].boxes_T4[row].tolist())

    def write(self, path: Path) -> None:
        """Write the sheet as JPEG; nothing if there was no face.

        Raises:
            FrameError: if the sheet is too large for a JPEG.
            OSError: if it cannot be written.
        """
        if not self._courses:
            return
        row_px = _HEAD + _SIDE + _FOOT + _GAP
        width = _COLUMNS * (_SIDE + _GAP) + _GAP
        sheet = np.full((len(self._courses) * row_px + _GAP, width, 3), _PAPER, np.uint8)
        for line, course in enumerate(self._courses):
            self._lay_row(sheet, line, course, _GAP + line * row_px)
        done, jpeg = (False, None)
        if max(sheet.shape) < 1 << 16:  # JPEG's own limit
            done, jpeg = cv2.imencode(".jpg", sheet, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
        if not done or jpeg is None:
            raise FrameError(
                f"{path.name}: {len(self._courses)} faces are too many for one sheet; "
                "leave --thumbnails out"
            )
        path.write_bytes(jpeg.tobytes())

    def _lay_row(self, sheet: BGR, line: int, course: Course, top: int) -> None:
        by_label = [f"{label} {share:.0%}" for label, share in shares(course).items()][:3]
        write(sheet, f"Face {course.face}", (_GAP, top + 19), 16, weight=700)
        details = "   ".join((span_text(course), *by_label))
        write(sheet, details, (_GAP + 90, top + 19), 14, colour=_MUTED)
        top += _HEAD
        for column, row in enumerate(_spread(len(course.frames_T))):
            left = _GAP + column * (_SIDE + _GAP)
            thumbnail = self._cut.get((line, column))
            if thumbnail is not None:
                sheet[top : top + _SIDE, left : left + _SIDE] = thumbnail
            label = course.labels_T[row]
            sign = chip(label, label, _TEXT)
            rows, columns = sign.shape[:2]
            sheet[top + _SIDE : top + _SIDE + rows, left : left + columns] = sign
            when = f"{course.time_s_T[row]:.1f} s"
            write(sheet, when, (left + columns + 6, top + _SIDE + 14), _TEXT, colour=_MUTED)


def _spread(count: int) -> list[int]:
    """Return rows spread evenly over so many, the first and the last among them."""
    chosen = np.linspace(0, count - 1, min(_COLUMNS, count))
    return [int(row) for row in np.round(chosen)]


def _cut(picture: BGR, box: Sequence[float]) -> BGR:
    """Cut a square around a box and scale it; beyond the picture's edge it is light grey."""
    x1, y1, x2, y2 = box
    side = max(1, round(max(x2 - x1, y2 - y1) * _MARGIN))
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    square = np.full((side, side, 3), _OUTSIDE, np.uint8)
    height, width = picture.shape[:2]
    columns = slice(max(left, 0), max(min(left + side, width), 0))
    rows = slice(max(top, 0), max(min(top + side, height), 0))
    seen = picture[rows, columns]
    square[rows.start - top :, columns.start - left :][: seen.shape[0], : seen.shape[1]] = seen
    method = cv2.INTER_AREA if side > _SIDE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (_SIDE, _SIDE), interpolation=method), np.uint8)
