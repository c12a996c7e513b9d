"""The command line as a user meets it: a whole small life of a model, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from streamer import bundle as bundles
from training import checkpoint, cli, mesh
from training.data import cache
from training.export import OnnxFile
from training.inputs import corpus_of

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.clips import ClipSet
    from training.data.faces import FaceSet


def train(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run ``streamer-train`` in this process; return its exit code and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["streamer-train", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_fit_resume_evaluate_export(
    tmp_path: Path, faces: FaceSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a cache to a bundle that the daemon's own checks accept."""
    data, run = tmp_path / "faces.npz", tmp_path / "run"
    cache.save(data, faces, [])
    options = ("--data", str(data), "--recipe", "smoke", "--out", str(run), "--threads", "1")
    code, _, errors = train("fit", *options, "--set", "epochs=1", capsys=capsys)
    assert code == 0, errors
    code, said, errors = train("fit", *options, "--resume", capsys=capsys)
    assert code == 0, errors
    assert json.loads(said.splitlines()[-1])["epoch"] == 2

    scored = tmp_path / "scores.json"
    best, given = str(run / "best.pt"), ("--data", str(data), "--threads", "1")
    code, _, errors = train("evaluate", best, *given, "--out", str(scored), capsys=capsys)
    assert code == 0, errors
    scores = json.loads(scored.read_text())
    views = [(row["framing"], row["left_out"], row["scores"]["n"]) for row in scores]
    assert views == [
        (framing, gone, n)
        for framing in ("as published", "eye-aligned")
        for gone, n in (("", 32), ("contempt", 28))
    ]

    # What is not FER+ goes by its cache's name, also beside FER+.
    more = ("--unseen", f"FER+={data}", "--stills", "16", "--name", "small", "--head", "gru")
    held = {path.name: path.read_bytes() for path in run.iterdir()}
    code, said, errors = train("export", best, *given, *more, "--out", str(run), capsys=capsys)
    assert (code, said) == (78, ""), "a run is not replaced, and is refused before the work"
    assert errors.endswith("new or empty directory for the bundle\n")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == held

    out = tmp_path / "bundle"
    code, _, errors = train("export", best, *given, *more, "--out", str(out), capsys=capsys)
    assert code == 0, errors
    bundle = bundles.load(out)
    worst = bundles.verify_parity(
        bundle, OnnxFile(bundle.features_path), OnnxFile(bundle.temporal_path)
    )
    assert worst < 1e-4
    assert bundle.manifest.temporal.kind == "gru"
    measured = {(m.dataset, m.name) for m in bundle.manifest.metrics}
    assert {("faces", "uar"), ("FER+", "accuracy")} <= measured
    of = {(m.dataset, m.split, m.name): m for m in bundle.manifest.metrics}
    assert of["faces", "test, eye-aligned", "accuracy"].n == 32
    assert of["FER+", "all, eye-aligned, without contempt", "accuracy"].n == 28 + 28 + 112
    assert all(m.date and m.split for m in bundle.manifest.metrics)
    assert "One seed" in (out / bundles.MODEL_CARD).read_text()


@pytest.mark.parametrize(
    ("cache_name", "sources", "name"),
    [
        ("ferplus.npz", (), "FER+"),
        ("mine.npz", ("fer2013plus_48.npz",), "FER+"),
        ("mine.npz", ("fer2013.csv", "fer2013new.csv"), "FER+"),
        ("mine.npz", ("fer2013.csv",), "mine"),
        ("ckplus48.npz", (), "ckplus48"),
    ],
)
def test_a_corpus_goes_by_its_cache_unless_it_is_ferplus(
    tmp_path: Path, faces: FaceSet, cache_name: str, sources: tuple[str, ...], name: str
) -> None:
    """FER+ is told by its cache's name or by the files that the cache was made from."""
    for source in sources:
        (tmp_path / source).touch()
    cache.save(tmp_path / cache_name, faces, [tmp_path / source for source in sources])
    assert corpus_of(tmp_path / cache_name).name == name


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("--unseen", "faces=F"), "--unseen faces=F: another set is called faces"),
        (("--unseen", "a=F", "--unseen", "a=G"), "--unseen a=G: another set is called a"),
        (("--unseen", "none=F"), "none cannot be a set's name"),
        (("--unseen", "a|b=F"), "a|b cannot be a set's name"),
        (("--clips", "a=F", "--learn-clips", "a=G"), "--learn-clips a=G: another set is called a"),
    ],
)
def test_two_sets_of_one_name_are_refused(
    tmp_path: Path,
    faces: FaceSet,
    capsys: pytest.CaptureFixture[str],
    sets: tuple[str, ...],
    message: str,
) -> None:
    """No set takes the place of another: the names are looked at before anything is read."""
    data = tmp_path / "faces.npz"
    cache.save(data, faces, [])
    given = ("none.pt", "--data", str(data), "--name", "x", "--out", str(tmp_path / "bundle"))
    code, _, errors = train("export", *given, *sets, capsys=capsys)
    assert code == 78
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_heads_go_on_where_they_were_and_clips_teach_the_exported_one(
    tmp_path: Path, faces: FaceSet, clips: ClipSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second call trains the second seed alone; export learns from clips and says so."""
    data, run, mine = tmp_path / "faces.npz", tmp_path / "run", tmp_path / "mine.npz"
    cache.save(data, faces, [])
    clips.save(mine)
    given = ("--data", str(data), "--threads", "1")
    fast = ("--stills", "16", "--set", "sequences.epochs=1")
    code, _, errors = train("fit", *given, "--recipe", "smoke", "--out", str(run), capsys=capsys)
    assert code == 0, errors
    page, best = tmp_path / "heads.html", str(run / "best.pt")
    over = ("heads", best, *given, *fast, "--clips", f"mine={mine}", "--kind", "gru", "--real")
    first: dict[str, int] = {}
    for seeds in ("1", "2"):
        code, said, errors = train(*over, "--seeds", seeds, "--out", str(page), capsys=capsys)
        assert code == 0, errors
        assert ("reading clips of 16 stills" in said) == (seeds == "1")
        kept = {p.stem: p.stat().st_mtime_ns for p in (tmp_path / "heads.kept").iterdir()}
        assert first.items() <= kept.items(), "what is there is not made again"
        first = kept
    assert {f"gru-{s}-{of}" for s in (0, 1) for of in ("stills", "real")} <= first.keys()
    assert [row["head"]["runs"] for row in json.loads(page.with_suffix(".json").read_text())] == [
        2,
        2,
    ]

    out = tmp_path / "bundle"
    more = ("--name", "small", "--learn-clips", f"mine={mine}", "--out", str(out))
    code, _, errors = train("export", best, *given, *fast, *more, capsys=capsys)
    assert code == 0, errors
    manifest = bundles.load(out).manifest
    assert manifest.training.data["mine.zip"] == "0" * 64
    held = [m for m in manifest.metrics if m.dataset == "mine, held out by person"]
    assert {m.n for m in held} == {8}
    card = " ".join((out / bundles.MODEL_CARD).read_text().split())
    assert "mine (8 clips of 4 people)" in card
    assert "has seen no video" not in card
    assert "never trained on. Moved" not in card
    assert "Trained on the training split of faces: 128 faces." in card


def test_synthetic_faces_get_a_verdict_and_a_sheet(
    tmp_path: Path, faces: FaceSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faces are made, shown a row a class, and judged in pairs of runs, each with its figures."""
    data, out = tmp_path / "faces.npz", tmp_path / "made"
    cache.save(data, faces, [])
    given = ("--data", str(data), "--unseen", str(data), "--class", "fear", "--class", "disgust")
    small = ("--count", "3", "--steps", "2", "--recipe", "smoke", "--threads", "1")
    gone = ("--set", "epochs=1", "--leave-out", faces.group_N[0])
    code, said, errors = train(
        "synthesize", "gan", *given, *small, *gone, "--out", str(out), capsys=capsys
    )
    assert code == 0, errors
    assert "step 0/2" in errors
    assert "seed 2, with synthetic: macro F1" in said
    sheet = cv2.imread(str(out / "sheet.png"), cv2.IMREAD_GRAYSCALE)
    assert sheet is not None
    assert sheet.shape == (2 * 48, 12 * 48)
    assert (sheet[:, 3 * 48 :] == 255).all(), "three of each class, then paper"
    made = cache.load(out / "made.npz").faces
    np.testing.assert_array_equal(sheet[:48, :48], made.images_NHW[3], "disgust comes first")
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["accepted"] == (not verdict["reasons"])
    gains = [
        h["macro_f1"] - p["macro_f1"]
        for p, h in zip(verdict["plain"], verdict["helped"], strict=True)
    ]
    assert verdict["gain"] == pytest.approx(np.mean(gains))
    assert "<svg" in (out / "verdict.html").read_text()


def test_student_names_its_teacher(
    tmp_path: Path, faces: FaceSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """A distilled checkpoint holds the sha256 of what taught it and of what it began with."""
    data, first, second = tmp_path / "faces.npz", tmp_path / "first", tmp_path / "second"
    cache.save(data, faces, [])
    given = ("--data", str(data), "--recipe", "smoke", "--set", "epochs=1", "--threads", "1")
    assert train("fit", *given, "--out", str(first), capsys=capsys)[0] == 0
    teacher = first / "best.pt"
    shapes = tmp_path / "faces.mesh.npz"
    points = np.random.default_rng(0).normal(size=(len(faces), mesh.POINTS, 3)).astype(np.float32)
    own = faces.rows(faces.split_N != "test").checksum()
    mesh.save(shapes, mesh.Mesh(points_NM3=points, checksum=own, network="drawn"))
    taught = ("distill", str(teacher), *given, "--share", "0.4", "--out", str(second))
    more = ("--mesh", str(shapes), "--mesh-share", "0.3", "--from", str(first / "last.pt"))
    code, said, _ = train(*taught, *more, capsys=capsys)
    assert code == 0
    assert "shapes alone: " in said
    sources = checkpoint.load(second / "last.pt").data
    (name,) = (name for name in sources if name.startswith("teacher 1, share 0.4, of which 0.3"))
    assert sources[name] == bundles.file_sha256(teacher)
    assert sources["begun with last.pt"] == bundles.file_sha256(first / "last.pt")
    out = tmp_path / "bundle"
    student = str(second / "last.pt")
    code, _, errors = train(
        "export",
        student,
        "--data",
        str(data),
        "--threads",
        "1",
        "--stills",
        "16",
        "--name",
        "taught",
        "--prior-share",
        "0.05",
        "--out",
        str(out),
        capsys=capsys,
    )
    assert code == 0, errors
    card = " ".join((out / "MODEL_CARD.md").read_text().split())
    assert f"an earlier network on the same pictures ({name})" in card
    assert "began with the weights of an earlier run (last.pt)." in card
    assert "a share of 0.05 of the corpus' prior was given back" in card


def test_help_needs_no_heavy_library(tmp_path: Path) -> None:
    """The command line starts without torch, OpenCV or SciPy."""
    code = (
        "import sys, training.cli; "
        "print({'torch', 'cv2', 'scipy', 'onnxruntime', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "--data", "none.npz", "--out", "run"), "none.npz: no such file"),
        (("fit", "--data", "none.npz", "--out", "run", "--recipe", "x"), "recipe 'x'"),
        (("fit", "--data", "n.npz", "--out", "run", "--set", "optim.magic=1"), "no such value"),
        (("data", "import", "magic", ".", "--out", "c.npz"), "format 'magic' is not known"),
        (("evaluate", "none.pt", "--data", "none.npz"), "none.pt"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong option ends with 78 and one line that names it, without a traceback."""
    code, _, errors = train(*arguments, capsys=capsys)
    assert code == 78
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_module_is_the_command(tmp_path: Path) -> None:
    """``python -m training`` ends like ``streamer-train``."""
    done = subprocess.run(
        [sys.executable, "-m", "training", "data", "import", "magic", ".", "--out", "c.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "format 'magic' is not known" in done.stderr


def test_fit_writes_curves_and_finds_a_rate(
    tmp_path: Path, faces: FaceSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard's own reader finds the losses of the log; the rate has a page with a plot."""
    data, run = tmp_path / "faces.npz", tmp_path / "run"
    cache.save(data, faces, [])
    options = ("--data", str(data), "--recipe", "smoke", "--out", str(run), "--threads", "1")
    code, said, errors = train("fit", *options, "--tensorboard", capsys=capsys)
    assert code == 0, errors
    assert "epoch 1 of 2; " in errors
    assert " left" in errors
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx(
        [json.loads(line)["loss"] for line in said.splitlines()], abs=1e-4
    )
    code, said, errors = train("fit", *options, "--find-lr", capsys=capsys)
    assert code == 0, errors
    assert said.startswith("optim.lr=")
    assert "<svg" in (run / "rate.html").read_text()
