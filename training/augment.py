"""Augmentation on whole batches of uint8 crops, by torch operations and one seeded generator.

Geometry is one affine map a face: either the raw picture or the daemon's own eye-aligned crop of
it, composed with jitter, so that a picture is resampled once. Then come the faults of a camera:
gamma, low light, blur, a small face enlarged, sensor noise and JPEG.

Legend: B batch, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.cache import recut_matrix

if TYPE_CHECKING:
    from streamer.types import F32
    from training.data.faces import FaceSet

__all__ = [
    "NO_AUGMENT",
    "AugmentConfig",
    "augment",
    "framings",
    "mix",
    "pair_weights",
    "reach",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How far training pictures are changed; probabilities are per face.

    Attributes:
        recut: probability of starting from the daemon's framing rather than the corpus' own.
        flip: probability of a mirror picture.
        rotate_deg, zoom, shift: half-width of uniform jitter: degrees, log of scale, share of side.
        gamma: half-width of uniform jitter of log2 of gamma.
        light: probability of dim light (down to a fifth, with noise after it).
        blur: probability of a Gaussian blur of up to 1.2 px.
        small: probability of a face of 14 to 40 px that was enlarged.
        noise: probability of sensor noise, up to 12 grey levels.
        jpeg: probability of JPEG at quality 15 to 70.
        erase: probability of a grey rectangle (Zhong 2017, arXiv 1708.04896).
        mixup: alpha of mixing pairs (Zhang 2017, arXiv 1710.09412); 0: off.
        cutmix: probability that a mix pastes a rectangle instead (Yun 2019, arXiv 1905.04899).
        minority: pairs are drawn so that a class of n pictures gives n ** -minority times as many
            of them: rare faces on frequent ones (Park 2022, arXiv 2112.00412, draws by 1); 0: any.
        rare: how much further pictures of the smallest class are changed than those of the
            largest, by the logarithm of size between; 0.5 is half as far again.
    """

    recut: float = 0.5
    flip: float = 0.5
    rotate_deg: float = 15.0
    zoom: float = 0.15
    shift: float = 0.06
    gamma: float = 0.8
    light: float = 0.15
    blur: float = 0.2
    small: float = 0.15
    noise: float = 0.2
    jpeg: float = 0.15
    erase: float = 0.25
    mixup: float = 0.2
    cutmix: float = 0.0
    minority: float = 0.0
    rare: float = 0.0


NO_AUGMENT = AugmentConfig(
    recut=0.0,
    flip=0.0,
    rotate_deg=0.0,
    zoom=0.0,
    shift=0.0,
    gamma=0.0,
    light=0.0,
    blur=0.0,
    small=0.0,
    noise=0.0,
    jpeg=0.0,
    erase=0.0,
    mixup=0.0,
)
_BLUR_PX = (0.4, 1.2)
_SMALL_PX = (14, 40)
_NOISE = 12.0 / 255.0
_LIGHT = 0.2
_JPEG = (15, 70)
_ERASE = (0.02, 0.25)  # share of the area, as in the source


def framings(faces: FaceSet) -> Tensor:
    """Return each face's map from the daemon's framing to the raw picture.

    Returns:
        float32 (N, 2, 3) in the coordinates of ``affine_grid`` (-1..1, corners not aligned); the
        identity where no eyes were found.
    """
    size = faces.images_NHW.shape[1]
    out = np.tile(np.eye(2, 3, dtype=np.float32), (len(faces), 1, 1))
    to_unit = np.array([[2 / size, 0, 1 / size - 1], [0, 2 / size, 1 / size - 1], [0, 0, 1]])
    to_pixel = np.linalg.inv(to_unit)
    for i in range(len(faces)):
        matrix = recut_matrix(faces.eyes_N22[i], faces.boxes_N4[i], size)
        if matrix is not None:
            inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
            out[i] = (to_unit @ inverse @ to_pixel)[:2]
    return torch.from_numpy(out)


def reach(targets_NK: F32, config: AugmentConfig) -> Tensor:
    """Return how far each picture is changed, (N,) float32 from 1 to 1 + ``config.rare``."""
    mass = np.maximum(targets_NK.sum(axis=0), 1.0)
    log = np.log(mass / mass.max())
    rarity = log / min(float(log.min()), -1e-9)
    return torch.from_numpy((1.0 + config.rare * rarity[targets_NK.argmax(axis=1)]).astype("f4"))


def pair_weights(targets_NK: F32, config: AugmentConfig) -> Tensor:
    """Return how readily each picture is taken as the second of a pair, (N,) float32."""
    per_class = np.maximum(targets_NK.sum(axis=0), 1.0) ** -config.minority
    return torch.from_numpy((targets_NK @ per_class).astype("f4"))


def augment(
    pixels_BHW: Tensor,
    framing_B23: Tensor,
    config: AugmentConfig,
    random: torch.Generator,
    far_B: Tensor | None = None,
) -> Tensor:
    """Change a batch as a camera, a detector and a person's pose would.

    Args:
        pixels_BHW: uint8.
        framing_B23: rows of ``framings``.
        config: how far.
        random: the only source of randomness.
        far_B: factor of widths and probabilities, rows of ``reach``; None: 1.

    Returns:
        float32 (B, 1, H, W) in 0..1.
    """
    far = torch.ones(len(pixels_BHW)) if far_B is None else far_B
    x = _warp(pixels_BHW[:, None].float() / 255.0, framing_B23, config, random, far)
    x = _tone(x, config, random, far)
    x = _soften(x, config, random, far)
    x = _noise(x, config, random, far)
    x = _jpeg(x, config, random, far)
    return _erase(x, config.erase * far, random)


def mix(
    x_B1HW: Tensor,
    targets_BK: Tensor,
    config: AugmentConfig,
    random: torch.Generator,
    weight_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Blend each face and its target with another of the batch (mixup, or CutMix at random).

    Args:
        x_B1HW: faces.
        targets_BK: their target distributions.
        config: how.
        random: the only source of randomness.
        weight_B: rows of ``pair_weights``, by which the others are drawn when
            ``config.minority`` is set; None: any.
    """
    if config.mixup == 0.0:
        return x_B1HW, targets_BK
    b, _, height, width = x_B1HW.shape
    share = _beta(config.mixup, b, random)
    if weight_B is None or config.minority == 0.0:
        order = torch.randperm(b, generator=random)
    else:
        order = torch.multinomial(weight_B, b, replacement=True, generator=random)
    mask = share[:, None, None, None].expand_as(x_B1HW)
    if config.cutmix > 0.0:
        cut = _rectangles(b, height, width, 1.0 - share, random)
        chosen = _chance(b, config.cutmix, random)[:, None, None, None]
        mask = torch.where(chosen, 1.0 - cut.float(), mask)
        share = mask.mean(dim=(1, 2, 3))
    x = mask * x_B1HW + (1.0 - mask) * x_B1HW[order]
    return x, share[:, None] * targets_BK + (1.0 - share[:, None]) * targets_BK[order]


def _uniform(n: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return torch.rand(n, generator=random) * (high - low) + low


def _chance(n: int, p: float | Tensor, random: torch.Generator) -> Tensor:
    return torch.rand(n, generator=random) < p


def _beta(alpha: float, n: int, random: torch.Generator) -> Tensor:
    """Draw Beta(alpha, alpha) by Jöhnk's rejection, which needs uniform numbers alone."""
    out = torch.ones(n)
    todo = torch.ones(n, dtype=torch.bool)
    while bool(todo.any()):
        m = int(todo.sum())
        x = torch.rand(m, generator=random).pow(1.0 / alpha)
        y = torch.rand(m, generator=random).pow(1.0 / alpha)
        good = (x + y <= 1.0) & (x + y > 0.0)
        where = todo.nonzero()[:, 0][good]
        out[where] = (x / (x + y))[good]
        todo[where] = False
    return torch.maximum(out, 1.0 - out)


def _warp(
    x: Tensor, framing_B23: Tensor, config: AugmentConfig, random: torch.Generator, far: Tensor
) -> Tensor:
    b = x.shape[0]
    identity = torch.eye(2, 3).expand(b, 2, 3)
    base = torch.where(_chance(b, config.recut, random)[:, None, None], framing_B23, identity)
    angle = torch.deg2rad(far * _uniform(b, -config.rotate_deg, config.rotate_deg, random))
    scale = torch.exp(far * _uniform(b, -config.zoom, config.zoom, random))
    mirror = torch.where(_chance(b, config.flip, random), -1.0, 1.0)
    shift = torch.stack([_uniform(b, -config.shift, config.shift, random) for _ in range(2)], 1)
    jitter = torch.zeros(b, 3, 3)
    jitter[:, 0, 0] = mirror * scale * torch.cos(angle)
    jitter[:, 0, 1] = -scale * torch.sin(angle)
    jitter[:, 1, 0] = mirror * scale * torch.sin(angle)
    jitter[:, 1, 1] = scale * torch.cos(angle)
    jitter[:, :2, 2] = 2.0 * far[:, None] * shift  # the side is 2 units long
    jitter[:, 2, 2] = 1.0
    grid = F.affine_grid(base @ jitter, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _tone(x: Tensor, config: AugmentConfig, random: torch.Generator, far: Tensor) -> Tensor:
    b = x.shape[0]
    gamma = torch.exp2(far * _uniform(b, -config.gamma, config.gamma, random))
    x = x.clamp(min=1e-4) ** gamma[:, None, None, None]
    dim = _uniform(b, _LIGHT, 0.7, random)
    dim = torch.where(_chance(b, config.light * far, random), dim, torch.ones(b))
    return x * dim[:, None, None, None]


def _soften(x: Tensor, config: AugmentConfig, random: torch.Generator, far: Tensor) -> Tensor:
    blur = _chance(x.shape[0], config.blur * far, random).nonzero()[:, 0]
    if len(blur):
        sigma = _uniform(len(blur), *_BLUR_PX, random)
        place = torch.arange(-3.0, 4.0)
        line = torch.exp(-0.5 * (place[None] / sigma[:, None]) ** 2)
        line = line / line.sum(dim=1, keepdim=True)
        rows = F.pad(x[blur, 0][None], (3, 3, 3, 3), mode="replicate")
        rows = F.conv2d(rows, line[:, None, :, None], groups=len(blur))
        x[blur, 0] = F.conv2d(rows, line[:, None, None, :], groups=len(blur))[0]
    small = _chance(x.shape[0], config.small * far, random).nonzero()[:, 0]
    if len(small):
        # One size for the faces of a batch that get it: resizing each alone would cost more.
        side = int(torch.randint(*_SMALL_PX, (1,), generator=random))
        shrunk = F.interpolate(x[small], (side, side), mode="area")
        x[small] = F.interpolate(shrunk, x.shape[-2:], mode="bilinear", align_corners=False)
    return x


def _noise(x: Tensor, config: AugmentConfig, random: torch.Generator, far: Tensor) -> Tensor:
    rows = _chance(x.shape[0], config.noise * far, random).nonzero()[:, 0]
    if len(rows):
        level = _uniform(len(rows), 0.0, _NOISE, random)[:, None, None, None]
        x[rows] += level * torch.randn(x[rows].shape, generator=random)
    return x.clamp(0.0, 1.0)


def _jpeg(x: Tensor, config: AugmentConfig, random: torch.Generator, far: Tensor) -> Tensor:
    for row in _chance(x.shape[0], config.jpeg * far, random).nonzero()[:, 0].tolist():
        quality = int(torch.randint(*_JPEG, (1,), generator=random))
        picture = (x[row, 0] * 255.0).round().to(torch.uint8).numpy()
        _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded: F32 = np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.float32)
        x[row, 0] = torch.from_numpy(decoded) / 255.0
    return x


def _erase(x: Tensor, p: Tensor, random: torch.Generator) -> Tensor:
    b, _, height, width = x.shape
    chosen = _chance(b, p, random)
    area = _uniform(b, *_ERASE, random)
    mask = _rectangles(b, height, width, area, random) & chosen[:, None, None, None]
    grey = torch.rand(b, 1, 1, 1, generator=random)
    return torch.where(mask, grey, x)


def _rectangles(b: int, height: int, width: int, area: Tensor, random: torch.Generator) -> Tensor:
    """Return bool masks (B, 1, H, W) of rectangles that cover about ``area`` of the picture."""
    ratio = torch.exp(_uniform(b, -0.7, 0.7, random))  # sides of 1:2 to 2:1
    h = (area * ratio).sqrt().clamp(max=1.0) * height
    w = (area / ratio).sqrt().clamp(max=1.0) * width
    y0 = torch.rand(b, generator=random) * (height - h)
    x0 = torch.rand(b, generator=random) * (width - w)
    ys, xs = torch.arange(height)[None], torch.arange(width)[None]
    in_y = (ys >= y0[:, None]) & (ys < (y0 + h)[:, None])
    in_x = (xs >= x0[:, None]) & (xs < (x0 + w)[:, None])
    return (in_y[:, :, None] & in_x[:, None, :])[:, None]
