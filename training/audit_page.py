"""The audit of a face set as sections of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from training.data.advice import advice
from training.data.coverage import PROPERTIES
from training.data.faces import CLASSES
from training.report import Section, figure_svg

if TYPE_CHECKING:
    from training.data.audit import Audit
    from training.data.coverage import Spread
    from training.data.learning import Doubts, LearningCurve

__all__ = ["audit_sections"]


def audit_sections(audit: Audit) -> list[Section]:
    """Return the sections about a face set, the advice first."""
    out = [
        Section(title="Advice", items=advice(audit)),
        _facts(audit),
        _classes(audit),
        _coverage(audit.coverage),
    ]
    if audit.learning is not None:
        out.append(_learning(audit.learning))
    if audit.doubts is not None:
        out.append(_doubts(audit.doubts))
    if audit.across:
        text = f"{audit.across_count} pairs in all; the first ones:"
        rows = audit.across
        title = "The same picture in two splits"
        out.append(Section(title=title, text=text, header=("one", "other"), rows=rows))
    return out


def _facts(audit: Audit) -> Section:
    rows = [
        ("pictures", str(audit.faces)),
        *((f"people or groups, {k}", str(v)) for k, v in audit.groups.items()),
        ("people or groups in several splits", str(audit.groups_cut)),
        ("exact duplicates", str(audit.exact_duplicates)),
        ("evaluation pictures marked as being in another split", str(audit.leaks_marked)),
        ("of these equal to none there, only alike", str(audit.leaks_near)),
        *((f"near-duplicate pairs, {k}", str(v)) for k, v in sorted(audit.near_pairs.items())),
        ("near-duplicate pairs across splits, unmarked", str(audit.across_count)),
        *((f"without a label, {k}", str(v)) for k, v in audit.unlabelled.items() if v),
        *((f"imbalance, {k}", f"{v:.1f}") for k, v in audit.imbalance.items()),
        *((f"clearly labelled, {k}", f"{v:.3f}") for k, v in audit.clear.items()),
    ]
    return Section(title="Facts", header=("", ""), rows=rows)


def _classes(audit: Audit) -> Section:
    splits = list(audit.counts)
    any_labelled = any(any(each.values()) for each in audit.counts.values())
    rows = [
        (name, *(str(audit.counts[s][name]) for s in splits), _agreed(audit, name))
        for name in CLASSES
    ]
    return Section(
        title="Classes",
        text="By the majority of votes; the last column is the share of clear pictures whose "
        "second label agrees.",
        header=("class", *splits, "agreement"),
        rows=rows,
        plots=[("Pictures a class, by split", _bars(audit.counts))] if any_labelled else [],
    )


def _agreed(audit: Audit, name: str) -> str:
    return f"{audit.agreement[name]:.2f}" if name in audit.agreement else "-"


def _coverage(coverage: dict[str, Spread]) -> Section:
    rows = [
        (name, f"{s.known:.3f}", *(f"{v:.4g}" for v in (s.p5, s.p25, s.p50, s.p75, s.p95)))
        for name, s in coverage.items()
    ]
    words = "; ".join(f"{name}: {PROPERTIES[name]}" for name in coverage)
    header = ("", "known", "5 %", "25 %", "50 %", "75 %", "95 %")
    plot = ("How the faces are distributed, from the 1st to the 99th percentile", _bells(coverage))
    return Section(title="Coverage", text=words + ".", header=header, rows=rows, plots=[plot])


def _learning(curve: LearningCurve) -> Section:
    rows = [
        (str(n), f"{e:.3f}", f"{d:.3f}")
        for n, e, d in zip(curve.sizes, curve.errors, curve.deviations, strict=True)
    ]
    figure = Figure(figsize=(6, 3.2))
    axes = figure.subplots()
    axes.errorbar(curve.sizes, curve.errors, curve.deviations, marker="o", label="measured")
    if np.isfinite(curve.doubled):
        axes.plot([2 * curve.sizes[-1]], [curve.doubled], "s", label="expected")
        rows.append((f"{2 * curve.sizes[-1]} (expected)", f"{curve.doubled:.3f}", ""))
    axes.set(xlabel="pictures learned from", ylabel="error", xscale="log")
    axes.legend()
    return Section(
        title="Would more pictures help?",
        text="Error of a quick model (gradient directions and logistic regression, no network) on "
        "groups that it has not seen; the expectation is a power law's.",
        header=("pictures", "error", "deviation"),
        rows=rows,
        plots=[("Learning curve", figure_svg(figure))],
    )


def _doubts(doubts: Doubts) -> Section:
    shares = ", ".join(f"{k} {100 * v:.0f} %" for k, v in doubts.share.items())
    return Section(
        title="Doubtful labels",
        text=f"cleanlab doubts {doubts.doubted} of {doubts.judged} labels, by a quick model that "
        f"had not seen them; of each class: {shares}. The most doubtful:",
        header=("picture", "label", "rather"),
        rows=doubts.worst,
    )


def _bars(counts: dict[str, dict[str, int]]) -> str:
    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    width = 0.8 / max(1, len(counts))
    for place, (split, each) in enumerate(counts.items()):
        x = np.arange(len(CLASSES)) + place * width
        axes.bar(x, [each[name] for name in CLASSES], width, label=split)
    axes.set_xticks(np.arange(len(CLASSES)) + 0.4, CLASSES)
    axes.set_yscale("log")
    axes.legend()
    return figure_svg(figure)


def _bells(coverage: dict[str, Spread]) -> str:
    columns = 4
    rows = -(-len(coverage) // columns)
    figure = Figure(figsize=(11, 2.2 * rows))
    for place, (name, s) in enumerate(coverage.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.stairs(s.counts, s.edges, fill=True)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
    return figure_svg(figure)
