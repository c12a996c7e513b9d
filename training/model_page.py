"""Everything a page says about a model: figures, slices, and the spread over several runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamer.errors import ConfigError
from training import report
from training.data.cache import recut
from training.data.labels import majority
from training.export import calibrated
from training.inputs import network_of
from training.log import read_log
from training.release import measurable, measure_all, operating_point
from training.seeds import Summary, summarise
from training.slices import Slice, groups_from, list_from, slices
from training.train import LOG, predict

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from training.data.faces import FaceSet
    from training.evaluate import Measured
    from training.inputs import Corpus
    from training.model import FaceNet

__all__ = ["Divisions", "ModelPage", "page_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divisions:
    """What parts of a set are asked for beyond its faces' own properties.

    Attributes:
        groups: tables of people or pictures, each for the set of a name.
        lists: lists of pictures, likewise.
    """

    groups: tuple[tuple[str, Path], ...] = ()
    lists: tuple[tuple[str, Path], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPage:
    """The figures of a page.

    Attributes:
        checkpoint: whose figures stand in ``measured`` and ``slices``: the first one given.
        prior_share, temperature: its operating point, chosen on the validation split.
        measured: every set in both framings.
        slices: of every set, cut as the daemon cuts.
        seeds: over all checkpoints; empty for a single one.
    """

    checkpoint: str
    prior_share: float
    temperature: float
    measured: list[Measured]
    slices: dict[str, list[Slice]] = field(default_factory=dict)
    seeds: list[Summary] = field(default_factory=list)


def page_of(
    checkpoints: list[Path],
    corpus: Corpus,
    unseen: dict[str, FaceSet],
    divisions: Divisions,
) -> tuple[list[report.Section], ModelPage]:
    """Measure checkpoints, each at the operating point that its own validation chooses.

    Args:
        checkpoints: of one run, or of several of one recipe; the first is shown in full.
        corpus: what they were trained on.
        unseen: corpora never trained on, each name with its set.
        divisions: further slices.

    Returns:
        Sections of a page, and its figures.

    Raises:
        ConfigError: when a checkpoint is none, a set has nothing to be measured on, or a division
            names a set that is not measured.
    """
    measurable(corpus, unseen)
    sets = {corpus.name: corpus.faces.part("test"), **unseen}
    for name, path in (*divisions.groups, *divisions.lists):
        if name not in sets:
            raise ConfigError(f"{name}={path}: no such set; it is one of {', '.join(sets)}")
    runs, points = [], []
    parts: dict[str, list[Slice]] = {}
    for checkpoint in checkpoints:
        bare, prior_K = network_of(checkpoint)
        share, temperature = operating_point(bare, prior_K, corpus.faces.part("valid"))
        net = calibrated(bare, prior_K, share, temperature)
        runs.append(measure_all(net, corpus, unseen, temperature))
        points.append((share, temperature))
        if len(runs) == 1:
            parts = {name: _slices(net, part, name, divisions) for name, part in sets.items()}
    log = read_log(checkpoints[0].parent / LOG)
    sections = report.model_sections(runs[0], [], log)
    sections += [report.slices_section(name, found) for name, found in parts.items()]
    page = ModelPage(
        checkpoint=str(checkpoints[0]),
        prior_share=points[0][0],
        temperature=points[0][1],
        measured=runs[0],
        slices=parts,
        seeds=summarise(runs) if len(runs) > 1 else [],
    )
    if page.seeds:
        sections.insert(0, report.seeds_section(page.seeds))
    return sections, page


def _slices(net: FaceNet, faces: FaceSet, name: str, divisions: Divisions) -> list[Slice]:
    labels, clear = majority(faces)
    kept, labels = faces.rows(clear), labels[clear]
    given: dict[str, NDArray[np.str_]] = {}
    for of, table in divisions.groups:
        if of == name:
            given |= groups_from(table, kept)
    for of, path in divisions.lists:
        if of == name:
            given[path.stem] = list_from(path, kept)
    _, logits = predict(net, recut(kept)[0])
    return slices(kept, labels, logits.argmax(axis=1), given)
