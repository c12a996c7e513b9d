"""Where the surface of a face lies: MediaPipe's face mesh, 468 points, computed by OpenCV.

The network that finds them has seen far more faces than any corpus of expressions holds, and it
tells where lips, brows and lids are, whatever the light. ``geometry`` reads expressions from that.

Source: Kartynnik et al. 2019, "Real-time Facial Surface Geometry from Monocular Video on Mobile
GPUs", arXiv 1907.06724.

Legend: N faces, M points of the mesh, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamer.errors import ConfigError
from training.data.archive import read_arrays
from training.data.cache import recut_matrix

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.types import F32, U8
    from training.data.faces import FaceSet

__all__ = ["POINTS", "Mesh", "find_mesh", "load", "save"]

POINTS = 468
_INPUT_PX = 192
_SIDE = 3.3
"""Side of the square that the network sees, in distances between the eyes; MediaPipe's own square
is half as large again as the face that its detector finds, which is about this."""
_BELOW = 0.45
"""Its centre lies so far below the middle of the eyes, in the same measure."""
_ADVICE = "make it with `streamer-train data mesh`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """The meshes of a face set.

    Attributes:
        points_NM3: x and y in pixels of the picture, z in the same scale, nearer is less; float32.
            NaN where no eyes are known, and in the test split, which nothing learns from.
        checksum: of the training and validation faces they are of.
        network: sha256 of the network that found them.
    """

    points_NM3: F32
    checksum: int
    network: str


def find_mesh(
    faces: FaceSet, network: bytes, sha256: str, progress: Callable[[int], None] = lambda _: None
) -> Mesh:
    """Find the mesh of every training and validation picture whose eyes are known.

    Args:
        faces: any set.
        network: ``face_landmark.tflite``.
        sha256: of it.
        progress: told the number of pictures done.

    Raises:
        ConfigError: when no picture has eyes.
    """
    net = cv2.dnn.readNetFromTFLite(np.frombuffer(network, np.uint8))
    points = np.full((len(faces), POINTS, 3), np.nan, np.float32)
    size = faces.images_NHW.shape[1]
    for i in range(len(faces)):
        eyes = faces.eyes_N22[i]
        known = recut_matrix(eyes, faces.boxes_N4[i], size) is not None
        if known and faces.split_N[i] != "test":
            points[i] = _points(net, faces.images_NHW[i], eyes)
        progress(i + 1)
    if not np.isfinite(points).any():
        raise ConfigError("no picture has known eyes; import with --detector to find them")
    return Mesh(points_NM3=points, checksum=_checksum(faces), network=sha256)


def save(path: Path, mesh: Mesh) -> None:
    """Write the meshes, atomically; a 30th of a pixel is kept."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(
            file,
            points_NM3=mesh.points_NM3.astype(np.float16),
            checksum=np.array(mesh.checksum),
            network=np.array(mesh.network),
        )
    part.replace(path)


def load(path: Path, faces: FaceSet) -> Mesh:
    """Read meshes back.

    Raises:
        ConfigError: when the file is not one that ``save`` wrote, or is of other faces.
    """
    arrays = read_arrays(path, ("points_NM3", "checksum", "network"), _ADVICE)
    points = np.asarray(arrays["points_NM3"], np.float32)
    if int(arrays["checksum"]) != _checksum(faces) or points.shape != (len(faces), POINTS, 3):
        raise ConfigError(f"{path}: holds the meshes of other faces; {_ADVICE}")
    return Mesh(points_NM3=points, checksum=_checksum(faces), network=str(arrays["network"]))


def _checksum(faces: FaceSet) -> int:
    return faces.rows(faces.split_N != "test").checksum()


def _points(net: cv2.dnn.Net, image_HW: U8, eyes_22: F32) -> F32:
    """Return the mesh of one picture, (M, 3): upright as the network wants it, and back again."""
    middle, across = eyes_22.mean(axis=0), eyes_22[1] - eyes_22[0]
    scale = _INPUT_PX / (_SIDE * np.hypot(*across))
    turn = scale * np.array([[across[0], across[1]], [-across[1], across[0]]]) / np.hypot(*across)
    centre = middle + _BELOW * np.array([-across[1], across[0]])
    there = np.column_stack([turn, _INPUT_PX / 2 - turn @ centre])
    square = cv2.warpAffine(
        image_HW,
        there,
        (_INPUT_PX, _INPUT_PX),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    net.setInput(np.repeat(square[None, None].astype(np.float32) / 255.0, 3, axis=1))
    found = net.forward().reshape(POINTS, 3)
    back = cv2.invertAffineTransform(there)
    flat = found[:, :2] @ back[:, :2].T + back[:, 2]
    return np.column_stack([flat, found[:, 2] / scale]).astype(np.float32)
