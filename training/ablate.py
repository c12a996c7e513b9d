"""What each technique of the theory is worth, measured: one change at a time, several seeds.

A variant is the base recipe with some values changed. All variants of a seed share its weights'
seed and its order of pictures, so differences are paired.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError
from training.data.cache import recut
from training.data.labels import majority
from training.evaluate import confusion, from_confusion
from training.recipes import changed, to_plain
from training.train import Validation, averaged_model, fit, predict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.data.faces import FaceSet
    from training.recipes import TrainConfig

__all__ = ["VARIANTS", "Outcome", "ablate", "table"]

VARIANTS: dict[str, list[str]] = {
    "base": [],
    "one hard label": ['labels.kind="hard"', "labels.second_votes=0"],
    "votes alone": ["labels.second_votes=0"],
    "second label, 5 votes": ["labels.second_votes=5"],
    "contempt merged into disgust": ['labels.merge=[["contempt","disgust"]]'],
    "natural order": ['balance.kind="natural"'],
    "undersampling": ['balance.kind="under"'],
    "cyclic training": ['balance.kind="cyclic"'],
    "all classes alike": ["balance.power=0"],
    "no logit adjustment": ["loss.adjust=0"],
    "class weights": ["loss.adjust=0", 'balance.kind="natural"', 'loss.weights="effective"'],
    "no augmentation": [
        "augment.recut=0",
        "augment.flip=0",
        "augment.rotate_deg=0",
        "augment.zoom=0",
        "augment.shift=0",
        "augment.gamma=0",
        "augment.light=0",
        "augment.blur=0",
        "augment.small=0",
        "augment.noise=0",
        "augment.jpeg=0",
        "augment.erase=0",
        "augment.mixup=0",
    ],
    "no mixup": ["augment.mixup=0"],
    "cutmix": ["augment.cutmix=0.5"],
    "no erasing": ["augment.erase=0"],
    "no camera faults": [
        "augment.light=0",
        "augment.blur=0",
        "augment.small=0",
        "augment.noise=0",
        "augment.jpeg=0",
    ],
    "corpus framing only": ["augment.recut=0"],
    "binary cross-entropy": ['loss.kind="binary"'],
    "focal loss": ['loss.kind="focal"'],
    "asymmetric loss": ['loss.kind="asymmetric"'],
    "label smoothing": ["loss.smoothing=0.1"],
    "L1": ["loss.l1=1e-6"],
    "no weight decay": ["optim.decay=0"],
    "momentum": ['optim.name="nesterov"', "optim.lr=0.1", "optim.decay=0.0005"],
    "RMSProp": ['optim.name="rmsprop"', "optim.lr=0.0005"],
    "Adam": ['optim.name="adam"', "optim.decay=0"],
    "sharpness-aware": ["optim.sharpness=0.05"],
    "exponential decay": ['optim.schedule="exponential"'],
    "one cycle": ['optim.schedule="one_cycle"', "optim.warmup=0"],
    "constant rate": ['optim.schedule="constant"'],
    "no averaged weights": ["optim.average=0"],
    "no dropout, no drop path": ["model.dropout=0", "model.drop_path=0"],
    "no skip connections": ["model.skip=false"],
    "no squeeze-and-excitation": ["model.squeeze=0"],
    "depthwise convolutions": ['model.block="depthwise"'],
    "5 x 5 kernels": ["model.kernel=5"],
    "dilation": ["model.dilation=2"],
    "max pooling": ['model.down="max"'],
    "blur pooling": ['model.down="blur"'],
    "flatten: maximum": ['model.flatten="max"'],
    "flatten: plain": ['model.flatten="plain"'],
    "flatten: by convolution": ['model.flatten="depthwise"'],
    "flatten: mean and maximum": ['model.flatten="mean_max"'],
    "rest of tireless neurons": ["model.rest=0.9"],
    "leaky ReLU": ['model.activation="leaky_relu"'],
    "sigmoid": ['model.activation="sigmoid"'],
    "tanh": ['model.activation="tanh"'],
    "SiLU": ['model.activation="silu"'],
    "HardSwish": ['model.activation="hardswish"'],
}
"""Each row of the theory's table as a change to the base recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run.

    Attributes:
        variant, seed: which.
        accuracy, uar: on validation, at the share of the prior that validation chose, the mean of
            both framings.
        unseen: (accuracy, UAR) of each corpus never trained on, at the same share.
        seconds: of training.
    """

    variant: str
    seed: int
    accuracy: float
    uar: float
    unseen: dict[str, tuple[float, float]]
    seconds: float


def ablate(
    base: TrainConfig,
    faces: FaceSet,
    unseen: dict[str, FaceSet],
    out: Path,
    *,
    names: tuple[str, ...] = tuple(VARIANTS),
    seeds: tuple[int, ...] = (0, 1, 2),
    report: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Run every variant with every seed; finished runs are kept, so that it can be interrupted.

    Args:
        base: the recipe that is changed; its number of epochs is the budget of each run.
        faces: with splits "train" and "valid".
        unseen: corpora that are only measured.
        out: a directory a run.
        names: variants to run; the base is always among them.
        seeds: of the paired runs.
        report: told each outcome.

    Raises:
        ConfigError: when a name is no variant.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise ConfigError(f"variant {unknown[0]!r} does not exist; choose of {', '.join(VARIANTS)}")
    outcomes = []
    for seed in seeds:
        for name in dict.fromkeys(("base", *names)):
            config = replace(changed(base, VARIANTS[name]), seed=seed)
            place = out / f"{name.replace(' ', '_').replace(':', '')}-{seed}"
            outcome = _run(name, config, faces, unseen, place)
            outcomes.append(outcome)
            report(outcome)
    return outcomes


def table(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """Return rows of text: a variant, runs, mean figures and paired difference to the base.

    The difference comes with its standard error over the seeds where there are at least two;
    fewer than three seeds are no evidence.
    """
    base = {o.seed: o for o in outcomes if o.variant == "base"}
    rows = []
    for name in dict.fromkeys(o.variant for o in outcomes):
        runs = [o for o in outcomes if o.variant == name]
        cells = [name, str(len(runs))]
        for read in (_score, *(_reader(corpus) for corpus in runs[0].unseen)):
            values = np.array([read(o) for o in runs])
            gains = np.array([read(o) - read(base[o.seed]) for o in runs if o.seed in base])
            cells += [f"{100 * values.mean():.1f}", _gain(gains)]
        rows.append(tuple(cells))
    return rows


def _gain(gains: np.ndarray) -> str:
    if len(gains) == 0:
        return "no base"
    if len(gains) == 1:
        return f"{100 * gains[0]:+.1f}"
    return f"{100 * gains.mean():+.1f} ± {100 * gains.std(ddof=1) / len(gains) ** 0.5:.1f}"


def _score(outcome: Outcome) -> float:
    return (outcome.accuracy + outcome.uar) / 2.0


def _reader(corpus: str) -> Callable[[Outcome], float]:
    return lambda outcome: sum(outcome.unseen[corpus]) / 2.0


def _run(
    name: str, config: TrainConfig, faces: FaceSet, unseen: dict[str, FaceSet], place: Path
) -> Outcome:
    done = place / "outcome.json"
    wanted = json.dumps(to_plain(config), sort_keys=True)
    if done.is_file():
        saved = json.loads(done.read_text())
        if saved.pop("config") == wanted:
            saved["unseen"] = {k: tuple(v) for k, v in saved["unseen"].items()}
            return Outcome(**saved)
    seconds: list[float] = []
    state = fit(config, faces, place, report=lambda line: seconds.append(line["seconds"]))
    net = averaged_model(config, state.average["state"])
    prior_K = state.prior_K.numpy()
    scores = Validation.of(faces.part("valid")).score(net, prior_K)
    offset = scores["prior_share"] * np.log(prior_K)
    measured = {}
    for corpus, other in unseen.items():
        labels, clear = majority(other)
        _, logits = predict(net, recut(other)[0][clear])
        accuracy, recall, _ = from_confusion(
            confusion(labels[clear], (logits + offset).argmax(axis=1), len(prior_K))
        )
        measured[corpus] = (float(accuracy), float(np.nanmean(recall)))
    outcome = Outcome(
        variant=name,
        seed=config.seed,
        accuracy=(scores["accuracy"] + scores["accuracy_recut"]) / 2.0,
        uar=(scores["uar"] + scores["uar_recut"]) / 2.0,
        unseen=measured,
        seconds=sum(seconds),
    )
    plain = {f: getattr(outcome, f) for f in Outcome.__dataclass_fields__}
    done.write_text(json.dumps({**plain, "config": wanted}))
    return outcome
