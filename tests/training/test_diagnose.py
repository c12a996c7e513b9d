"""Diagnosis: dead and tireless channels are counted, gradients with and without skips compared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from training.diagnose import firing, firing_after, gradient_trace, vanishing_ratio
from training.looking import grad_cam, looking_section, sheet
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


def test_rest_is_compared_on_the_same_steps(faces: FaceSet, tiny: TrainConfig) -> None:
    """Two calls without rest agree, one with it differs; the network they start from stays."""
    torch.manual_seed(0)
    net = FaceNet(tiny.model)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plain = firing_after(net, tiny, faces, 3, rest=0.0)
    assert plain == firing_after(net, tiny, faces, 3, rest=0.0)
    resting = firing_after(net, tiny, faces, 80, rest=0.3)
    assert [f.layer for f in resting] == [f.layer for f in plain]
    assert all(torch.equal(v, net.state_dict()[n]) for n, v in before.items())
    assert resting != firing_after(net, tiny, faces, 80, rest=0.0)


def test_heat_is_where_the_class_is_told() -> None:
    """A network that sums the left half for a class looks left for it, and right for another."""
    torch.manual_seed(0)
    net = FaceNet(replace(recipe("smoke").model, flatten="plain", skip=False, squeeze=0)).eval()
    side = 6
    with torch.no_grad():
        # Every map counts for class 0 on its left half and for class 1 on its right one.
        left = torch.zeros(16, side, side)
        left[:, :, : side // 2] = 1.0
        net.neck.get_parameter("0.weight").zero_()
        net.neck.get_parameter("0.weight")[0] = left.flatten()
        net.neck.get_parameter("0.weight")[1] = (1.0 - left).flatten()
        net.classifier.weight.zero_()
        net.classifier.weight[0, 0] = net.classifier.weight[1, 1] = 1.0
    crops = np.random.default_rng(0).integers(0, 255, (1, 48, 48), dtype=np.uint8)
    maps = net.maps(torch.from_numpy(crops)[:, None].float() / 255.0)
    looks = net.attention(maps)[0]
    assert not looks[0, :, side // 2 :].any()
    assert not looks[1, :, : side // 2].any()
    for k in (0, 1):
        heat = grad_cam(net, crops, np.array([k]))
        assert heat.shape == (1, 48, 48)
        assert 0.0 <= float(heat.min()) <= float(heat.max()) <= 1.0


def test_sheet_shows_every_class_and_its_mistakes(faces: FaceSet, tiny: TrainConfig) -> None:
    """Four faces of each of eight classes; an untrained network's mistakes are among them."""
    torch.manual_seed(0)
    found = sheet(FaceNet(tiny.model), faces.part("valid"))
    # An untrained network gets hardly any right, so at least the two mistakes a class are there.
    assert (np.bincount(found.labels_N, minlength=8) >= 2).all()
    assert (np.bincount(found.labels_N, minlength=8) <= 4).all()
    assert (found.guesses_N != found.labels_N).any()
    assert found.heat_NHW.shape == found.crops_NHW.shape
    section = looking_section(found)
    assert section.plots[0][1].startswith("<svg")
