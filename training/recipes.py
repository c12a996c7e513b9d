"""Recipes: functions that return a complete, frozen configuration of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from streamer.errors import ConfigError
from training.augment import AugmentConfig
from training.data.balance import BalanceConfig
from training.data.labels import LabelConfig
from training.losses import LossConfig
from training.model import ModelConfig
from training.optim import OptimConfig
from training.sequences import SequenceConfig

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RECIPES", "TrainConfig", "changed", "config_from", "recipe", "to_plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run, complete.

    Attributes:
        name: of the recipe.
        seed: of weights, order and augmentation.
        epochs: passes over the (re-sampled) training split.
        batch: faces a step.
        patience: stop after this many validations without a better score; 0: never.
        validate: epochs between two validations; the last epoch is always validated; 0: that alone.
        head_epochs: of all epochs, the last ones that train the classifier alone, all classes drawn
            alike (cRT, Kang 2019, arXiv 1910.09217), with a schedule of their own.
        chunks: parts that a batch is augmented and mixed in; under ``torchrun`` the processes share
            them out, so that any number of processes that divides it gives the same curve.
        bfloat16: compute in bfloat16 where that is safe; weights stay float32. On a CPU with
            AVX512-BF16 an epoch takes 0.6 of the time (measured).
        device: "cpu" or "cuda".
        sequences: how the temporal head learns when the run is exported, and what it is.
    """

    name: str
    seed: int = 0
    epochs: int = 30
    batch: int = 128
    patience: int = 0
    validate: int = 1
    head_epochs: int = 0
    chunks: int = 1
    bfloat16: bool = False
    device: str = "cpu"
    labels: LabelConfig = field(default_factory=LabelConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sequences: SequenceConfig = field(default_factory=SequenceConfig)


def ferplus() -> TrainConfig:
    """Return the recipe of the shipped bundle.

    FER+ votes with FER2013's own label as two further votes for the classes that FER+ dilutes,
    classes drawn by the square root of their size, logit adjustment for what imbalance is left.
    """
    return TrainConfig(name="ferplus", bfloat16=True, labels=LabelConfig(second_votes=2.0))


def plain() -> TrainConfig:
    """Return the ordinary recipe: votes as they are, natural order, no correction of the prior."""
    return TrainConfig(
        name="plain",
        bfloat16=True,
        balance=BalanceConfig(kind="natural"),
        loss=LossConfig(adjust=0.0),
    )


def smoke() -> TrainConfig:
    """Return a recipe of seconds, to see that everything runs."""
    model = ModelConfig(stem=8, widths=(8, 16, 16), depths=(1, 1, 1), features=16)
    return replace(ferplus(), name="smoke", epochs=2, batch=32, bfloat16=False, model=model)


def proxy() -> TrainConfig:
    """Return the recipe of the ablation: ``ferplus`` in small, some twenty seconds on one core.

    With a quarter of FER+ an epoch is 7,000 faces; the stem halves at once, since the full
    resolution takes half of the time, and bfloat16 a quarter off (measured, AVX512-BF16).
    """
    model = ModelConfig(stem=16, stem_stride=2, widths=(32, 64), depths=(1, 2), features=64)
    return replace(
        ferplus(), name="proxy", epochs=4, batch=64, bfloat16=True, validate=0, model=model
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "ferplus": ferplus,
    "plain": plain,
    "proxy": proxy,
    "smoke": smoke,
}


def recipe(name: str) -> TrainConfig:
    """Return a recipe by name.

    Raises:
        ConfigError: when there is none of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} does not exist; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def changed(config: TrainConfig, changes: list[str]) -> TrainConfig:
    """Apply changes such as ``optim.lr=0.001`` or ``model.widths=[32,64,128]``.

    Raises:
        ConfigError: when a key does not exist or a value does not fit it.
    """
    plain = to_plain(config)
    for change in changes:
        path, mark, text = change.partition("=")
        *above, key = path.split(".")
        node: Any = plain
        for part in above:
            node = node.get(part) if isinstance(node, dict) else None
        if not mark or not isinstance(node, dict) or key not in node:
            raise ConfigError(f"--set {change}: no such value; keys are those of TrainConfig")
        try:
            node[key] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            node[key] = text  # a bare word
    return config_from(plain)


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """Return a configuration as nested dictionaries of plain values."""
    return asdict(config)


def config_from(saved: dict[str, Any]) -> TrainConfig:
    """Rebuild a configuration from what a checkpoint keeps.

    Raises:
        ConfigError: when a key is unknown to this version.
    """
    try:
        config = msgspec.convert(saved, TrainConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the saved configuration does not fit this version: {error}") from None
    unknown = _paths(saved) - _paths(to_plain(config))
    if unknown:
        keys = ", ".join(sorted(unknown))
        raise ConfigError(f"the saved configuration holds {keys}, which this version does not know")
    return config


def _paths(tree: dict[str, Any], above: str = "") -> set[str]:
    """Return the dotted name of every value."""
    out: set[str] = set()
    for key, value in tree.items():
        out |= _paths(value, f"{above}{key}.") if isinstance(value, dict) else {above + key}
    return out
