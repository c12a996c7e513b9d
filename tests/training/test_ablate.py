"""Ablation: every technique is a variant; runs are paired, kept, and told apart from noise."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.errors import ConfigError
from training.ablate import Progress, Run, ablate, quarter
from training.data.faces import CLASSES
from training.effects import Effect, _ends, rows, write_page
from training.losses import Loss
from training.model import FaceNet
from training.optim import build_optimizer, factor
from training.recipes import TrainConfig, changed, recipe
from training.variants import ALONE, BASE, VARIANTS
from training.words import duration
from training.yardstick import VALID, Yardstick

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_changes_the_recipe_and_builds(name: str) -> None:
    """Each row of the theory's table is a recipe that differs from the base and can be built."""
    base = recipe("proxy")
    config = changed(base, list(VARIANTS[name].changes))
    assert (config == base) == (name == BASE or VARIANTS[name].means != ALONE)
    net = FaceNet(replace(config.model, stem=8, widths=(8, 8), depths=(1, 1), features=8))
    build_optimizer(net, config.optim)
    factor(config.optim, 0.5)
    Loss(config.loss, net.classifier.bias.detach().abs() + 1.0)


def test_ablation_is_paired_and_keeps_finished_runs(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """An interrupted ablation goes on where it was; another share of the data begins anew."""
    base = replace(tiny, epochs=1)
    seen: list[str] = []

    class Interrupted(Exception):  # noqa: N818 - not an error
        pass

    def stop(progress: Progress) -> None:
        seen.append(progress.runs[-1].variant)
        raise Interrupted

    def go(progress: Progress) -> None:
        seen.append(progress.runs[-1].variant)
        left.append(progress.left_s)

    left: list[float | None] = []
    options = {"names": ("no mixup",), "seeds": (0,)}
    with pytest.raises(Interrupted):
        ablate(base, faces, {"x": faces}, tmp_path, report=stop, **options)  # type: ignore[arg-type]
    begun = (tmp_path / "runs" / "base-0" / "run.json").stat().st_mtime_ns
    first = ablate(base, faces, {"x": faces}, tmp_path, report=go, **options)  # type: ignore[arg-type]
    assert seen == [BASE, BASE, "no mixup"]
    assert left == [None, 0.0]
    assert (tmp_path / "runs" / "base-0" / "run.json").stat().st_mtime_ns == begun
    assert first[0].guesses[VALID].shape == (2, 32)
    assert first[0].guesses["x"].shape == (1, len(faces))
    assert not list(tmp_path.rglob("*.pt"))
    (tmp_path / "runs" / "no-mixup-0" / "guesses.npz").write_bytes(b"cut off")
    again = ablate(base, faces, {"x": faces}, tmp_path, **options)  # type: ignore[arg-type]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.guesses["x"], b.guesses["x"])
    assert (tmp_path / "runs" / "base-0" / "run.json").stat().st_mtime_ns == begun
    ablate(base, faces, {"x": faces}, tmp_path, share=0.5, **options)  # type: ignore[arg-type]
    assert (tmp_path / "runs" / "base-0" / "run.json").stat().st_mtime_ns > begun


def test_the_base_teaches_the_distilled_run_alone(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """Other targets make another network of the same recipe and seed; no weights are left."""
    base, name = replace(tiny, epochs=1), "distillation (taught by the base)"
    runs = ablate(base, faces, {"x": faces}, tmp_path, names=(name,), seeds=(0,), share=1.0)
    assert [r.variant for r in runs] == [BASE, name]
    losses = [
        json.loads((tmp_path / "runs" / place / "log.jsonl").read_text().splitlines()[0])["loss"]
        for place in ("base-0", "distillation-taught-by-the-base-0")
    ]
    assert losses[0] != losses[1]
    assert not list(tmp_path.rglob("*.pt"))
    begun = (tmp_path / "runs" / "base-0" / "run.json").stat().st_mtime_ns
    again = ablate(base, faces, {"x": faces}, tmp_path, names=(name,), seeds=(0,), share=1.0)
    assert (tmp_path / "runs" / "base-0" / "run.json").stat().st_mtime_ns == begun
    np.testing.assert_array_equal(again[1].guesses["x"], runs[1].guesses["x"])


def test_unknown_variant_is_refused(tmp_path: Path, faces: FaceSet, tiny: TrainConfig) -> None:
    """The error names it and says where the list is."""
    with pytest.raises(ConfigError, match=r"variant 'magic' does not exist.*--list"):
        ablate(tiny, faces, {}, tmp_path, names=("magic",))
    with pytest.raises(ConfigError, match="cannot be called 'validation'"):
        ablate(tiny, faces, {VALID: faces}, tmp_path)


def test_a_share_keeps_every_class_and_the_other_splits(faces: FaceSet) -> None:
    """A quarter of 16 pictures a class is four of each; two seeds draw different ones."""
    part = quarter(faces, 0.25, 0)
    train = part.part("train")
    assert train.votes_NK.sum(axis=0).tolist() == [4.0] * len(CLASSES)
    assert len(part.part("valid")) == len(part.part("test")) == 32
    other = quarter(faces, 0.25, 1).part("train")
    assert not np.array_equal(train.images_NHW, other.images_NHW)


def yardstick(n: int) -> Yardstick:
    """Return n faces of two classes, each a group of its own."""
    return Yardstick(
        views_FNHW=[np.zeros((n, 1, 1), np.uint8)],
        labels_N=np.arange(n) % 2,
        groups_N=np.arange(n).astype(np.str_),
    )


def run(variant: str, seed: int, wrong: int, n: int) -> Run:
    """Return a run that mistakes the first ``wrong`` faces of n."""
    guesses = np.arange(n) % 2
    guesses[:wrong] = 1 - guesses[:wrong]
    told = {VALID: guesses[None].astype(np.uint8)}
    return Run(variant=variant, seed=seed, guesses=told, prior_share=0.0, seconds=2.0, cpu_s=1.0)


def test_effects_are_paired_by_seed_and_know_noise() -> None:
    """Every seed gains ten points of accuracy: sure. One up, one down as far: nothing.

    With both classes hit alike macro F1 equals accuracy, so changes can be told by hand.
    """
    n, sets = 200, {VALID: yardstick(200)}
    runs = [run(BASE, seed, 40 + 20 * seed, n) for seed in range(3)]
    runs += [run("L1", seed, 20 + 20 * seed, n) for seed in range(3)]
    runs += [run("tanh", seed, 40 + 20 * seed + (-20, 20, 0)[seed], n) for seed in range(3)]
    runs += [run("sigmoid", 7, 0, n)]  # a seed without a base
    table = {row.variant: row.effects[VALID] for row in rows(runs, sets)}
    assert list(table) == [BASE, "tanh", "L1"]
    assert table["L1"].change == pytest.approx(0.1)
    assert table["L1"].accuracy == pytest.approx(0.8)
    assert table["L1"].macro_f1 == pytest.approx(0.8)
    assert table["tanh"].change == pytest.approx(0.0)
    low, high = table["tanh"].low, table["tanh"].high
    assert low is not None
    assert high is not None
    assert low < -0.05
    assert table["tanh"].verdict == ""
    assert table[BASE].change == table[BASE].low == table[BASE].high == 0.0
    # Three seeds that agree say little about their noise; the other variant's widens the interval.
    alone = [r for r in runs if r.variant != "tanh"]
    effect = {row.variant: row.effects[VALID] for row in rows(alone, sets)}["L1"]
    assert effect.verdict == "better"
    assert width(effect) < 0.7 * width(table["L1"])


def test_few_seeds_prove_little() -> None:
    """One seed has no interval; of two thousand techniques that do nothing few are called real."""
    n, sets = 400, {VALID: yardstick(400)}
    runs = [run(BASE, 0, 40, n), run("L1", 0, 0, n)]
    effect = {row.variant: row.effects[VALID] for row in rows(runs, sets)}["L1"]
    assert (effect.low, effect.high, effect.verdict) == (None, None, "")
    rng = np.random.default_rng(1)
    luck = rng.normal(0.0, 1.0, (20_000, 3))
    seeds = luck.var(axis=1, ddof=1) / 3
    ends = np.array([_ends(float(v), 2, 0.0) for v in seeds])
    assert 0.03 < float((np.abs(luck.mean(axis=1)) > ends).mean()) < 0.07


def width(effect: Effect) -> float:
    """Return how wide an interval is."""
    assert effect.low is not None
    assert effect.high is not None
    return effect.high - effect.low


def test_page_is_grouped_as_the_theory(tmp_path: Path) -> None:
    """The page has a heading a group, the JSON every figure."""
    runs = [run(BASE, seed, 40, 200) for seed in (0, 1)]
    runs += [run("L1", 0, 20, 200), run("tanh", 0, 60, 200), run("tanh", 1, 60, 200)]
    page = tmp_path / "ablation.html"
    cells = write_page(page, runs, {VALID: yardstick(200)}, {"epochs": "4"})
    assert [line[0] for line in cells] == ["variant", BASE, "tanh", "L1"]
    text = page.read_text()
    assert text.index("<h2>Activation</h2>") < text.index("<h2>Over-fitting</h2>")
    saved = json.loads(page.with_suffix(".json").read_text())
    assert saved["settings"] == {"epochs": "4"}
    assert saved["rows"][2]["effects"][VALID]["change"] == pytest.approx(0.1)
    table = page.with_suffix(".md").read_text()
    assert "| **Activation** |" in table
    assert re.search(r"^\| L1 \| 1 \| \d+ \| \+10\.0 \(one seed\)", table, re.MULTILINE)
    assert re.search(r"^\| tanh \| 2 \| \d+ \| \*\*-10\.0\*\* \(-", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("seconds", "words"), [(40.0, "40 s"), (720.0, "12 min"), (3900.0, "1 h 05 min")]
)
def test_time_left_in_words(seconds: float, words: str) -> None:
    """Seconds, minutes, hours."""
    assert duration(seconds) == words
