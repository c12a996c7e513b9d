"""A teacher that knows shapes alone: meshes are found, laid on one another and read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from streamer.assets import ASSETS, install
from streamer.detect.yunet import YuNet
from streamer.errors import ConfigError
from tests.training.conftest import drawn_faces
from training import mesh
from training.data.cache import find_landmarks
from training.data.faces import concatenate
from training.data.labels import LabelConfig
from training.data.packed import read_ckplus48
from training.distill import taught
from training.geometry import aligned, read_geometry
from training.mesh import POINTS, Mesh, find_mesh
from training.train import BEST, fit

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.types import F32
    from training.data.faces import FaceSet
    from training.recipes import TrainConfig

_JAW = slice(300, 330)
"""Points that the drawn expressions move; none of them is one that faces are laid on."""


def drawn_meshes(faces: FaceSet, seed: int, *, tell: bool) -> Mesh:
    """Draw a head for every face, its jaw put where the class says, or anywhere; then turn it."""
    rng = np.random.default_rng(seed)
    head = rng.normal(size=(POINTS, 3))
    labels = faces.votes_NK.argmax(axis=1)
    places = rng.normal(size=(8, 30, 3))
    out = np.tile(head, (len(faces), 1, 1)) + rng.normal(size=(len(faces), POINTS, 3)) * 0.02
    out[:, _JAW] += places[labels if tell else rng.integers(0, 8, len(faces))]
    turned = np.stack([_turned(points, rng) for points in out]).astype(np.float32)
    turned[::7] = np.nan
    return Mesh(points_NM3=turned, checksum=0, network="drawn")


def _turned(points_M3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angles = rng.uniform(-0.5, 0.5, 3)
    turn = cv2.Rodrigues(angles)[0]
    return np.asarray((points_M3 @ turn) * rng.uniform(5, 20) + rng.uniform(0, 48, 3))


def test_pose_and_size_are_taken_away(faces: FaceSet) -> None:
    """Heads of one expression, turned and scaled each its own way, lie on one another."""
    points = drawn_meshes(faces, 0, tell=True).points_NM3
    known = np.isfinite(points[:, 0, 0])
    labels = faces.votes_NK.argmax(axis=1)[known]
    laid = aligned(points[known])
    of_one = laid[labels == 3]
    assert np.abs(of_one - of_one.mean(axis=0)).max() < 0.05 * np.abs(laid).max()
    jaws = np.stack([laid[labels == k][:, _JAW].mean(axis=(0, 1)) for k in range(8)])
    assert np.ptp(jaws, axis=0).max() > 0.05 * np.abs(laid).max()


def test_shapes_are_read_by_those_who_have_not_seen_them() -> None:
    """A jaw that tells the class is read; one that tells nothing is not, even on training faces."""
    faces = concatenate([drawn_faces(150, 1, "train"), drawn_faces(4, 2, "valid")])
    told = read_geometry(drawn_meshes(faces, 1, tell=True), faces, LabelConfig())
    assert told.logits_NK.shape == (1200, 8)
    assert told.accuracy > 0.8
    assert not told.known_N[::7].any()
    assert not told.logits_NK[::7].any()
    silent = read_geometry(drawn_meshes(faces, 2, tell=False), faces, LabelConfig())
    assert silent.accuracy < 0.25


def test_shapes_are_heard_beside_a_teacher(tmp_path: Path, tiny: TrainConfig) -> None:
    """At full weight the shapes alone are taught; where no mesh is known, the teacher alone."""
    faces = concatenate([drawn_faces(20, 1, "train"), drawn_faces(4, 2, "valid")])
    told = read_geometry(drawn_meshes(faces, 1, tell=True), faces, LabelConfig())
    fit(replace(tiny, epochs=1), faces, tmp_path)
    teachers = [tmp_path / BEST]
    alone = taught(faces, teachers, LabelConfig(), share=1.0, temperature=1.0)
    shapes = taught(
        faces, teachers, LabelConfig(), share=1.0, temperature=1.0, geometry=told, weight=1.0
    )
    where = np.flatnonzero(faces.split_N == "train")
    known, unknown = where[told.known_N], where[~told.known_N]
    np.testing.assert_allclose(shapes.votes_NK[unknown], alone.votes_NK[unknown], rtol=1e-4)
    named = shapes.votes_NK[known].argmax(axis=1)
    assert (named == told.logits_NK[told.known_N].argmax(axis=1)).mean() > 0.9
    with pytest.raises(ConfigError, match="meshes' share is 2"):
        taught(faces, teachers, LabelConfig(), weight=2.0)


def test_meshes_of_other_faces_are_refused(tmp_path: Path, faces: FaceSet) -> None:
    """A file is read back for the faces that it is of, and for no others."""
    path = tmp_path / "mesh.npz"
    made = replace(drawn_meshes(faces, 0, tell=True), checksum=checksum(faces))
    mesh.save(path, made)
    again = mesh.load(path, faces)
    np.testing.assert_allclose(again.points_NM3, made.points_NM3, rtol=2e-3)
    assert again.network == "drawn"
    images = faces.images_NHW.copy()
    images[0] = 255 - images[0]
    with pytest.raises(ConfigError, match="meshes of other faces; make it with"):
        mesh.load(path, replace(faces, images_NHW=images))


def checksum(faces: FaceSet) -> int:
    """Return what a mesh file says of the faces it is of."""
    return faces.rows(faces.split_N != "test").checksum()


def test_a_mirror_picture_has_the_mirrored_mesh(shared: Path, tmp_path: Path) -> None:
    """On real faces: eyes where the detector sees them, mouths mirrored with their pictures."""
    try:
        path = install(ASSETS["facemesh"], tmp_path, report=lambda _: None)
    except ConfigError as error:
        pytest.skip(str(error))
    few = read_ckplus48(shared / "data" / "ckplus48.npz").rows(np.arange(0, 90, 10))
    mirrored = replace(few, images_NHW=np.ascontiguousarray(few.images_NHW[:, :, ::-1]))
    detector = YuNet(shared / "models" / ASSETS["yunet"].file, input_size=192)
    found = []
    for faces in (few, mirrored):
        train = replace(faces, split_N=np.full(len(faces), "train"))
        known = find_landmarks(train, detector)
        points = find_mesh(known, path.read_bytes(), "x").points_NM3
        seen = np.isfinite(points[:, 0, 0])
        assert seen.sum() >= 6
        outer: F32 = points[seen][:, (33, 263), :2].mean(axis=1)
        assert np.abs(outer - known.eyes_N22[seen].mean(axis=1)).max() < 2.0
        found.append(np.where(seen[:, None, None], points[:, (61, 291), :2], np.nan))
    detector.close()
    flipped = found[1][:, ::-1] * (-1.0, 1.0) + (few.images_NHW.shape[2] - 1, 0.0)
    assert np.nanmedian(np.abs(found[0] - flipped)) < 1.0
    test = replace(few, split_N=np.full(len(few), "test"))
    with pytest.raises(ConfigError, match="no picture has known eyes"):
        find_mesh(test, path.read_bytes(), "x")
