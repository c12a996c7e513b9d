"""What the ablation measures beside one training: ensembles, made faces, a teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from training.ensemble import out_of_fold, reread
from training.evaluate import softmax
from training.means import read_by
from training.variants import ALONE, AVERAGED, GAN, MORPHS, STACKED, TAUGHT
from training.yardstick import VALID, Yardstick

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet
    from training.means import Reading
    from training.recipes import TrainConfig


def sets_of(faces: FaceSet) -> dict[str, Yardstick]:
    """Return validation in both framings and the test split as an unseen corpus."""
    valid, unseen = faces.part("valid"), faces.part("test")
    return {VALID: Yardstick.of(valid, raw=True), "x": Yardstick.of(unseen, raw=False)}


def test_an_ensemble_reads_as_its_members_weighed(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """The mean is the members' mean probability; the stacker never reads what it learned from."""
    config, sets = replace(tiny, epochs=1), sets_of(faces)
    members: list[Reading] = []
    for seed in (0, 1000, 2000):
        one, log_prior = read_by(ALONE, replace(config, seed=seed), faces, sets, tmp_path)
        members.append(one)
    mean, balance = read_by(AVERAGED, config, faces, sets, tmp_path)
    np.testing.assert_array_equal(balance, log_prior)
    for name in sets:
        wanted = np.mean([softmax(m[name][0] + log_prior) for m in members], axis=0)
        np.testing.assert_allclose(softmax(mean[name][0] + balance), wanted, atol=1e-5)
    stacked, shares = read_by(STACKED, config, faces, sets, tmp_path)
    labels, groups = sets[VALID].labels_N, sets[VALID].groups_N
    both = {name: np.stack([m[name][0] + log_prior for m in members]) for name in sets}
    for name, wanted in (
        (VALID, out_of_fold(both[VALID], labels, groups)),
        ("x", reread(both[VALID], labels, both["x"])),
    ):
        np.testing.assert_allclose(softmax(stacked[name][0] + shares), wanted, atol=1e-4)
    assert len(stacked[VALID]) == 2
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("means", [MORPHS, GAN, TAUGHT])
def test_other_pictures_or_targets_make_another_network(
    means: str, tmp_path: Path, faces: FaceSet, tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same each time, and no weights are left behind."""
    monkeypatch.setattr("training.means._GAN_STEPS", 2)
    large = replace(faces, images_NHW=np.stack([cv2.resize(i, (48, 48)) for i in faces.images_NHW]))
    config = replace(tiny, epochs=1, model=replace(tiny.model, size_px=48))
    sets = sets_of(large)
    plain, again, once = (
        read_by(how, config, large, sets, tmp_path)[0]["x"][0] for how in (ALONE, means, means)
    )
    np.testing.assert_array_equal(again, once)
    assert np.abs(again - plain).max() > 1e-3
    assert not list(tmp_path.rglob("*.pt"))
