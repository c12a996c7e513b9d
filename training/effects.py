"""Effects of an ablation: paired differences to the base, with intervals, as tables and a page.

An interval adds two noises in squares: that of the seeds (weights, order and choice of training
pictures) and that of the measured pictures (bootstrap over groups). Few seeds tell little about
their spread, so its ends are Student's, with Satterthwaite's degrees of freedom; one seed tells
nothing, and has no interval.

Legend: N faces, G groups, K classes, R bootstrap draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from training.data.faces import CLASSES
from training.evaluate import from_confusion
from training.report import Section, figure_svg, write
from training.variants import BASE, VARIANTS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from training.ablate import Run
    from training.yardstick import Yardstick

__all__ = ["Effect", "Row", "rows", "write_page"]

_DRAWS = 400  # the ends of an interval then move by a twentieth of its width
_UPPER = 0.975
_TWO = 2  # seeds, for a spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A variant on one set; shares of 1.

    Attributes:
        macro_f1, accuracy: means over the seeds and framings.
        change: of macro F1 to the base, paired by seed; 0 for the base itself.
        low, high: 95 % interval of the change; None from one seed.
    """

    macro_f1: float
    accuracy: float
    change: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """Return "better" or "worse" where the interval leaves zero out, else nothing."""
        if self.low is None or self.high is None:
            return ""
        return "better" if self.low > 0.0 else "worse" if self.high < 0.0 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A variant of the table.

    Attributes:
        group, variant, changes: see ``variants.Variant``.
        seeds: of its runs.
        cpu_s: processor time of a run, mean.
        effects: by set.
    """

    group: str
    variant: str
    changes: tuple[str, ...]
    seeds: list[int]
    cpu_s: float
    effects: dict[str, Effect]


def rows(runs: list[Run], sets: dict[str, Yardstick]) -> list[Row]:
    """Return a row a variant, in the order of the theory; those without a base are left out.

    Args:
        runs: of several variants and seeds, the base among them.
        sets: what they read.
    """
    seeds = {run.seed for run in runs if run.variant == BASE}
    kept = [run for run in runs if run.seed in seeds]
    names = [name for name in VARIANTS if any(run.variant == name for run in kept)]
    members = {name: [run for run in kept if run.variant == name] for name in names}
    effects: dict[str, dict[str, Effect]] = {name: {} for name in names}
    for which, yardstick in sets.items():
        for name, effect in _effects(members, which, yardstick).items():
            effects[name][which] = effect
    return [
        Row(
            group=VARIANTS[name].group,
            variant=name,
            changes=VARIANTS[name].changes,
            seeds=[run.seed for run in members[name]],
            cpu_s=float(np.mean([run.cpu_s for run in members[name]])),
            effects=effects[name],
        )
        for name in names
    ]


def _effects(members: dict[str, list[Run]], which: str, yardstick: Yardstick) -> dict[str, Effect]:
    _, group_N = np.unique(yardstick.groups_N, return_inverse=True)
    g = int(group_N.max()) + 1
    drawn_RG = np.random.default_rng(0).multinomial(g, np.full(g, 1.0 / g), size=_DRAWS)
    weight_RG = np.vstack([np.ones(g), drawn_RG])  # the first row is the set as it is
    scores = {
        (run.variant, run.seed): _scores(run.guesses[which], yardstick, group_N, weight_RG)
        for runs in members.values()
        for run in runs
    }
    changes = {
        name: np.stack([scores[name, r.seed][0] - scores[BASE, r.seed][0] for r in runs])
        for name, runs in members.items()
    }
    several = [c[:, 0] for n, c in changes.items() if n != BASE and len(c) >= _TWO]
    pooled = float(np.mean([c.var(ddof=1) for c in several])) if several else 0.0
    freedom = sum(len(c) - 1 for c in several)
    out = {}
    for name, change in changes.items():
        own = float(change[:, 0].var(ddof=1)) if len(change) >= _TWO else 0.0
        # Three seeds alone tell little about their spread; all variants together tell it well.
        seeds = 0.0 if name == BASE else max(own, pooled) / len(change)
        pictures = float(change.mean(axis=0)[1:].var(ddof=1))
        half = _ends(seeds, freedom, pictures)
        known = name == BASE or len(change) >= _TWO
        mean = float(change[:, 0].mean())
        f1, accuracy = (
            float(np.mean([scores[name, r.seed][i][0] for r in members[name]])) for i in (0, 1)
        )
        out[name] = Effect(
            macro_f1=f1,
            accuracy=accuracy,
            change=mean,
            low=mean - half if known else None,
            high=mean + half if known else None,
        )
    return out


def _ends(seeds: float, freedom: int, pictures: float) -> float:
    """Return half of the interval that two variances make, the first one estimated.

    Source: Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components".
    """
    total = seeds + pictures
    degrees = freedom * (total / seeds) ** 2 if seeds > 0.0 else np.inf
    return float(stats.t.ppf(_UPPER, degrees)) * math.sqrt(total)


def _scores(
    guesses_FN: NDArray[np.uint8],
    yardstick: Yardstick,
    group_N: NDArray[np.intp],
    weight_RG: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return macro F1 and accuracy of each draw, (R,), means over the framings."""
    k = len(CLASSES)
    f1s, accuracies = [], []
    for guess_N in guesses_FN:
        cells = np.zeros((weight_RG.shape[1], k * k))
        np.add.at(cells, (group_N, yardstick.labels_N * k + guess_N), 1.0)
        accuracy, _, f1 = from_confusion((weight_RG @ cells).reshape(-1, k, k))
        f1s.append(np.nanmean(f1, axis=-1))
        accuracies.append(accuracy)
    return np.mean(f1s, axis=0), np.mean(accuracies, axis=0)


def write_page(
    path: Path, runs: list[Run], sets: dict[str, Yardstick], settings: dict[str, str]
) -> list[tuple[str, ...]]:
    """Write the table, grouped as the theory is, with plots; beside it JSON and a Markdown table.

    Args:
        path: ends in ``.html``.
        runs: those that are finished.
        sets: what they read.
        settings: facts about the runs, shown at the top.

    Returns:
        The cells of the table, line by line, its header first.
    """
    table = rows(runs, sets)
    counts = "; ".join(
        f"{name}: {len(s.labels_N)} faces in {len(np.unique(s.groups_N))} groups"
        for name, s in sets.items()
    )
    text = (
        "Per cent. Each line changes one thing of the base; macro F1 is the mean over the classes "
        "that occur. Changes are paired by seed, with 95 % intervals over seeds and pictures; of "
        "twenty techniques that do nothing, one leaves zero out by chance. The prior's share is "
        f"chosen on validation; the other sets are only measured. {counts}."
    )
    base = [row for row in table if row.variant == BASE]
    columns: tuple[str, ...] = ("variant", "runs", "CPU s")
    for name in sets:
        columns += (f"{name} F1", "accuracy", "change of F1", "")
    sections = [
        Section(title="What it is", text=text, header=("", ""), rows=list(settings.items())),
        Section(title="Base", header=columns, rows=[_cells(row) for row in base]),
    ]
    for group in dict.fromkeys(row.group for row in table if row.variant != BASE):
        some = [row for row in table if row.group == group and row.variant != BASE]
        plot = ("Change of macro F1 with its 95 % interval", _forest(some, list(sets)))
        cells = [_cells(row) for row in some]
        sections.append(Section(title=group, header=columns, rows=cells, plots=[plot]))
    write(path, "Ablation", sections, {"settings": settings, "rows": table})
    path.with_suffix(".md").write_text(_markdown(table, list(sets), settings))
    return [columns, *(_cells(row) for row in table)]


def _cells(row: Row) -> tuple[str, ...]:
    cells = [row.variant, str(len(row.seeds)), f"{row.cpu_s:.0f}"]
    for e in row.effects.values():
        cells += [f"{100 * e.macro_f1:.1f}", f"{100 * e.accuracy:.1f}"]
        if row.variant == BASE:
            cells += ["", ""]
        else:
            cells += [_change(e), e.verdict]
    return tuple(cells)


def _markdown(table: list[Row], sets: list[str], settings: dict[str, str]) -> str:
    """Return the table for a README: the changes alone, those that leave zero out in bold."""
    lines = [f"- {name}: {value}" for name, value in settings.items()]
    lines += [
        f"- {name} of the base: {_base(table, name)} (macro F1, accuracy, per cent)"
        for name in sets
    ]
    columns = ["technique", "runs", "CPU s", *(f"{name}, change of macro F1" for name in sets)]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines += ["", f"| {' | '.join(columns)} |", f"| {' | '.join(rule)} |"]
    group = ""
    for row in table:
        if row.variant == BASE:
            continue
        if row.group != group:
            group = row.group
            lines.append(f"| **{group}** |{' |' * (len(columns) - 1)}")
        cells = [row.variant, str(len(row.seeds)), f"{row.cpu_s:.0f}"]
        cells += [_change(e, "**" if e.verdict else "") for e in row.effects.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _change(effect: Effect, mark: str = "") -> str:
    """Return the change of macro F1 in points, with its interval where there is one."""
    change = f"{mark}{100 * effect.change:+.1f}{mark}"
    if effect.low is None or effect.high is None:
        return f"{change} (one seed)"
    return f"{change} ({100 * effect.low:+.1f} to {100 * effect.high:+.1f})"


def _base(table: list[Row], name: str) -> str:
    found = [row.effects[name] for row in table if row.variant == BASE]
    return ", ".join(f"{100 * e.macro_f1:.1f}, {100 * e.accuracy:.1f}" for e in found)


def _forest(table: list[Row], sets: list[str]) -> str:
    figure = Figure(figsize=(9, 0.9 + 0.32 * len(table)))
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    colours = {"better": "#1a7f37", "worse": "#b42318", "": "#57606a"}
    for axes, name in zip(panels, sets, strict=True):
        for place, row in enumerate(reversed(table)):
            e = row.effects[name]
            if e.low is not None and e.high is not None:
                axes.plot([100 * e.low, 100 * e.high], [place, place], color=colours[e.verdict])
            axes.plot([100 * e.change], [place], marker="o", color=colours[e.verdict])
        axes.axvline(0.0, color="#1b1f24", linewidth=0.8)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("points", fontsize=8)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(table)), [row.variant for row in reversed(table)])
    return figure_svg(figure)
