"""The audit finds what was put there: duplicates, leaks, doubtful labels, imbalance."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from training.data.audit import audit, doubtful, hashes, near_duplicates
from training.data.faces import FaceSet


def photographs(n: int, seed: int) -> np.ndarray:
    """Return smooth random pictures, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (n, 9, 9)).astype(np.uint8)
    return np.stack([cv2.resize(c, (48, 48), interpolation=cv2.INTER_CUBIC) for c in coarse])


def test_same_photograph_is_found_through_jpeg_and_brightness() -> None:
    """A copy that was coded again and brightened pairs with its original, and nothing else does."""
    images = photographs(60, 0)
    _, coded = cv2.imencode(".jpg", images[7], [cv2.IMWRITE_JPEG_QUALITY, 60])
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.uint8)
    copy = cv2.convertScaleAbs(decoded, alpha=0.8, beta=30)
    pairs = near_duplicates(np.concatenate([images, copy[None]]).astype(np.uint8))
    assert pairs == [(7, 60)]


def test_mirror_picture_is_another_hash() -> None:
    """The hash sees the direction of gradients: a mirror picture differs in most bits."""
    image = photographs(1, 3)
    one, mirror = hashes(np.stack([image[0], image[0, :, ::-1]]).astype(np.uint8))
    assert int(np.bitwise_count(one ^ mirror)) > 20


def test_counts_imbalance_and_pairs_across_splits() -> None:
    """Six against two is an imbalance of three; the copy in test is named as test/train."""
    images = photographs(9, 1).astype(np.uint8)
    images[8] = images[0]
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0], np.int64)
    split = np.array(["train"] * 8 + ["test"])
    found = audit(FaceSet.of(images, labels, split))
    assert found.counts["train"]["neutral"] == 6
    assert found.imbalance["train"] == pytest.approx(3.0)
    assert found.near_pairs == {"test/train": 1}
    assert found.exact_duplicates == 1
    assert found.poses is None


def test_poses_by_hand() -> None:
    """Eyes 24 px apart on a level line, in the middle of their box: half the side, no roll."""
    one = FaceSet.of(photographs(1, 2).astype(np.uint8), np.zeros(1, np.int64), np.array(["train"]))
    eyes = np.array([[[12.0, 20.0], [36.0, 20.0]]], np.float32)
    boxes = np.array([[4.0, 4.0, 44.0, 44.0]], np.float32)
    poses = audit(one.with_landmarks(eyes, boxes)).poses
    assert poses is not None
    assert (poses.eye_distance.p50, poses.roll_deg.p50, poses.turn.p50) == (0.5, 0.0, 0.0)


def test_agreement_with_the_second_label() -> None:
    """Of two clear pictures of a class, one second label agrees."""
    faces = FaceSet.of(
        photographs(2, 4).astype(np.uint8), np.array([3, 3], np.int64), np.array(["train"] * 2)
    )
    faces = replace(faces, second_N=np.array([3, 0], np.int64))
    assert audit(faces).agreement == {"sadness": 0.5}


def test_wrong_labels_are_the_most_doubtful() -> None:
    """Rows whose label was swapped come first."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 90)
    p = np.full((90, 3), 0.1, np.float32)
    p[np.arange(90), truth] = 0.8
    given = truth.copy()
    given[[5, 50]] = (given[[5, 50]] + 1) % 3
    assert set(doubtful(p, given.astype(np.int64), 2).tolist()) == {5, 50}
