"""Synthetic faces are made for the classes asked for, and the gate keeps out what does not help."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from streamer.errors import ConfigError
from training.augment import NO_AUGMENT
from training.data.faces import CLASSES
from training.gate import Figures, gate, judge
from training.synthesize import (
    Critic,
    GanConfig,
    Generator,
    draw,
    make,
    morphs,
    synthetic_set,
    train_gan,
)

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet
    from training.recipes import TrainConfig

SMALL = GanConfig(latent=8, width=4, steps=3, batch=16)


def figures(macro_f1: float, unseen_f1: float, recall: float = 0.5) -> Figures:
    """Return figures with the same recall for every class."""
    return Figures(macro_f1=macro_f1, unseen_f1=unseen_f1, recall_K=np.full(len(CLASSES), recall))


PLAIN = [figures(0.60, 0.40), figures(0.61, 0.42), figures(0.59, 0.41)]


def test_steady_gain_on_both_is_accepted() -> None:
    """Two to three points more for every seed, here and on the unseen corpus."""
    helped = [figures(0.62, 0.43), figures(0.635, 0.445), figures(0.615, 0.435)]
    verdict = judge(PLAIN, helped)
    assert verdict.accepted
    assert verdict.reasons == []
    # Gains 0.02, 0.025, 0.025: mean 0.02333, standard error 0.0016667, t(0.95, 2) = 2.92
    assert verdict.gain == pytest.approx(0.023333, abs=1e-5)
    assert verdict.gain_low == pytest.approx(0.023333 - 2.92 * 0.0016667, abs=1e-4)


def test_gain_within_the_noise_is_rejected() -> None:
    """A mean gain of two points that one seed alone brings proves nothing."""
    helped = [figures(0.66, 0.46), figures(0.61, 0.42), figures(0.59, 0.41)]
    verdict = judge(PLAIN, helped)
    assert not verdict.accepted
    assert "macro F1 on validation" in verdict.reasons[0]


def test_gain_here_that_is_a_loss_elsewhere_is_rejected() -> None:
    """The unseen corpus has a say of its own."""
    helped = [figures(0.65, 0.39), figures(0.66, 0.41), figures(0.64, 0.40)]
    assert [r.split(":")[0] for r in judge(PLAIN, helped).reasons] == ["macro F1 unseen"]


def test_class_that_pays_for_the_others_is_named() -> None:
    """Recall of one class falls for every seed while everything else gains."""
    helped = [figures(0.65, 0.45), figures(0.66, 0.47), figures(0.64, 0.46)]
    for place, one in enumerate(helped):
        one.recall_K[CLASSES.index("fear")] = 0.4 + 0.001 * place
    reasons = judge(PLAIN, helped).reasons
    assert len(reasons) == 1
    assert "recall of fear" in reasons[0]


def test_gate_runs_pairs_and_needs_three_seeds(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """Noise labelled at random does not pass; two seeds are refused; real splits are protected."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (64, 48, 48)).astype(np.uint8)
    made = synthetic_set(noise, rng.integers(0, 8, 64))
    run = replace(tiny, epochs=1)
    verdict = gate(run, faces, made, faces.part("test"), tmp_path)
    assert isinstance(verdict.accepted, bool)
    assert verdict.accepted == (not verdict.reasons)
    assert len(list(tmp_path.glob("*/last.pt"))) == 6
    with pytest.raises(ConfigError, match="2 seeds prove nothing"):
        gate(run, faces, made, faces, tmp_path, seeds=(0, 1))
    with pytest.raises(ConfigError, match="split 'train' alone"):
        gate(run, faces, faces, faces, tmp_path)


def test_morph_is_between_its_parents(faces: FaceSet) -> None:
    """Morphs of a class show that class's bar, and are the same for the same seed."""
    labels = np.array([2, 2, 5], np.int64)
    one = morphs(faces, labels, NO_AUGMENT, seed=0)
    assert one.shape == (3, 48, 48)
    np.testing.assert_array_equal(one, morphs(faces, labels, NO_AUGMENT, seed=0))
    for image, k in zip(one, labels, strict=True):
        rows = image[:, 10:40].mean(axis=1)
        assert int(rows.argmax()) in range(5 * int(k) + 2, 5 * int(k) + 7)


def test_morph_needs_a_parent(faces: FaceSet) -> None:
    """A class without pictures is named."""
    no_fear = faces.rows(faces.votes_NK[:, CLASSES.index("fear")] == 0)
    with pytest.raises(ConfigError, match="no clear picture of fear"):
        morphs(no_fear, np.array([CLASSES.index("fear")]), NO_AUGMENT, seed=0)


def test_gan_takes_steps_and_draws(faces: FaceSet) -> None:
    """Pictures have the right shape, depend on the class, and are repeatable."""
    generator = train_gan(faces, SMALL)
    torch.manual_seed(SMALL.seed)
    fresh = Generator(SMALL)
    assert not torch.equal(fresh.start.weight, generator.start.weight)
    zeros, ones = np.zeros(4, np.int64), np.ones(4, np.int64)
    pictures = draw(generator, SMALL, zeros)
    assert pictures.shape == (4, 48, 48)
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, draw(generator, SMALL, zeros))
    assert not np.array_equal(pictures, draw(generator, SMALL, ones))


def test_critic_learns_to_tell_real_from_noise(faces: FaceSet) -> None:
    """After some steps on the hinge loss, drawn faces score higher than noise."""
    torch.manual_seed(0)
    critic = Critic(replace(SMALL, width=8))
    optimizer = torch.optim.Adam(critic.parameters(), 2e-3)
    real = torch.from_numpy(faces.images_NHW[:64])[:, None].float() / 255.0
    labels = torch.from_numpy(faces.votes_NK[:64].argmax(axis=1))
    for _ in range(40):
        noise = torch.rand_like(real)
        told = torch.relu(1 - critic(real, labels)) + torch.relu(1 + critic(noise, labels))
        optimizer.zero_grad()
        torch.autograd.backward(told.mean())
        optimizer.step()
    with torch.no_grad():
        margin = critic(real, labels).mean() - critic(torch.rand_like(real), labels).mean()
    assert float(margin) > 0.5


def test_make_names_its_pictures_and_refuses_unknown_words(faces: FaceSet) -> None:
    """Two morphs of each of two classes, for training, called made; other words are refused."""
    made = make("morph", faces, ["fear", "disgust"], count=2, gan=SMALL)
    assert made.votes_NK.argmax(axis=1).tolist() == [6, 6, 5, 5]
    assert set(made.split_N.tolist()) == {"train"}
    assert all(name.startswith("made-") for name in made.name_N.tolist())
    with pytest.raises(ConfigError, match="kind 'magic'"):
        make("magic", faces, ["fear"], count=1, gan=SMALL)
    with pytest.raises(ConfigError, match="class 'joy'"):
        make("gan", faces, ["joy"], count=1, gan=SMALL)
