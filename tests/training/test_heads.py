"""Temporal heads beside one another: people stay apart, and the average is one of equal lag."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.heads import RealClips, compare, joined, lessons
from training.model import FaceNet, ModelConfig
from training.sequences import SequenceConfig, fit_head
from training.smoothing import judge, judge_each
from training.temporal import TemporalConfig

QUICK = SequenceConfig(
    head=TemporalConfig(units=16, dropout=0.0, newest=1.0),
    steps=8,
    real=0.9,
    epochs=15,
    batch=32,
    lr=2e-2,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Leave the other cores to whoever else tests here."""
    torch.set_num_threads(1)


def net_of_eight() -> FaceNet:
    """Return a network whose classifier takes the largest of eight features."""
    config = ModelConfig(stem=4, widths=(8,), depths=(1,), features=8)
    net = FaceNet(config).eval()
    with torch.no_grad():
        net.classifier.weight.copy_(3.0 * torch.eye(8))
        net.classifier.bias.zero_()
    return net


def stills(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips of one-hot features that hold their class."""
    targets = torch.eye(8)[torch.arange(n) % 8]
    return targets[:, None].expand(n, 8, 8).clone(), targets


def test_no_head_has_seen_the_person_it_reads() -> None:
    """Each person's features say who it is, and labels are by chance: nobody can know them."""
    rng = np.random.default_rng(0)
    people = np.repeat([f"S{i:02}" for i in range(20)], 2)
    marks = np.repeat(rng.normal(size=(20, 8)), 2, axis=0)
    clips = RealClips(
        features=[torch.tensor(np.tile(m, (8, 1)), dtype=torch.float32) for m in marks],
        labels_M=np.repeat(rng.integers(1, 8, 20), 2).astype(np.int64),
        people_M=people,
        step_s=0.1,
    )
    (found,) = compare(net_of_eight(), stills(), clips, QUICK, kinds=["gru"], seeds=[0], real=True)
    assert found.head.apex.value < 0.4  # a head that had seen them reads nearly all of them right
    assert found.learned_from == "stills and other people's clips"


def test_other_peoples_clips_teach_what_stills_cannot() -> None:
    """A faint sign that the frame classifier takes for neutral is learned from other people."""
    clips, label = [], []
    for i in range(20):
        k = 1 + i % 2
        x = torch.zeros(8, 8)
        x[:, 0] = 1.0
        x[4:, k] = 0.5
        clips.append(x + 0.01 * torch.randn(8, 8, generator=torch.Generator().manual_seed(i)))
        label.append(k)
    real = RealClips(
        features=clips,
        labels_M=np.array(label, np.int64),
        people_M=np.array([f"S{i // 2}" for i in range(20)]),
        step_s=0.1,
    )
    how = replace(QUICK, faint=1.0)
    (found,) = compare(net_of_eight(), stills(), real, how, kinds=["tcn"], seeds=[0], real=True)
    assert found.average.apex.value == 0.0
    assert found.head.apex.value > 0.9
    assert found.apex_gain.low > 0.5
    assert found.average.name == "moving average 1"  # the frames alone: all averages lag more


def test_lessons_leave_neutral_and_arrive_by_hand() -> None:
    """Of 11 steps the target leaves neutral at a fifth and arrives at a half; the end is held."""
    clips = RealClips(
        features=[torch.arange(11.0)[:, None]],
        labels_M=np.array([3]),
        people_M=np.array(["S1"]),
        step_s=0.1,
    )
    features, targets = lessons(clips, 13)
    share = [0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1]
    assert features[0, :, 0].tolist() == [*range(11), 10, 10]
    assert targets[0, :, 3].tolist() == pytest.approx(share, abs=1e-6)
    assert targets[0, :, 0].tolist() == pytest.approx([1 - s for s in share], abs=1e-6)
    cut, _ = lessons(joined([clips, clips]), 4)
    assert cut[1, :, 0].tolist() == [7, 8, 9, 10]


def test_clip_by_clip_adds_up() -> None:
    """The figures over all clips are those of each clip put together."""
    rng = np.random.default_rng(1)
    clips = [rng.dirichlet(np.ones(3), size=n).astype(np.float32) for n in (5, 9, 7)]
    labels = np.array([0, 2, 1])
    each, whole = judge_each(clips, labels, 0.1), judge(clips, labels, 0.1)
    assert each.seconds_M.tolist() == pytest.approx([0.5, 0.9, 0.7])
    assert whole.flicker_hz == pytest.approx(each.changes_M.sum() / 2.1)
    assert whole.apex_accuracy == pytest.approx(each.apex_M.mean())


def test_the_moving_average_is_not_trained() -> None:
    """The kind "ema" comes back from training with the classifier it was given."""
    net, how = net_of_eight(), replace(QUICK, head=TemporalConfig(kind="ema"))
    head = fit_head(net, *stills(), how)
    assert torch.equal(head.classifier.weight, net.classifier.weight)
    assert head.memory is None
