"""Pages stand alone and hold the figures."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
import torch

from training import report
from training.audit_page import audit_sections
from training.data.audit import audit
from training.data.faces import CLASSES
from training.diagnose import firing, gradient_trace
from training.export import calibrated
from training.inputs import Corpus
from training.log import read_log
from training.model import FaceNet
from training.model_page import Divisions, page_of
from training.release import measure_all, operating_point
from training.train import fit, predict

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet
    from training.recipes import TrainConfig


class Links(HTMLParser):
    """Collects every address that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember what is loaded, and whether a cell of a table begins."""
        self._in_cell = tag == "td"
        self.loads += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("#")]
        if tag in ("script", "link"):
            self.loads.append(tag)

    def handle_data(self, data: str) -> None:
        """Remember the text of cells."""
        if self._in_cell:
            self.cells.append(data)


def read(path: Path) -> Links:
    """Parse a page."""
    page = Links()
    page.feed(path.read_text())
    return page


def test_model_report_loads_nothing_and_names_its_figures(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """The page has no outside address; its JSON holds the same number of sets and faces."""
    state = fit(replace(tiny, epochs=1), faces, tmp_path)
    net, prior_K = FaceNet(tiny.model), state.prior_K.numpy()
    share, temperature = operating_point(net, prior_K, faces.part("valid"))
    ready = calibrated(net, prior_K, share, temperature)
    mine = Corpus(name="mine", faces=faces, sources={})
    measured = measure_all(ready, mine, {"<other>": faces}, temperature)
    sections = report.model_sections(measured, [], read_log(tmp_path / "log.jsonl"))
    report.write(tmp_path / "page.html", "A & B", sections, measured)
    page = read(tmp_path / "page.html")
    assert page.loads == []
    assert "<other>" in page.cells
    figures = json.loads((tmp_path / "page.json").read_text())
    assert [f["scores"]["n"] for f in figures] == [32, 28, 32, 28] + [192, 168] * 2
    test = faces.part("test")
    truth = test.votes_NK.argmax(axis=1)
    said = predict(ready, test.images_NHW)[1][:, :7].argmax(axis=1)  # contempt is the eighth
    assert figures[1]["left_out"] == CLASSES[7]
    right = (said == truth)[truth != 7].mean()
    assert figures[1]["scores"]["accuracy"]["value"] == pytest.approx(right)
    both = [tmp_path / "best.pt", tmp_path / "last.pt"]
    sections, figured = page_of(both, mine, {"other": faces}, Divisions())
    assert sections[0].title == "Over several runs"
    assert {s.runs for s in figured.seeds} == {2}
    assert sum(s.n for s in figured.slices["other"] if s.by == "brightness") == 160 + 32


def test_audit_and_diagnosis_pages(tmp_path: Path, faces: FaceSet, tiny: TrainConfig) -> None:
    """Both kinds of page are written with their tables."""
    found = audit(faces)
    report.write(tmp_path / "audit.html", "Audit", audit_sections(found), found)
    assert "neutral" in read(tmp_path / "audit.html").cells
    layers = firing(FaceNet(tiny.model), torch.from_numpy(faces.images_NHW[:8])[:, None] / 255.0)
    traces = [gradient_trace(replace(tiny, batch=8), faces, 2, skip=skip) for skip in (True, False)]
    sections = [report.firing_section(layers), report.trace_section(traces)]
    report.write(tmp_path / "inside.html", "Inside", sections, {"firing": layers})
    assert "stem.2" in read(tmp_path / "inside.html").cells
    tired = [replace(f, share_C=[0.9, *f.share_C[1:]]) for f in layers]
    told = report.rest_section(layers, tired, layers, 0.8)
    over = sum(share > 0.8 for share in layers[0].share_C[1:])
    assert [told.rows[0][i] for i in (5, 6)] == [str(over + 1), str(max(90, int(told.rows[0][6])))]
    assert "None rested" not in told.text
    assert "None rested" in report.rest_section(layers, layers, layers, 0.8).text
