"""Two public-domain portraits that ship inside well-known packages, cut out, and bent to a mood.

NASA's of Eileen Collins is in scikit-image, the US Navy's of Grace Hopper in matplotlib.

Legend: H W pixels; digits are literal.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from streamer.errors import ConfigError
from streamer.scene import Cutout

if TYPE_CHECKING:
    from streamer.types import BGR, F32, U8

__all__ = ["COLLINS", "HOPPER", "Person", "Portrait", "cut_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """A portrait in a package, with what was measured on it by hand, in its pixels.

    Attributes:
        package, file: where it ships.
        box: the face, xyxy, as YuNet draws it.
        eyes, mouth, brows: left and right in the picture, x, y each; the brows' inner ends.
        outline: the person's silhouette, x,y of its corners as SVG writes them.
    """

    package: str
    file: str
    box: tuple[float, ...]
    eyes: tuple[float, ...]
    mouth: tuple[float, ...]
    brows: tuple[float, ...]
    outline: str


COLLINS: Final = Portrait(
    package="skimage",
    file="data/astronaut.png",
    box=(178, 63, 268, 176),
    eyes=(200, 102, 247, 103),
    mouth=(199, 143, 240, 144),
    brows=(213, 93, 234, 93),
    outline=(
        "201,23 154,64 154,92 163,112 181,122 187,152 158,150 147,172 144,227 115,232 80,257 "
        "34,317 19,410 26,484 37,511 480,511 489,488 495,435 488,405 470,376 450,358 416,344 "
        "361,345 356,306 340,278 317,255 301,250 303,215 292,193 264,170 262,152 272,130 "
        "288,118 300,92 296,58 288,43 251,19 227,16"
    ),
)
HOPPER: Final = Portrait(
    package="matplotlib",
    file="mpl-data/sample_data/grace_hopper.jpg",
    box=(183, 120, 353, 333),
    eyes=(227, 193, 308, 195),
    mouth=(228, 268, 302, 270),
    brows=(248, 178, 288, 178),
    outline=(
        "218,31 173,64 170,237 182,291 202,301 202,319 197,330 99,367 67,391 29,437 15,552 "
        "24,599 511,599 511,436 504,436 489,413 441,370 337,326 345,278 361,262 367,229 "
        "366,174 357,167 360,125 369,119 369,100 359,65 324,38 275,25 249,23"
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who is on a portrait.

    Attributes:
        cutout: as the portrait is.
        smile_HW2: the way each pixel of the face's box goes for a full smile, x and y, float32.
    """

    cutout: Cutout
    smile_HW2: F32

    def bent(self, mood: float) -> Cutout:
        """Return the person in a mood: -1 frown, 0 as the portrait is, 1 smile."""
        whole_HW4, box_4 = self.cutout.picture_HW4, self.cutout.box_4
        x0, y0, x1, y1 = (int(v) for v in box_4)
        yy, xx = np.mgrid[0 : y1 - y0, 0 : x1 - x0].astype(np.float32)
        picture_HW4: U8 = whole_HW4.copy()
        picture_HW4[y0:y1, x0:x1] = cv2.remap(
            whole_HW4[y0:y1, x0:x1],
            xx - mood * self.smile_HW2[..., 0],
            yy - mood * self.smile_HW2[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return Cutout(picture_HW4=picture_HW4, box_4=box_4, eyes_22=self.cutout.eyes_22)


def cut_out(portrait: Portrait) -> Person:
    """Read a portrait and cut the person out of it.

    Raises:
        ConfigError: if its package is missing or holds another picture.
    """
    picture_HW3 = _read(portrait)
    opacity_HW = np.zeros(picture_HW3.shape[:2], np.uint8)
    corners = [point.split(",") for point in portrait.outline.split()]
    cv2.fillPoly(opacity_HW, [np.array(corners, np.int32)], 255)
    cv2.GaussianBlur(cv2.erode(opacity_HW, np.ones((3, 3))), (0, 0), 1.5, dst=opacity_HW)
    colour_HW3 = cv2.multiply(
        picture_HW3, cv2.cvtColor(opacity_HW, cv2.COLOR_GRAY2BGR), scale=1 / 255
    )
    cutout = Cutout(
        picture_HW4=np.dstack([colour_HW3, opacity_HW]),
        box_4=np.array(portrait.box, np.float32),
        eyes_22=np.array(portrait.eyes, np.float32).reshape(2, 2),
    )
    return Person(cutout=cutout, smile_HW2=_smile_field(portrait))


def _read(portrait: Portrait) -> BGR:
    try:
        content = (files(portrait.package) / portrait.file).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise ConfigError(
            f"the demo's built-in feed needs a portrait from {portrait.package}: "
            "pip install 'emotion-streamer[demo]', or name a camera with --camera"
        ) from None
    picture_HW3 = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture_HW3 is None:
        raise ConfigError(f"{portrait.package}'s {portrait.file} is no picture; install it again")
    return picture_HW3.astype(np.uint8, copy=False)


def _smile_field(portrait: Portrait) -> F32:
    """Return (H, W, 2) pixels over the box: mouth corners go out and up, inner brows up.

    Each point moves its neighbourhood by a Gaussian, so nothing folds as long as the way is
    shorter than the Gaussian is wide.
    """
    x0, y0, x1, y1 = (int(v) for v in portrait.box)
    unit = float(y1 - y0)
    yy, xx = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    field = np.zeros((*yy.shape, 2), np.float32)
    left, right = np.array(portrait.mouth).reshape(2, 2)
    brow_left, brow_right = np.array(portrait.brows).reshape(2, 2)
    for point, way, reach in (
        (left, (-0.035, -0.06), 0.085),
        (right, (0.035, -0.06), 0.085),
        ((left + right) / 2, (0.0, 0.02), 0.07),
        (brow_left, (-0.01, -0.03), 0.06),
        (brow_right, (0.01, -0.03), 0.06),
    ):
        square = ((xx - point[0]) ** 2 + (yy - point[1]) ** 2) / (reach * unit) ** 2
        field += np.exp(-square / 2.0)[..., None] * np.array(way, np.float32) * unit
    # Nothing moves at the edge of the box, or there would be a seam.
    edge = np.minimum.reduce([yy - y0, y1 - 1 - yy, xx - x0, x1 - 1 - xx]) / (0.06 * unit)
    field *= edge.clip(0.0, 1.0)[..., None]
    return field
