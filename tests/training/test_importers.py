"""The public formats are read as published, and anything else is refused with its place."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import ConfigError
from streamer.types import U8, Detections
from training.data.clips import ClipSet, read_ckplus_sequences
from training.data.faces import CLASSES, MISSING
from training.data.fer2013 import read_fer2013, read_ferplus_folder
from training.data.folders import read_folders, read_unlabelled
from training.data.splits import by_group, folds

if TYPE_CHECKING:
    from pathlib import Path

VOTES = (*CLASSES, "unknown", "NF")


def write_fer2013(folder: Path) -> tuple[Path, Path]:
    """Write three pictures: a training one, its copy in the test split, and a validation one."""
    pictures, votes = folder / "fer2013.csv", folder / "fer2013new.csv"
    one, two = np.full(2304, 7), np.arange(2304) % 256
    with pictures.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["emotion", "pixels", "Usage"])
        for emotion, pixels, usage in (
            (2, one, "Training"),
            (2, one, "PrivateTest"),
            (3, two, "PublicTest"),
        ):
            table.writerow([emotion, " ".join(map(str, pixels)), usage])
    with votes.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Usage", "Image name", *VOTES])
        table.writerow(["Training", "a.png", 4, 0, 0, 0, 0, 0, 5, 0, 1, 0])
        table.writerow(["PrivateTest", "b.png", 4, 0, 0, 0, 0, 0, 5, 0, 0, 1])
        table.writerow(["PublicTest", "c.png", 0, 9, 1, 0, 0, 0, 0, 0, 0, 0])
    return pictures, votes


def test_fer2013_with_votes(tmp_path: Path) -> None:
    """Labels, votes, splits and pixels arrive, and the copied test picture is marked a leak."""
    faces = read_fer2013(*write_fer2013(tmp_path))
    assert faces.split_N.tolist() == ["train", "test", "valid"]
    assert faces.votes_NK[0].tolist() == [4, 0, 0, 0, 0, 0, 5, 0]
    assert faces.other_N.tolist() == [1, 1, 0]
    assert [CLASSES[k] for k in faces.second_N] == ["fear", "fear", "happiness"]
    assert faces.leak_N.tolist() == [False, True, False]
    assert len(faces.part("test")) == 0
    assert faces.images_NHW[2, 0, :3].tolist() == [0, 1, 2]


def test_fer2013_without_votes_has_its_own_label(tmp_path: Path) -> None:
    """Without FER+ the label itself is the vote."""
    faces = read_fer2013(write_fer2013(tmp_path)[0])
    assert faces.votes_NK[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("emotion,pixels\n", "line 1: no column Usage"),
        ("emotion,pixels,Usage\n0,1 2 3,Training\n", "line 2: 3 pixels, expected 2304"),
        ("emotion,pixels,Usage\n0,x,Training\n", "line 2: pixels are not numbers"),
        (f"emotion,pixels,Usage\n9,{'0 ' * 2304},Training\n", "line 2: emotion is '9'"),
        (f"emotion,pixels,Usage\n0,{'0 ' * 2304},Other\n", "line 2: Usage is 'Other'"),
        ("emotion,pixels,Usage\n0\n", "line 2: too few columns"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, content: str, message: str) -> None:
    """The error says file, line, what was found and what was expected."""
    path = tmp_path / "fer2013.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_fer2013(path)


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_as_a_table_are_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Never a traceback, whatever the file holds."""
    path = tmp_path_factory.mktemp("any") / "fer2013.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"fer2013\.csv"):
        read_fer2013(path)


def test_ferplus_folder(tmp_path: Path) -> None:
    """Pictures and the ten votes of each label.csv are read, without a second label."""
    for k, name in enumerate(("FER2013Train", "FER2013Test")):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "p.png"), np.full((48, 48), 50 * k, np.uint8))
        row = ["p.png", "(0, 0, 48, 48)", 0, 0, 6, 0, 0, 0, 2, 0, 1, 1]
        (tmp_path / name / "label.csv").write_text(",".join(f'"{v}"' for v in row) + "\n")
    faces = read_ferplus_folder(tmp_path)
    assert faces.split_N.tolist() == ["train", "test"]
    assert faces.votes_NK[1].tolist() == [0, 0, 6, 0, 0, 0, 2, 0]
    assert faces.other_N.tolist() == [2, 2]
    assert set(faces.second_N.tolist()) == {MISSING}


def test_folder_a_class_splits_by_subject(tmp_path: Path) -> None:
    """Two words for a class mean the same, and nobody is in two splits."""
    rng = np.random.default_rng(0)
    for word, label in (("happy", 0), ("Sad", 1)):
        (tmp_path / word).mkdir()
        for subject in range(10):
            for take in range(2):
                picture = rng.integers(0, 255, (60, 60)).astype(np.uint8)
                cv2.imwrite(str(tmp_path / word / f"S{subject}{label}_{take}.png"), picture)
    faces = read_folders(tmp_path)
    assert len(faces) == 40
    assert len(set(faces.group_N.tolist())) == 20
    assert set(faces.votes_NK.argmax(1).tolist()) == {1, 3}
    for group in set(faces.group_N.tolist()):
        assert len(set(faces.split_N[faces.group_N == group].tolist())) == 1
    assert set(faces.split_N.tolist()) == {"train", "valid", "test"}


@pytest.mark.parametrize(
    "names",
    [
        [f"img_{i:04}" for i in range(40)],
        [f"{('Training', 'PublicTest', 'PrivateTest')[i % 3]}_{i}" for i in range(40)],
        [f"{['neutral', 'happy', 'sad', 'angry'][i % 4]}_{i}" for i in range(40)],
        [f"s{i}_0" for i in range(20)] + [f"img_{i}" for i in range(20)],
    ],
)
def test_beginnings_of_names_that_are_no_people_make_no_groups(
    tmp_path: Path, names: list[str]
) -> None:
    """Each picture is its own group, and every split gets its share."""
    for k, name in enumerate(names):
        picture = tmp_path / ("happy", "sad")[k % 2] / f"{name}.png"
        picture.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(picture), np.full((48, 48), k, np.uint8))
    faces = read_folders(tmp_path)
    assert len(set(faces.group_N.tolist())) == 40
    assert [int((faces.split_N == s).sum()) for s in ("train", "valid", "test")] == [32, 4, 4]
    assert read_unlabelled(tmp_path).group_N.tolist() == faces.group_N.tolist()


def test_folders_with_splits_keep_them(tmp_path: Path) -> None:
    """train/ and val/ above the classes are taken as they are."""
    for part in ("train", "val"):
        (tmp_path / part / "angry").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / part / "angry" / "x.png"), np.zeros((48, 48), np.uint8))
    assert sorted(read_folders(tmp_path).split_N.tolist()) == ["train", "valid"]


def test_folder_without_classes_says_what_was_expected(tmp_path: Path) -> None:
    """An empty folder is refused with examples of names."""
    with pytest.raises(ConfigError, match="neutral, happiness"):
        read_folders(tmp_path)


def test_unlabelled_pictures_are_for_training_and_have_no_vote(tmp_path: Path) -> None:
    """Pictures of any size in any folder; an empty folder is refused."""
    with pytest.raises(ConfigError, match="no picture"):
        read_unlabelled(tmp_path)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "a_1.png"), np.full((96, 80), 10, np.uint8))
    cv2.imwrite(str(tmp_path / "deep" / "er" / "b.jpg"), np.full((20, 20), 200, np.uint8))
    faces = read_unlabelled(tmp_path)
    assert faces.name_N.tolist() == ["a_1.png", "deep/er/b.jpg"]
    assert faces.images_NHW.shape == (2, 48, 48)
    assert faces.split_N.tolist() == ["train", "train"]
    assert not faces.votes_NK.any()


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(0, 12), min_size=3, max_size=80),
    seed=st.integers(0, 5),
)
def test_no_group_is_ever_cut(groups: list[int], seed: int) -> None:
    """Whatever the groups, each lies in one split and each fold holds out whole groups."""
    names = np.array([str(g) for g in groups], np.str_)
    labels = np.array(groups) % 3
    split = by_group(names, labels, (0.6, 0.2, 0.2), seed)
    for group in set(groups):
        assert len(set(split[names == str(group)].tolist())) == 1
    if len(set(groups)) >= 3:
        held_all = []
        for train, held in folds(names, 3, seed):
            assert not set(names[train].tolist()) & set(names[held].tolist())
            held_all.extend(held.tolist())
        assert sorted(held_all) == list(range(len(groups)))


def test_split_keeps_the_shares() -> None:
    """Of 100 single pictures of two classes, 80 : 10 : 10 of each class."""
    names = np.array([str(i) for i in range(100)], np.str_)
    labels = np.arange(100) % 2
    split = by_group(names, labels, (0.8, 0.1, 0.1), 0)
    for k in range(2):
        counts = [int((split[labels == k] == s).sum()) for s in ("train", "valid", "test")]
        assert counts == [40, 5, 5]


class MiddleFace:
    """Finds a face in the middle of every picture that is not black."""

    def detect(self, luma_HW: U8) -> Detections:
        """Return one face, or none in a black picture."""
        if int(luma_HW.max()) == 0:
            return Detections.empty()
        h, w = luma_HW.shape
        return Detections(
            boxes_N4=np.array([[0.3 * w, 0.3 * h, 0.7 * w, 0.7 * h]], np.float32),
            scores_N=np.ones(1, np.float32),
            eyes_N22=np.array([[[0.43 * w, 0.45 * h], [0.57 * w, 0.45 * h]]], np.float32),
        )

    def close(self) -> None:
        """Nothing to release."""


def test_sequences_of_frames(tmp_path: Path) -> None:
    """Frames without a face are left out, clips keep their order, the cache gives them back."""
    (tmp_path / "index.csv").write_text(
        "sequence,subject,label\nS1_001,S1,anger\nS2_001,S2,happiness\n"
    )
    for label, name, levels in (("anger", "S1_001", (10, 0, 30)), ("happiness", "S2_001", (50,))):
        folder = tmp_path / "frames" / label / name
        folder.mkdir(parents=True)
        for i, level in enumerate(levels):
            picture = np.full((120, 160), level, np.uint8)
            cv2.imwrite(str(folder / f"{i:03d}.png"), picture)
    clips = read_ckplus_sequences(tmp_path, MiddleFace())
    assert [s.stop - s.start for s in clips.spans()] == [2, 1]
    assert clips.crops_NHW[:, 0, 0].tolist() == [10, 30, 50]
    clips.save(tmp_path / "clips.npz")
    back = ClipSet.load(tmp_path / "clips.npz").without("S1")
    assert back.names_M.tolist() == ["S2_001"]
    assert back.crops_NHW[:, 0, 0].tolist() == [50]


def test_sequences_without_an_index_are_refused(tmp_path: Path) -> None:
    """The error names what is missing."""
    with pytest.raises(ConfigError, match=r"holds no index\.csv"):
        read_ckplus_sequences(tmp_path, MiddleFace())
