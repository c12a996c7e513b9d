"""The model card and the manifest's metrics, written from what was measured."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.bundle import Metric
from training.data.faces import CLASSES
from training.inputs import FERPLUS
from training.origin import begun, learned, mixed, rights, taught

if TYPE_CHECKING:
    from training.evaluate import Interval, Measured, Scores
    from training.origin import Origin
    from training.recipes import TrainConfig
    from training.smoothing import Steadiness, TemporalResult

__all__ = ["HELD_OUT", "MOVED", "Facts", "metrics", "text"]

HELD_OUT = "held out by person"
"""What is added to the name of clips that the head learned from, where they are measured."""
MOVED = "validation stills, moved"
"""What is added to the name of a set whose stills are rendered as clips."""
_RARE = 50
"""Pictures of a class under which one of them is two points of its recall."""
_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything the card says that is not always the same.

    Attributes:
        name: of the bundle.
        date: of the measurements, ISO.
        config: of the run.
        epochs: that it did.
        seeds: of the run, or of those whose mean it is.
        origin: what the network learned from.
        clips: the real clips that the head learned from: how many, and of how many people.
        share: of the prior in the logits.
        best_share: the one that validation chose; another than ``share`` where a person did.
        temperature: of the logits.
        measured: on pictures; the test split of the set learned from goes by that set's name.
        temporal: on clips.
    """

    name: str
    date: str
    config: TrainConfig
    epochs: int
    seeds: list[int]
    origin: Origin
    clips: dict[str, tuple[int, int]]
    share: float
    best_share: float
    temperature: float
    measured: list[Measured]
    temporal: list[TemporalResult]


_USE = """\
## What it is for

Reading the visible expression of a face in a camera picture: eight classes, in this order:
{classes}. It reads faces, not feelings: a
face can show what nobody feels and hide what somebody does. Do not use it to judge people at work
or in education, where the law of the European Union forbids it, nor for any decision about a
person.
"""

_NETWORK = (
    "The network is a residual net with squeeze-and-excitation on 48 x 48 grey pixels; each crop "
    "is standardised inside the graph. Classes were drawn by the power {power:g} of their size, "
    "what imbalance was left is corrected in the loss (logit adjustment, tau {tau:g}), and a share "
    "of {share:g} of the corpus' prior was given back, {chosen} "
    "the temperature {temperature:.3f}. Averaged weights after epoch {epochs} of {planned}; "
    "recipe `{recipe}`, {seeds}."
)

_ACCURACY = """\
## Accuracy

Measured {date}, one crop a face, in per cent with 95 % intervals. {corpus} test: leaks into train
removed, top class over half of the votes. Corpora other than {corpus} were never trained on. ECE:
before → after the temperature, which was fitted on {corpus}'s validation split. With 8 classes all
are there to choose from and every picture counts. The view of 7 leaves contempt out, its pictures
and its answer alike, at the same operating point: it is the one to compare with published figures
for seven classes and with networks that do not know contempt.

| data | split, framing | classes | n | accuracy | UAR | macro F1 | ECE | NLL | Brier |
|---|---|---|---|---|---|---|---|---|---|
{rows}
"""

_TIME = """\
## Over time

{unseen}Moved stills: {stills} pictures of {corpus}'s
validation split, rendered as clips whose expression does not change. Apex: the last three steps.
Flicker: label changes a second beyond the one that a clip holds. Lag: until the label is right for
good. The moving average is the strongest that does not lag more than the head. The head's way of
training was chosen on clips of CK+, so they validate it and do not test it; posed clips of half a
second say little about a camera's minutes.{held}

{verdict}

| data | step (s) | reader | clips | apex % | UAR % | flicker (1/s) | lag (s) |
|---|---|---|---|---|---|---|---|
{rows}
"""

_HELD = """ "Held out by person":
clips that the head of this bundle learned from; the figures are those of heads of its kind that
learned from the other people's clips alone, in folds: they tell of its like and not of itself."""


def text(facts: Facts, latency_ms: tuple[float, float]) -> str:
    """Return the card, Markdown."""
    parts = [
        f"# {facts.name}\n",
        _USE.format(classes=", ".join(CLASSES)),
        _how_made(facts),
        _accuracy_table(facts),
        _class_tables(facts),
        _temporal_table(facts),
        (
            f"## Speed\n\nOne face through both graphs, onnxruntime on one thread of the training "
            f"machine's CPU: p50 {latency_ms[0]:.2f} ms, p95 {latency_ms[1]:.2f} ms "
            f"({facts.date}; the machine was doing other work).\n"
        ),
        _limits(facts),
    ]
    return "\n".join(parts)


def metrics(facts: Facts, latency_ms: tuple[float, float]) -> list[Metric]:
    """Return the manifest's list of figures."""
    out = []
    for m in facts.measured:
        split = f"{m.split}, {m.framing}" + (f", without {m.left_out}" if m.left_out else "")
        for name in ("accuracy", "uar", "macro_f1"):
            i: Interval = getattr(m.scores, name)
            out.append(
                Metric(
                    name=name,
                    value=_round(i.value),
                    low=_round(i.low),
                    high=_round(i.high),
                    dataset=m.dataset,
                    split=split,
                    n=m.scores.n,
                    date=facts.date,
                )
            )
        single = {"ece_before": m.ece_before, "ece": m.scores.ece}
        single |= {"nll": m.scores.nll, "brier": m.scores.brier}
        out += [
            Metric(
                name=name,
                value=_round(value),
                dataset=m.dataset,
                split=split,
                n=m.scores.n,
                date=facts.date,
            )
            for name, value in single.items()
        ]
    for t in facts.temporal:
        for reader, s in (("head", t.head), ("frames", t.frames), ("average", t.average)):
            for name in ("apex_accuracy", "flicker_hz", "lag_s"):
                out.append(
                    Metric(
                        name=f"temporal_{reader}_{name}",
                        value=_round(getattr(s, name)),
                        dataset=t.dataset,
                        split=f"clips, {t.step_s:.3f} s a step",
                        n=s.clips,
                        date=facts.date,
                    )
                )
    out += [
        Metric(
            name=f"latency_ms_{name}",
            value=_round(value),
            dataset="none",
            split="none",
            n=1,
            date=facts.date,
            note="one face, both graphs, onnxruntime, one thread",
        )
        for name, value in zip(("p50", "p95"), latency_ms, strict=True)
    ]
    return out


def _round(value: float) -> float:
    return round(value, 4)


def _percent(i: Interval) -> str:
    return f"{100 * i.value:.1f} ({100 * i.low:.1f}–{100 * i.high:.1f})"


def _accuracy_table(facts: Facts) -> str:
    rows = [
        f"| {m.dataset} | {m.split}, {m.framing} | {m.view} | {m.scores.n} "
        f"| {_percent(m.scores.accuracy)} | {_percent(m.scores.uar)} "
        f"| {_percent(m.scores.macro_f1)} "
        f"| {m.ece_before:.3f} → {m.scores.ece:.3f} | {m.scores.nll:.3f} | {m.scores.brier:.3f} |"
        for m in facts.measured
    ]
    return _ACCURACY.format(date=facts.date, corpus=facts.origin.corpus, rows="\n".join(rows))


def _class_tables(facts: Facts) -> str:
    out = ["## Classes\n"]
    for m in facts.measured:
        if m.framing != "eye-aligned" or m.left_out:
            continue
        s = m.scores
        out += [
            (
                f"{m.dataset}, {m.split}, {m.framing}: rows are the truth, columns what was said, "
                "per cent of the row.\n"
            ),
            "| | n | F1 | " + " | ".join(CLASSES) + " |",
            "|---|---|---|" + "---|" * len(CLASSES),
        ]
        for k, name in enumerate(CLASSES):
            if name in s.support:
                total = s.support[name]
                cells = " | ".join(f"{100 * v / total:.0f}" for v in s.confusion[k])
                out.append(f"| {name} | {total} | {100 * s.f1[name]:.0f} | {cells} |")
        out.append("")
    return "\n".join(out)


def _temporal_table(facts: Facts) -> str:
    if not facts.temporal:
        return "## Over time\n\nNot measured.\n"

    def row(t: TemporalResult, reader: str, s: Steadiness) -> str:
        return (
            f"| {t.dataset} | {t.step_s:.3f} | {reader} | {s.clips} | {100 * s.apex_accuracy:.1f} "
            f"| {100 * s.uar:.1f} | {s.flicker_hz:.2f} | {s.lag_s:.2f} |"
        )

    rows = [
        row(t, reader, s)
        for t in facts.temporal
        for reader, s in (
            ("temporal head", t.head),
            ("frames alone", t.frames),
            (f"moving average, weight {t.average_weight:g}", t.average),
        )
    ]
    moved = f"{facts.origin.corpus} {MOVED}"
    real = [t for t in facts.temporal if t.dataset != moved]
    slowest = max(real or facts.temporal, key=lambda t: t.step_s)
    held = {f"{name}, {HELD_OUT}" for name in facts.clips}
    unseen = ", ".join(dict.fromkeys(t.dataset for t in real if t.dataset not in held))
    return _TIME.format(
        rows="\n".join(rows),
        verdict=_verdict(slowest),
        held=_HELD if held else "",
        unseen=f"{unseen}: real clips from neutral to apex, never trained on. " if unseen else "",
        corpus=facts.origin.corpus,
        stills=sum(t.head.clips for t in facts.temporal if t.dataset == moved),
    )


def _how_made(facts: Facts) -> str:
    config, origin = facts.config, facts.origin
    network = _NETWORK.format(
        power=config.balance.power,
        tau=config.loss.adjust,
        share=facts.share,
        chosen="chosen on the validation split together with"
        if facts.share == facts.best_share
        else f"set by whoever made this bundle (the validation split would choose "
        f"{facts.best_share:g}), and on the validation split was chosen",
        temperature=facts.temperature,
        epochs=facts.epochs,
        planned=config.epochs,
        recipe=config.name,
        seeds=_seeds(facts.seeds),
    )
    split = f"{origin.corpus}'s" if origin.elsewhere else "the same"
    head = (
        f"The temporal head was trained on clips synthesised from stills of {split} training split"
    )
    how = " ".join(
        [
            learned(origin, config.labels),
            network,
            *begun(origin),
            *taught(origin),
            *mixed(origin),
            f"{head}{_clips_learned(facts.clips)}.",
        ]
    )
    return f"## How it was made\n\n{_filled(how)}\n\n{_filled(rights(origin))}\n"


def _seeds(seeds: list[int]) -> str:
    *first, last = map(str, seeds)
    return f"seeds {', '.join(first)} and {last}" if first else f"seed {last}"


def _clips_learned(clips: dict[str, tuple[int, int]]) -> str:
    if not clips:
        return " and has seen no video"
    sets = [f"{name} ({count} clips of {people} people)" for name, (count, people) in clips.items()]
    return (
        f" and on real clips: {', '.join(sets)}. What binds whoever uses those clips may bind "
        "whoever uses this head"
    )


def _limits(facts: Facts) -> str:
    corpus = facts.origin.corpus
    whole = {m.dataset: m.scores for m in facts.measured if not m.left_out}
    groups = "; ".join(f"{name}: {_groups(name, scores)}" for name, scores in whole.items())
    known = corpus == FERPLUS and all(_is_ckplus(name) for name in whole if name != corpus)
    carries = "neither corpus carries" if known else "no set above carries"
    one = "One seed" if len(facts.seeds) == 1 else "One network"
    seed = (
        f"{one}: a difference of a point to another model is not evidence. Intervals are 95 % "
        f"bootstrap intervals over groups ({groups}); they do not contain the spread between "
        "training runs."
    )
    people = (
        f"Nothing is known about groups of people: {carries} such labels. Expect worse results for "
        "children, beards, glasses, hands at the face, strong profile and faces under about 20 "
        "pixels."
    )
    like = "FER2013" if corpus == FERPLUS else corpus
    camera = (
        f"A calibrated probability is calibrated for pictures like {like}'s, not for your camera."
    )
    limits = [seed, _wanting(corpus, whole), people, camera]
    items = [f"- {_filled(limit, indent='  ')}" for limit in limits if limit]
    return "## Limits\n\n" + "\n".join(items) + "\n"


def _wanting(corpus: str, whole: dict[str, Scores]) -> str:
    """Say which classes are rare in the test split, and which sets have none of a class."""
    said = []
    counts = sorted(whole[corpus].support.items(), key=lambda item: item[1]) if whole else []
    rare = [f"{name} ({count})" for name, count in counts if count < _RARE]
    if rare:
        are = "is" if len(rare) == 1 else "are"
        wide = "so UAR and macro F1 there are wide"
        said.append(f"{_listed(rare)} {are} rare in the clean {corpus} test, {wide}")
    for name, scores in whole.items():
        absent = [k for k in CLASSES if k not in scores.support]
        if absent:
            posed = ", and its labels were posed in a laboratory" if _is_ckplus(name) else ""
            said.append(f"{name} has no {_listed(absent)} pictures{posed}")
    sentence = "; ".join(said)
    return f"{sentence[:1].upper()}{sentence[1:]}." if said else ""


def _groups(name: str, scores: Scores) -> str:
    if name == FERPLUS:
        return "sets of duplicates"
    return "subjects" if _is_ckplus(name) else f"{scores.groups} of {scores.n} pictures"


def _is_ckplus(name: str) -> bool:
    return name.upper().startswith("CK+")


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _filled(sentences: str, indent: str = "") -> str:
    return textwrap.fill(
        sentences,
        _WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verdict(t: TemporalResult) -> str:
    """Say in words whether the head beats the moving average, at the pace closest to a daemon's."""
    better = t.head.apex_accuracy > t.average.apex_accuracy
    steadier = t.head.flicker_hz <= t.average.flicker_hz
    said = "beats" if better and steadier else "does not beat"
    return (
        f"Verdict at {t.step_s:.3f} s a step: the head {said} the moving average of equal lag "
        f"(apex {100 * t.head.apex_accuracy:.1f} against {100 * t.average.apex_accuracy:.1f} per "
        f"cent, flicker {t.head.flicker_hz:.2f} against {t.average.flicker_hz:.2f} changes a "
        f"second). One clip is {100 / t.head.clips:.1f} points, so this is a lead and no proof."
    )
