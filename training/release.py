"""From a checkpoint to a bundle: choose the operating point, train the head, measure, write.

The operating point (how much of the corpus' prior the logits carry) and the temperature are chosen
on the validation split; test sets and unseen corpora are only measured.

Legend: N faces, T steps, D features, K classes.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer import bundle as bundles
from streamer import preprocess
from streamer.errors import ConfigError
from training import card
from training import checkpoint as checkpoints
from training.augment import framings
from training.data.balance import draw_rates, epoch_order
from training.data.cache import recut
from training.data.faces import CLASSES
from training.data.labels import majority, targets
from training.evaluate import Measured, fit_temperature, score, softmax
from training.export import Exported, OnnxFile, calibrated, export
from training.half import add_half
from training.heads import joined, lessons, read_held, read_real
from training.inputs import part_of
from training.origin import Origin
from training.outputs import bundle_place
from training.recipes import changed, config_from
from training.sequences import fit_head, read_clips
from training.smoothing import TemporalResult, best_average, judge
from training.train import Validation, averaged_model, predict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from streamer.types import F32, I64
    from training.data.clips import ClipSet
    from training.data.faces import FaceSet
    from training.heads import RealClips
    from training.inputs import Corpus
    from training.model import FaceNet
    from training.recipes import TrainConfig
    from training.sequences import SequenceConfig
    from training.temporal import TemporalHead

__all__ = [
    "Release",
    "clips_of_stills",
    "measurable",
    "measure",
    "measure_all",
    "measure_head",
    "measure_held",
    "measure_own",
    "operating_point",
    "release",
]

_LATENCY_RUNS = 300
_SELDOM = "contempt"
"""The class that most published figures and most other networks lack."""
_HELD = 300  # stills; their accuracy is then known to 2 points (standard error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What to release.

    Attributes:
        name: of the bundle.
        commit: of the training code.
        date: of the measurements, ISO.
        stills: pictures of the train split that become clips for the temporal head.
        changes: to the recipe, such as ``sequences.head.kind=gru``.
        prior_share: of the corpus' prior in the logits, 0..1; None: validation chooses.
    """

    name: str
    commit: str
    date: str
    stills: int = 4000
    changes: tuple[str, ...] = ()
    prior_share: float | None = None


def release(
    checkpoint: Path,
    corpus: Corpus,
    unseen: dict[str, FaceSet],
    clips: dict[str, ClipSet],
    *,
    what: Release,
    out: Path,
    learned: dict[str, ClipSet] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Make a bundle.

    Args:
        checkpoint: of ``train.fit``; the averaged weights are taken.
        corpus: what it was trained on, for validation, test and the stills of the head.
        unseen: corpora never trained on, each name with its set.
        clips: real clips never trained on, likewise.
        what: name and record.
        out: the bundle's directory.
        learned: real clips that the head learns from beside those of stills; they are measured by
            heads of the same kind that have not seen the person in them.
        report: told what is being done.

    Returns:
        ``out``.

    Raises:
        ConfigError: when the share is not from 0 to 1, the checkpoint is not one, a split is
            empty, or the directory holds files and is no bundle.
        BundleError: when the exported graphs do not compute what PyTorch does.
    """
    if what.prior_share is not None and not 0.0 <= what.prior_share <= 1.0:
        raise ConfigError(f"--prior-share is {what.prior_share:g}; give one from 0 to 1")
    bundle_place(out)  # before the work, as what follows
    measurable(corpus, unseen)
    faces = corpus.faces
    state = checkpoints.load(checkpoint)
    config = changed(config_from(state.config), list(what.changes))
    bare = averaged_model(config, state.average["state"])
    prior_K = state.prior_K.numpy()

    report("choosing the operating point on the validation split")
    best, temperature = operating_point(bare, prior_K, faces.part("valid"))
    share = best
    if what.prior_share is not None:
        share, temperature = operating_point(
            bare, prior_K, faces.part("valid"), share=what.prior_share
        )
    net = calibrated(bare, prior_K, share, temperature)

    report(f"training the temporal head on clips of {what.stills} stills")
    stills = clips_of_stills(net, faces, config, what.stills)
    step_s, learned = config.sequences.head.step_s, learned or {}
    own = {name: read_real(net, clip_set, step_s) for name, clip_set in learned.items()}
    real = lessons(joined(list(own.values())), config.sequences.steps) if own else None
    head = fit_head(net, *stills, config.sequences, real=real)

    report("measuring")
    measured = measure_all(net, corpus, unseen, temperature)
    temporal = [
        result
        for name, clip_set in clips.items()
        for result in (measure_head(net, head, clip_set, name, stride) for stride in (1, 3))
    ]
    temporal += measure_own(net, stills, own, config.sequences)
    held = f"{corpus.name} {card.MOVED}"
    temporal.append(measure_held(net, head, faces.part("valid"), config.sequences, name=held))

    report("writing and proving the graphs")
    training = bundles.Training(
        commit=what.commit,
        recipe=config.name,
        seeds=state.seeds or [config.seed],
        data=state.data | {k: v for c in learned.values() for k, v in c.sources.items()},
        date=what.date,
        config={**state.config, "epochs_done": state.epoch, "prior_share": share}
        | {"sequences": asdict(config.sequences), "stills": what.stills},
    )
    facts = card.Facts(
        name=what.name,
        date=what.date,
        config=config,
        epochs=state.epoch,
        seeds=state.seeds or [config.seed],
        origin=Origin.of(corpus, state.data),
        clips={name: (len(c), len(np.unique(c.subjects_M))) for name, c in learned.items()},
        share=share,
        best_share=best,
        temperature=temperature,
        measured=measured,
        temporal=temporal,
    )
    made = Exported(
        name=what.name, net=net, head=head, temperature=temperature, training=training, card=""
    )
    export(made, out)
    latency = _latency_ms(out)
    metrics = card.metrics(facts, latency)
    full = Exported(
        name=what.name,
        net=net,
        head=head,
        temperature=temperature,
        training=training,
        card=card.text(facts, latency),
        metrics=metrics,
    )
    worst = export(full, out)
    report(f"parity with onnxruntime: largest difference of a probability {worst:.1g}")
    crops, _ = recut(faces.part("valid"))
    proof = add_half(out, preprocess.normalise(crops, 0.0, 255.0))
    report(
        f"half precision: {proof.same:.2%} of {proof.faces} validation faces have the same label, "
        f"largest difference of a probability {proof.largest:.1g}"
    )
    return out


def operating_point(
    bare: FaceNet, prior_K: F32, valid: FaceSet, *, share: float | None = None
) -> tuple[float, float]:
    """Choose what the logits carry of the prior, and the temperature, on a validation split.

    Args:
        bare: the network as trained.
        prior_K: class shares of its training set.
        valid: the validation split.
        share: of the prior, where it is settled already.

    Returns:
        share: of the prior, 0..1, with the best score (see ``Validation.score``).
        temperature: with the best likelihood at that share.
    """
    chosen = Validation.of(valid)
    if share is None:
        share = chosen.score(bare, prior_K)["prior_share"]
    carried = calibrated(bare, prior_K, share, 1.0)
    logits = [predict(carried, crops)[1] for crops in (chosen.raw_NHW, chosen.recut_NHW)]
    labels = np.concatenate([chosen.labels_N] * 2)
    return share, fit_temperature(np.concatenate(logits), labels)


def measurable(corpus: Corpus, unseen: dict[str, FaceSet]) -> None:
    """Look whether ``measure_all`` will have what it needs, and ``operating_point`` too.

    Raises:
        ConfigError: naming the set that has no clearly labelled picture where it needs some.
    """
    for split in ("valid", "test"):
        part_of(corpus.faces, split, corpus.name)
    for name, other in unseen.items():
        if not majority(other)[1].any():
            raise ConfigError(f"{name}: no clearly labelled picture; it cannot be measured on")


def measure_all(
    net: FaceNet, corpus: Corpus, unseen: dict[str, FaceSet], temperature: float
) -> list[Measured]:
    """Score the test split of the training corpus, and every unseen corpus whole."""
    sets = [(corpus.name, "test", corpus.faces.part("test"))]
    sets += [(name, "all", other) for name, other in unseen.items()]
    return [
        m
        for name, split, part in sets
        for m in measure(net, part, dataset=name, split=split, temperature=temperature)
    ]


def measure(
    net: FaceNet, faces: FaceSet, *, dataset: str, split: str, temperature: float
) -> list[Measured]:
    """Score the clearly labelled pictures, as published and as the daemon cuts them.

    Each framing is scored with all classes and once more without contempt: most published figures
    and most networks know seven classes, and contempt is what they lack.

    Args:
        net: with calibrated logits.
        faces: any set.
        dataset: its name, for the record.
        split: likewise.
        temperature: what the logits were divided by.
    """
    labels, clear = majority(faces)
    kept, labels = faces.rows(clear), labels[clear]
    out = []
    for framing, crops in (("as published", kept.images_NHW), ("eye-aligned", recut(kept)[0])):
        _, logits = predict(net, crops)
        for gone in ("", _SELDOM):
            seen, rows = logits.copy(), np.ones(len(labels), np.bool_)
            if gone:
                rows = labels != CLASSES.index(gone)
                seen[:, CLASSES.index(gone)] = -np.inf
            if not rows.any():
                continue
            truth = labels[rows], kept.group_N[rows], CLASSES
            before = score(softmax(seen[rows] * np.float32(temperature)), *truth)
            out.append(
                Measured(
                    dataset=dataset,
                    split=split,
                    framing=framing,
                    left_out=gone,
                    scores=score(softmax(seen[rows]), *truth),
                    ece_before=before.ece,
                )
            )
    return out


@torch.no_grad()
def measure_head(
    net: FaceNet, head: TemporalHead, clips: ClipSet, name: str, stride: int
) -> TemporalResult:
    """Compare the head with frames alone and with a moving average, on every ``stride``-th frame.

    Frames are taken from a clip's end backwards, so that its apex is always among them.
    """
    features, _ = predict(net, clips.crops_NHW)
    kept = [np.arange(s.stop - 1, s.start - 1, -stride)[::-1] for s in clips.spans()]
    parts = [torch.from_numpy(features[rows]) for rows in kept]
    step_s = clips.step_s * stride
    said = [softmax(head(c[None])[0].numpy()) for c in parts]
    return _compare(net, said, parts, clips.labels_M, name=name, step_s=step_s)


@torch.no_grad()
def measure_own(
    net: FaceNet,
    stills: tuple[Tensor, Tensor],
    own: dict[str, RealClips],
    sequences: SequenceConfig,
) -> list[TemporalResult]:
    """Compare heads that have not seen a clip's person with frames and averages.

    Args:
        net: with calibrated logits.
        stills: of ``clips_of_stills``.
        own: the clips that the head learned from, by corpus.
        sequences: how the head learned.

    Returns:
        A result a corpus; none where all clips show one person, whom no other head has seen.
    """
    if not own or len(np.unique(joined(list(own.values())).people_M)) == 1:
        return []
    with torch.enable_grad():
        said = read_held(net, stills, joined(list(own.values())), sequences)
    out = []
    for name, part in own.items():
        mine, said = said[: len(part.features)], said[len(part.features) :]
        labels, step_s, as_ = part.labels_M, part.step_s, f"{name}, {card.HELD_OUT}"
        out.append(_compare(net, mine, part.features, labels, name=as_, step_s=step_s))
    return out


@torch.no_grad()
def measure_held(
    net: FaceNet, head: TemporalHead, faces: FaceSet, sequences: SequenceConfig, *, name: str
) -> TemporalResult:
    """Compare the same three on clips rendered from stills whose expression does not change.

    Args:
        net: with calibrated logits.
        head: over the same classifier.
        faces: a split that neither was trained on.
        sequences: how stills are made to move.
        name: of these clips, for the record.
    """
    labels, clear = majority(faces)
    rows = np.random.default_rng(sequences.seed).permutation(np.flatnonzero(clear))[:_HELD]
    stills, random = faces.rows(rows), torch.Generator().manual_seed(sequences.seed)
    pixels = torch.from_numpy(stills.images_NHW)
    clips = read_clips(net, pixels, framings(stills), sequences, random)
    step_s = sequences.head.step_s
    said = [softmax(head(c[None])[0].numpy()) for c in clips]
    return _compare(net, said, list(clips), labels[rows], name=name, step_s=step_s)


def _compare(
    net: FaceNet,
    by_head: list[F32],
    clips: list[Tensor],
    labels_M: I64,
    *,
    name: str,
    step_s: float,
) -> TemporalResult:
    by_frame = [softmax(net.classifier(c).numpy()) for c in clips]
    judged = judge(by_head, labels_M, step_s)
    weight, average = best_average(by_frame, labels_M, step_s, judged.lag_s)
    return TemporalResult(
        dataset=name,
        step_s=step_s,
        head=judged,
        frames=judge(by_frame, labels_M, step_s),
        average=average,
        average_weight=weight,
    )


def clips_of_stills(
    net: FaceNet, faces: FaceSet, config: TrainConfig, count: int
) -> tuple[Tensor, Tensor]:
    """Return features (N, T, D) of clips of ``count`` training pictures, and their targets."""
    how = config.sequences
    train = faces.part("train")
    wanted, usable = targets(train, config.labels)
    train, wanted = train.rows(usable), wanted[usable]
    rates = draw_rates(wanted, config.balance)
    rows = epoch_order(rates, 0, how.seed)[:count]
    stills, wanted = train.rows(rows), wanted[rows]
    random = torch.Generator().manual_seed(how.seed)
    pixels = torch.from_numpy(stills.images_NHW)
    features = read_clips(net, pixels, framings(stills), how, random)
    return features, torch.from_numpy(wanted)


def _latency_ms(path: Path) -> tuple[float, float]:
    """Return p50 and p95 of one face through both graphs on one thread of this machine."""
    loaded = bundles.load(path)
    cnn, step = OnnxFile(loaded.features_path), OnnxFile(loaded.temporal_path)
    size, head = loaded.manifest.input.size_px, loaded.manifest.temporal
    face = preprocess.normalise(np.zeros((1, size, size), np.uint8), 0.0, 255.0)
    states = head.zeros(1)
    times = []
    for _ in range(_LATENCY_RUNS):
        began = time.perf_counter()
        features = cnn.run({"faces": face})["features"]
        step.run({"features": features, **states})
        times.append(1e3 * (time.perf_counter() - began))
    p50, p95 = np.percentile(times[20:], [50, 95])
    return float(p50), float(p95)
