"""Augmentation: its geometry is the daemon's, its range is kept, its randomness is seeded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from streamer import preprocess
from training.augment import (
    NO_AUGMENT,
    AugmentConfig,
    augment,
    framings,
    mix,
    pair_weights,
    reach,
)
from training.data.faces import FaceSet

if TYPE_CHECKING:
    from streamer.types import U8

IDENTITY = torch.eye(2, 3)


def random() -> torch.Generator:
    """Return the same source of randomness each time."""
    return torch.Generator().manual_seed(5)


def smooth_face() -> U8:
    """Return a smooth picture, so that resampling twice differs little from once."""
    y, x = np.mgrid[0:48, 0:48]
    return np.asarray(127 + 60 * np.sin(x / 7.0) + 60 * np.cos(y / 9.0), np.uint8)


def test_nothing_chosen_changes_nothing() -> None:
    """Without any augmentation the batch is the pixels divided by 255."""
    pixels = torch.from_numpy(smooth_face())[None].repeat(3, 1, 1)
    out = augment(pixels, IDENTITY.repeat(3, 1, 1), NO_AUGMENT, random())
    torch.testing.assert_close(out[:, 0], pixels / 255.0, atol=1e-4, rtol=0)


def test_framing_is_the_crop_of_the_daemon() -> None:
    """The batch's warp equals ``preprocess.crop`` within two grey levels inside the picture."""
    picture = smooth_face()
    eyes = np.array([[[14.0, 17.0], [31.0, 20.0]]], np.float32)
    boxes = np.array([[4.0, 2.0, 44.0, 47.0]], np.float32)
    face = FaceSet.of(picture[None], np.zeros(1, np.int64), np.array(["train"]))
    framing = framings(face.with_landmarks(eyes, boxes))
    out = augment(
        torch.from_numpy(picture)[None], framing, replace(NO_AUGMENT, recut=1.0), random()
    )
    expected = preprocess.crop(picture, eyes[0], boxes[0], 48).astype(np.float32)
    difference = np.abs(255.0 * out[0, 0].numpy() - expected)
    assert float(np.median(difference)) < 1.0
    assert float(difference[8:40, 8:40].max()) < 2.0


def test_mirror() -> None:
    """With flip certain, the picture is its own mirror image."""
    pixels = torch.from_numpy(smooth_face())[None]
    out = augment(pixels, IDENTITY[None], replace(NO_AUGMENT, flip=1.0), random())
    torch.testing.assert_close(out[0, 0].flip(1), pixels[0] / 255.0, atol=1e-4, rtol=0)


def test_everything_at_once_stays_in_range_and_is_repeatable() -> None:
    """Values stay within 0..1, and the same seed gives the same batch bit for bit."""
    config = AugmentConfig(light=1.0, blur=1.0, small=1.0, noise=1.0, jpeg=1.0, erase=1.0)
    pixels = torch.from_numpy(smooth_face())[None].repeat(8, 1, 1)
    framing = IDENTITY.repeat(8, 1, 1)
    first = augment(pixels, framing, config, random())
    assert float(first.min()) >= 0.0
    assert float(first.max()) <= 1.0
    assert torch.equal(first, augment(pixels, framing, config, random()))
    assert not torch.equal(first[0], first[1])


def test_blur_removes_detail_and_keeps_the_mean() -> None:
    """A checkerboard loses most of its deviation, its mean stays."""
    board = torch.from_numpy((np.indices((48, 48)).sum(0) % 2 * 255).astype(np.uint8))[None]
    out = augment(board, IDENTITY[None], replace(NO_AUGMENT, blur=1.0), random())
    assert float(out.std()) < 0.3
    assert float(out.mean()) == pytest.approx(0.5, abs=0.02)


def test_mixup_mixes_pictures_and_targets_alike() -> None:
    """With one-hot pictures the share of each partner is the same in both."""
    x = torch.zeros(4, 1, 2, 2) + torch.arange(4.0)[:, None, None, None]
    targets = torch.eye(4)
    mixed, wanted = mix(x, targets, replace(NO_AUGMENT, mixup=1.0), random())
    torch.testing.assert_close(mixed[:, 0, 0, 0], wanted @ torch.arange(4.0))
    torch.testing.assert_close(wanted.sum(1), torch.ones(4))
    assert float(wanted.max(dim=1).values.min()) >= 0.5


def test_cutmix_share_is_the_pasted_area() -> None:
    """The target's share equals the share of pixels that stayed."""
    x = torch.zeros(6, 1, 48, 48) + torch.arange(6.0)[:, None, None, None]
    config = replace(NO_AUGMENT, mixup=1.0, cutmix=1.0)
    mixed, wanted = mix(x, torch.eye(6), config, random())
    for row in range(6):
        stayed = float((mixed[row] == row).float().mean())
        assert float(wanted[row, row]) == pytest.approx(stayed, abs=1e-5)


def test_rare_classes_are_changed_further_and_paired_more_often() -> None:
    """Of 64 faces of one class and 4 of another, the few reach half as far again and pair as often.

    By power 1 the four draw half of all seconds; by power 0 every picture is as likely.
    """
    targets = np.repeat(np.eye(2, dtype=np.float32), [64, 4], axis=0)
    far = reach(targets, replace(NO_AUGMENT, rare=0.5))
    assert far[:64].tolist() == [1.0] * 64
    assert far[64:].tolist() == pytest.approx([1.5] * 4)
    weight = pair_weights(targets, replace(NO_AUGMENT, minority=1.0))
    assert float(weight[64:].sum()) == pytest.approx(float(weight[:64].sum()))
    even = pair_weights(targets, NO_AUGMENT)
    assert even.tolist() == pytest.approx([float(even[0])] * 68)


def test_minority_cutmix_pastes_rare_faces() -> None:
    """With all weight on the last face, every mixed target holds a share of its class."""
    config = replace(NO_AUGMENT, mixup=1.0, cutmix=1.0, minority=1.0)
    x, targets = torch.rand(8, 1, 48, 48), torch.eye(8)
    weight = torch.zeros(8)
    weight[7] = 1.0
    random = torch.Generator().manual_seed(0)
    mixed, wanted = mix(x, targets, config, random, weight)
    assert bool((wanted[:7, 7] > 0).all())
    torch.testing.assert_close(wanted.sum(dim=1), torch.ones(8))
    # What is not the face's own pixel is the last one's.
    assert bool(((mixed == x) | (mixed == x[7:])).all())


def test_further_reach_changes_more() -> None:
    """The same random numbers at twice the reach move a picture further."""
    x = torch.randint(0, 255, (64, 48, 48), dtype=torch.uint8)
    framing = torch.eye(2, 3).expand(64, 2, 3)
    config = replace(NO_AUGMENT, gamma=0.4)
    near, far = (
        augment(x, framing, config, torch.Generator().manual_seed(1), scale)
        for scale in (None, torch.full((64,), 2.0))
    )
    plain = x[:, None].float() / 255.0
    assert float((far - plain).abs().mean()) > 1.5 * float((near - plain).abs().mean())
