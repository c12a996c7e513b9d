"""Distillation mixes opinions into targets; stacking weighs members without seeing the held-out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.errors import ConfigError
from training.data.faces import concatenate
from training.data.labels import LabelConfig, targets
from training.distill import opinion, taught, with_unlabelled
from training.ensemble import out_of_fold, reread, stack
from training.evaluate import softmax
from training.train import BEST, fit

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet
    from training.recipes import TrainConfig


def test_taught_targets_are_the_mix_and_evaluation_stays(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """A quarter of the teacher and three quarters of the votes; valid and test are untouched."""
    fit(replace(tiny, epochs=1), faces, tmp_path)
    teachers = [tmp_path / BEST]
    part = faces.part("train")
    told = opinion(teachers, part, 2.0)
    np.testing.assert_allclose(told.sum(axis=1), 1.0, atol=1e-5)
    new = taught(faces, teachers, LabelConfig(), share=0.25)
    wanted, usable = targets(new.part("train"), LabelConfig())
    assert usable.all()
    np.testing.assert_allclose(wanted, 0.25 * told + 0.75 * part.votes_NK, atol=2e-3)
    np.testing.assert_array_equal(new.part("test").votes_NK, faces.part("test").votes_NK)


def test_teaching_needs_a_teacher_and_a_share(faces: FaceSet) -> None:
    """Both mistakes are named."""
    with pytest.raises(ConfigError, match="at least one teacher"):
        opinion([], faces, 1.0)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        taught(faces, [], LabelConfig(), share=2.0)


def test_unlabelled_faces_are_learned_from_the_teachers_alone(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """Their own votes count for nothing, and a test picture among them is left out."""
    fit(replace(tiny, epochs=1), faces, tmp_path)
    test = np.flatnonzero(faces.split_N == "test")[:1]
    rng = np.random.default_rng(7)
    fresh = replace(
        faces.rows(test.repeat(3)),
        images_NHW=rng.integers(0, 255, (3, *faces.images_NHW.shape[1:]), np.uint8),
    )
    joined = with_unlabelled(faces, concatenate([fresh, faces.rows(test)]))
    assert len(joined) == len(faces) + 3
    new = taught(joined, [tmp_path / BEST], LabelConfig(), share=0.25, temperature=2.0)
    wanted, usable = targets(new.part("train"), LabelConfig())
    told = opinion([tmp_path / BEST], joined.part("train"), 2.0)
    assert usable.all()
    np.testing.assert_allclose(wanted[-3:], told[-3:], atol=2e-3)
    with pytest.raises(ConfigError, match="unlabelled pictures are"):
        with_unlabelled(faces, replace(fresh, images_NHW=fresh.images_NHW[:, :-2]))


def test_stacker_learns_whom_to_trust() -> None:
    """Of a member that is right and one that is always wrong, the stacker uses both rightly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    noise = rng.normal(size=(2, 400, 4)) * 0.8
    good = 1.5 * np.eye(4)[labels] + noise[0]
    wrong = 3.0 * np.eye(4)[(labels + 1) % 4] + noise[1]
    logits = np.stack([good, wrong]).astype(np.float32)
    groups = np.array([str(i // 4) for i in range(400)], np.str_)
    p = out_of_fold(logits, labels.astype(np.int64), groups)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-5)
    stacked = float((p.argmax(axis=1) == labels).mean())
    mean = float((np.mean([softmax(z) for z in logits], axis=0).argmax(axis=1) == labels).mean())
    assert stacked > 0.85
    assert stacked > mean + 0.3
    few = np.array([str(i % 3) for i in range(400)], np.str_)  # fewer groups than folds
    assert float((out_of_fold(logits, labels, few).argmax(axis=1) == labels).mean()) > 0.85
    other = reread(logits[:, :300], labels[:300].astype(np.int64), logits[:, 300:])
    assert float((other.argmax(axis=1) == labels[300:]).mean()) > 0.8


def test_stack_of_two_runs(tmp_path: Path, faces: FaceSet, tiny: TrainConfig) -> None:
    """Two checkpoints are measured alone, averaged and stacked on the same faces."""
    config = replace(tiny, epochs=1)
    for seed in (0, 1):
        fit(replace(config, seed=seed), faces, tmp_path / str(seed))
    result = stack([tmp_path / "0" / BEST, tmp_path / "1" / BEST], faces.part("test"))
    assert result.faces == 32
    assert len(result.members) == 2
    assert 0.0 <= result.stacked <= 1.0
    with pytest.raises(ConfigError, match="at least two"):
        stack([tmp_path / "0" / BEST], faces.part("test"))
