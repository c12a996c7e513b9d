"""Sequences for the temporal head, synthesised from stills, and the head's training on them.

A still becomes a short clip by slow random walks of its framing, light and sharpness, as a face
before a camera would move; a detector's jitter and single spoiled frames come on top. The clips
are read by the face network once; transitions between expressions are then blended in feature
space with blended labels, and frames are dropped.

Legend: N stills, B rows, T steps, H W pixels, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from training.augment import AugmentConfig, augment
from training.data.faces import CLASSES
from training.temporal import TemporalConfig, TemporalHead

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.model import FaceNet

__all__ = ["SequenceConfig", "blend", "fit_head", "read_clips", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceConfig:
    """How stills become sequences and the head learns from them.

    Attributes:
        head: shape and time of the head.
        steps: T of a clip.
        walk: deviation of one step of the random walks, as a share of the walk's range.
        jitter: share of the side by which a detector misses, from frame to frame.
        spoiled: probability that a frame is blurred, dark and noisy.
        change: probability that a sequence turns into another clip.
        ramp: longest transition, in steps; the shortest is one.
        from_neutral: probability that a sequence begins with a neutral clip.
        faint: smallest share of the new expression's features at the end of a transition from
            neutral; its label then counts in full. So the head learns to read a faint change from
            a face's own neutral, which a single frame cannot tell.
        dropped: probability that a step is skipped.
        real: share of a batch that real clips make up, where there are any.
        steady: weight of the squared change of probabilities between steps of equal target.
        epochs, batch, lr: of the head.
        seed: of everything.
    """

    head: TemporalConfig = field(default_factory=TemporalConfig)
    steps: int = 16
    walk: float = 0.25
    jitter: float = 0.012
    spoiled: float = 0.06
    change: float = 0.6
    ramp: int = 3
    from_neutral: float = 0.25
    faint: float = 0.1
    dropped: float = 0.1
    real: float = 0.25
    steady: float = 2.0
    epochs: int = 8
    batch: int = 128
    lr: float = 2e-3
    seed: int = 0


_NEUTRAL = CLASSES.index("neutral")
_SPOILED = AugmentConfig(
    recut=1.0, rotate_deg=20.0, zoom=0.3, shift=0.12, light=0.5, blur=0.6, small=0.5, noise=0.6
)
_RANGE = (0.14, 0.12, 0.05, 0.05, 0.5)
"""Half-widths of the walks: angle (rad), log scale, shift x and y (share of side), log2 gamma."""


def render(
    pixels_NHW: Tensor, framing_N23: Tensor, config: SequenceConfig, random: torch.Generator
) -> Tensor:
    """Turn stills into clips.

    Args:
        pixels_NHW: uint8.
        framing_N23: rows of ``augment.framings``: the daemon's crop of each.
        config: how they move.
        random: the only source of randomness.

    Returns:
        float32 (N, T, 1, H, W) in 0..1.
    """
    n, t = len(pixels_NHW), config.steps
    walk = torch.randn(n, t, 5, generator=random) * config.walk
    walk[:, 0] = torch.rand(n, 5, generator=random) * 2.0 - 1.0
    # Folded back at the ends of the range, so that the walk stays within it.
    place = (walk.cumsum(dim=1) + 1.0).remainder(4.0)
    place = torch.minimum(place, 4.0 - place) - 1.0
    angle, zoom, dx, dy, gamma = (place * torch.tensor(_RANGE)).unbind(dim=2)
    miss = torch.randn(n, t, 2, generator=random) * config.jitter
    scale = torch.exp(zoom + torch.randn(n, t, generator=random) * config.jitter)
    mirror = torch.where(torch.rand(n, 1, generator=random) < 0.5, -1.0, 1.0)  # noqa: PLR2004
    jitter = torch.zeros(n, t, 3, 3)
    jitter[..., 0, 0] = mirror * scale * torch.cos(angle)
    jitter[..., 0, 1] = -scale * torch.sin(angle)
    jitter[..., 1, 0] = mirror * scale * torch.sin(angle)
    jitter[..., 1, 1] = scale * torch.cos(angle)
    jitter[..., :2, 2] = 2.0 * (torch.stack([dx, dy], dim=2) + miss)
    jitter[..., 2, 2] = 1.0
    theta = (framing_N23[:, None] @ jitter).flatten(0, 1)
    x = (pixels_NHW.float() / 255.0).repeat_interleave(t, dim=0)[:, None]
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    x = x.clamp(min=1e-4) ** torch.exp2(gamma).reshape(-1, 1, 1, 1)
    rows = (torch.rand(n * t, generator=random) < config.spoiled).nonzero()[:, 0]
    if len(rows):
        still = rows // t
        x[rows] = augment(pixels_NHW[still], framing_N23[still], _SPOILED, random)
    return x.reshape(n, t, *x.shape[1:])


@torch.no_grad()
def read_clips(
    net: FaceNet,
    pixels_NHW: Tensor,
    framing_N23: Tensor,
    config: SequenceConfig,
    random: torch.Generator,
    *,
    at_once: int = 32,
) -> Tensor:
    """Render clips of all stills and read them with the face network.

    Returns:
        features (N, T, D), float32.
    """
    net.eval()
    out = []
    for start in range(0, len(pixels_NHW), at_once):
        rows = torch.arange(start, min(start + at_once, len(pixels_NHW)))
        clips = render(pixels_NHW[rows], framing_N23[rows], config, random)
        features, _ = net(clips.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        out.append(features.unflatten(0, clips.shape[:2]))
    return torch.cat(out)


def blend(
    features_NTD: Tensor,
    targets_NK: Tensor,
    rows_B: Tensor,
    config: SequenceConfig,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Make one batch of sequences from clips: hold, change, drop.

    Args:
        features_NTD: from ``read_clips``.
        targets_NK: of the stills.
        rows_B: the clips that the sequences begin with.
        config: how.
        random: the only source of randomness.

    Returns:
        features_BTD, targets_BTK.
    """
    b, t = len(rows_B), features_NTD.shape[1]
    calm = (targets_NK.argmax(dim=1) == _NEUTRAL).nonzero()[:, 0]
    if len(calm):
        chosen = calm[torch.randint(len(calm), (b,), generator=random)]
        begin = torch.rand(b, generator=random) < config.from_neutral
        rows_B = torch.where(begin, chosen, rows_B)
    strength_B = torch.rand(b, generator=random) * (1.0 - config.faint) + config.faint
    strength_B[targets_NK[rows_B].argmax(dim=1) != _NEUTRAL] = 1.0
    other_B = torch.randint(len(features_NTD), (b,), generator=random)
    start = torch.randint(1, t, (b, 1), generator=random).float()
    ramp = torch.randint(1, config.ramp + 1, (b, 1), generator=random).float()
    share_BT = ((torch.arange(t)[None] - start + 1.0) / ramp).clamp(0.0, 1.0)
    share_BT *= (torch.rand(b, 1, generator=random) < config.change).float()
    # A skipped step: the place in the clip runs ahead of the step, and stops at its end.
    skips = (torch.rand(b, t, generator=random) < config.dropped).long().cumsum(dim=1)
    place_BT = (torch.arange(t)[None] + skips).clamp(max=t - 1)
    share = share_BT.gather(1, place_BT)[..., None]
    first = features_NTD[rows_B[:, None], place_BT]
    second = features_NTD[other_B[:, None], place_BT]
    wanted = (1.0 - share) * targets_NK[rows_B][:, None] + share * targets_NK[other_B][:, None]
    seen = share * strength_B[:, None, None]
    return (1.0 - seen) * first + seen * second, wanted


def fit_head(
    net: FaceNet,
    features_NTD: Tensor,
    targets_NK: Tensor,
    config: SequenceConfig,
    *,
    real: tuple[Tensor, Tensor] | None = None,
    report: Callable[[int, float], None] = lambda *_: None,
) -> TemporalHead:
    """Train a head on clips.

    Args:
        net: the face network whose (calibrated) classifier the head keeps.
        features_NTD: its features of the clips.
        targets_NK: target distributions of the stills.
        config: how.
        real: features (M, T, D) and targets (M, T, K) of real clips that are learned from too.
        report: told the epoch and its loss.

    Returns:
        The head, in evaluation mode.
    """
    torch.manual_seed(config.seed)
    random = torch.Generator().manual_seed(config.seed)
    head = TemporalHead(config.head, net.classifier)
    if head.memory is None:
        return head.eval()
    weights = [p for p in head.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.01)
    batches = max(1, len(features_NTD) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * batches)
    for epoch in range(config.epochs):
        total = 0.0
        head.train()
        for rows in torch.randperm(len(features_NTD), generator=random).tensor_split(batches):
            x, wanted = blend(features_NTD, targets_NK, rows, config, random)
            if real is not None:
                drawn = torch.randint(
                    len(real[0]), (round(config.real * len(x)),), generator=random
                )
                x, wanted = torch.cat([x, real[0][drawn]]), torch.cat([wanted, real[1][drawn]])
            logits = head(x)
            loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(0, 1))
            loss = loss + config.steady * _unrest(logits, wanted)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        report(epoch, total / batches)
    return head.eval()


def _unrest(logits_BTK: Tensor, wanted_BTK: Tensor) -> Tensor:
    """Return the mean squared change of probabilities where the target does not change."""
    p = logits_BTK.softmax(dim=-1)
    moved = (p[:, 1:] - p[:, :-1]).square().sum(dim=-1)
    still = ((wanted_BTK[:, 1:] - wanted_BTK[:, :-1]).abs().sum(dim=-1) < 1e-6).float()  # noqa: PLR2004
    return (moved * still).sum() / still.sum().clamp(min=1.0)
