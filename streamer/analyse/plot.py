"""The timeline of a face: its probabilities over time as an area a class, its label above.

Legend: T readings of one face, K classes.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamer.analyse.palette import colour
from streamer.analyse.summary import clock_text, span_text
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from streamer.analyse.samples import Course

__all__ = ["plot", "require"]

_ONE_AT_A_TIME: Final = threading.Lock()  # matplotlib's font cache and settings are not thread-safe
_GAP_S: Final = 0.6
"""A face unseen for longer leaves a gap: six steps at the usual ten readings a second."""
_ALONE_S: Final = 0.1  # how wide a reading without neighbours is drawn: the usual step
_SIZE_IN: Final = (10.0, 3.6)
_DPI: Final = 150
_INK, _MUTED, _LINE, _SUNKEN = "#1a1d26", "#596072", "#dfe2ea", "#f4f5f8"  # as on the live page
_NAMED_FROM: Final = 0.12  # of the width: a narrower spell has no room for its label
_LISTED_FROM: Final = 0.02  # a class that never gets further is not worth a line of the legend


def require() -> None:
    """Say at the start what a long run would find missing at its end.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415 a second that only plots need
    except ImportError:
        raise ConfigError(
            "plots need matplotlib; run: pip install 'emotion-streamer[analyse]', "
            "or give --no-plots"
        ) from None


def plot(course: Course, classes: Sequence[str], title: str, paths: Sequence[Path]) -> None:
    """Draw one face's timeline.

    Args:
        course: the face.
        classes: names of the classes.
        title: what stands above it.
        paths: where to, in the format that each one's suffix names: ``.png`` and ``.svg``.

    Raises:
        ConfigError: if matplotlib is not installed.
        OSError: if a file cannot be written.
    """
    require()
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415 pyplot would keep global state

    style: Any = {"svg.hashsalt": "timeline", "svg.fonttype": "none", "font.size": 9.5}
    with _ONE_AT_A_TIME, mpl.rc_context(style):
        figure = Figure(figsize=_SIZE_IN, dpi=_DPI, facecolor="white")
        ribbon, areas = figure.subplots(
            2, 1, sharex=True, height_ratios=(1, 9), gridspec_kw={"hspace": 0.06}
        )
        figure.subplots_adjust(left=0.06, right=0.85, top=0.82, bottom=0.13)
        _draw_spells(ribbon, course)
        shown = _draw_probabilities(areas, course, classes)
        _label_axes(areas, course)
        _write_legend(areas, shown)
        figure.text(0.06, 0.93, title, color=_INK, fontsize=13, weight="bold")
        figure.text(0.06, 0.87, _describe(course), color=_MUTED)
        for path in paths:
            when = {"Date": None} if path.suffix == ".svg" else None  # the same bytes every time
            figure.savefig(path, metadata=when)


def _describe(course: Course) -> str:
    changes = {0: "never changed", 1: "changed once"}.get(
        course.changes, f"changed {course.changes} times"
    )
    return f"{span_text(course)} · {len(course.labels_T)} readings · its label {changes}"


def _draw_spells(axes: Any, course: Course) -> None:
    """Draw the label that held, as a ribbon, with its name where there is room."""
    whole_s = float(course.time_s_T[-1] - course.time_s_T[0]) or 1.0
    for spell in course.spells:
        axes.axvspan(spell.from_s, spell.to_s, color=colour(spell.label), linewidth=0)
        if spell.dwell_s > _NAMED_FROM * whole_s:
            axes.text(
                (spell.from_s + spell.to_s) / 2,
                0.47,
                spell.label,
                color=_MUTED if spell.label == "unknown" else "white",
                ha="center",
                va="center",
                fontsize=8.5,
                weight="bold",
                clip_on=True,
            )
    axes.set_ylim(0, 1)
    axes.set_axis_off()


def _draw_probabilities(
    axes: Any, course: Course, classes: Sequence[str]
) -> list[tuple[str, float]]:
    """Draw one stack of areas for each stretch; return the classes worth a name and their means."""
    read_T = ~np.isnan(course.probabilities_TK[:, 0])
    means_K = course.probabilities_TK[read_T].mean(axis=0) if read_T.any() else np.zeros(0)
    order = sorted(range(len(means_K)), key=lambda k: -means_K[k])
    for rows in _stretches(course):
        times_s, probabilities_TK = course.time_s_T[rows], course.probabilities_TK[rows]
        if len(times_s) == 1:  # an area needs two points
            times_s = times_s + np.array([-_ALONE_S, _ALONE_S]) / 2
            probabilities_TK = np.repeat(probabilities_TK, 2, axis=0)
        axes.stackplot(
            times_s,
            *(probabilities_TK[:, k] for k in order),
            colors=[colour(classes[k]) for k in order],
            linewidth=0.4,
            edgecolor="white",
        )
    listed = [k for k in order if course.probabilities_TK[read_T, k].max() >= _LISTED_FROM]
    return [(classes[k], float(means_K[k])) for k in listed]


def _stretches(course: Course) -> Iterator[slice]:
    """Cut where the face was not seen or not read."""
    unread_T = np.isnan(course.probabilities_TK[:, 0])
    starts = np.diff(course.time_s_T, prepend=-np.inf) > _GAP_S
    starts |= np.diff(unread_T, prepend=unread_T[:1])
    edges = [*np.flatnonzero(starts).tolist(), len(unread_T)]
    for first, end in itertools.pairwise(edges):
        if not unread_T[first]:
            yield slice(first, end)


def _label_axes(axes: Any, course: Course) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter  # noqa: PLC0415

    first_s, last_s = float(course.time_s_T[0]), float(course.time_s_T[-1])
    axes.set_xlim(first_s, max(last_s, first_s + 0.1))
    axes.set_ylim(0, 1)
    axes.set_facecolor(_SUNKEN)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    short = last_s - first_s < 10  # noqa: PLR2004 seconds: whole ones would be too coarse
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda s, _: f"{s:.1f} s" if short else clock_text(s))
    )
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 3, 5, 6, 10]))
    axes.tick_params(colors=_MUTED, length=3, color=_LINE)
    for spine in axes.spines.values():
        spine.set_color(_LINE)


def _write_legend(axes: Any, shown: Sequence[tuple[str, float]]) -> None:
    """List the classes beside the plot, the most probable first, with their means."""
    for line, (name, mean) in enumerate(shown):
        height = 0.96 - 0.115 * line
        axes.text(
            1.015, height, "■", color=colour(name), transform=axes.transAxes, va="top", fontsize=11
        )
        axes.text(1.04, height, name, color=_INK, transform=axes.transAxes, va="top", fontsize=9.5)
        axes.text(
            1.175,
            height,
            f"{mean:.0%}",
            color=_MUTED,
            transform=axes.transAxes,
            va="top",
            ha="right",
            fontsize=9.5,
        )
