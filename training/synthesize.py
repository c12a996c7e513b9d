"""Synthetic faces for small classes: morphs of real ones, and a conditional GAN.

Whether such pictures help is decided by ``training.gate``, never assumed.

Legend: N faces, B batch, H W pixels, K classes, Z latent.
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
        seed: of everything.
    """

    latent: int = 64
    width: int = 32
    steps: int = 6000
    batch: int = 64
    lr: float = 2e-4
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
    """Train on the clearly labelled pictures of the train split, classes drawn alike.

    Args:
        faces: with a split "train".
        config: how.
        report: told the step and both losses, every hundred steps.

    Returns:
        The generator, in evaluation mode.

    Raises:
        ConfigError: when pictures are not 48 px, or none is clear.
    """
    labels, images = _clear_train(faces)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise ConfigError(f"the GAN draws {_SIDE} px faces, the set has {images.shape[1:]}")
    torch.manual_seed(config.seed)
    random = torch.Generator().manual_seed(config.seed)
    generator, critic = Generator(config).train(), Critic(config).train()
    betas = (0.0, 0.9)
    generator_optimizer = torch.optim.Adam(generator.parameters(), config.lr, betas)
    critic_optimizer = torch.optim.Adam(critic.parameters(), config.lr, betas)
    weights = torch.from_numpy(1.0 / np.bincount(labels, minlength=len(CLASSES))[labels])
    pixels, classes = torch.from_numpy(images), torch.from_numpy(labels)
    for step in range(config.steps):
        rows = torch.multinomial(weights, config.batch, replacement=True, generator=random)
        real = pixels[rows][:, None].float() / 255.0
        flip = torch.rand(config.batch, 1, 1, 1, generator=random) < 0.5  # noqa: PLR2004
        real = torch.where(flip, real.flip(3), real)
        wanted = classes[rows]
        noise = torch.randn(config.batch, config.latent, generator=random)
        made = generator(noise, wanted)
        # Hinge losses, as in the source.
        told = F.relu(1.0 - critic(real, wanted)) + F.relu(1.0 + critic(made.detach(), wanted))
        critic_loss = told.mean()
        critic_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(critic_loss)
        critic_optimizer.step()
        generator_loss = -critic(made, wanted).mean()
        generator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(generator_loss)
        generator_optimizer.step()
        if step % 100 == 0:
            report(step, float(critic_loss.detach()), float(generator_loss.detach()))
    return generator.eval()


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
    kind: str, faces: FaceSet, classes: list[str], *, count: int, steps: int, seed: int
) -> FaceSet:
    """Make ``count`` faces of each class named.

    Args:
        kind: "gan" or "morph".
        faces: the real ones.
        classes: names out of ``CLASSES``.
        count: pictures a class.
        steps: of the GAN's training.
        seed: of everything.

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
        return synthetic_set(morphs(faces, labels, warp, seed), labels)
    if kind == "gan":
        config = GanConfig(steps=steps, seed=seed)
        return synthetic_set(draw(train_gan(faces, config), config, labels), labels)
    raise ConfigError(f"kind {kind!r}: choose gan or morph")


def synthetic_set(images_NHW: U8, labels_N: I64) -> FaceSet:
    """Return synthetic faces as a training set; their names say that they are made."""
    n = len(labels_N)
    made = FaceSet.of(images_NHW, labels_N, np.full(n, "train", dtype="<U5"))
    names = np.array([f"made-{i:06d}" for i in range(n)], np.str_)
    return made.named(names, names)


def _clear_train(faces: FaceSet) -> tuple[I64, U8]:
    train = faces.part("train")
    labels, clear = majority(train)
    if not clear.any():
        raise ConfigError("the face set has no clearly labelled picture in its split 'train'")
    return labels[clear], train.images_NHW[clear]
