"""Small synthetic faces that a tiny network can learn within seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

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
