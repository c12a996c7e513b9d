"""Synthetic faces for small classes: morphs of real ones, and a conditional GAN.

Whether such pictures help is decided by ``training.gate``, never assumed.

Legend: N faces, P pairs of a face and a class, B batch, H W pixels, K classes, Z latent.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from streamer.errors import ConfigError
from training.augment import AugmentConfig, augment, framings
from training.data.faces import CLASSES, FaceSet
from training.data.labels import majority
from training.optim import Average

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.types import I64, U8

__all__ = [
    "Critic",
    "GanConfig",
    "Generator",
    "draw",
    "make",
    "morphs",
    "sample_sheet",
    "synthetic_set",
    "train_gan",
]

_SIDE = 48
_START = 6  # the generator grows 6 -> 12 -> 24 -> 48 pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class GanConfig:
    """A small conditional GAN.

    Attributes:
        latent: Z.
        width: channels at full resolution; four times as many at the start.
        steps: of the generator; the critic takes one for each.
        batch: pictures a step.
        lr: of both, Adam with betas 0 and 0.9 as in the source.
        share: of its votes from which a face is an example of a class. A rare class has few faces
            that most people agree on (FER+'s train split: disgust 46, contempt 78), and more that
            two fifths of them see it in (176 and 192).
        shift: the critic sees every picture, real or made, moved by up to this share of its side
            and under another light, so that it cannot learn a few faces by heart.
        average: of the generator's weights; the pictures are drawn with it.
        bfloat16: see ``TrainConfig``.
        seed: of everything.
    """

    latent: int = 64
    width: int = 24
    steps: int = 6000
    batch: int = 64
    lr: float = 2e-4
    share: float = 0.4
    shift: float = 0.125
    average: float = 0.995
    bfloat16: bool = False
    seed: int = 0


class Generator(nn.Module):
    """From noise and a class to a face; the class moves every layer's scale and shift.

    Source: Miyato & Koyama 2018, "cGANs with Projection Discriminator", arXiv 1802.05637.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        widths = (4 * config.width, 2 * config.width, config.width, config.width)
        self.start = nn.Linear(config.latent, widths[0] * _START * _START)
        pairs = list(itertools.pairwise(widths))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(a, affine=False) for a, _ in pairs)
        self.scales = nn.ModuleList(nn.Embedding(len(CLASSES), a) for a, _ in pairs)
        self.shifts = nn.ModuleList(nn.Embedding(len(CLASSES), a) for a, _ in pairs)
        for scale, shift in zip(self.scales, self.shifts, strict=True):
            nn.init.ones_(scale.weight)  # type: ignore[arg-type]
            nn.init.zeros_(shift.weight)  # type: ignore[arg-type]
        self.end = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, noise_BZ: Tensor, labels_B: Tensor) -> Tensor:
        """Return pictures, float32 (B, 1, 48, 48) in 0..1."""
        x = self.start(noise_BZ).unflatten(1, (-1, _START, _START))
        layers = zip(self.convolutions, self.norms, self.scales, self.shifts, strict=True)
        for convolution, norm, scale, shift in layers:
            x = norm(x) * scale(labels_B)[:, :, None, None] + shift(labels_B)[:, :, None, None]
            x = F.interpolate(F.relu(x), scale_factor=2.0, mode="nearest")
            x = convolution(x)
        return torch.sigmoid(self.end(F.relu(x)))


class Critic(nn.Module):
    """Tells real faces of a class from made ones, by a projection on the class' vector."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        w = config.width
        widths = (1, w, 2 * w, 4 * w, 4 * w)
        self.convolutions = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1))
            for a, b in itertools.pairwise(widths)
        )
        self.score = spectral_norm(nn.Linear(widths[-1], 1))
        self.classes = spectral_norm(nn.Embedding(len(CLASSES), widths[-1]))

    def forward(self, x_B1HW: Tensor, labels_B: Tensor) -> Tensor:
        """Return a score, (B,); higher is more real."""
        x = 2.0 * x_B1HW - 1.0
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.2)
        vector = x.sum(dim=(2, 3))
        out: Tensor = self.score(vector)[:, 0] + (self.classes(labels_B) * vector).sum(dim=1)
        return out


def train_gan(
    faces: FaceSet, config: GanConfig, report: Callable[[int, float, float], None] = lambda *_: None
) -> Generator:
    """Train on the train split's examples of every class, classes drawn alike.

    Args:
        faces: with a split "train".
        config: how.
        report: told the step and both losses, every hundred steps.

    Returns:
        The generator, in evaluation mode.

    Raises:
        ConfigError: when pictures are not 48 px, or none is an example of a class.
    """
    images, rows_P, labels_P = _examples(faces, config.share)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise ConfigError(f"the GAN draws {_SIDE} px faces, the set has {images.shape[1:]}")
    torch.manual_seed(config.seed)
    random = torch.Generator().manual_seed(config.seed)
    generator, critic = Generator(config).train(), Critic(config).train()
    for network in (generator, critic):
        # Channels last: a step then takes 0.78 of the time on a CPU (measured).
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(generator, config.average)
    betas = (0.0, 0.9)
    generator_optimizer = torch.optim.Adam(generator.parameters(), config.lr, betas)
    critic_optimizer = torch.optim.Adam(critic.parameters(), config.lr, betas)
    weights = torch.from_numpy(1.0 / np.bincount(labels_P, minlength=len(CLASSES))[labels_P])
    pixels, rows, classes = map(torch.from_numpy, (images, rows_P, labels_P))
    for step in range(config.steps):
        pairs = torch.multinomial(weights, config.batch, replacement=True, generator=random)
        real = pixels[rows[pairs]][:, None].float() / 255.0
        flip = torch.rand(config.batch, 1, 1, 1, generator=random) < 0.5  # noqa: PLR2004
        real = torch.where(flip, real.flip(3), real)
        wanted = classes[pairs]
        noise = torch.randn(config.batch, config.latent, generator=random)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            made = generator(noise, wanted).float()
            # Hinge losses, as in the source.
            for_real = critic(_unsettled(real, config.shift, random), wanted)
            for_made = critic(_unsettled(made.detach(), config.shift, random), wanted)
            critic_loss = (F.relu(1.0 - for_real) + F.relu(1.0 + for_made)).mean()
        critic_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(critic_loss)
        critic_optimizer.step()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            generator_loss = -critic(_unsettled(made, config.shift, random), wanted).mean()
        generator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(generator_loss)
        generator_optimizer.step()
        average.update(generator)
        if step % 100 == 0:
            report(step, float(critic_loss.detach()), float(generator_loss.detach()))
    average.settle(generator)
    generator.load_state_dict(average.state)
    return generator.eval()


def _examples(faces: FaceSet, share: float) -> tuple[U8, I64, I64]:
    """Return the train split's pictures, and every (row, class) with that share of the votes."""
    train = faces.part("train")
    total = np.maximum(train.votes_NK.sum(axis=1) + train.other_N, 1e-6)[:, None]
    rows, labels = np.nonzero(train.votes_NK / total >= share)
    if len(rows) == 0:
        raise ConfigError("the face set has no labelled picture in its split 'train'")
    return train.images_NHW, rows.astype(np.int64), labels.astype(np.int64)


def _unsettled(x_B1HW: Tensor, shift: float, random: torch.Generator) -> Tensor:
    """Change light and contrast and move each picture, in a way that gradients go through.

    Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training",
    arXiv 2006.10738.
    """
    if shift == 0.0:
        return x_B1HW
    n, _, height, width = x_B1HW.shape
    light, contrast = torch.rand(2, n, 1, 1, 1, generator=random)
    mean = x_B1HW.mean(dim=(2, 3), keepdim=True)
    x = (x_B1HW - mean) * (0.5 + contrast) + mean + 0.5 * (light - 0.5)
    pad = max(1, round(shift * height))
    padded = F.pad(x, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=random)
    down, right = top + torch.arange(height), left + torch.arange(width)
    batch = torch.arange(n)[:, None, None]
    return padded[batch, 0, down[:, :, None], right[:, None, :]][:, None]


@torch.no_grad()
def draw(generator: Generator, config: GanConfig, labels_N: I64) -> U8:
    """Draw a picture for each label, uint8 (N, 48, 48)."""
    random = torch.Generator().manual_seed(config.seed + 1)
    out = []
    for part in torch.from_numpy(labels_N).tensor_split(max(1, len(labels_N) // config.batch)):
        noise = torch.randn(len(part), config.latent, generator=random)
        out.append((generator(noise, part)[:, 0] * 255.0).round().to(torch.uint8))
    return torch.cat(out).numpy()


def morphs(faces: FaceSet, labels_N: I64, warp: AugmentConfig, seed: int) -> U8:
    """Blend two aligned faces of the same class at random, and warp the outcome.

    Args:
        faces: with a split "train".
        labels_N: the classes wanted.
        warp: how the parents are warped before they are blended.
        seed: of the choice.

    Returns:
        uint8 (N, H, W).

    Raises:
        ConfigError: when a class wanted has no clear picture.
    """
    have, images = _clear_train(faces)
    train = faces.part("train")
    _, clear = majority(train)
    frames = framings(train.rows(clear))
    random = torch.Generator().manual_seed(seed)
    pairs = np.empty((len(labels_N), 2), np.int64)
    for k in np.unique(labels_N):
        rows = torch.from_numpy(np.flatnonzero(have == k))
        if len(rows) == 0:
            raise ConfigError(f"no clear picture of {CLASSES[k]} to make others from")
        wanted = labels_N == k
        draws = torch.randint(len(rows), (int(wanted.sum()), 2), generator=random)
        pairs[wanted] = rows[draws].numpy()
    pixels = torch.from_numpy(images)
    one, two = (augment(pixels[p], frames[p], warp, random) for p in torch.from_numpy(pairs).T)
    share = 0.3 + 0.4 * torch.rand(len(labels_N), 1, 1, 1, generator=random)  # neither parent alone
    mixed = share * one + (1.0 - share) * two
    return (mixed[:, 0] * 255.0).round().to(torch.uint8).numpy()


def make(
    kind: str,
    faces: FaceSet,
    classes: list[str],
    *,
    count: int,
    gan: GanConfig,
    report: Callable[[int, float, float], None] = lambda *_: None,
) -> FaceSet:
    """Make ``count`` faces of each class named.

    Args:
        kind: "gan" or "morph".
        faces: the real ones.
        classes: names out of ``CLASSES``.
        count: pictures a class.
        gan: how it is trained; its seed is taken for morphs too.
        report: see ``train_gan``.

    Raises:
        ConfigError: when the kind or a class is not known.
    """
    unknown = [name for name in classes if name not in CLASSES]
    if unknown or not classes:
        got = unknown[0] if unknown else "none"
        raise ConfigError(f"class {got!r}: choose of {', '.join(CLASSES)}")
    labels = np.repeat([CLASSES.index(name) for name in classes], count).astype(np.int64)
    if kind == "morph":
        warp = AugmentConfig(recut=1.0, mixup=0.0, erase=0.0, light=0.0, noise=0.0, jpeg=0.0)
        return synthetic_set(morphs(faces, labels, warp, gan.seed), labels)
    if kind == "gan":
        return synthetic_set(draw(train_gan(faces, gan, report), gan, labels), labels)
    raise ConfigError(f"kind {kind!r}: choose gan or morph")


def synthetic_set(images_NHW: U8, labels_N: I64) -> FaceSet:
    """Return synthetic faces as a training set; their names say that they are made."""
    n = len(labels_N)
    made = FaceSet.of(images_NHW, labels_N, np.full(n, "train", dtype="<U5"))
    names = np.array([f"made-{i:06d}" for i in range(n)], np.str_)
    return made.named(names, names)


def sample_sheet(made: FaceSet, columns: int = 12) -> U8:
    """Lay the first made faces of each class out in a row, classes in their order.

    Returns:
        uint8 (rows, columns) pixels, one after the other without gaps.
    """
    labels = made.votes_NK.argmax(axis=1)
    h, w = made.images_NHW.shape[1:]
    out = np.full((len(np.unique(labels)) * h, columns * w), 255, np.uint8)
    for line, k in enumerate(np.unique(labels)):
        for place, row in enumerate(np.flatnonzero(labels == k)[:columns]):
            out[line * h : (line + 1) * h, place * w : (place + 1) * w] = made.images_NHW[row]
    return out


def _clear_train(faces: FaceSet) -> tuple[I64, U8]:
    train = faces.part("train")
    labels, clear = majority(train)
    if not clear.any():
        raise ConfigError("the face set has no clearly labelled picture in its split 'train'")
    return labels[clear], train.images_NHW[clear]
