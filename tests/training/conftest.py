"""Small synthetic faces that a tiny network can learn within seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.data.clips import ClipSet
from training.data.faces import CLASSES, FaceSet, concatenate
from training.recipes import TrainConfig, recipe

SIDE = 48


def drawn_faces(per_class: int, seed: int, split: str) -> FaceSet:
    """Draw noisy bars whose place tells the class; noise keeps every picture different."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(len(CLASSES)), per_class)
    images = rng.integers(90, 130, (len(labels), SIDE, SIDE))
    for row, k in enumerate(labels):
        images[row, 5 * k + 2 : 5 * k + 7, 6:42] += 100
    splits = np.full(len(labels), split, dtype="<U5")
    return FaceSet.of(images.astype(np.uint8), labels.astype(np.int64), splits)


@pytest.fixture(scope="session")
def faces() -> FaceSet:
    """Return 128 training, 32 validation and 32 test faces of all eight classes."""
    parts = [drawn_faces(16, 1, "train"), drawn_faces(4, 2, "valid"), drawn_faces(4, 3, "test")]
    return concatenate(parts)


@pytest.fixture
def tiny() -> TrainConfig:
    """Return a recipe of about a second, in float32."""
    return replace(recipe("smoke"), epochs=2, batch=32)


@pytest.fixture(scope="session")
def clips() -> ClipSet:
    """Return 8 clips of 4 people, 12 frames each, that go from the bar of neutral to another."""
    neutral = drawn_faces(1, 4, "test").images_NHW[0]
    labels = np.array([1, 2, 3, 4, 5, 6, 7, 1], np.int64)
    shown = [drawn_faces(1, 5 + i, "test").images_NHW[k] for i, k in enumerate(labels)]
    crops = [np.stack([neutral] * 4 + [face] * 8) for face in shown]
    return ClipSet(
        crops_NHW=np.concatenate(crops),
        starts_M=np.arange(8, dtype=np.int64) * 12,
        labels_M=labels,
        subjects_M=np.array(["A", "A", "B", "B", "C", "C", "D", "D"]),
        names_M=np.array([f"clip{i}" for i in range(8)]),
        step_s=0.05,
        sources={"mine.zip": "0" * 64},
    )
