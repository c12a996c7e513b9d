"""The temporal head: stepping equals the sequence, rows never mix, and it learns from clips."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from streamer.errors import ConfigError
from training.augment import framings
from training.model import FaceNet
from training.recipes import recipe
from training.sequences import SequenceConfig, blend, fit_head, read_clips, render
from training.smoothing import best_average, ema, judge
from training.temporal import TemporalConfig, TemporalHead

if TYPE_CHECKING:
    from training.data.faces import FaceSet


KINDS_WITH_STATE = [("lstm", 1), ("lstm", 2), ("gru", 2), ("tcn", 3), ("attention", 2), ("ema", 1)]


def trained_looking(kind: str = "lstm", layers: int = 1) -> TemporalHead:
    """Return a head whose correction is not zero, and whose attention prefers some ages."""
    torch.manual_seed(1)
    config = TemporalConfig(kind=kind, layers=layers, units=8, window=5)
    head = TemporalHead(config, nn.Linear(5, 3)).eval()
    for name, weights in head.named_parameters():
        if name.startswith("correction") or name.endswith("age"):
            nn.init.normal_(weights)
    return head


@pytest.mark.parametrize(("kind", "layers"), KINDS_WITH_STATE)
def test_stepping_equals_the_sequence(kind: str, layers: int) -> None:
    """A whole sequence and single steps from zeros give the same logits, beyond the window too."""
    head = trained_looking(kind, layers)
    x = torch.randn(4, 12, 5)
    with torch.no_grad():
        whole = head(x)
        states = head.zeros(4)
        for t in range(12):
            logits, *states = head.step(x[:, t], *states)
            torch.testing.assert_close(logits, whole[:, t], atol=1e-5, rtol=1e-5)
    assert [(s.shape[0], s.shape[2]) for s in states] == list(head.shapes.values())


@pytest.mark.parametrize(("kind", "layers"), KINDS_WITH_STATE)
def test_no_step_sees_what_comes_after_it(kind: str, layers: int) -> None:
    """Changing the last step changes no logits before it."""
    head = trained_looking(kind, layers)
    x = torch.randn(2, 8, 5)
    other = x.clone()
    other[:, -1] += 3.0
    with torch.no_grad():
        before, after = head(x), head(other)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


@pytest.mark.parametrize(("kind", "layers"), KINDS_WITH_STATE[1:5])
def test_a_step_looks_back(kind: str, layers: int) -> None:
    """What is said at the fifth step depends on the third."""
    head = trained_looking(kind, layers)
    x = torch.randn(2, 5, 5)
    other = x.clone()
    other[:, 2] += 3.0
    with torch.no_grad():
        moved = head(x)[:, -1] - head(other)[:, -1]
        average = head.classifier(x[:, 2] - other[:, 2]) - head.classifier.bias
    # More than the moving average alone would carry so far: 0.35 ** 2 of the change.
    assert not torch.allclose(moved, 0.65 * 0.35**2 * average, atol=1e-2)


def test_the_average_is_that_of_the_baseline() -> None:
    """The kind "ema" says what ``smoothing.ema`` makes of the frames' probabilities."""
    head = trained_looking("ema")
    x = torch.randn(1, 7, 5)
    with torch.no_grad():
        said = head(x)[0].softmax(-1).numpy()
        frames = head.classifier(x)[0].softmax(-1).numpy()
    np.testing.assert_allclose(said, ema(frames, head.config.newest), atol=1e-5)


def test_an_unknown_kind_is_refused() -> None:
    """One line names the kinds."""
    with pytest.raises(ConfigError, match="lstm, gru, tcn, attention, ema"):
        TemporalHead(TemporalConfig(kind="rnn"), nn.Linear(5, 3))


def test_packed_sequences_ignore_what_follows_their_end() -> None:
    """A short row gives the same logits alone and padded with rubbish in a batch."""
    head = trained_looking()
    x = torch.randn(2, 6, 5)
    with torch.no_grad():
        packed = head(x, torch.tensor([3, 6]))
        alone = head(x[:1, :3])
    torch.testing.assert_close(packed[0, :3], alone[0], atol=1e-5, rtol=1e-5)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Leave the other cores to whoever else tests here."""
    torch.set_num_threads(1)


def test_rows_do_not_mix() -> None:
    """Changing one row leaves every other row's logits as they were."""
    head = trained_looking()
    x = torch.randn(3, 4, 5)
    other = x.clone()
    other[1] += 5.0
    with torch.no_grad():
        before, after = head(x), head(other)
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


def test_untrained_head_is_the_moving_average_of_the_frames() -> None:
    """With weight a half: the first frame as it is, then (a / 4 + b / 2) over 3/4."""
    classifier = nn.Linear(5, 3)
    head = TemporalHead(TemporalConfig(units=4, newest=0.5), classifier).eval()
    x = torch.randn(2, 2, 5)
    with torch.no_grad():
        first, second = classifier(x).unbind(dim=1)
        torch.testing.assert_close(head(x)[:, 0], first)
        torch.testing.assert_close(head(x)[:, 1], (first / 4 + second / 2) / (3 / 4))


def test_untrained_head_without_averaging_is_the_frame_classifier() -> None:
    """The residual skip starts from the classifier's own logits."""
    classifier = nn.Linear(5, 3)
    head = TemporalHead(TemporalConfig(units=4, newest=1.0), classifier).eval()
    x = torch.randn(2, 3, 5)
    with torch.no_grad():
        torch.testing.assert_close(head(x), classifier(x))


def test_rendered_clips_move_slowly_and_stay_in_range(faces: FaceSet) -> None:
    """Neighbouring frames differ less than distant ones; values stay within 0..1."""
    config = SequenceConfig(steps=12, spoiled=0.0)
    some = faces.rows(np.arange(16))
    random = torch.Generator().manual_seed(0)
    clips = render(torch.from_numpy(some.images_NHW), framings(some), config, random)
    assert clips.shape == (16, 12, 1, 48, 48)
    assert 0.0 <= float(clips.min()) <= float(clips.max()) <= 1.0
    near = (clips[:, 1:] - clips[:, :-1]).abs().mean()
    far = (clips[:, 6:] - clips[:, :-6]).abs().mean()
    assert float(near) < float(far)


def test_blend_goes_from_one_clip_to_another() -> None:
    """With change certain and nothing dropped, targets follow what is shown."""
    config = SequenceConfig(change=1.0, dropped=0.0, ramp=2, from_neutral=0.0, faint=1.0)
    features = torch.arange(4.0)[:, None, None].expand(4, 10, 3)
    random = torch.Generator().manual_seed(2)
    x, wanted = blend(features, torch.eye(4), torch.arange(4), config, random)
    torch.testing.assert_close(x[:, 0, 0], torch.arange(4.0))
    torch.testing.assert_close(wanted.sum(-1), torch.ones(4, 10))
    # Features here are the clip's number, so the target's mean number must follow them.
    torch.testing.assert_close((wanted * torch.arange(4.0)).sum(-1), x[..., 0])


def test_faint_change_from_neutral_counts_in_full() -> None:
    """From neutral, features go a tenth of the way to class 2 and the target all of it."""
    config = SequenceConfig(change=1.0, dropped=0.0, ramp=1, from_neutral=1.0, faint=0.1, steps=30)
    features = torch.tensor([0.0, 10.0])[:, None, None].expand(2, 30, 1)
    targets = torch.eye(3)[[0, 2]]
    random = torch.Generator().manual_seed(0)
    x, wanted = blend(features, targets, torch.tensor([1] * 64), config, random)
    assert float(x[:, 0].max()) == 0.0  # every row was made to begin with the neutral clip
    arrived = wanted[:, -1, 2] == 1.0
    assert bool(arrived.any())
    ends = x[arrived, -1, 0]
    assert 1.0 <= float(ends.min()) < 4.0
    assert 6.0 < float(ends.max()) <= 10.0


def test_head_learns_to_see_through_noise() -> None:
    """On noisy features of a constant class the head beats the frame classifier."""
    torch.manual_seed(0)
    net = FaceNet(replace(recipe("smoke").model, features=8)).eval()
    with torch.no_grad():
        net.classifier.weight.copy_(2.0 * torch.eye(8))
        net.classifier.bias.zero_()
    labels = torch.arange(256) % 8
    clips = nn.functional.one_hot(labels, 8).float()[:, None] + 1.5 * torch.randn(256, 16, 8)
    config = SequenceConfig(
        head=TemporalConfig(units=24, dropout=0.0, newest=1.0),
        change=0.0,
        from_neutral=0.0,
        steady=0.0,
        dropped=0.0,
        epochs=30,
        batch=64,
        lr=2e-2,
    )
    head = fit_head(net, clips, torch.eye(8)[labels], config)
    fresh = nn.functional.one_hot(labels, 8).float()[:, None] + 1.5 * torch.randn(256, 16, 8)
    with torch.no_grad():
        by_head = (head(fresh)[:, -1].argmax(-1) == labels).float().mean()
        by_frame = (net.classifier(fresh)[:, -1].argmax(-1) == labels).float().mean()
    assert float(by_head) > float(by_frame) + 0.15


def test_clips_are_read_by_the_face_network(faces: FaceSet) -> None:
    """Features have a row a still and a step, whatever the size of the chunks."""
    net = FaceNet(recipe("smoke").model).eval()
    some = faces.rows(np.arange(5))
    pixels, config = torch.from_numpy(some.images_NHW), SequenceConfig(steps=3)
    random = torch.Generator().manual_seed(0)
    out = read_clips(net, pixels, framings(some), config, random, at_once=2)
    assert out.shape == (5, 3, net.config.features)
    assert bool(torch.isfinite(out).all())


def test_moving_average_by_hand() -> None:
    """Weight a half: 1, then (0 + 1) / 2, then (0 + 0.5) / 2."""
    out = ema(np.array([[1.0], [0.0], [0.0]], np.float32), 0.5)
    assert out[:, 0].tolist() == [1.0, 0.5, 0.25]


def test_judge_by_hand() -> None:
    """A clip that says 0 1 0 1 1 1 for label 1: two changes too many in 0.6 s, right from 0.3 s."""
    said = np.array([0, 1, 0, 1, 1, 1])
    result = judge([np.eye(2, dtype=np.float32)[said]], np.array([1]), 0.1)
    assert result.apex_accuracy == result.uar == result.final_accuracy == 1.0
    assert result.flicker_hz == pytest.approx(2 / 0.6)
    assert result.lag_s == pytest.approx(0.3)


def test_baseline_may_not_lag_more_than_the_head() -> None:
    """An average that delays the label is not chosen when no lag is allowed."""
    clip = np.eye(2, dtype=np.float32)[[0, 0, 0, 1, 1, 1]]
    weight, result = best_average([clip], np.array([1]), 0.1, lag_s=0.3)
    assert result.lag_s <= 0.3 + 1e-9
    assert weight >= 0.5
