"""The crop: eyes where the training data has them, whatever the pose, size or place."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer import preprocess


def eyes_at(x: float, y: float, distance: float, roll_deg: float = 0.0) -> np.ndarray:
    """Return two eyes round a middle, turned by an angle."""
    angle = np.deg2rad(roll_deg)
    half = distance / 2 * np.array([np.cos(angle), np.sin(angle)])
    middle = np.array([x, y])
    return np.stack([middle - half, middle + half]).astype(np.float32)


def box_round(eyes: np.ndarray, height: float) -> np.ndarray:
    """Return a box of that height round the eyes."""
    x, y = eyes.mean(axis=0)
    return np.array([x - 1, y - height / 2, x + 1, y + height / 2], np.float32)


@given(
    st.floats(50, 500),
    st.floats(50, 300),
    st.floats(8, 200),
    st.floats(-40, 40),
    st.sampled_from([48, 64, 112]),
)
def test_the_eyes_land_on_the_template(
    x: float, y: float, distance: float, roll_deg: float, size: int
) -> None:
    """Level, at the height and the distance that the constants name, at pixel centres."""
    eyes = eyes_at(x, y, distance, roll_deg)
    matrix = preprocess.align(eyes, box_round(eyes, distance), size)
    mapped = np.c_[eyes, np.ones(2)] @ matrix.T + 0.5
    half = preprocess.EYE_DISTANCE / 2
    expected = np.array([[0.5 - half, preprocess.EYE_HEIGHT], [0.5 + half, preprocess.EYE_HEIGHT]])
    np.testing.assert_allclose(mapped, expected * size, atol=1e-2)


def test_a_face_turned_aside_is_not_cut_too_tight() -> None:
    """With eyes close together the box bounds the zoom."""
    eyes = eyes_at(100, 100, 10)
    matrix = preprocess.align(eyes, box_round(eyes, 115), 48)
    side = 48 / np.hypot(matrix[0, 0], matrix[0, 1])
    assert side == pytest.approx(100)


@pytest.mark.parametrize("scale", [1, 2, 3, 5, 8])
def test_a_large_face_gives_the_same_crop_as_a_small_one(scale: int) -> None:
    """The way by averaging agrees with OpenCV's own area resize of the picture first."""
    rng = np.random.default_rng(3)
    small = cv2.GaussianBlur(rng.integers(0, 256, (160, 200), np.uint8), (0, 0), 3)
    small = cv2.normalize(small, np.empty_like(small), 0, 255, cv2.NORM_MINMAX)
    big = cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    eyes = eyes_at(100, 70, 18, 7)
    reference = preprocess.crop(small.astype(np.uint8), eyes, box_round(eyes, 40), 48)
    at_scale = ((eyes + 0.5) * scale - 0.5).astype(np.float32)
    got = preprocess.crop(big.astype(np.uint8), at_scale, box_round(at_scale, 40 * scale), 48)
    assert np.abs(got.astype(int) - reference).mean() < 4


@settings(max_examples=60)
@given(
    st.floats(-300, 900),
    st.floats(-300, 700),
    st.floats(0, 900),
    st.floats(-180, 180),
    st.floats(0, 2000),
)
def test_any_face_gives_a_crop(
    x: float, y: float, distance: float, roll_deg: float, height: float
) -> None:
    """Outside the frame, tiny, huge or upside down: always a crop, never a crash."""
    luma = np.full((360, 640), 77, np.uint8)
    luma.flags.writeable = False
    eyes = eyes_at(x, y, distance, roll_deg)
    got = preprocess.crop(luma, eyes, box_round(eyes, height), 48)
    assert got.shape == (48, 48)
    assert got.dtype == np.uint8
    assert (got == 77).all()


def test_normalise_follows_the_manifest() -> None:
    """(pixel - mean) / std, with a channel axis."""
    crops = np.array([[[0, 255], [51, 102]]], np.uint8)
    got = preprocess.normalise(crops, 51.0, 102.0)
    assert got.shape == (1, 1, 2, 2)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0, 0], [[-0.5, 2.0], [0.0, 0.5]])
