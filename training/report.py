"""Self-contained HTML reports with plots, and the same figures as JSON.

Plots are drawn as SVG without a display and stand inside the page; it loads nothing.

Legend: N faces, K classes.
"""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from matplotlib.figure import Figure

from training.data.faces import CLASSES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from training.diagnose import Firing, GradientTrace
    from training.evaluate import Interval, Measured
    from training.heads import Compared, Reader
    from training.seeds import Summary
    from training.slices import Slice
    from training.smoothing import TemporalResult
    from training.tune import Found

__all__ = [
    "Section",
    "figure_svg",
    "firing_section",
    "heads_section",
    "model_sections",
    "rest_section",
    "seeds_section",
    "slices_section",
    "trace_section",
    "tune_section",
    "write",
]

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #d0d7de; padding: .2rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { background: #f3f5f7; }
figure { margin: 1rem 0; } figcaption { color: #57606a; }
svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a page.

    Attributes:
        title: its heading.
        text: a paragraph before everything else.
        items: sentences, numbered.
        header, rows: a table; empty: none.
        plots: (caption, SVG) pairs.
    """

    title: str
    text: str = ""
    items: Sequence[str] = ()
    header: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    plots: Sequence[tuple[str, str]] = ()


def write(path: Path, title: str, sections: list[Section], data: object) -> None:
    """Write the page, and beside it the figures as JSON under the same name.

    Args:
        path: ends in ``.html``.
        title: of the page.
        sections: in order.
        data: dataclasses, lists and plain values with every figure the page shows.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", *(_render(s) for s in sections)]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    encoded = msgspec.json.encode(data)
    path.with_suffix(".json").write_bytes(msgspec.json.format(encoded, indent=1))


def model_sections(
    measured: list[Measured], temporal: list[TemporalResult], log: list[dict[str, Any]]
) -> list[Section]:
    """Return the sections about a model: training, accuracy, classes, time."""
    out = []
    if log:
        out.append(Section(title="Training", plots=[("Loss and validation", _curves(log))]))
    figures = ("n", "accuracy", "UAR", "macro F1", "NLL", "Brier", "ECE")
    header = ("data", "split", "framing", "classes", *figures)
    rows = [
        (
            m.dataset,
            m.split,
            m.framing,
            m.view,
            str(m.scores.n),
            *(
                f"{100 * i.value:.1f} ({100 * i.low:.1f}–{100 * i.high:.1f})"
                for i in (m.scores.accuracy, m.scores.uar, m.scores.macro_f1)
            ),
            f"{m.scores.nll:.3f}",
            f"{m.scores.brier:.3f}",
            f"{m.ece_before:.3f} → {m.scores.ece:.3f}",
        )
        for m in measured
    ]
    note = (
        "Per cent with 95 % bootstrap intervals over groups; one crop a face; ECE by temperature."
    )
    out.append(Section(title="Accuracy", text=note, header=header, rows=rows))
    for m in measured:
        if m.left_out:
            continue
        title = f"{m.dataset}, {m.split}, {m.framing}"
        each = [
            (name, str(m.scores.support[name]), f"{100 * v:.1f}", f"{100 * m.scores.f1[name]:.1f}")
            for name, v in m.scores.recall.items()
        ]
        plot = ("Rows are the truth; per cent of the row", _confusion(m.scores.confusion))
        columns = ("class", "n", "recall %", "F1 %")
        out.append(Section(title=title, header=columns, rows=each, plots=[plot]))
    if temporal:
        out.append(_temporal(temporal))
    return out


def slices_section(title: str, found: list[Slice]) -> Section:
    """Return the section about parts of a set."""
    rows = [
        (s.by, s.part, str(s.n), *(_percent(i) for i in (s.accuracy, s.uar, s.macro_f1)))
        for s in found
    ]
    return Section(
        title=f"Slices of {title}",
        text="Per cent with 95 % bootstrap intervals over groups; parts with fewer than 30 faces "
        "are left out. UAR and macro F1 are over the classes that occur in the part, so compare "
        "them with care.",
        header=("by", "part", "n", "accuracy", "UAR", "macro F1"),
        rows=rows,
        plots=[("Accuracy of each part; the line is the whole set's", _forest(found))]
        if found
        else [],
    )


def tune_section(found: Found) -> Section:
    """Return the section about a search."""
    rows = [
        (str(t.number), t.state, f"{t.score:.4f}", str(t.epochs), " ".join(t.values))
        for t in found.trials
    ]
    weights = ", ".join(f"{key} {v:.2f}" for key, v in found.importance.items())
    return Section(
        title="Trials",
        text="By the validation score; pruned ones were stopped early. How much each value matters "
        f"among the better trials: {weights or 'too few trials to tell'}.",
        header=("trial", "state", "score", "epochs", "values"),
        rows=rows,
    )


def seeds_section(found: list[Summary]) -> Section:
    """Return the section about several runs of one recipe."""
    rows = [
        (
            f"{s.dataset}, {s.split}, {s.framing}, classes {s.view}",
            s.figure,
            str(s.runs),
            f"{s.mean:.4f}",
            f"{s.deviation:.4f}",
            f"{s.low:.4f} to {s.high:.4f}",
            f"{s.least:.4f} to {s.most:.4f}",
        )
        for s in found
    ]
    return Section(
        title="Over several runs",
        text="The interval is that of the mean by Student's t: it holds the spread between runs, "
        "not that between pictures.",
        header=("data", "figure", "runs", "mean", "deviation", "95 % of the mean", "range"),
        rows=rows,
    )


def heads_section(data: str, clips: int, step_s: float, results: list[Compared]) -> Section:
    """Return the section that compares temporal heads with moving averages of equal lag."""

    def percent(i: Interval) -> str:
        return f"{100 * i.value:.1f} ({100 * i.low:.1f} to {100 * i.high:.1f})"

    def plain(i: Interval) -> str:
        return f"{i.value:.2f} ({i.low:.2f} to {i.high:.2f})"

    def figures(r: Reader) -> tuple[str, ...]:
        return percent(r.apex), f"{100 * r.uar:.1f}", plain(r.flicker_hz), plain(r.lag_s)

    rows = []
    for c in results:
        gains = (percent(c.apex_gain), plain(c.flicker_gain))
        rows.append((c.head.name, c.learned_from, str(c.head.runs), *figures(c.head), *gains))
        rows.append((c.average.name, "", "", *figures(c.average), "", ""))
    header = ("reader", "learned from", "seeds", "apex %", "UAR %", "flicker (1/s)", "lag (s)")
    text = (
        f"{clips} clips of {data} at {step_s:.3f} s a step; 95 % bootstrap intervals over people. "
        "Under each head stands the strongest moving average of the frames that does not lag "
        "more; the gains are the head's minus the average's, drawn over the same people."
    )
    return Section(
        title="Temporal heads",
        text=text,
        header=(*header, "apex gain", "flicker gain"),
        rows=rows,
    )


def firing_section(layers: list[Firing]) -> Section:
    """Return the section about neurons that never or always fire."""
    rows = [(f.layer, str(len(f.share_C)), f"{f.dead:.3f}", f"{f.always:.3f}") for f in layers]
    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    axes.boxplot([f.share_C for f in layers], showfliers=True)
    axes.set_xticks(range(1, len(layers) + 1), [f.layer for f in layers], rotation=60, fontsize=7)
    axes.set_ylabel("share of places that fire")
    return Section(
        title="Neurons",
        header=("layer", "channels", "dead", "always firing"),
        rows=rows,
        plots=[("How often channels fire, a layer", figure_svg(figure))],
    )


def rest_section(
    before: list[Firing], without: list[Firing], resting: list[Firing], ceiling: float
) -> Section:
    """Return the section that compares neurons after training on with and without rest."""

    def cells(f: Firing) -> tuple[str, ...]:
        over = sum(share > ceiling for share in f.share_C)
        return f"{100 * f.dead:.1f}", str(over), f"{100 * max(f.share_C):.0f}"

    rows = [
        (b.layer, *cells(b), *cells(w), *cells(r))
        for b, w, r in zip(before, without, resting, strict=True)
    ]
    header: tuple[str, ...] = ("layer",)
    for when in ("now", "on without rest", "with rest"):
        header += (f"dead %, {when}", "over", "most %")
    same = all(w.share_C == r.share_C for w, r in zip(without, resting, strict=True))
    text = (
        "Now, after training on as before, and with rest. Dead: per cent of the channels; over: "
        f"channels that fire in more than {100 * ceiling:.0f} % of all places, from which they "
        "rest; most: how often the most active one fires."
        + (" None rested: both are the same. Ask for rest earlier with --rest." if same else "")
    )
    return Section(title="Rest of tireless neurons", text=text, header=header, rows=rows)


def trace_section(traces: list[GradientTrace]) -> Section:
    """Return the section that compares gradients with and without skip connections."""
    figure = Figure(figsize=(9, 3.6))
    axes = figure.subplots()
    for trace in traces:
        norms = np.maximum(np.array(trace.norms), 1e-12)
        label = "with skips" if trace.skip else "without skips"
        axes.semilogy(np.exp(np.log(norms).mean(axis=0)), marker="o", label=label)
    axes.set_xlabel("convolution, from the picture to the classifier")
    axes.set_ylabel("gradient over weight (norms)")
    axes.legend()
    return Section(title="Gradients", plots=[("Geometric mean over the steps", figure_svg(figure))])


def _render(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.items:
        items = "".join(f"<li>{html.escape(item)}</li>" for item in section.items)
        parts.append(f"<ol>{items}</ol>")
    if section.header:
        head = "".join(f"<th>{html.escape(h)}</th>" for h in section.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in section.rows
        )
        parts.append(f"<table><tr>{head}</tr>{body}</table>")
    parts += [
        f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, svg in section.plots
    ]
    return "\n".join(parts)


def _temporal(results: list[TemporalResult]) -> Section:
    rows = [
        (
            t.dataset,
            f"{t.step_s:.3f}",
            name,
            str(s.clips),
            f"{100 * s.apex_accuracy:.1f}",
            f"{100 * s.uar:.1f}",
            f"{s.flicker_hz:.2f}",
            f"{s.lag_s:.2f}",
        )
        for t in results
        for name, s in (
            ("head", t.head),
            ("frames alone", t.frames),
            (f"moving average {t.average_weight:g}", t.average),
        )
    ]
    header = ("data", "step (s)", "reader", "clips", "apex %", "UAR %", "flicker (1/s)", "lag (s)")
    return Section(title="Over time", header=header, rows=rows)


def figure_svg(figure: Figure) -> str:
    """Return a drawing as SVG that can stand inside a page."""
    buffer = io.StringIO()
    figure.tight_layout()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML prologue, which HTML does not know


def _curves(log: list[dict[str, Any]]) -> str:
    figure = Figure(figsize=(9, 3.2))
    left, right = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in log]
    left.plot(epochs, [line["loss"] for line in log])
    left.set(xlabel="epoch", ylabel="training loss")
    for key in sorted(
        log[-1].keys() & log[0].keys() - {"epoch", "loss", "seconds", "lr", "prior_share"}
    ):
        right.plot(epochs, [line[key] for line in log], label=key)
    right.set(xlabel="epoch", ylabel="validation")
    right.legend(fontsize=7)
    return figure_svg(figure)


def _confusion(counts: list[list[int]]) -> str:
    table = np.array(counts, np.float64)
    share = 100 * table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
    figure = Figure(figsize=(6, 5))
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    half = 50.0  # per cent; above it the cell is dark and its figure white
    for (row, column), value in np.ndenumerate(share):
        colour = "white" if value > half else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=60)
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set(xlabel="said", ylabel="true")
    return figure_svg(figure)


def _percent(i: Interval) -> str:
    return f"{100 * i.value:.1f} ({100 * i.low:.1f}–{100 * i.high:.1f})"


def _forest(found: list[Slice]) -> str:
    figure = Figure(figsize=(8, 1.2 + 0.24 * len(found)))
    axes = figure.subplots()
    places = np.arange(len(found))[::-1]
    values = np.array([[s.accuracy.value, s.accuracy.low, s.accuracy.high] for s in found]) * 100
    for place, (value, low, high) in zip(places, values, strict=True):
        axes.plot([low, high], [place, place], color="#57606a")
        axes.plot(value, place, "o", color="#0969da")
    whole = np.average(values[:, 0], weights=[s.n for s in found])
    axes.axvline(whole, color="#d0d7de")
    axes.set_yticks(places, [f"{s.by}: {s.part}" for s in found], fontsize=7)
    axes.set_xlabel("accuracy, per cent")
    return figure_svg(figure)
