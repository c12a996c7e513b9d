"""The face network: shapes, cost, every exchangeable part, robustness to light."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from streamer.errors import ConfigError
from training.fuse import Branches, fused
from training.model import (
    ACTIVATIONS,
    Blur,
    DropPath,
    FaceNet,
    ModelConfig,
    Standardise,
    count_macs,
    count_parameters,
)
from training.rest import Rest

SMALL = ModelConfig(stem=8, widths=(8, 16, 16), depths=(1, 1, 1), features=16)


def test_shipped_shape_fits_its_budget() -> None:
    """The default network has 0.7 to 1.3 M parameters and 40 to 100 M MACs."""
    net = FaceNet(ModelConfig())
    assert 0.7e6 < count_parameters(net) < 1.3e6
    assert 40e6 < count_macs(net) < 100e6


def test_macs_of_a_known_layer() -> None:
    """The stem alone costs 48 x 48 x 9 x 8, which is counted among the rest."""
    thin = ModelConfig(
        stem=8, widths=(8,), depths=(1,), features=4, classes=2, squeeze=0, skip=False
    )
    # stem 9*8*48^2; block 9*8*8*24^2 twice; neck 8*4; classifier 4*2
    assert count_macs(FaceNet(thin)) == 72 * 2304 + 2 * 576 * 576 + 32 + 8


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_learns(activation: str) -> None:
    """A gradient step with each activation changes the first kernel."""
    _one_step(replace(SMALL, activation=activation))


@pytest.mark.parametrize(
    "change",
    [
        {"flatten": "max"},
        {"flatten": "mean_max"},
        {"flatten": "plain"},
        {"flatten": "depthwise"},
        {"down": "max"},
        {"down": "blur"},
        {"down": "mean"},
        {"block": "depthwise"},
        {"block": "branches"},
        {"padding": "replicate"},
        {"norm": "group"},
        {"standardise": False},
        {"dilation": 2},
        {"kernel": 5},
        {"skip": False},
        {"squeeze": 0},
        {"rest": 0.9},
    ],
)
def test_every_part_can_be_exchanged(change: dict[str, object]) -> None:
    """Each option of the theory's table builds, keeps the output's shape and learns."""
    _one_step(replace(SMALL, **change))  # type: ignore[arg-type]


def _one_step(config: ModelConfig) -> None:
    torch.manual_seed(0)
    net = FaceNet(config).train()
    before = net.get_parameter("stem.0.weight").detach().clone()
    features, logits = net(torch.rand(4, 1, 48, 48))
    assert features.shape == (4, config.features)
    assert logits.shape == (4, 8)
    torch.autograd.backward(nn.functional.cross_entropy(logits, torch.arange(4)))
    torch.optim.SGD(net.parameters(), lr=1.0).step()
    assert not torch.equal(before, net.get_parameter("stem.0.weight"))


def test_brightness_and_contrast_hardly_matter() -> None:
    """Half the contrast and 40 levels more give the same probabilities within three hundredths."""
    torch.manual_seed(0)
    net = FaceNet(SMALL).eval()
    face = torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        plain, changed = (net(x)[1].softmax(1) for x in (face, 0.5 * face + 40 / 255))
    assert float((plain - changed).abs().max()) < 0.03


def test_standardise_does_not_blow_up_a_flat_crop() -> None:
    """A crop with noise of one grey level stays small, and a constant one is zero."""
    flat = torch.full((1, 1, 48, 48), 0.5)
    assert float(Standardise()(flat).abs().max()) < 1e-4
    noisy = flat + torch.randn(1, 1, 48, 48) / 255
    assert float(Standardise()(noisy).std()) < 0.25


def test_blur_keeps_a_constant_inside_and_halves() -> None:
    """The binomial kernel sums to one, so the inside of a constant map stays as it is."""
    out = Blur(3)(torch.ones(1, 3, 8, 8))
    assert out.shape == (1, 3, 4, 4)
    torch.testing.assert_close(out[:, :, 1:, 1:], torch.ones(1, 3, 3, 3))


def test_drop_path_keeps_the_mean_and_is_off_in_evaluation() -> None:
    """Rows are zero or doubled at p = 0.5, and untouched in evaluation."""
    torch.manual_seed(0)
    layer, x = DropPath(0.5), torch.ones(64, 1, 1, 1)
    assert set(layer.train()(x).flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(layer.eval()(x), x)


def test_tireless_channel_rests_and_comes_back() -> None:
    """A channel that always fires is silenced after some steps, for the length of a rest."""
    layer = Rest(4, ceiling=0.8, steps=5, memory=4, most=0.5).train()
    x = -torch.ones(2, 4, 3, 3)
    x[:, 1] = 1.0
    silent = [float(layer(x)[:, 1].abs().max()) == 0.0 for _ in range(40)]
    assert not silent[0]
    assert any(silent)
    first = silent.index(True)
    assert silent[first : first + 5] == [True] * 5
    assert not silent[first + 5]
    assert torch.equal(layer.eval()(x), x)


def test_only_a_share_of_the_channels_rests_at_a_time() -> None:
    """When all channels fire always, a quarter rests at most."""
    layer = Rest(8, ceiling=0.6, most=0.25, memory=2).train()
    for _ in range(30):
        resting = int((layer(torch.ones(1, 8, 2, 2)).amax(dim=(0, 2, 3)) == 0).sum())
        assert resting <= 2
    assert resting == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "magic"}, r"model\.activation is 'magic'"),
        ({"block": "branches", "norm": "group"}, r'set model\.norm="batch"'),
        ({"size_px": 50}, "cannot be halved 3 times"),
        ({"depths": (1, 1)}, "as many depths as widths"),
    ],
)
def test_wrong_options_are_refused(change: dict[str, object], message: str) -> None:
    """The error names the option and the choices."""
    with pytest.raises(ConfigError, match=message):
        FaceNet(replace(SMALL, **change))  # type: ignore[arg-type]


def test_branches_run_as_one_convolution() -> None:
    """After some training the fused network says the same within rounding, with fewer layers."""
    torch.manual_seed(0)
    config = replace(
        SMALL, block="branches", padding="reflect", widths=(8, 8, 16), depths=(2, 1, 1)
    )
    net = FaceNet(config).train()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    faces = torch.rand(16, 1, 48, 48)
    for _ in range(3):
        loss = nn.functional.cross_entropy(net(faces)[1], torch.arange(16) % 8)
        torch.autograd.backward(loss)
        sgd.step()
    one = fused(net)
    assert not any(isinstance(m, Branches) for m in one.modules())
    assert any(isinstance(m, Branches) for m in net.modules())
    assert count_macs(one) < count_macs(net)
    with torch.no_grad():
        torch.testing.assert_close(one(faces)[1], net.eval()(faces)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "max", "mean_max", "plain", "depthwise"])
def test_attention_of_a_linear_head_adds_up_to_its_logits(kind: str) -> None:
    """With one place on the map, attention is what the neck and the classifier make of it."""
    torch.manual_seed(0)
    net = FaceNet(replace(SMALL, flatten=kind, size_px=8)).eval()
    maps = torch.rand(2, 16, 1, 1)
    with torch.no_grad():
        if net.flatten.conv is not None and net.flatten.conv.bias is not None:
            net.flatten.conv.bias.zero_()
        linear = net.neck[1](net.neck[0](net.flatten(maps)))
        wanted = net.classifier(linear) - net.classifier.bias
        torch.testing.assert_close(net.attention(maps)[:, :, 0, 0], wanted, rtol=1e-4, atol=1e-5)


def test_group_norm_does_not_depend_on_the_batch() -> None:
    """A face gets the same logits alone as among others, while training too."""
    torch.manual_seed(0)
    net = FaceNet(replace(SMALL, norm="group", dropout=0.0, drop_path=0.0)).train()
    faces = torch.rand(4, 1, 48, 48)
    torch.testing.assert_close(net(faces)[1][:1], net(faces[:1])[1], rtol=1e-4, atol=1e-5)
