"""Diagnosis: dead and tireless channels are counted, gradients with and without skips compared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from training.diagnose import firing, gradient_trace, vanishing_ratio
from training.model import FaceNet
from training.recipes import TrainConfig, recipe

if TYPE_CHECKING:
    from training.data.faces import FaceSet


def test_dead_and_tireless_channels_are_counted() -> None:
    """Of eight channels of the stem, two are forced below zero and one above."""
    torch.manual_seed(0)
    net = FaceNet(recipe("smoke").model)
    with torch.no_grad():
        bias = net.get_parameter("stem.1.bias")
        bias[:2] = -1e3
        bias[2] = 1e3
    stem = firing(net, torch.rand(16, 1, 48, 48))[0]
    assert stem.layer == "stem.2"
    assert stem.dead == pytest.approx(2 / 8)
    assert stem.always >= 1 / 8
    assert stem.share_C[:3] == [0.0, 0.0, 1.0]


def test_skips_carry_the_gradient_back(faces: FaceSet, tiny: TrainConfig) -> None:
    """In a deep net of sigmoids the first layer gets far more gradient with skips than without."""
    deep = replace(
        tiny,
        batch=16,
        model=replace(tiny.model, depths=(3, 3, 3), activation="sigmoid", squeeze=0),
    )
    with_skip = gradient_trace(deep, faces, 3)
    without = gradient_trace(deep, faces, 3, skip=False)
    assert with_skip.layers[0] == without.layers[0] == "stem.0"
    assert len(with_skip.norms) == 3
    assert vanishing_ratio(with_skip) > vanishing_ratio(without)
