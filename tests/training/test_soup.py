"""A soup is the mean of runs that began together; strangers are refused, each with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from streamer.bundle import file_sha256
from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training.cli import app
from training.data import cache
from training.recipes import config_from
from training.soup import cook, mean_weights
from training.train import LAST, averaged_model, fit, predict

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet
    from training.recipes import TrainConfig


@pytest.fixture
def family(tmp_path: Path, faces: FaceSet, tiny: TrainConfig) -> list[Path]:
    """One run, and two that went on from it with other seeds."""
    config = replace(tiny, epochs=1)
    first = tmp_path / "first" / LAST
    fit(config, faces, first.parent)
    start = checkpoints.load(first)
    paths = [first]
    for seed in (1, 2):
        out = tmp_path / str(seed)
        sources = {"begun with last.pt": file_sha256(first)}
        fit(replace(config, seed=seed), faces, out, sources=sources, start=start)
        paths.append(out / LAST)
    return paths


def test_the_mean_is_of_weights_and_statistics() -> None:
    """Floats are averaged in double precision; counters stay those of the first."""
    one = {"w": torch.tensor([1.0, 3.0]), "steps": torch.tensor(4)}
    two = {"w": torch.tensor([2.0, 5.0]), "steps": torch.tensor(9)}
    mean = mean_weights([one, two])
    assert mean["w"].tolist() == [1.5, 4.0]
    assert mean["w"].dtype == torch.float32
    assert mean["steps"].item() == 4


def test_all_members_or_those_that_help(family: list[Path], faces: FaceSet) -> None:
    """Greedy is never worse on validation than its best member; the record names who is in."""
    told: list[tuple[Path, bool]] = []
    valid = faces.part("valid")
    soup = cook(family, valid, report=lambda path, _score, kept: told.append((path, kept)))
    assert soup.score >= max(soup.alone.values())
    assert [path for path, kept in told if kept] == soup.kept
    assert {path for path, _ in told} == set(family)
    whole = cook(family, valid, greedy=False)
    assert set(whole.kept) == set(family)
    assert whole.checkpoint.seeds == [0, 1, 2]
    named = sorted(name for name in whole.checkpoint.data if name.startswith("mean of"))
    assert named == [f"mean of {name}/last.pt" for name in ("1", "2", "first")]
    states = [checkpoints.load(path).average["state"] for path in whole.kept]
    model = averaged_model(config_from(whole.checkpoint.config), whole.checkpoint.average["state"])
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, sum(s[name] for s in states) / 3)
    assert predict(model, valid.images_NHW)[1].shape == (len(valid), 8)


def test_strangers_have_no_mean(
    family: list[Path], tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """One alone, another beginning, another shape: each is named."""
    valid = faces.part("valid")
    with pytest.raises(ConfigError, match="at least two"):
        cook(family[:1], valid)
    fit(replace(tiny, epochs=1, seed=5), faces, tmp_path / "other")
    with pytest.raises(ConfigError, match="did not begin with the same weights"):
        cook([family[1], tmp_path / "other" / LAST], valid)
    wide = replace(tiny.model, widths=tuple(2 * width for width in tiny.model.widths))
    fit(replace(tiny, epochs=1, model=wide), faces, tmp_path / "wide")
    with pytest.raises(ConfigError, match="has another network"):
        cook([family[0], tmp_path / "wide" / LAST], valid)


def test_the_command_writes_a_checkpoint_to_go_on_from(
    family: list[Path], tmp_path: Path, faces: FaceSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says each score, keeps what is there, and its file evaluates like a run's."""
    data, out = tmp_path / "faces.npz", tmp_path / "soup.pt"
    cache.save(data, faces, [])
    given = ["soup", *map(str, family), "--data", str(data), "--out", str(out), "--threads", "1"]
    app([*given, "--all"], standalone_mode=False)
    said = capsys.readouterr().out
    assert said.count(" alone: score ") == 3
    assert f"{out}: the mean of 3 of 3, score " in said
    with pytest.raises(ConfigError, match="is there already"):
        app(given, standalone_mode=False)
    more = ["evaluate", str(out), "--data", str(data), "--threads", "1"]
    app(more, standalone_mode=False)
    again = ["fit", "--data", str(data), "--from", str(out), "--recipe", "smoke"]
    again += ["--set", "epochs=1", "--threads", "1", "--out", str(tmp_path / "on")]
    app(again, standalone_mode=False)
    assert (tmp_path / "on" / LAST).exists()
