"""Corpora in their makers' own layouts, drawn small: labels, splits, boxes, groups and mistakes."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from streamer.bundle import file_sha256
from streamer.errors import ConfigError
from streamer.types import U8, Detections
from training.data import cache
from training.data.clips import ClipSet
from training.data.corpora import read_affectnet, read_expw, read_rafdb
from training.data.faces import CLASSES
from training.data.hashes import hashes_of
from training.data.sources import FORMATS, make_cache
from training.inputs import corpus_of

if TYPE_CHECKING:
    from pathlib import Path


class MiddleFace:
    """Finds a face in the middle of every picture that is not black."""

    def detect(self, luma_HW: U8) -> Detections:
        """Return one face, or none in a black picture."""
        if int(luma_HW.max()) < 8:  # a coded video's black is not quite zero
            return Detections.empty()
        h, w = luma_HW.shape
        return Detections(
            boxes_N4=np.array([[0.3 * w, 0.3 * h, 0.7 * w, 0.7 * h]], np.float32),
            scores_N=np.ones(1, np.float32),
            eyes_N22=np.array([[[0.43 * w, 0.45 * h], [0.57 * w, 0.45 * h]]], np.float32),
        )

    def close(self) -> None:
        """Nothing to release."""


def draw(path: Path, level: int, size: tuple[int, int] = (100, 100)) -> None:
    """Write a picture of one grey, height by width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full(size, level, np.uint8))


def said(labels: np.ndarray) -> list[str]:
    """Name the largest votes."""
    return [CLASSES[k] for k in labels.argmax(axis=1)]


def rafdb(folder: Path) -> Path:
    """Write RAF-DB's basic set: 7 classes to learn from and two to test."""
    lines = [f"train_{i:05}.jpg {1 + i % 7}" for i in range(70)]
    lines += ["test_0001.jpg 4", "test_0002.jpg 7"]
    table = folder / "basic" / "EmoLabel" / "list_patition_label.txt"
    table.parent.mkdir(parents=True)
    table.write_text("\n".join(lines) + "\n")
    for i, line in enumerate(lines):
        stem = line.split()[0].removesuffix(".jpg")
        draw(folder / "basic" / "Image" / "aligned" / f"{stem}_aligned.jpg", i)
    return folder


def test_rafdb(tmp_path: Path) -> None:
    """Its numbers from 1 mean what its makers say; a tenth of each training class validates."""
    faces = read_rafdb(rafdb(tmp_path))
    assert said(faces.votes_NK)[:7] == [
        "surprise",
        "fear",
        "disgust",
        "happiness",
        "sadness",
        "anger",
        "neutral",
    ]
    assert said(faces.part("test").votes_NK) == ["happiness", "neutral"]
    assert len(faces.part("valid")) == 7
    assert faces.images_NHW.shape == (72, 48, 48)
    assert abs(int(faces.images_NHW[40, 24, 24]) - 40) <= 2  # JPEG


def test_expw(tmp_path: Path) -> None:
    """A line is a face: two of one picture are cut at their own boxes and stay in one split."""
    picture = np.zeros((80, 200), np.uint8)
    picture[20:60, 30:70], picture[20:60, 120:160] = 90, 210
    (tmp_path / "image" / "origin").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "image" / "origin" / "two.png"), picture)
    table = tmp_path / "label" / "label.lst"
    table.parent.mkdir()
    table.write_text("two.png 0 20 30 70 60 59.8 0\ntwo.png 1 20 120 160 60 40.1 5\n")
    faces = read_expw(tmp_path)
    assert said(faces.votes_NK) == ["anger", "surprise"]
    assert faces.images_NHW[:, 24, 24].tolist() == [90, 210]
    assert faces.images_NHW[:, 1, 24].tolist() == [0, 0]  # the margin round the box
    assert len(set(faces.split_N.tolist())) == 1
    assert faces.name_N.tolist() == ["two.png#0", "two.png#1"]


def test_affectnet_tables(tmp_path: Path) -> None:
    """Boxes are cut, eyes come from the 68 points, and faces without a label are left out."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (80.0, 90.0), (120.0, 90.0)
    eyes = ";".join(f"{v:g}" for v in points.ravel())
    header = (
        "subDirectory_filePath,face_x,face_y,face_width,face_height,"
        "facial_landmarks,expression,valence,arousal\n"
    )
    lines = [f"1/p{i}.jpg,50,50,100,100,{eyes},{i % 8},0,0\n" for i in range(16)]
    (tmp_path / "training.csv").write_text(header + "".join(lines))
    (tmp_path / "validation.csv").write_text(
        header + f"2/v.jpg,50,50,100,100,{eyes},7,0,0\n2/none.jpg,0,0,1,1,{eyes},10,0,0\n"
    )
    for i in range(16):
        draw(tmp_path / "Manually_Annotated_Images" / "1" / f"p{i}.jpg", 10 * i, (200, 200))
    draw(tmp_path / "Manually_Annotated_Images" / "2" / "v.jpg", 200, (200, 200))
    faces = read_affectnet(tmp_path)
    assert len(faces) == 17
    assert said(faces.votes_NK)[:4] == ["neutral", "happiness", "sadness", "surprise"]
    assert said(faces.part("test").votes_NK) == ["contempt"]
    # The box is 100 px and 15 % on each side: a pixel of the crop is 130 / 48 of the picture's.
    np.testing.assert_allclose(
        faces.eyes_N22[0], np.array([[80 - 35, 90 - 35], [120 - 35, 90 - 35]]) * 48 / 130, atol=1e-3
    )
    np.testing.assert_allclose(
        faces.boxes_N4[0], np.array([15, 15, 115, 115]) * 48 / 130, atol=1e-3
    )


def test_affectnet_folders(tmp_path: Path) -> None:
    """The later hand-out: a picture, and beside it an array of one word."""
    for part, labels in (("train_set", range(8)), ("val_set", (3,))):
        (tmp_path / part / "annotations").mkdir(parents=True)
        for i, label in enumerate(labels):
            draw(tmp_path / part / "images" / f"{i}.jpg", 20 * i, (224, 224))
            np.save(tmp_path / part / "annotations" / f"{i}_exp.npy", np.array(str(label)))
    faces = read_affectnet(tmp_path)
    assert said(faces.part("test").votes_NK) == ["surprise"]
    assert said(faces.votes_NK)[:8][6] == "anger"
    (tmp_path / "train_set" / "annotations" / "2_exp.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ConfigError, match=r"2_exp\.npy: not a readable annotation of 2\.jpg"):
        read_affectnet(tmp_path)


def ckplus(folder: Path) -> Path:
    """Write two labelled sequences, of five frames and of four, and one without a label."""
    for subject, number, levels in (
        ("S005", "001", (20, 40, 60, 80, 100)),
        ("S010", "002", (30, 50, 0, 90)),
        ("S010", "003", (30,)),
    ):
        for i, level in enumerate(levels, start=1):
            name = f"{subject}_{number}_{i:08}.png"
            draw(folder / "cohn-kanade-images" / subject / number / name, level, (120, 160))
    for subject, number, last, label in (("S005", "001", 5, 3), ("S010", "002", 4, 7)):
        note = folder / "Emotion" / subject / number / f"{subject}_{number}_{last:08}_emotion.txt"
        note.parent.mkdir(parents=True)
        note.write_text(f"   {label:.7e}\n")
    (folder / "Emotion" / "S010" / "003").mkdir(parents=True)
    return folder


def test_ckplus(tmp_path: Path) -> None:
    """Three frames at the end of each sequence, but for one without a face, by subject."""
    out = tmp_path / "c.npz"
    assert make_cache("ckplus", ckplus(tmp_path / "ck"), out, MiddleFace()).rows == 5
    faces = cache.load(out).faces
    assert said(faces.votes_NK) == ["disgust"] * 3 + ["surprise"] * 2
    assert faces.group_N.tolist() == ["S005"] * 3 + ["S010"] * 2
    assert faces.images_NHW[:, 24, 24].tolist() == [60, 80, 100, 50, 90]
    assert set(faces.split_N.tolist()) == {"test"}


def test_ckplus_clips(tmp_path: Path) -> None:
    """Whole sequences, in the order of their frames."""
    out = tmp_path / "c.npz"
    assert make_cache("ckplus-clips", ckplus(tmp_path / "ck"), out, MiddleFace()).rows == 2
    clips = ClipSet.load(out)
    assert clips.names_M.tolist() == ["S005_001", "S010_002"]
    assert clips.subjects_M.tolist() == ["S005", "S010"]
    assert [s.stop - s.start for s in clips.spans()] == [5, 3]


def video(path: Path) -> None:
    """Write three seconds at 20 frames a second: dark, black, bright."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (160, 120))
    for i in range(60):
        level = (60, 0, 180)[i // 20]
        writer.write(np.full((120, 160, 3), level, np.uint8))
    writer.release()
    assert path.stat().st_size > 0


ROWS = "talk.avi,0,0.95,Angry,anna,train\ntalk.avi,1.0,1.9,sad,anna,train\n"
MORE = "talk.avi,2.0,2.95,happy,bert,test\n"


def listed(folder: Path) -> str:
    """Return the sha256 of the list that sha256sum makes of a folder's files."""
    names = "find . -type f -printf '%P\\n' | LC_ALL=C sort"
    line = f"{names} | xargs -d '\\n' sha256sum | sha256sum"
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split()[0]


def test_a_cache_knows_what_it_was_made_from(tmp_path: Path) -> None:
    """A folder's hash is that of its list; FER+'s votes have one beside that of the pictures."""
    folder, out = ckplus(tmp_path / "ck"), tmp_path / "ck" / "c.npz"
    expected = {"ck/": listed(folder)}
    for kind in ("ckplus", "ckplus-clips"):
        make_cache(kind, folder, out, MiddleFace())
        found = cache.load(out).sources if kind == "ckplus" else ClipSet.load(out).sources
        assert found == expected
        out.unlink()
    note = next(folder.rglob("*_emotion.txt"))
    note.rename(note.with_name("moved" + note.name))
    assert hashes_of([folder]) == {"ck/": listed(folder)} != expected

    table = tmp_path / "fer2013.csv"
    table.write_text("emotion,pixels,Usage\n3," + " ".join(["9"] * 2304) + ",Training\n")
    make_cache("fer2013", table, out, None)
    assert cache.load(out).sources == {"fer2013.csv": file_sha256(table)}
    votes = table.with_name("fer2013new.csv")
    names = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt"
    votes.write_text(names + ",unknown,NF\nTraining,a.png,0,9,1,0,0,0,0,0,0,0\n")
    make_cache("fer2013", table, out, None)
    assert cache.load(out).sources["fer2013new.csv"] == file_sha256(votes)
    assert corpus_of(out).name == "FER+"


def test_videos(tmp_path: Path) -> None:
    """Ten frames a second of each labelled piece that shows a face; subject and split are kept."""
    video(tmp_path / "talk.avi")
    table = tmp_path / "annotations.csv"
    table.write_text("video,start_s,end_s,label,subject,split\n" + ROWS + MORE)
    out = tmp_path / "v.npz"
    assert make_cache("videos", table, out, MiddleFace()).rows == 20
    cached = cache.load(out)
    assert set(cached.sources) == {"annotations.csv", "talk.avi"}
    faces = cached.faces
    assert said(faces.votes_NK) == ["anger"] * 10 + ["happiness"] * 10
    assert faces.group_N.tolist() == ["anna"] * 10 + ["bert"] * 10
    assert faces.split_N.tolist() == ["train"] * 10 + ["test"] * 10
    assert abs(int(faces.images_NHW[0, 24, 24]) - 60) < 4
    assert make_cache("video-clips", table, out, MiddleFace()).rows == 2
    clips = ClipSet.load(out)
    assert clips.step_s == pytest.approx(0.1)
    assert [s.stop - s.start for s in clips.spans()] == [10, 10]
    assert set(clips.sources) == {"annotations.csv", "talk.avi"}


def broken(folder: Path, kind: str, change: str) -> Path:
    """Return a corpus with one thing wrong."""
    source = folder / "corpus"
    if kind == "rafdb":
        rafdb(source)
        table = source / "basic" / "EmoLabel" / "list_patition_label.txt"
        if change == "missing":
            next(source.rglob("train_00003_aligned.jpg")).unlink()
        else:
            table.write_text(change)
    elif kind == "ckplus":
        ckplus(source)
        next(source.rglob("*00005_emotion.txt")).write_text(change)
    elif kind == "videos":
        source.mkdir()
        video(source / "talk.avi")
        (source / "a.csv").write_text(change)
        return source / "a.csv"
    else:
        source.mkdir()
        (source / "label.lst").write_text(change)
        (source / "origin").mkdir()
    return source


HEAD = "video,start_s,end_s,label\n"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("rafdb", "train_00001.jpg 9\n", r"line 1: label '9', expected 1 to 7"),
        ("rafdb", "train_00001.jpg\n", r"line 1: 1 words, expected 2"),
        ("rafdb", "valid_1.jpg 1\n", r"line 1: 'valid_1.jpg' begins neither"),
        ("rafdb", "missing", r"train_00003_aligned\.jpg: not a readable picture"),
        ("rafdb", "", r"lists no picture"),
        ("expw", "a.jpg 0 1 2 3 4 5 7\n", r"line 1: label '7', expected 0 to 6"),
        ("expw", "a.jpg 0 x 2 3 4 5 6\n", r"line 1: the box .* is not of numbers"),
        ("expw", "a.jpg 0 1 2 3 4 5 6\n", r"a\.jpg: not a readable picture"),
        ("affectnet", "", r"holds neither training\.csv"),
        ("ckplus", "nine", r"S005_001_00000005_emotion\.txt: not a label"),
        ("ckplus", "9.0", r"label 9, expected 0 to 7"),
        ("videos", HEAD + "talk.avi,0,1,bored\n", r"line 2: label 'bored'"),
        ("videos", HEAD + "talk.avi,1,1,sad\n", r"line 2: end_s is not after start_s"),
        ("videos", HEAD + "none.avi,0,1,sad\n", r"none\.avi: not a readable video"),
        ("videos", HEAD + "talk.avi,1.2,1.8,sad\n", r"no face was found"),
        ("videos", "video,start_s,label\n", r"line 1: no column end_s"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, kind: str, change: str, message: str) -> None:
    """One line says where and what."""
    with pytest.raises(ConfigError, match=message) as caught:
        make_cache(kind, broken(tmp_path, kind, change), tmp_path / "c.npz", MiddleFace())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c.npz").exists()


@pytest.mark.parametrize("kind", ["ckplus", "ckplus-clips", "videos", "video-clips"])
def test_whole_frames_need_a_detector(tmp_path: Path, kind: str) -> None:
    """Without one there is nothing to cut."""
    assert kind in FORMATS
    with pytest.raises(ConfigError, match=rf"{kind} needs a face detector"):
        make_cache(kind, tmp_path, tmp_path / "c.npz", None)
