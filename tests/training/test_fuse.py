"""Branches of a bundle are one convolution each, and read as the trained network did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

from streamer import bundle as bundles
from training.export import Exported, OnnxFile, export
from training.fuse import Branches
from training.model import FaceNet, ModelConfig
from training.temporal import TemporalConfig, TemporalHead

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("dilation", [1, 2])
def test_bundle_of_branches_has_one_kernel_each(tmp_path: Path, dilation: int) -> None:
    """Stem, two convolutions and a projection for three blocks; parity is proved on the samples."""
    torch.manual_seed(0)
    config = ModelConfig(
        stem=8,
        widths=(8, 16, 16),
        depths=(1, 1, 1),
        features=16,
        block="branches",
        dilation=dilation,
    )
    net = FaceNet(config).train()
    for _ in range(3):  # so that the statistics are those of something
        net(torch.rand(32, 1, 48, 48))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    net.eval()
    record = bundles.Training(commit="none", recipe="none", seeds=[0], data={}, date="2026-01-01")
    head = TemporalHead(TemporalConfig(), net.classifier).eval()
    what = Exported(name="x", net=net, head=head, temperature=1.0, training=record, card="A card.")
    assert export(what, tmp_path / "b") < 1e-4
    assert any(isinstance(m, Branches) for m in net.modules())
    path = tmp_path / "b" / bundles.FEATURES
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("Conv") == 1 + 2 * 3 + 3
    faces = np.random.default_rng(0).random((3, 1, 48, 48), np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(faces))[1].numpy()
    logits = OnnxFile(path).run({"faces": faces})["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
