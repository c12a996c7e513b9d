"""The search finds what is better, stops what is hopeless, and goes on after an interruption."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from streamer.errors import ConfigError
from training.augment import AugmentConfig
from training.data import cache
from training.log import read_log
from training.model import ModelConfig
from training.recipes import TrainConfig, changed, recipe
from training.tune import USUAL, Varied, tune, varied

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Leave the other cores to whoever else tests here."""
    torch.set_num_threads(1)


@pytest.fixture
def few(faces: FaceSet) -> FaceSet:
    """Return 64 training and 16 validation faces."""
    kept = [np.flatnonzero(faces.split_N == s)[:n] for s, n in (("train", 64), ("valid", 16))]
    return faces.rows(np.concatenate(kept))


def base(epochs: int) -> TrainConfig:
    """Return a recipe of a second, with little augmentation, so that a few epochs teach."""
    smoke = recipe("smoke")
    return replace(
        smoke,
        epochs=epochs,
        batch=8,
        model=ModelConfig(stem=4, widths=(8, 8), depths=(1, 1), features=8),
        optim=replace(smoke.optim, average=0.5, lr=0.02),
        augment=AugmentConfig(
            recut=0.0,
            rotate_deg=0.0,
            zoom=0.0,
            shift=0.0,
            light=0.0,
            blur=0.0,
            small=0.0,
            noise=0.0,
        ),
    )


def test_what_is_varied_is_read() -> None:
    """Ranges, logarithms, whole numbers and choices; the usual ones are all understood."""
    assert varied("optim.lr=0.001..0.1:log") == Varied(
        key="optim.lr", low=0.001, high=0.1, log=True
    )
    whole = varied("batch=16..64")
    assert (whole.low, whole.high, type(whole.low)) == (16, 64, int)
    assert varied('optim.name=["sgd", "adam"]').choices == ('"sgd"', '"adam"')
    assert [varied(text).key for text in USUAL]


@pytest.mark.parametrize(
    "text",
    [
        "optim.lr",
        "optim.lr=1",
        "=1..2",
        "a=2..1",
        "a=0..1:log",
        "a=1..nan",
        "a=[1]",
        "a=[1,",
        "a=1..2:x",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """One line says how to write it."""
    with pytest.raises(ConfigError, match=r"write KEY=LOW\.\.HIGH"):
        varied(text)


def test_a_value_of_no_recipe_is_refused(tmp_path: Path, few: FaceSet) -> None:
    """Before anything is trained."""
    with pytest.raises(ConfigError, match=r"optim\.magic=0\.1: no such value"):
        tune(base(1), few, tmp_path / "s", [varied("optim.magic=0.1..1.0")], trials=1)
    assert not (tmp_path / "s").exists()


def test_the_better_value_wins_and_the_hopeless_one_is_stopped(
    tmp_path: Path, few: FaceSet
) -> None:
    """With a rate of nothing a net learns nothing: such trials stop early, and never win."""
    rates = Varied(key="optim.lr", choices=("0.02", "1e-09"))
    found = tune(base(3), few, tmp_path, [rates], trials=7)
    assert len(found.trials) == 7
    assert found.trials[0].values == ["optim.lr=0.02"]
    stopped = [t for t in found.trials if t.state == "pruned"]
    assert stopped
    assert all(t.values == ["optim.lr=1e-09"] and t.epochs < 3 for t in stopped)


def test_an_interrupted_search_goes_on_in_mid_trial(tmp_path: Path, few: FaceSet) -> None:
    """Ctrl-C after an epoch: the same trial goes on with the next one, in the same run."""
    values = [varied("optim.lr=0.001..0.02:log")]

    def interrupt(line: str) -> None:
        if line.startswith("trial 1, epoch 1 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(base(3), few, tmp_path, values, trials=3, report=interrupt)
    with (tmp_path / "trial-001" / "log.jsonl").open("a") as cut_off:
        cut_off.write('{"epoch": 2, "sc')  # as a full disk leaves it
    with (tmp_path / "study.journal").open("a") as cut_off:
        cut_off.write('{"op_code": 6, "wor')
    said: list[str] = []
    found = tune(base(3), few, tmp_path, values, trials=3, report=said.append)
    assert len(found.trials) == 3
    assert sum("trial" in line and "epoch" in line for line in said) == 2 + 3
    log = read_log(tmp_path / "trial-001" / "log.jsonl")
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert max(line["score"] for line in log) in [t.score for t in found.trials]
    again = tune(base(3), few, tmp_path, values, trials=3)
    assert again.trials == found.trials


def test_a_study_of_another_search_is_kept(tmp_path: Path, few: FaceSet) -> None:
    """Other values or faces, or a file that is no study, are refused with what to do."""
    tune(base(1), few, tmp_path / "a", [varied("optim.lr=0.001..0.02:log")], trials=1)
    other = replace(few, votes_NK=few.votes_NK + 1.0)
    for faces, top in ((few, "0.03"), (other, "0.02")):
        with pytest.raises(ConfigError, match="searched another recipe, other values or other f"):
            tune(base(1), faces, tmp_path / "a", [varied(f"optim.lr=0.001..{top}:log")], trials=2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "study.journal").write_bytes(b"something else entirely\n")
    with pytest.raises(ConfigError, match=r"study\.journal: not a study"):
        tune(base(1), few, tmp_path / "b", [varied("optim.lr=0.001..0.02:log")], trials=1)


def test_two_processes_share_one_search(tmp_path: Path, few: FaceSet) -> None:
    """Each trial is one process's, no two draw the same, and one that is killed is taken up.

    Two processes of the real command begin; the first is killed in mid-trial. The other ends what
    is left, that trial included, and the number of trials is the one that was asked for.
    """
    data, out = tmp_path / "faces.npz", tmp_path / "search"
    cache.save(data, few, [])
    command = [sys.executable, "-m", "training", "tune", "--data", str(data), "--out", str(out)]
    command += ["--recipe", "smoke", "--set", "epochs=2", "--vary", "optim.lr=0.001..0.02:log"]
    command += ["--trials", "4", "--threads", "1"]
    with Popen(command, stdout=PIPE, text=True) as first, Popen(command, stdout=PIPE) as second:
        assert first.stdout is not None
        assert ", epoch 1 of 2" in first.stdout.readline()  # one trial has begun, its run is there
        first.kill()
        second.communicate(timeout=300)
    assert second.returncode == 0
    found = tune(
        changed(recipe("smoke"), ["epochs=2"]),
        few,
        out,
        [varied("optim.lr=0.001..0.02:log")],
        trials=4,
    )
    assert len(found.trials) == 4
    assert len({trial.values[0] for trial in found.trials}) == 4
    runs = sorted(path.parent.name for path in out.glob("trial-*/log.jsonl"))
    assert len(runs) == 4
    for run in runs:
        lines = (out / run / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] in ([1], [1, 2])
