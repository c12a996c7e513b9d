"""The audit finds what was put there: duplicates, leaks, doubtful labels, imbalance."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from training import report
from training.audit_page import audit_sections
from training.data import cache
from training.data.advice import advice
from training.data.audit import audit
from training.data.coverage import properties, spread
from training.data.duplicates import first_of_alike, mark_leaks, near_duplicates
from training.data.faces import CLASSES, FaceSet
from training.data.learning import law
from training.data.sources import make_cache

if TYPE_CHECKING:
    from pathlib import Path


def photographs(n: int, seed: int) -> np.ndarray:
    """Return smooth random pictures, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (n, 9, 9)).astype(np.uint8)
    return np.stack([cv2.resize(c, (48, 48), interpolation=cv2.INTER_CUBIC) for c in coarse])


def test_same_photograph_is_found_through_jpeg_and_brightness() -> None:
    """A copy that was coded again and brightened pairs with its original, and nothing else does."""
    images = photographs(60, 0)
    _, coded = cv2.imencode(".jpg", images[7], [cv2.IMWRITE_JPEG_QUALITY, 60])
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.uint8)
    copy = cv2.convertScaleAbs(decoded, alpha=0.8, beta=30)
    pairs = near_duplicates(np.concatenate([images, copy[None]]).astype(np.uint8))
    assert pairs == [(7, 60)]


def test_every_pair_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs are found wherever they lie in the blocks, each once, and a moved copy too."""
    monkeypatch.setattr("training.data.duplicates._BLOCK", 4)
    monkeypatch.setattr("training.data.duplicates._TILE", 8)
    images = photographs(30, 3).astype(np.uint8)
    images[29], images[10], images[9] = images[0], images[11], np.roll(images[3], 1, axis=1)
    assert near_duplicates(images) == [(0, 29), (3, 9), (10, 11)]


def test_counts_imbalance_and_pairs_across_splits() -> None:
    """Six against two is an imbalance of three; the copy in test is named as test/train."""
    images = photographs(9, 1).astype(np.uint8)
    images[8] = images[0]
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0], np.int64)
    split = np.array(["train"] * 8 + ["test"])
    found = audit(FaceSet.of(images, labels, split))
    assert found.counts["train"]["neutral"] == 6
    assert found.imbalance["train"] == pytest.approx(3.0)
    assert found.near_pairs == {"test/train": 1}
    assert found.exact_duplicates == 1
    assert found.across == [("train/0000000", "test/0000008")]
    assert "turn" not in found.coverage
    said = " ".join(advice(found))
    assert "1 pairs of pictures look the same across two splits" in said
    assert "No training picture of surprise" in said
    assert "No eyes are known" in said


def test_pictures_without_a_label_count_as_no_class(tmp_path: Path) -> None:
    """What nobody has labelled is counted apart; what people call no face is no neutral one."""
    for i, image in enumerate(photographs(5, 1).astype(np.uint8)):
        assert cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    make_cache("unlabelled", tmp_path, tmp_path / "c.npz", None)
    bare = cache.load(tmp_path / "c.npz").faces
    found = audit(bare, learn_from=100)
    assert set(found.counts["train"].values()) == {0}
    assert found.unlabelled == {"train": 5}
    assert (found.imbalance, found.clear) == ({}, {})
    said = " ".join(advice(found))
    assert "Nobody has labelled 5 of the training pictures" in said
    assert "cannot learn" not in said
    report.write(tmp_path / "page.html", "Audit", audit_sections(found), found)
    assert "without a label, train" in (tmp_path / "page.html").read_text()

    votes = bare.votes_NK.copy()
    votes[:2, 1] = 3
    found = audit(replace(bare, votes_NK=votes, other_N=np.array([0, 0, 9, 0, 0], np.float32)))
    assert (found.counts["train"]["happiness"], found.counts["train"]["neutral"]) == (2, 0)
    assert found.unlabelled == {"train": 2}
    assert found.clear["train"] == pytest.approx(2 / 3)


def test_a_marked_leak_is_no_news() -> None:
    """A copy that the corpus itself marks is counted, and that is all."""
    images = photographs(4, 1).astype(np.uint8)
    images[3] = images[0]
    split = np.array(["train"] * 3 + ["test"])
    faces = FaceSet.of(images, np.zeros(4, np.int64), split)
    same = faces.named(faces.name_N, np.array(["a", "b", "c", "a"]))
    assert audit(same).groups_cut == 1
    marked = audit(replace(same, leak_N=np.array([False, False, False, True])))
    assert (marked.groups_cut, marked.across_count, marked.leaks_marked) == (0, 0, 1)


def brighter(image: np.ndarray) -> np.ndarray:
    """Return the same photograph under another light."""
    return cv2.convertScaleAbs(image, alpha=0.8, beta=30)


def test_what_looks_alike_across_splits_is_marked() -> None:
    """A test picture like a training one, and a validation picture like a test one; no other."""
    images = photographs(7, 1).astype(np.uint8)
    images[4], images[3], images[1] = map(brighter, (images[0], images[5], images[2]))
    split = np.array(["train", "train", "train", "valid", "test", "test", "test"])
    faces = mark_leaks(FaceSet.of(images, np.zeros(7, np.int64), split))
    assert faces.leak_N.tolist() == [False, False, False, True, True, False, False]
    found = audit(faces)
    assert (found.across_count, found.leaks_marked, found.leaks_near) == (0, 2, 2)
    assert found.near_pairs == {"test/train": 1, "test/valid": 1, "train": 1}


def test_an_import_marks_what_looks_alike_unless_told_not_to(tmp_path: Path) -> None:
    """Of two training pictures one has an equal in test and one a brighter copy there."""
    images = photographs(3, 1).astype(np.uint8)
    rows = [
        *((image, "Training") for image in images),
        (images[0], "PrivateTest"),
        (brighter(images[1]), "PrivateTest"),
    ]
    lines = [f"3,{' '.join(map(str, image.ravel()))},{usage}" for image, usage in rows]
    table = tmp_path / "fer2013.csv"
    table.write_text("\n".join(["emotion,pixels,Usage", *lines]) + "\n")
    for near, alike in ((True, 1), (False, 0)):
        out = tmp_path / f"{near}.npz"
        made = make_cache("fer2013", table, out, None, near=near)
        assert (made.rows, made.leaks, made.groups) == (5, 1 + alike, 5)
        found = audit(cache.load(out).faces)
        assert (found.leaks_marked, found.leaks_near) == (1 + alike, alike)
        assert found.across_count == 1 - alike


def test_the_first_of_alike_pictures_stays() -> None:
    """A copy goes; what is like one that went but not like one that stayed is kept."""
    one, other = photographs(2, 5).astype(np.float64)
    images = [one, other, brighter(one.astype(np.uint8)), 0.5 * (one + other), one * 0.5]
    kept = first_of_alike(np.stack(images).astype(np.uint8), 0.9)
    assert kept.tolist() == [True, True, False, True, False]


def test_poses_by_hand() -> None:
    """Eyes 24 px apart, one 24 px lower, 4 px right of the middle and a quarter down the box."""
    one = FaceSet.of(photographs(1, 2).astype(np.uint8), np.zeros(1, np.int64), np.array(["train"]))
    eyes = np.array([[[16.0, 4.0], [40.0, 28.0]]], np.float32)
    boxes = np.array([[4.0, 6.0, 44.0, 46.0]], np.float32)
    found = properties(one.with_landmarks(eyes, boxes))
    assert found["face height"] == pytest.approx([40.0])
    assert found["eye distance"] == pytest.approx([24 * 2**0.5 / 48])
    assert found["roll"] == pytest.approx([45.0])
    assert found["turn"] == pytest.approx([0.1])
    assert found["nod"] == pytest.approx([0.25])
    assert np.isnan(properties(one)["turn"]).all()


def test_spread_by_hand() -> None:
    """Percentiles and bars are of the known values; all of them stand in some bar."""
    found = spread(np.array([*range(101), np.nan, np.nan]))
    assert found is not None
    assert (found.p5, found.p50, found.p95) == (5.0, 50.0, 95.0)
    assert found.known == pytest.approx(101 / 103)
    assert sum(found.counts) == 101
    assert spread(np.array([np.nan])) is None


def test_agreement_with_the_second_label() -> None:
    """Of two clear pictures of a class, one second label agrees; contempt is no word of it."""
    faces = FaceSet.of(
        photographs(3, 4).astype(np.uint8), np.array([3, 3, 7], np.int64), np.array(["train"] * 3)
    )
    faces = replace(faces, second_N=np.array([3, 0, 4], np.int64))
    assert audit(faces).agreement == {"sadness": 0.5}


def drawings(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of three kinds of stripes, and their kinds."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % 3
    y, x = np.mgrid[:48, :48]
    waves = (np.sin(x / 2), np.sin(y / 2), np.sin((x + y) / 3))
    images = [
        128 + 60 * waves[k] + rng.normal(0, 45, (48, 48)) + rng.integers(-20, 20) for k in kinds
    ]
    return np.clip(np.stack(images), 0, 255).astype(np.uint8), kinds.astype(np.int64)


def test_wrong_labels_are_doubted_and_right_ones_are_not() -> None:
    """Of 300 labels 12 were swapped: nearly all of those are found, and hardly another."""
    images, truth = drawings(300, 0)
    given = truth.copy()
    swapped = np.arange(0, 300, 25)
    given[swapped] = (given[swapped] + 1) % 3
    found = audit(FaceSet.of(images, given, np.full(300, "train")), learn_from=300).doubts
    assert found is not None
    assert found.judged == 300
    named = {int(name) for name, _, _ in found.worst}
    assert len(named & set(swapped.tolist())) >= 10
    assert found.doubted <= 16
    of = {int(name): (was, rather) for name, was, rather in found.worst}
    for row in named & set(swapped.tolist()):
        assert of[row] == (CLASSES[given[row]], CLASSES[truth[row]])


def test_more_pictures_help_while_the_error_falls() -> None:
    """Error over number is 0.1 + 0.4 n^-0.5 of the last: twice the pictures give 0.1 + 0.28."""
    sizes = np.array([10.0, 20.0, 40.0, 80.0, 160.0])
    exponent, doubled = law(sizes, 0.1 + 0.4 * (sizes / 160.0) ** -0.5)
    assert exponent == pytest.approx(0.5, abs=1e-3)
    assert doubled == pytest.approx(0.1 + 0.4 * 2**-0.5, abs=1e-3)


def test_the_curve_is_measured_on_groups_not_learned_from() -> None:
    """Labels that only the group tells cannot be learned: the error stays that of a guess."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 5)
    marks = photographs(60, 5)[group].astype(np.int64)
    images = np.clip(marks + rng.normal(0, 4, marks.shape), 0, 255).astype(np.uint8)
    labels = rng.integers(0, 2, 60)[group].astype(np.int64)
    faces = FaceSet.of(images, labels, np.full(300, "train"))
    found = audit(faces.named(faces.name_N, group.astype(np.str_)), learn_from=300).learning
    assert found is not None
    assert found.sizes == sorted(found.sizes)
    assert min(found.errors) > 0.3


def test_a_small_set_is_not_learned_from() -> None:
    """With 60 pictures a curve would say nothing, and there is none."""
    images, kinds = drawings(60, 1)
    found = audit(FaceSet.of(images, kinds, np.full(60, "train")), learn_from=6000)
    assert found.learning is None
    assert found.doubts is None
