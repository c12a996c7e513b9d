"""Look into a face set before training on it: counts, duplicates, doubts, coverage, advice.

Legend: N faces, H W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.data.coverage import PROPERTIES, Spread, properties, spread
from training.data.duplicates import near_duplicates
from training.data.faces import CLASSES, SPLITS
from training.data.labels import majority
from training.data.learning import FOLDS, Doubts, LearningCurve, curve, describe, doubts, sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.data.faces import FaceSet

__all__ = ["Audit", "audit"]

_SHOWN = 40
_FEWEST = 200  # pictures under which a curve or a doubt would say nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What is known about a set.

    Attributes:
        faces: how many.
        counts: pictures a split and a class, by the majority of votes; those without a vote for
            any class count nowhere.
        unlabelled: pictures without any vote, a split.
        imbalance: largest class over smallest, a split.
        clear: share of pictures with votes on which over half of the voters agree, a split.
        agreement: share of clear pictures whose second label agrees, a class.
        groups: people, videos or sets of duplicates, a split.
        groups_cut: those of which pictures lie in several splits, leaks that are marked left out.
        exact_duplicates: pictures equal to an earlier one.
        near_pairs: pairs that look the same, within a split and across two.
        across: names of pairs across two splits of which neither is marked as a leak.
        across_count: how many of those there are.
        leaks_marked: evaluation pictures marked as being in another split.
        leaks_near: those of them that are equal to none and look like one.
        coverage: how each of ``coverage.PROPERTIES`` is distributed, where it is known.
        learning: how a quick model's error falls with more pictures; None: not looked at.
        doubts: which labels it doubts; None: not looked at.
    """

    faces: int
    counts: dict[str, dict[str, int]]
    unlabelled: dict[str, int]
    imbalance: dict[str, float]
    clear: dict[str, float]
    agreement: dict[str, float]
    groups: dict[str, int]
    groups_cut: int
    exact_duplicates: int
    near_pairs: dict[str, int]
    across: list[tuple[str, str]]
    across_count: int
    leaks_marked: int
    leaks_near: int
    coverage: dict[str, Spread]
    learning: LearningCurve | None
    doubts: Doubts | None


def audit(faces: FaceSet, *, learn_from: int = 0) -> Audit:
    """Describe a set.

    Args:
        faces: any set; a few seconds for 36,000 pictures.
        learn_from: pictures that a quick model learns from, for the learning curve and the doubts;
            0: neither. About a minute for 6,000.
    """
    labels, clear = majority(faces)
    counts: dict[str, dict[str, int]] = {}
    unlabelled, imbalance, clarity = {}, {}, {}
    named = faces.votes_NK.max(axis=1) > 0
    voted = named | (faces.other_N > 0)
    for split in SPLITS:
        here = faces.split_N == split
        if not here.any():
            continue
        each = np.bincount(labels[here & named], minlength=len(CLASSES))
        counts[split] = {name: int(v) for name, v in zip(CLASSES, each, strict=True)}
        unlabelled[split] = int((here & ~voted).sum())
        if each.any():
            imbalance[split] = float(each.max() / each[each > 0].min())
        if (here & voted).any():
            clarity[split] = float(clear[here & voted].mean())
    pairs = near_duplicates(faces.images_NHW)
    across = [(a, b) for a, b in pairs if _unmarked(faces, a, b)]
    spreads = {name: spread(values) for name, values in properties(faces).items()}
    learning, doubtful = _learned(faces, learn_from)
    return Audit(
        faces=len(faces),
        counts=counts,
        unlabelled=unlabelled,
        imbalance=imbalance,
        clear=clarity,
        agreement=_agreement(faces, labels, clear),
        groups={s: len(np.unique(faces.group_N[faces.split_N == s])) for s in counts},
        groups_cut=_groups_cut(faces),
        exact_duplicates=len(faces) - len({row.tobytes() for row in faces.images_NHW}),
        near_pairs=_pairs_by_split(faces, pairs),
        across=[(_place(faces, a), _place(faces, b)) for a, b in across[:_SHOWN]],
        across_count=len(across),
        leaks_marked=int(faces.leak_N.sum()),
        leaks_near=_leaks_near(faces),
        coverage={name: s for name in PROPERTIES if (s := spreads[name]) is not None},
        learning=learning,
        doubts=doubtful,
    )


def _learned(faces: FaceSet, count: int) -> tuple[LearningCurve | None, Doubts | None]:
    if not count:
        return None, None
    some, labels = sample(faces, count)
    alike = len(np.unique(labels)) < 2  # noqa: PLR2004 - nothing to tell apart
    if alike or len(some) < _FEWEST or len(np.unique(some.group_N)) < FOLDS:
        return None, None
    features = describe(some)
    return (
        curve(features, labels, some.group_N),
        doubts(features, labels, some.group_N, some.name_N),
    )


def _agreement(
    faces: FaceSet, labels: NDArray[np.int64], clear: NDArray[np.bool_]
) -> dict[str, float]:
    out = {}
    # A class that the second labels have no word for is left out.
    for k in np.unique(faces.second_N[faces.second_N >= 0]):
        name = CLASSES[k]
        rows = clear & (faces.second_N >= 0) & (labels == k)
        if rows.any():
            out[name] = float((faces.second_N[rows] == k).mean())
    return out


def _pairs_by_split(faces: FaceSet, pairs: list[tuple[int, int]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for a, b in pairs:
        names = sorted((str(faces.split_N[a]), str(faces.split_N[b])))
        key = names[0] if names[0] == names[1] else "/".join(names)
        out[key] = out.get(key, 0) + 1
    return out


def _unmarked(faces: FaceSet, a: int, b: int) -> bool:
    marked = bool(faces.leak_N[a] or faces.leak_N[b])
    return bool(faces.split_N[a] != faces.split_N[b]) and not marked


def _leaks_near(faces: FaceSet) -> int:
    of = {s: {row.tobytes() for row in faces.images_NHW[faces.split_N == s]} for s in SPLITS}
    return sum(
        not any(faces.images_NHW[row].tobytes() in of[s] for s in SPLITS if s != faces.split_N[row])
        for row in np.flatnonzero(faces.leak_N)
    )


def _place(faces: FaceSet, row: int) -> str:
    return f"{faces.split_N[row]}/{faces.name_N[row]}"


def _groups_cut(faces: FaceSet) -> int:
    kept = ~faces.leak_N
    pairs = np.unique(np.stack([faces.group_N[kept], faces.split_N[kept]], axis=1), axis=0)
    _, times = np.unique(pairs[:, 0], return_counts=True)
    return int((times > 1).sum())
