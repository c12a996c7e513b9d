"""The ablation's variants: each technique of the theory as a change to the base recipe.

The base holds many of them already; what it holds is taken away ("no …"), the others are put in.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALONE", "AVERAGED", "BASE", "GAN", "MORPHS", "STACKED", "TAUGHT", "VARIANTS", "Variant"]

BASE = "base"
"""The name of the unchanged recipe."""
ALONE, TAUGHT, MORPHS, GAN = "alone", "taught", "morphs", "gan"
AVERAGED, STACKED = "averaged", "stacked"
"""The means to a variant's figures; see ``training.means``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One change.

    Attributes:
        group: the row of the theory that it belongs to.
        name: what the theory calls it.
        changes: as ``fit --set`` takes them.
        means: what it takes beside one training on the pictures as they are.
    """

    group: str
    name: str
    changes: tuple[str, ...]
    means: str = ALONE


_GEOMETRY = ("flip", "rotate_deg", "zoom", "shift")
_CAMERA = ("gamma", "light", "blur", "small", "noise", "jpeg")


def _off(*names: str) -> tuple[str, ...]:
    return tuple(f"augment.{name}=0" for name in names)


_TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "Labels": {
        "one hard label": ('labels.kind="hard"', "labels.second_votes=0"),
        "label smoothing of one hard label": (
            'labels.kind="hard"',
            "labels.second_votes=0",
            "loss.smoothing=0.1",
        ),
        "label smoothing": ("loss.smoothing=0.1",),
        "votes alone": ("labels.second_votes=0",),
        "second label counts 5 votes": ("labels.second_votes=5",),
        "merged micro-classes (contempt into disgust)": ('labels.merge=[["contempt","disgust"]]',),
    },
    "Imbalance": {
        "classes as they come": ('balance.kind="natural"',),
        "undersampling of large classes": ('balance.kind="under"',),
        "large classes without equal pictures": ("balance.alike=0.9",),
        "large classes without look-alikes": ("balance.alike=0.7",),
        "cyclic training": ('balance.kind="cyclic"',),
        "all classes alike": ("balance.power=0",),
        "no logit adjustment": ("loss.adjust=0",),
        "class weights": ("loss.adjust=0", 'balance.kind="natural"', 'loss.weights="inverse"'),
        "class weights by effective number": (
            "loss.adjust=0",
            'balance.kind="natural"',
            'loss.weights="effective"',
        ),
        "classifier re-trained on balanced classes": (
            "loss.adjust=0",
            'balance.kind="natural"',
            "head_epochs=1",
        ),
        "no correction at all": ("loss.adjust=0", 'balance.kind="natural"'),
        "augmentation of small classes": ("augment.rare=1",),
        "minority CutMix": ("augment.mixup=1", "augment.cutmix=1", "augment.minority=1"),
    },
    "Augmentation": {
        "no augmentation": _off("recut", *_GEOMETRY, *_CAMERA, "erase", "mixup"),
        "no mirror pictures": _off("flip"),
        "no geometry": _off(*_GEOMETRY),
        "no faults of a camera": _off(*_CAMERA),
        "no erasing": _off("erase"),
        "no mixup": _off("mixup"),
        "CutMix": ("augment.mixup=1", "augment.cutmix=1"),
        "corpus' framing alone": _off("recut"),
        "daemon's framing alone": ("augment.recut=1",),
    },
    "Normalisation": {
        "no normalisation of the crop": ("model.standardise=false",),
        "group normalisation": ('model.norm="group"',),
    },
    "Convolution and pooling": {
        "depthwise convolution": ('model.block="depthwise"',),
        "dilation": ("model.dilation=2",),
        "5 x 5 kernels": ("model.kernel=5",),
        "padding by the edge": ('model.padding="replicate"',),
        "no squeeze-and-excitation": ("model.squeeze=0",),
        "re-parameterised blocks": ('model.block="branches"',),
        "maximum pooling instead of stride": ('model.down="max"',),
        "average pooling instead of stride": ('model.down="mean"',),
        "BlurPool instead of stride": ('model.down="blur"',),
    },
    "Flattening": {
        "plain": ('model.flatten="plain"',),
        "by convolution (global depthwise)": ('model.flatten="depthwise"',),
        "maximum": ('model.flatten="max"',),
        "average and maximum": ('model.flatten="mean_max"',),
    },
    "Activation": {
        "LeakyReLU": ('model.activation="leaky_relu"',),
        "sigmoid": ('model.activation="sigmoid"',),
        "tanh": ('model.activation="tanh"',),
        "SiLU": ('model.activation="silu"',),
        "GELU": ('model.activation="gelu"',),
        "HardSwish": ('model.activation="hardswish"',),
    },
    "Over-fitting": {
        "no dropout": ("model.dropout=0",),
        "dropout of a half": ("model.dropout=0.5",),
        "no DropPath": ("model.drop_path=0",),
        "DropPath 0.2": ("model.drop_path=0.2",),
        "early stopping": ("patience=1", "validate=1"),
        "no averaged weights": ("optim.average=0",),
        "L1": ("loss.l1=1e-5",),
        "no L2 (weight decay)": ("optim.decay=0",),
        "L2 four times as strong": ("optim.decay=0.2",),
        "sharpness-aware (SAM)": ("optim.sharpness=0.05",),
    },
    "Gradients and neurons": {
        "no skip connections": ("model.skip=false",),
        "rest of tireless neurons": ("model.rest=0.8",),
        "recycled dead neurons (ReDo)": ("optim.recycle=0.1",),
    },
    "Loss": {
        "binary cross-entropy": ('loss.kind="binary"',),
        "focal loss": ('loss.kind="focal"',),
        "asymmetric loss": ('loss.kind="asymmetric"',),
        "erasing attention consistency (EAC)": ("loss.consistency=5",),
        "EAC, a fifth as strong": ("loss.consistency=1",),
    },
    "Optimiser": {
        "gradient descent": ('optim.name="sgd"', "optim.momentum=0", "optim.lr=0.2"),
        "momentum": ('optim.name="sgd"', "optim.lr=0.05", "optim.decay=0.0005"),
        "Nesterov momentum": ('optim.name="nesterov"', "optim.lr=0.05", "optim.decay=0.0005"),
        "RMSProp": ('optim.name="rmsprop"', "optim.lr=0.0003", "optim.decay=0.0005"),
        "Adam": ('optim.name="adam"', "optim.decay=0"),
        "Adam with L2 in the loss": ('optim.name="adam"', "optim.decay=0.0005"),
        "schedule-free AdamW": (
            'optim.name="schedule_free"',
            'optim.schedule="constant"',
            "optim.average=0",
        ),
        "Muon": ('optim.name="muon"',),
    },
    "Schedule": {
        "constant rate": ('optim.schedule="constant"',),
        "exponential decay": ('optim.schedule="exponential"',),
        "steps": ('optim.schedule="step"',),
        "linear decay": ('optim.schedule="linear"',),
        "one cycle": ('optim.schedule="one_cycle"', "optim.warmup=0"),
        "constant, then decay": ('optim.schedule="stable_decay"',),
        "no warm-up": ("optim.warmup=0",),
    },
}

VARIANTS: dict[str, Variant] = {
    BASE: Variant(group="", name=BASE, changes=()),
    **{
        name: Variant(group=group, name=name, changes=changes)
        for group, members in _TABLE.items()
        for name, changes in members.items()
    },
    **{
        name: Variant(group=group, name=name, changes=(), means=means)
        for group, name, means in (
            ("Over-fitting", "mean of three networks", AVERAGED),
            ("Over-fitting", "stacking of three networks", STACKED),
            ("Synthetic faces", "morphs of three rare classes", MORPHS),
            ("Synthetic faces", "a GAN's faces of three rare classes", GAN),
            ("Distillation", "distillation (taught by the base)", TAUGHT),
        )
    },
}
"""Every variant by its name, the base first."""
