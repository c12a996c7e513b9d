"""Figures against values worked out by hand or by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from training.evaluate import (
    confusion,
    expected_calibration_error,
    fit_temperature,
    from_confusion,
    intervals,
    score,
    softmax,
)


def random_predictions(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and labels that agree more often than not."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    return softmax(logits.astype(np.float32)), labels.astype(np.int64)


def test_scores_agree_with_scikit_learn() -> None:
    """Accuracy, UAR, macro F1 and likelihood equal those of an independent library."""
    p, labels = random_predictions(300, 4)
    s = score(p, labels, np.arange(300), ("a", "b", "c", "d"))
    said = p.argmax(1)
    assert s.accuracy.value == pytest.approx(float((said == labels).mean()))
    assert s.uar.value == pytest.approx(balanced_accuracy_score(labels, said))
    assert s.macro_f1.value == pytest.approx(f1_score(labels, said, average="macro"))
    assert s.nll == pytest.approx(log_loss(labels, p), rel=1e-4)
    assert s.accuracy.low < s.accuracy.value < s.accuracy.high


def test_class_without_labels_is_left_out_of_means() -> None:
    """Two classes of three occur; recall 1 and 1/2 average to 3/4."""
    labels, said = np.array([0, 1, 1]), np.array([0, 1, 2])
    _, recall, _ = from_confusion(confusion(labels, said, 3))
    assert recall[:2].tolist() == [1.0, 0.5]
    assert np.isnan(recall[2])
    spread = intervals(labels, said, np.arange(3), 3)
    assert spread["uar"].value == pytest.approx(0.75)


def test_intervals_are_wider_when_frames_belong_together() -> None:
    """Ten people of twenty equal frames say less than two hundred independent pictures."""
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(10) < 0.6, 20)
    labels = np.zeros(200, np.int64)
    said = np.where(right, 0, 1).astype(np.int64)
    alone = intervals(labels, said, np.arange(200), 2)["accuracy"]
    grouped = intervals(labels, said, np.repeat(np.arange(10), 20), 2)["accuracy"]
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_calibration_error_by_hand() -> None:
    """Confidence 0.8 and half right: the gap is 0.3."""
    p = np.tile(np.array([[0.8, 0.2]], np.float32), (10, 1))
    labels = np.array([0] * 5 + [1] * 5)
    assert expected_calibration_error(p, labels) == pytest.approx(0.3, abs=1e-6)


def test_temperature_undoes_a_known_one() -> None:
    """Logits three times too large for their labels get a temperature near three."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4000, 5)).astype(np.float32) * 2
    p = softmax(logits)
    labels = np.array([rng.choice(5, p=row / row.sum()) for row in p.astype(np.float64)])
    assert fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.08)


def test_nothing_to_score_is_refused() -> None:
    """No rows give a ValueError rather than a NaN."""
    with pytest.raises(ValueError, match="nothing to score"):
        score(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), np.zeros(0), ("a", "b"))
