"""The face network: 48 x 48 grey pixels to features and logits.

A residual net of plain 3 x 3 convolutions with squeeze-and-excitation, small enough for a core of
an ordinary CPU. Each crop is standardised inside the graph, so that light and contrast of a camera
matter little. Every part that the theory names can be exchanged by ``ModelConfig``.

Legend: B batch, C channels, H W pixels, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamer.errors import ConfigError
from training.rest import Rest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ACTIVATIONS",
    "FaceNet",
    "ModelConfig",
    "channels_last",
    "count_macs",
    "count_parameters",
]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of the network.

    Attributes:
        size_px: side of the crop.
        stem: channels of the first convolution, at full resolution.
        widths: channels of each stage; every stage halves the resolution.
        depths: blocks of each stage.
        features: D, the length of the vector the temporal head reads.
        classes: K.
        kernel: side of the convolutions inside the blocks, odd.
        dilation: of the second convolution of a block.
        block: "plain" (two 3 x 3) or "depthwise" (separable, MobileNet).
        down: how a stage halves: "stride", "max" or "blur" (Zhang 2019, arXiv 1904.11486).
        skip: residual connections (He 2015, arXiv 1512.03385); off only to show what they do.
        squeeze: reduction of squeeze-and-excitation (Hu 2017, arXiv 1709.01507); 0: none.
        activation: a key of ``ACTIVATIONS``.
        flatten: the way to one vector: "mean", "max", "mean_max", "plain" or "depthwise"
            (a global depthwise convolution, Chen 2018, arXiv 1804.07573).
        dropout: probability before the classifier.
        drop_path: probability of leaving out the last block's residual branch; earlier blocks
            less, linearly (Huang 2016, arXiv 1603.09382).
        rest: share of firing from which a channel is silenced for a while; 0: never.
    """

    size_px: int = 48
    stem: int = 24
    widths: tuple[int, ...] = (48, 96, 160)
    depths: tuple[int, ...] = (1, 2, 2)
    features: int = 128
    classes: int = 8
    kernel: int = 3
    dilation: int = 1
    block: str = "plain"
    down: str = "stride"
    skip: bool = True
    squeeze: int = 8
    activation: str = "relu"
    flatten: str = "mean"
    dropout: float = 0.2
    drop_path: float = 0.05
    rest: float = 0.0


class Standardise(nn.Module):
    """Subtract each crop's mean and divide by its deviation."""

    _FLOOR = 0.02
    """Added to the deviation: 5 grey levels of 255, so that sensor noise of a flat, dark crop is
    not blown up to full contrast."""

    def forward(self, x_B1HW: Tensor) -> Tensor:
        """Return a batch whose rows have mean zero and a deviation of about one."""
        centred = x_B1HW - x_B1HW.mean(dim=(2, 3), keepdim=True)
        deviation = (centred * centred).mean(dim=(2, 3), keepdim=True).sqrt()
        return centred / (deviation + self._FLOOR)


class Squeeze(nn.Module):
    """Squeeze-and-excitation: weigh the channels by what the whole picture shows."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, max(8, channels // reduction))
        self.expand = nn.Linear(self.reduce.out_features, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Scale each channel by a factor in 0..1."""
        weight_BC = self.expand(F.relu(self.reduce(x_BCHW.mean(dim=(2, 3)))))
        return x_BCHW * torch.sigmoid(weight_BC)[:, :, None, None]


class Blur(nn.Module):
    """Halve the resolution behind a small binomial filter, without aliasing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0])
        kernel = (line[:, None] * line[None, :] / 16.0).expand(channels, 1, 3, 3)
        self.register_buffer("kernel", kernel.contiguous(), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, C, H/2, W/2)."""
        kernel = self.get_buffer("kernel").to(x_BCHW.dtype)
        return F.conv2d(x_BCHW, kernel, stride=2, padding=1, groups=x_BCHW.shape[1])


class DropPath(nn.Module):
    """Leave out the whole branch for some rows while training; the others grow to make up."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the branch, with rows zeroed at random in training only."""
        if not self.training or self.p == 0.0:
            return x_BCHW
        keep = torch.rand(x_BCHW.shape[0], 1, 1, 1, device=x_BCHW.device) >= self.p
        return x_BCHW * keep.to(x_BCHW.dtype) / (1.0 - self.p)


def _convolution(
    config: ModelConfig, c_in: int, c_out: int, stride: int, dilation: int
) -> nn.Module:
    pad = dilation * (config.kernel // 2)
    if config.block == "depthwise":
        return nn.Sequential(
            nn.Conv2d(
                c_in, c_in, config.kernel, stride, pad, dilation=dilation, groups=c_in, bias=False
            ),
            nn.BatchNorm2d(c_in),
            ACTIVATIONS[config.activation](),
            nn.Conv2d(c_in, c_out, 1, bias=False),
        )
    return nn.Conv2d(c_in, c_out, config.kernel, stride, pad, dilation=dilation, bias=False)


class Block(nn.Module):
    """Two convolutions, squeeze-and-excitation and a residual connection."""

    def __init__(
        self, config: ModelConfig, c_in: int, c_out: int, *, halve: bool, p: float
    ) -> None:
        super().__init__()
        stride = 2 if halve and config.down == "stride" else 1
        self.conv1 = _convolution(config, c_in, c_out, stride, 1)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.act1 = ACTIVATIONS[config.activation]()
        self.down = _halver(config, c_out) if halve else nn.Identity()
        self.conv2 = _convolution(config, c_out, c_out, 1, config.dilation)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.squeeze = Squeeze(c_out, config.squeeze) if config.squeeze else nn.Identity()
        self.drop = DropPath(p)
        self.skip = _skip(c_in, c_out, halve=halve) if config.skip else None
        self.act2 = ACTIVATIONS[config.activation]()
        self.rest = Rest(c_out, ceiling=config.rest) if config.rest else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, c_out, H, W), at half the size where the block halves."""
        y = self.down(self.act1(self.norm1(self.conv1(x_BCHW))))
        y = self.drop(self.squeeze(self.norm2(self.conv2(y))))
        if self.skip is not None:
            y = y + self.skip(x_BCHW)
        out: Tensor = self.rest(self.act2(y))
        return out


def _halver(config: ModelConfig, channels: int) -> nn.Module:
    if config.down == "stride":
        return nn.Identity()  # the convolution before it has halved
    return nn.MaxPool2d(2) if config.down == "max" else Blur(channels)


def _skip(c_in: int, c_out: int, *, halve: bool) -> nn.Module:
    if not halve and c_in == c_out:
        return nn.Identity()
    pool: nn.Module = nn.AvgPool2d(2) if halve else nn.Identity()
    # Average, then project: a strided 1 x 1 would throw three quarters away (He 2018, 1812.01187).
    return nn.Sequential(pool, nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))


class Flatten(nn.Module):
    """From a map to one vector, in one of five ways."""

    def __init__(self, kind: str, channels: int, side: int) -> None:
        super().__init__()
        self.kind = kind
        self.width = {"mean_max": 2 * channels, "plain": channels * side * side}.get(kind, channels)
        self.conv = (
            nn.Conv2d(channels, channels, side, groups=channels) if kind == "depthwise" else None
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, width)."""
        if self.conv is not None:
            return self.conv(x_BCHW).flatten(1)  # type: ignore[no-any-return]
        if self.kind == "plain":
            return x_BCHW.flatten(1)
        mean, top = x_BCHW.mean(dim=(2, 3)), x_BCHW.amax(dim=(2, 3))
        return {"mean": mean, "max": top}.get(self.kind, torch.cat([mean, top], dim=1))


class FaceNet(nn.Module):
    """The network of a bundle's ``features.onnx``, before its temperature."""

    def __init__(self, config: ModelConfig) -> None:
        """Build with fresh weights; the caller seeds torch.

        Raises:
            ConfigError: when an option is not one of those listed in ``ModelConfig``.
        """
        super().__init__()
        _check(config)
        self.config = config
        self.standardise = Standardise()
        self.stem = nn.Sequential(
            nn.Conv2d(1, config.stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.stem),
            ACTIVATIONS[config.activation](),
        )
        blocks: list[nn.Module] = []
        c_in, total = config.stem, sum(config.depths)
        for width, depth in zip(config.widths, config.depths, strict=True):
            for i in range(depth):
                p = config.drop_path * (len(blocks) + 1) / total
                blocks.append(Block(config, c_in, width, halve=i == 0, p=p))
                c_in = width
        self.blocks = nn.Sequential(*blocks)
        side = config.size_px // 2 ** len(config.widths)
        self.flatten = Flatten(config.flatten, c_in, side)
        self.neck = nn.Sequential(
            nn.Linear(self.flatten.width, config.features, bias=False),
            nn.BatchNorm1d(config.features),
            nn.SiLU(),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.features, config.classes)

    def maps(self, faces_B1HW: Tensor) -> Tensor:
        """Return the last maps, (B, C, h, w), before they become a vector."""
        out: Tensor = self.blocks(self.stem(self.standardise(faces_B1HW)))
        return out

    def forward(self, faces_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Read faces.

        Args:
            faces_B1HW: pixels divided by 255, float32.

        Returns:
            features_BD: float32; what the temporal head reads.
            logits_BK: float32, not yet divided by the temperature.
        """
        features = self.neck(self.flatten(self.maps(faces_B1HW)))
        return features, self.classifier(self.dropout(features))


def channels_last(model: FaceNet) -> FaceNet:
    """Store the kernels channels-last, in place: on a CPU an epoch then takes 0.7 of the time."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return model


def _check(config: ModelConfig) -> None:
    for name, allowed in (
        ("activation", tuple(ACTIVATIONS)),
        ("block", ("plain", "depthwise")),
        ("down", ("stride", "max", "blur")),
        ("flatten", ("mean", "max", "mean_max", "plain", "depthwise")),
    ):
        if getattr(config, name) not in allowed:
            got = getattr(config, name)
            raise ConfigError(f"model.{name} is {got!r}; choose one of {', '.join(allowed)}")
    if config.size_px % 2 ** len(config.widths) or len(config.widths) != len(config.depths):
        raise ConfigError(
            f"model: {config.size_px} px cannot be halved {len(config.widths)} times with "
            f"{len(config.depths)} depths; give as many depths as widths, and a side that divides"
        )


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: FaceNet) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one face."""
    total = 0

    def add(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += out[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    hooks = [
        m.register_forward_hook(add)
        for m in model.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    was_training, side = model.training, model.config.size_px
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, side, side))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return total
