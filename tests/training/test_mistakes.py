"""Plausible mistakes: each ends with one line that says what to do, before any long work."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training import cli
from training.data import cache
from training.data.audit import audit
from training.data.clips import ClipSet, Store, read_ckplus_sequences
from training.data.fer2013 import read_ferplus_folder
from training.data.folders import read_folders
from training.heads import RealClips, read_held
from training.inputs import clips_of
from training.log import read_log
from training.model import FaceNet
from training.recipes import recipe, to_plain
from training.sequences import SequenceConfig

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet


class NoFace:
    """Finds no face, and is not asked where a mistake is seen before."""

    def detect(self, luma_HW: np.ndarray) -> None:
        """Fail: nothing was to be looked at."""
        raise AssertionError(luma_HW.shape)

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, faces: FaceSet) -> Path:
    """Return a cache of drawn faces."""
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    cache.save(path, faces, [])
    return path


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of a network that has learned nothing."""
    config = replace(recipe("smoke"), epochs=1)
    net = FaceNet(config.model)
    state = checkpoints.Checkpoint(
        config=to_plain(config),
        epoch=1,
        model=net.state_dict(),
        average={"state": net.state_dict()},
        optimizer={},
        prior_K=torch.full((8,), 0.125),
        best=0.0,
        data={},
    )
    path = tmp_path_factory.mktemp("run") / "best.pt"
    checkpoints.save(path, state)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must end with 78, one line and nothing done; return the line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["streamer-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (78, "")
    (line,) = said.err.splitlines()
    return line


def test_a_split_that_is_none(
    data: Path, untrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The splits are named where another word is given."""
    for command in (("evaluate", untrained), ("stack", untrained, untrained)):
        line = refused(capsys, *command, "--data", data, "--split", "validation")
        assert line.endswith("no split validation; it is one of train, valid, test")


def test_nothing_to_measure_on(
    tmp_path: Path,
    faces: FaceSet,
    data: Path,
    untrained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A set without test pictures, and one of which everybody is left out."""
    bare = tmp_path / "bare.npz"
    cache.save(bare, faces.rows(faces.split_N != "test"), [])
    out, wanted = tmp_path / "bundle", "bare: no clearly labelled picture in its split test"
    to = ("--out", out, "--threads", "1")
    for command in (("evaluate", untrained), ("report", untrained, *to)):
        assert wanted in refused(capsys, *command, "--data", bare)
    assert wanted in refused(capsys, "export", untrained, "--data", bare, "--name", "x", *to)
    everybody = [word for name in faces.group_N for word in ("--leave-out", name)]
    other = ("--data", data, "--unseen", f"other={data}", "--name", "x", *to, *everybody)
    assert "mine.npz: nobody is left without" in refused(capsys, "export", untrained, *other)
    assert not out.exists()


def test_an_output_that_cannot_be(
    tmp_path: Path, data: Path, untrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A place below a file is refused at once; a folder that is missing is made."""
    (tmp_path / "file").touch()
    (tmp_path / "happy").mkdir()
    assert cv2.imwrite(str(tmp_path / "happy" / "a.png"), np.zeros((48, 48), np.uint8))
    below, page = tmp_path / "file" / "out.npz", tmp_path / "file" / "page.html"
    for words in (
        ("data", "import", "folders", tmp_path, "--out", below),
        ("evaluate", untrained, "--data", data, "--out", below),
        ("report", untrained, "--data", data, "--out", page),
        ("diagnose", untrained, "--data", data, "--out", page),
        ("data", "audit", data, "--out", page),
        ("export", untrained, "--data", data, "--name", "x", "--out", below),
        ("heads", untrained, "--data", data, "--clips", f"c={data}", "--out", page),
    ):
        assert "out" in (line := refused(capsys, *words)) or "page" in line
        assert "cannot be written: " in line
    line = refused(capsys, "evaluate", untrained, "--data", data, "--out", tmp_path)
    assert line.endswith("is a folder; name a file in it")
    scores = tmp_path / "new" / "scores.json"
    with pytest.MonkeyPatch.context() as patch:
        measured = ["evaluate", str(untrained), "--data", str(data), "--out", str(scores)]
        patch.setattr(sys, "argv", ["streamer-train", *measured])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    assert len(json.loads(scores.read_text())) == 4


def test_a_log_that_was_cut_off(tmp_path: Path) -> None:
    """Whole lines are read, whatever lies between them; no log is an empty one."""
    log = tmp_path / "log.jsonl"
    assert read_log(log) == []
    whole = [{"epoch": n, "loss": 1 / n} for n in (1, 3, 5)]
    one, three, five = map(json.dumps, whole)
    lines = one, '{"epoch": 2, "lo' + three, '{"epoch": 4, "lo{"epoch": 4, "l', "7", five
    log.write_bytes("\n".join(lines).encode() + b'\n{"epoch": 6, "loss\xff')
    assert read_log(log) == whole


def test_a_folder_of_no_split_beside_splits(tmp_path: Path) -> None:
    """A folder that names no split is named, with those that do."""
    for part in ("train", "eval"):
        (tmp_path / part / "angry").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / part / "angry" / "x.png"), np.zeros((48, 48), np.uint8))
    with pytest.raises(ConfigError, match=r"eval/angry/x\.png.* no split.*train, val, test"):
        read_folders(tmp_path)


def test_a_damaged_zip_member(tmp_path: Path) -> None:
    """One changed byte in a picture: the archive and the picture are named."""
    path = tmp_path / "ck.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"0123456789")
    coded = path.read_bytes()
    path.write_bytes(coded.replace(b"0123456789", b"0123456780"))
    with pytest.raises(ConfigError, match=r"ck\.zip: a\.png is damaged"):
        Store(path).read("a.png")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"sequence,label\nx,anger\n", r"index\.csv: line 1: no column subject"),
        (b"sequence,subject,label\nx,S1\n", r"index\.csv: line 2: too few columns"),
        (b"sequence,subject,label\n\xff\xfe", r"index\.csv: not a table of text"),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, index: bytes, message: str) -> None:
    """The missing column, the short line and what is no text are named."""
    (tmp_path / "index.csv").write_bytes(index)
    with pytest.raises(ConfigError, match=message):
        read_ckplus_sequences(tmp_path, NoFace())  # type: ignore[arg-type]


def test_blank_lines_among_votes(tmp_path: Path) -> None:
    """They are passed over; a line with too few votes is named."""
    part = tmp_path / "FER2013Train"
    part.mkdir()
    assert cv2.imwrite(str(part / "p.png"), np.zeros((48, 48), np.uint8))
    row = 'p.png,"(0, 0, 48, 48)",9,0,0,0,0,0,0,0,1,0\n'
    (part / "label.csv").write_text(f"\n{row}\n\n{row}\n")
    assert len(read_ferplus_folder(tmp_path)) == 2
    (part / "label.csv").write_text(f"\n{row}p.png,9\n")
    with pytest.raises(ConfigError, match=r"label\.csv: line 3: "):
        read_ferplus_folder(tmp_path)
    (part / "label.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"label\.csv: not a table of text"):
        read_ferplus_folder(tmp_path)


def test_clips_of_one_person(
    tmp_path: Path,
    clips: ClipSet,
    data: Path,
    untrained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody else's clips are there to learn from, and nobody is left without that person."""
    path = tmp_path / "one.npz"
    alone = clips
    for subject in "BCD":
        alone = alone.without(subject)
    alone.save(path)
    real = ("--clips", f"one={path}", "--real", "--out", tmp_path / "page.html")
    line = refused(capsys, "heads", untrained, "--data", data, *real)
    assert "one: the clips of one person" in line
    with pytest.raises(ConfigError, match="nobody is left without A"):
        clips_of(path, ["A"])
    features = [torch.zeros(4, 8)] * 2
    people, labels = np.array(["A", "A"]), np.array([1, 2])
    shown = RealClips(features=features, labels_M=labels, people_M=people, step_s=0.1)
    stills = torch.zeros(2, 4, 8), torch.eye(8)[:2]
    with pytest.raises(ConfigError, match="clips of one person"):
        read_held(FaceNet(recipe("smoke").model), stills, shown, SequenceConfig())


def test_a_quick_look_at_few_people(faces: FaceSet) -> None:
    """An audit of three people has no learning curve, since none of it could be held out."""
    three = faces.named(faces.name_N, np.array([str(i % 3) for i in range(len(faces))]))
    many = three.rows(np.tile(np.arange(len(three)), 2))
    assert audit(many, learn_from=1000).learning is None


def test_meshes_need_their_network_and_their_faces(
    data: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network file that is another, a mesh file that is none, and faces that it cannot hold."""
    out = tmp_path / "out"
    line = refused(capsys, "data", "mesh", data, "--out", out, "--network", untrained)
    assert "is not the face_landmark.tflite" in line
    line = refused(capsys, "data", "mesh", data, "--out", out, "--network", tmp_path / "none")
    assert "cannot be read: No such file" in line
    taught = ("distill", untrained, "--data", data, "--recipe", "smoke", "--out", out)
    assert "holds no array points_NM3" in refused(capsys, *taught, "--mesh", data)
    both = ("--mesh", tmp_path / "none.npz", "--unlabelled", data)
    assert "no mesh of --unlabelled faces" in refused(capsys, *taught, *both)
    fit = ("fit", "--data", data, "--out", out, "--find-lr", "--from", untrained)
    assert "leave --from away" in refused(capsys, *fit)
    assert not out.exists()
