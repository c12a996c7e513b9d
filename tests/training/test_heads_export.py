"""Every kind of temporal head runs in the daemon: on the CPU, joined for a GPU, and in halves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from streamer import bundle as bundles
from streamer.engine import graphs
from streamer.engine.gpu import GpuEngine
from streamer.engine.resident import ResidentStates
from streamer.reading import CpuReading
from streamer.temporal import TemporalHead as Slots
from tests.engine_fixtures import HostDevice, HostNetwork
from training.export import Exported, export
from training.half import add_half
from training.model import FaceNet, ModelConfig
from training.temporal import KINDS, TemporalConfig, TemporalHead

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.stages import Stepper
    from streamer.types import F32

TRACKS, STEPS = 3, 9


def head_of(kind: str, net: FaceNet) -> TemporalHead:
    """Return a head of a kind whose correction matters."""
    config = TemporalConfig(kind=kind, layers=2, units=8, window=6)
    head = TemporalHead(config, net.classifier).eval()
    if head.correction is not None:
        torch.nn.init.normal_(head.correction.weight)
    return head


def training() -> bundles.Training:
    """Return a record of no training."""
    return bundles.Training(commit="none", recipe="none", seeds=[0], data={}, date="2026-01-01")


def stepped(states: Stepper, rows_NTX: F32) -> F32:
    """Step tracks as the daemon does, one of them a step late; return (N, T, K)."""
    head = Slots(states, gap_reset_s=10.0)
    out: list[list[F32]] = [[] for _ in range(TRACKS)]
    for t in range(STEPS + 1):
        here = [i for i in range(TRACKS) if 0 <= t - (i == 1) < STEPS]
        rows = np.stack([rows_NTX[i, t - (i == 1)] for i in here])
        got = head.step(rows, [("c", i) for i in here], [t / 10] * len(here))
        for row, i in enumerate(here):
            out[i].append(got[row])
    return np.array(out)


@pytest.mark.parametrize("kind", KINDS)
def test_the_daemon_runs_every_kind(kind: str, tmp_path: Path) -> None:
    """PyTorch's sequence, onnxruntime's steps and the joined network's steps are the same."""
    torch.manual_seed(0)
    net = FaceNet(ModelConfig(stem=4, widths=(8,), depths=(1,), features=8)).eval()
    head = head_of(kind, net)
    made = Exported(
        name=kind, net=net, head=head, temperature=1.0, training=training(), card="none"
    )
    assert export(made, tmp_path / "bundle") < 1e-4
    bundle = bundles.load(tmp_path / "bundle")
    assert bundle.manifest.temporal.kind == kind
    assert bundle.manifest.temporal.shapes == head.shapes

    rng = np.random.default_rng(0)
    faces = rng.uniform(size=(TRACKS, STEPS, 1, 48, 48)).astype(np.float32)
    with torch.no_grad():
        features = net(torch.from_numpy(faces).flatten(0, 1))[0].unflatten(0, (TRACKS, STEPS))
        expected = head(features).softmax(-1).numpy()
    on_cpu = CpuReading(bundle, threads=1)
    np.testing.assert_allclose(stepped(on_cpu.states(), features.numpy()), expected, atol=1e-4)

    network, device = graphs.reader(bundle.features_path, bundle.temporal_path), HostDevice()
    engine = GpuEngine(network, HostNetwork(network, device), device, name="host memory")
    np.testing.assert_allclose(stepped(ResidentStates(engine), faces), expected, atol=1e-4)

    proof = add_half(tmp_path / "bundle", np.repeat(bundle.parity.faces_N1HW, 4, axis=0))
    assert proof.same >= 0.995
