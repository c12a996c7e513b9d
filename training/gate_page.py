"""The page about synthetic faces: the gate's verdict, its runs, and a sheet of made faces.

Legend: H W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.figure import Figure

from streamer.errors import StreamerError
from training import report
from training.data.faces import CLASSES

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.types import U8
    from training.gate import Figures, Verdict

__all__ = ["write_page", "write_picture"]


def write_page(path: Path, what: str, verdict: Verdict, sheet_HW: U8) -> None:
    """Write the page, and its figures as JSON beside it.

    Args:
        path: ends in ``.html``.
        what: what was made, in words.
        verdict: of the gate.
        sheet_HW: some of the made faces.
    """
    rows = []
    for seed, (plain, helped) in enumerate(zip(verdict.plain, verdict.helped, strict=True)):
        for trained_on, f in (("real alone", plain), ("with synthetic", helped)):
            rows.append((str(seed), trained_on, _percent(f.macro_f1), _percent(f.unseen_f1)))
    text = (
        f"{'Accepted' if verdict.accepted else 'Rejected'}: {what}. Gain of macro F1 in points, "
        f"with its one-sided 95 % lower bound: validation {_percent(verdict.gain)} "
        f"({_percent(verdict.gain_low)}), unseen corpus {_percent(verdict.unseen_gain)} "
        f"({_percent(verdict.unseen_gain_low)}). Real pictures alone judge."
    )
    caption = "Made faces, a row a class, in the classes' order"
    verdict_section = report.Section(
        title="Verdict",
        text=text,
        items=verdict.reasons,
        header=("pair", "trained on", "macro F1, validation", "macro F1, unseen"),
        rows=rows,
        plots=[(caption, _drawn(sheet_HW))],
    )
    data = {name: getattr(verdict, name) for name in _PLAIN}
    data |= {"plain": _figures(verdict.plain), "helped": _figures(verdict.helped)}
    title = "Synthetic faces and their gate"
    report.write(path, title, [verdict_section, _recalls(verdict)], data)


_PLAIN = ("accepted", "reasons", "gain", "gain_low", "unseen_gain", "unseen_gain_low")


def write_picture(path: Path, picture_HW: U8) -> None:
    """Write a grey picture as PNG.

    Raises:
        StreamerError: when the library cannot code it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done, coded = cv2.imencode(".png", picture_HW)
    if not done:
        raise StreamerError(f"{path}: the picture could not be coded as PNG")
    path.write_bytes(coded.tobytes())


def _recalls(verdict: Verdict) -> report.Section:
    rows = []
    for k, name in enumerate(CLASSES):
        plain, helped = (
            float(np.mean([f.recall_K[k] for f in runs]))
            for runs in (verdict.plain, verdict.helped)
        )
        if np.isfinite(plain):
            change = _percent(helped - plain)
            rows.append((name, _percent(plain), _percent(helped), change))
    return report.Section(
        title="Recall on validation, a class",
        text="Per cent, means over the runs.",
        header=("class", "real alone", "with synthetic", "change"),
        rows=rows,
    )


def _drawn(sheet_HW: U8) -> str:
    height, width = sheet_HW.shape
    figure = Figure(figsize=(9, 9 * height / width))
    axes = figure.subplots()
    axes.imshow(sheet_HW, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    return report.figure_svg(figure)


def _figures(runs: list[Figures]) -> list[dict[str, object]]:
    """Return plain values; a class that validation lacks has no recall."""
    out = []
    for f in runs:
        recall = {n: float(r) for n, r in zip(CLASSES, f.recall_K, strict=True) if np.isfinite(r)}
        out.append({"macro_f1": f.macro_f1, "unseen_f1": f.unseen_f1, "recall": recall})
    return out


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
