"""Temporal heads beside one another, and beside a moving average of equal lag, on real clips.

Heads learn from clips synthesised from stills, and on request from real clips of other people too:
then people are dealt to folds, and each clip is read by heads that have not seen its person.

Legend: M clips, T steps, D features, K classes, R bootstrap draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer.errors import ConfigError
from training.data.faces import CLASSES
from training.data.splits import folds
from training.evaluate import Interval, softmax
from training.sequences import fit_head
from training.smoothing import Each, ema, judge_each
from training.train import predict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from streamer.types import F32, I64
    from training.data.clips import ClipSet
    from training.model import FaceNet
    from training.sequences import SequenceConfig
    from training.temporal import TemporalHead

__all__ = [
    "LAYERS",
    "Compared",
    "Reader",
    "RealClips",
    "compare",
    "joined",
    "lessons",
    "read_held",
    "read_real",
    "two_people",
]

LAYERS = {"lstm": 1, "gru": 1, "tcn": 3, "attention": 1}
"""The kinds that learn, each with its layers: so that a tcn sees 15 steps, attention 16."""
_WEIGHTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_DRAWS = 2000
_FOLDS = 5
_BEGIN, _DONE = 0.2, 0.5
"""Shares of a real clip at which its target leaves neutral and has arrived: CK+'s clips begin with
a neutral frame, and a faint expression is to be read as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One way of reading the clips; intervals are drawn over people.

    Attributes:
        name: the kind of head, or the average with the weight of its newest frame.
        runs: seeds it was trained with; their figures are averaged clip by clip.
        apex: share of apex frames read right.
        uar: the same, averaged over classes.
        flicker_hz: label changes a second beyond the one that a clip contains.
        lag_s: seconds until the label is right for good.
    """

    name: str
    runs: int
    apex: Interval
    uar: float
    flicker_hz: Interval
    lag_s: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A head beside the moving average of equal lag, over the same clips.

    Attributes:
        head: how it reads.
        learned_from: what it was trained on.
        average: the strongest average that does not lag more.
        apex_gain: head minus average, drawn over people.
        flicker_gain: likewise; negative: the head is steadier.
    """

    head: Reader
    learned_from: str
    average: Reader
    apex_gain: Interval
    flicker_gain: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class RealClips:
    """Features of real clips at the head's pace.

    Attributes:
        features: (T, D) of each clip, apex last.
        labels_M: class indices.
        people_M: who is seen.
        step_s: seconds between two steps.
    """

    features: list[Tensor]
    labels_M: I64
    people_M: NDArray[np.str_]
    step_s: float


def read_real(net: FaceNet, clips: ClipSet, step_s: float) -> RealClips:
    """Read clips with the face network, every so many frames that a step lasts about ``step_s``.

    Frames are taken from a clip's end backwards, so that its apex is always among them.
    """
    features, _ = predict(net, clips.crops_NHW)
    stride = max(1, round(step_s / clips.step_s))
    kept = [np.arange(s.stop - 1, s.start - 1, -stride)[::-1].copy() for s in clips.spans()]
    return RealClips(
        features=[torch.from_numpy(features[rows]) for rows in kept],
        labels_M=clips.labels_M,
        people_M=clips.subjects_M,
        step_s=clips.step_s * stride,
    )


def compare(
    net: FaceNet,
    stills: tuple[Tensor, Tensor],
    clips: RealClips,
    config: SequenceConfig,
    *,
    kinds: Iterable[str] = tuple(LAYERS),
    seeds: Iterable[int] = (0, 1, 2),
    real: bool = False,
    keep: Callable[[str, Callable[[], list[F32]]], list[F32]] = lambda _, read: read(),
    report: Callable[[str], None] = lambda _: None,
) -> list[Compared]:
    """Train each kind of head with several seeds and judge it on real clips.

    Args:
        net: with calibrated logits.
        stills: features (N, T, D) of ``sequences.read_clips`` and the stills' targets (N, K).
        clips: what is judged on.
        config: how the heads learn; its head's kind and layers are replaced.
        kinds: keys of ``LAYERS``.
        seeds: of the runs.
        real: learn from the clips of other people too, in five folds of people.
        keep: given a run's name and the work; returns what it says of each clip, (T, K), kept from
            an earlier call or made now.
        report: told each run.

    Returns:
        A row a kind.
    """
    frames = [_frames(net, x) for x in clips.features]
    averages = {w: _judged(clips, [ema(f, w) for f in frames]) for w in _WEIGHTS}
    out = []
    for kind in kinds:
        head = replace(config.head, kind=kind, layers=LAYERS[kind])
        runs = []
        for seed in seeds:
            how = replace(config, head=head, seed=seed)
            name = f"{kind}-{seed}-{'real' if real else 'stills'}"
            read = partial(_read, net, stills, clips, how, real=real)
            runs.append(_judged(clips, keep(name, read)))
            report(f"{kind}, seed {seed}: apex {runs[-1].apex_M.mean():.3f}")
        out.append(_beside(kind, runs, averages, clips, real=real))
    return out


def _beside(
    kind: str, runs: list[Each], averages: dict[float, Each], clips: RealClips, *, real: bool
) -> Compared:
    mean = _mean(runs)
    slow_enough = [w for w, e in averages.items() if e.lag_M.mean() <= mean.lag_M.mean() + 1e-9]
    weight = min(slow_enough, default=1.0)
    average = averages[weight]
    draws = _draws(clips.people_M)

    def gain(of: Callable[[Each, I64], float]) -> Interval:
        drawn = [of(mean, rows) - of(average, rows) for rows in draws]
        whole = np.arange(len(clips.labels_M))
        return _interval(of(mean, whole) - of(average, whole), drawn)

    return Compared(
        head=_reader(kind, mean, clips, len(runs)),
        learned_from="stills and other people's clips" if real else "stills",
        average=_reader(f"moving average {weight:g}", average, clips, 1),
        apex_gain=gain(_apex),
        flicker_gain=gain(_flicker),
    )


def _read(
    net: FaceNet,
    stills: tuple[Tensor, Tensor],
    clips: RealClips,
    config: SequenceConfig,
    *,
    real: bool,
) -> list[F32]:
    """Return what a head says of each clip; with ``real``, one that has not seen its person."""
    if not real:
        return _said(fit_head(net, *stills, config), clips.features)
    return read_held(net, stills, clips, config)


def read_held(
    net: FaceNet, stills: tuple[Tensor, Tensor], clips: RealClips, config: SequenceConfig
) -> list[F32]:
    """Read each clip by a head that learned from stills and from other people's clips.

    Args:
        net: with calibrated logits.
        stills: see ``compare``.
        clips: of at least two people, who are dealt to five folds or to one each.
        config: how the heads learn.

    Returns:
        Probabilities (T, K) of each clip.

    Raises:
        ConfigError: when they show one person alone.
    """
    two_people(clips.people_M, "real clips")
    features, targets = lessons(clips, config.steps)
    out: list[F32] = [np.zeros((0, len(CLASSES)), np.float32)] * len(clips.features)
    count = min(_FOLDS, len(np.unique(clips.people_M)))
    for learn, held in folds(clips.people_M, count, config.seed):
        rows = torch.from_numpy(learn)
        head = fit_head(net, *stills, config, real=(features[rows], targets[rows]))
        for row, said in zip(held, _said(head, [clips.features[i] for i in held]), strict=True):
            out[row] = said
    return out


def two_people(people_M: NDArray[np.str_], name: str) -> None:
    """Look whether clips show somebody besides each person, to learn from.

    Raises:
        ConfigError: when they do not.
    """
    if len(np.unique(people_M)) < 2:  # noqa: PLR2004 - one learns, one is read
        raise ConfigError(
            f"{name}: the clips of one person; a head that has not seen that person needs others"
        )


def joined(parts: list[RealClips]) -> RealClips:
    """Return the clips of several corpora as one; the pace is the first one's."""
    return RealClips(
        features=[x for part in parts for x in part.features],
        labels_M=np.concatenate([part.labels_M for part in parts]),
        people_M=np.concatenate([part.people_M for part in parts]),
        step_s=parts[0].step_s,
    )


def lessons(clips: RealClips, steps: int) -> tuple[Tensor, Tensor]:
    """Return features (M, T, D) and targets (M, T, K) of clips that are held at their apex.

    Each clip is taken to begin neutral and to end with its label in full, as those of CK+ do.

    Args:
        clips: any.
        steps: T; longer clips lose their beginning.
    """
    features, targets = [], []
    for x, label in zip(clips.features, clips.labels_M, strict=True):
        place = torch.linspace(0.0, 1.0, len(x))
        share = ((place - _BEGIN) / (_DONE - _BEGIN)).clamp(0.0, 1.0)[:, None]
        wanted = torch.zeros(len(x), len(CLASSES))
        wanted[:, CLASSES.index("neutral")] = 1.0 - share[:, 0]
        wanted[:, int(label)] += share[:, 0]
        features.append(_of_length(x, steps))
        targets.append(_of_length(wanted, steps))
    return torch.stack(features), torch.stack(targets)


def _of_length(rows: Tensor, steps: int) -> Tensor:
    """Cut at the beginning, or repeat the last row."""
    kept = rows[-steps:]
    return torch.cat([kept, kept[-1:].expand(steps - len(kept), -1)])


@torch.no_grad()
def _said(head: TemporalHead, features: list[Tensor]) -> list[F32]:
    return [softmax(head(x[None])[0].numpy()) for x in features]


@torch.no_grad()
def _frames(net: FaceNet, features_TD: Tensor) -> F32:
    return softmax(net.classifier(features_TD).numpy())


def _judged(clips: RealClips, said: list[F32]) -> Each:
    return judge_each(said, clips.labels_M, clips.step_s)


def _mean(runs: list[Each]) -> Each:
    names = Each.__dataclass_fields__
    return Each(**{n: np.mean([getattr(r, n) for r in runs], axis=0) for n in names})


def _apex(each: Each, rows: I64) -> float:
    return float(each.apex_M[rows].mean())


def _flicker(each: Each, rows: I64) -> float:
    return float(each.changes_M[rows].sum() / each.seconds_M[rows].sum())


def _lag(each: Each, rows: I64) -> float:
    return float(each.lag_M[rows].mean())


def _reader(name: str, each: Each, clips: RealClips, runs: int) -> Reader:
    whole, draws = np.arange(len(clips.labels_M)), _draws(clips.people_M)

    def interval(of: Callable[[Each, I64], float]) -> Interval:
        return _interval(of(each, whole), [of(each, rows) for rows in draws])

    kinds = np.unique(clips.labels_M)
    return Reader(
        name=name,
        runs=runs,
        apex=interval(_apex),
        uar=float(np.mean([each.apex_M[clips.labels_M == k].mean() for k in kinds])),
        flicker_hz=interval(_flicker),
        lag_s=interval(_lag),
    )


def _draws(people_M: NDArray[np.str_]) -> list[I64]:
    """Draw as many people as there are, with replacement; return the clips of each draw."""
    names = np.unique(people_M)
    of = {name: np.flatnonzero(people_M == name) for name in names}
    rng = np.random.default_rng(0)
    return [
        np.concatenate([of[name] for name in rng.choice(names, len(names))]) for _ in range(_DRAWS)
    ]


def _interval(value: float, drawn: list[float]) -> Interval:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high))
