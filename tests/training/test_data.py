"""Votes become targets, epochs are balanced, caches keep what they were given."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from streamer.errors import ConfigError
from streamer.types import U8, Detections
from training.batches import Batches
from training.data import cache, packed
from training.data.balance import BalanceConfig, draw_rates, epoch_order
from training.data.faces import CLASSES, FaceSet
from training.data.labels import LabelConfig, majority, prior, targets
from training.recipes import recipe
from training.workers import Workers

if TYPE_CHECKING:
    from pathlib import Path

NEUTRAL, HAPPY, SURPRISE, SAD, ANGER, DISGUST, FEAR, CONTEMPT = range(8)


def voted(votes: list[list[float]], other: list[float], second: list[int]) -> FaceSet:
    """Build a set of blank pictures with the given votes."""
    n = len(votes)
    blank = FaceSet.of(
        np.zeros((n, 48, 48), np.uint8), np.zeros(n, np.int64), np.full(n, "train", dtype="<U5")
    )
    return replace(
        blank,
        votes_NK=np.array(votes, np.float32),
        other_N=np.array(other, np.float32),
        second_N=np.array(second, np.int64),
    )


def test_targets_drop_lone_votes_and_add_the_second_label() -> None:
    """Six neutral, one sad, three fear and a second label 'fear' give neutral 6/11, fear 5/11."""
    faces = voted([[6, 0, 0, 1, 0, 0, 3, 0]], [0], [FEAR])
    wanted, usable = targets(faces, LabelConfig(second_votes=2.0))
    assert usable.tolist() == [True]
    np.testing.assert_allclose(wanted[0, [NEUTRAL, SAD, FEAR]], [6 / 11, 0, 5 / 11], atol=1e-6)


def test_second_label_of_an_easy_class_adds_nothing() -> None:
    """A second label 'happiness' is not among the classes that need more evidence."""
    faces = voted([[8, 2, 0, 0, 0, 0, 0, 0]], [0], [HAPPY])
    wanted, _ = targets(faces, LabelConfig(second_votes=2.0))
    np.testing.assert_allclose(wanted[0, :2], [0.8, 0.2], atol=1e-6)


def test_picture_that_most_call_unknown_is_not_usable() -> None:
    """Four votes for a class lose against six for 'unknown', and the row is all zeros."""
    wanted, usable = targets(voted([[4, 0, 0, 0, 0, 0, 0, 0]], [6], [-1]), LabelConfig())
    assert not usable[0]
    assert wanted.sum() == 0.0


def test_hard_targets_and_a_declared_merge() -> None:
    """Contempt merged into disgust wins 6 to 4, and the hard target is one-hot."""
    faces = voted([[4, 0, 0, 0, 0, 3, 0, 3]], [0], [-1])
    config = LabelConfig(kind="hard", merge=(("contempt", "disgust"),))
    wanted, _ = targets(faces, config)
    assert wanted[0].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


def test_majority_needs_more_than_half_of_all_votes() -> None:
    """Five of ten is not clear, six of ten is; unknown votes count among the ten."""
    faces = voted([[5, 3, 0, 0, 0, 0, 0, 0], [6, 2, 0, 0, 0, 0, 0, 0]], [2, 2], [-1, -1])
    labels, clear = majority(faces)
    assert labels.tolist() == [0, 0]
    assert clear.tolist() == [False, True]


def test_power_sampling_draws_classes_by_the_root_of_their_size() -> None:
    """Sizes 100 and 4 are shown in the ratio sqrt(100) to sqrt(4), an epoch keeps its length."""
    wanted = np.zeros((104, 8), np.float32)
    wanted[:100, NEUTRAL] = 1.0
    wanted[100:, FEAR] = 1.0
    rates = draw_rates(wanted, BalanceConfig(kind="power", power=0.5))
    assert rates.sum() == pytest.approx(104.0, rel=1e-5)
    assert rates[:100].sum() / rates[100:].sum() == pytest.approx(5.0, rel=1e-5)
    half = draw_rates(wanted, BalanceConfig(kind="power", power=0.5, length=0.5))
    np.testing.assert_allclose(half, rates / 2, rtol=1e-6)


def test_under_sampling_cuts_large_classes_to_the_ratio() -> None:
    """With ratio 4 and a smallest class of 5, a class of 100 keeps a fifth."""
    wanted = np.zeros((105, 8), np.float32)
    wanted[:100, NEUTRAL] = 1.0
    wanted[100:, FEAR] = 1.0
    rates = draw_rates(wanted, BalanceConfig(kind="under", ratio=4.0))
    np.testing.assert_allclose(rates[:100], 0.2, rtol=1e-5)
    np.testing.assert_allclose(rates[100:], 1.0)


def test_look_alikes_of_large_classes_are_not_trained_on(faces: FaceSet) -> None:
    """Each of 16 happy faces is there three times, and one of two sad ones twice: 16, and all."""
    train = faces.part("train")
    top = train.votes_NK.argmax(axis=1)
    happy, sad = (np.flatnonzero(top == k) for k in (1, 3))
    some = train.rows(np.concatenate([happy, happy, happy, sad[:2], sad[:1]]))
    config = recipe("smoke")
    for alike, shown in ((0.0, 48), (0.999, 16)):
        balance = BalanceConfig(kind="natural", alike=alike)
        counts = Batches(replace(config, balance=balance), some, Workers.now()).counts(head=False)
        assert counts[1] == pytest.approx(shown, rel=1e-3)
        assert counts[3] == pytest.approx(3, rel=1e-3)


def test_cyclic_training_shows_each_part_of_a_large_class_in_turn() -> None:
    """At a rate of a quarter, four epochs show every picture exactly once."""
    rates = np.full(200, 0.25, np.float32)
    shown = np.concatenate([epoch_order(rates, epoch, seed=7) for epoch in range(4)])
    assert sorted(shown.tolist()) == list(range(200))


def test_epoch_order_is_shuffled_and_repeatable() -> None:
    """The same epoch gives the same order, another epoch another one."""
    rates = np.ones(50, np.float32)
    first, again = epoch_order(rates, 0, seed=1), epoch_order(rates, 0, seed=1)
    assert first.tolist() == again.tolist() != epoch_order(rates, 1, seed=1).tolist()
    assert first.tolist() != list(range(50))


def test_unknown_balance_is_refused_with_the_choices() -> None:
    """The error names the key and what may stand there."""
    wanted = np.eye(8, dtype=np.float32).repeat(3, axis=0)
    with pytest.raises(ConfigError, match=r"balance\.kind is 'magic'.*cyclic"):
        draw_rates(wanted, BalanceConfig(kind="magic"))


def test_prior_of_weighted_targets() -> None:
    """Three rows of weight 1 and one of weight 3 are half and half."""
    wanted = np.zeros((4, 8), np.float32)
    wanted[:3, HAPPY] = 1.0
    wanted[3, SAD] = 1.0
    share = prior(wanted, np.array([1, 1, 1, 3], np.float32))
    np.testing.assert_allclose(share[[HAPPY, SAD]], [0.5, 0.5], atol=1e-5)


def test_cache_returns_what_it_was_given_and_the_hash_of_its_source(
    tmp_path: Path, faces: FaceSet
) -> None:
    """Every array and the source's sha256 survive the round trip."""
    source = tmp_path / "source.bin"
    source.write_bytes(b"abc")
    cache.save(tmp_path / "faces.npz", faces, [source])
    back = cache.load(tmp_path / "faces.npz")
    np.testing.assert_array_equal(back.faces.images_NHW, faces.images_NHW)
    np.testing.assert_array_equal(back.faces.votes_NK, faces.votes_NK)
    assert back.faces.split_N.tolist() == faces.split_N.tolist()
    # sha256 of "abc", FIPS 180-2 appendix B.1
    assert back.sources["source.bin"].startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_damaged_cache_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Any bytes in place of a cache give a ConfigError, never a traceback."""
    path = tmp_path / "faces.npz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"faces\.npz"):
        cache.load(path)


class EyesAt:
    """A detector that finds one face with its eyes at given places of the picture it is shown."""

    def __init__(self, left: tuple[float, float], right: tuple[float, float]) -> None:
        self._eyes = np.array([[left, right]], np.float32)

    def detect(self, luma_HW: U8) -> Detections:
        """Return the same face for any picture, in its pixels."""
        side = float(luma_HW.shape[0])
        return Detections(
            boxes_N4=np.array([[0.2, 0.2, 0.8, 0.8]], np.float32) * side,
            scores_N=np.ones(1, np.float32),
            eyes_N22=self._eyes * side,
        )

    def close(self) -> None:
        """Nothing to release."""


def test_landmarks_come_back_in_pixels_of_the_small_picture(faces: FaceSet) -> None:
    """The enlarged picture is 72 px x 4 with a quarter of 48 px round it: 0.5 is pixel 23.5."""
    some = faces.rows(np.arange(3))
    found = cache.find_landmarks(some, EyesAt((0.5, 0.5), (0.75, 0.5)))
    # 0.5 * 288 = 144; (144 - 48 + 0.5) / 4 - 0.5 = 23.625 and (216 - 48 + 0.5) / 4 - 0.5
    np.testing.assert_allclose(found.eyes_N22[0], [[23.625, 23.625], [41.625, 23.625]], atol=1e-4)


def test_recut_levels_tilted_eyes() -> None:
    """Two dark dots on a tilted line are level in the daemon's crop, at its eye height."""
    picture = np.full((48, 48), 200, np.uint8)
    eyes = np.array([[[16.0, 24.0], [31.0, 16.0]]], np.float32)
    for x, y in eyes[0]:
        cv2.circle(picture, (int(x), int(y)), 1, 0, -1)
    one = FaceSet.of(picture[None], np.zeros(1, np.int64), np.array(["train"]))
    one = one.with_landmarks(eyes, np.array([[8, 8, 40, 40]], np.float32))
    crops, found = cache.recut(one)
    assert found.all()
    dark = np.argwhere(crops[0] < 120)
    assert np.ptp(dark[:, 0]) <= 4
    assert dark[:, 0].mean() == pytest.approx(0.39 * 48 - 0.5, abs=1.0)


def test_wrong_landmarks_leave_the_picture_as_it_is(faces: FaceSet) -> None:
    """Eyes two pixels apart would zoom out of reason, so they are not believed."""
    some = faces.rows(np.arange(2))
    eyes = np.tile(np.array([[20.0, 20.0], [22.0, 20.0]], np.float32), (2, 1, 1))
    boxes = np.tile(np.array([19.0, 19.0, 23.0, 23.0], np.float32), (2, 1))
    crops, found = cache.recut(some.with_landmarks(eyes, boxes))
    assert not found.any()
    np.testing.assert_array_equal(crops, some.images_NHW)


def test_packed_ferplus_has_the_published_counts(shared: Path) -> None:
    """The clean test split holds the 2,514 pictures that every score here is about."""
    faces = packed.read_ferplus(shared / "data" / "fer2013plus_48.npz")
    assert len(faces) == 35_710
    test = faces.part("test")
    labels, clear = majority(test)
    counts = np.bincount(labels[clear], minlength=8)
    assert int(clear.sum()) == 2514
    assert counts.tolist() == [906, 838, 244, 278, 193, 6, 41, 8]


def test_packed_ckplus_is_grouped_by_subject(shared: Path) -> None:
    """981 pictures of 118 people, none of them called neutral."""
    faces = packed.read_ckplus48(shared / "data" / "ckplus48.npz")
    assert len(faces) == 981
    assert len(set(faces.group_N.tolist())) == 118
    assert faces.votes_NK[:, CLASSES.index("neutral")].sum() == 0.0


def test_missing_packed_file_says_so(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(ConfigError, match=r"none\.npz"):
        packed.read_ferplus(tmp_path / "none.npz")
