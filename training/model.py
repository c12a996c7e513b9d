"""The face network: 48 x 48 grey pixels to features and logits.

A residual net of plain 3 x 3 convolutions with squeeze-and-excitation, small enough for a core of
an ordinary CPU. Each crop is standardised inside the graph, so that light and contrast of a camera
matter little. Every part that the theory names can be exchanged by ``ModelConfig``.

Legend: B batch, C channels, H W pixels, D features, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from streamer.errors import ConfigError
from training.fuse import Branches
from training.rest import Rest

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.workers import Rows

__all__ = [
    "ACTIVATIONS",
    "FaceNet",
    "ModelConfig",
    "channels_last",
    "count_macs",
    "count_parameters",
    "place_rows",
]

_GROUPS = 8
"""Groups of a group normalisation, fewer where the channels do not divide."""
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
        stem: channels of the first convolution.
        stem_stride: 1 keeps the full resolution behind it, 2 halves it.
        widths: channels of each stage; every stage halves the resolution.
        depths: blocks of each stage.
        features: D, the length of the vector the temporal head reads.
        classes: K.
        kernel: side of the convolutions inside the blocks, odd.
        dilation: of the second convolution of a block.
        block: "plain" (two 3 x 3), "depthwise" (separable, Howard 2017, arXiv 1704.04861) or
            "branches" (trains as three branches, runs as one convolution; see ``fuse``).
        padding: what a convolution sees beyond the edge: "zeros", "replicate", "reflect".
        norm: "batch", or "group", which does not depend on the batch (Wu 2018, arXiv 1803.08494).
        standardise: subtract each crop's mean and divide by its deviation, inside the graph.
        down: how a stage halves: "stride", "max", "mean" or "blur" (Zhang 2019, arXiv 1904.11486).
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
    stem_stride: int = 1
    widths: tuple[int, ...] = (48, 96, 160)
    depths: tuple[int, ...] = (1, 2, 2)
    features: int = 128
    classes: int = 8
    kernel: int = 3
    dilation: int = 1
    block: str = "plain"
    padding: Literal["zeros", "replicate", "reflect"] = "zeros"
    norm: str = "batch"
    standardise: bool = True
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
        self.rows: Rows | None = None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the branch, with rows zeroed at random in training only."""
        if not self.training or self.p == 0.0:
            return x_BCHW
        first, total = _place(self.rows, x_BCHW.shape[0])
        keep = torch.rand(total, 1, 1, 1, device=x_BCHW.device)[first:][: x_BCHW.shape[0]] >= self.p
        return x_BCHW * keep.to(x_BCHW.dtype) / (1.0 - self.p)


class Dropout(nn.Module):
    """Zero single features at random in training; in several processes as in one."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.rows: Rows | None = None

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return the features, the kept ones grown to make up."""
        if self.rows is None or not self.training:
            return F.dropout(x_BD, self.p, self.training)
        first, total = _place(self.rows, x_BD.shape[0])
        mask = F.dropout(x_BD.new_ones(total, x_BD.shape[1]), self.p)
        return x_BD * mask[first:][: x_BD.shape[0]]


def place_rows(model: nn.Module, rows: Rows | None) -> None:
    """Tell the random masks of a network which rows of a whole batch it is about to see."""
    for module in model.modules():
        if isinstance(module, DropPath | Dropout):
            module.rows = rows


def _place(rows: Rows | None, here: int) -> tuple[int, int]:
    """Return the first row and the whole number of rows, where each picture may make several."""
    if rows is None:
        return 0, here
    each = here // (rows.stop - rows.start)
    return each * rows.start, each * rows.total


def _norm(config: ModelConfig, channels: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)


def _convolution(
    config: ModelConfig, c_in: int, c_out: int, stride: int, dilation: int
) -> nn.Module:
    pad, mode = dilation * (config.kernel // 2), config.padding
    if config.block == "branches":
        return Branches(
            c_in, c_out, config.kernel, stride=stride, dilation=dilation, padding_mode=mode
        )
    separable = config.block == "depthwise"
    across = nn.Conv2d(
        c_in,
        c_in if separable else c_out,
        config.kernel,
        stride,
        pad,
        dilation=dilation,
        groups=c_in if separable else 1,
        bias=False,
        padding_mode=mode,
    )
    if not separable:
        return across
    point = nn.Conv2d(c_in, c_out, 1, bias=False)
    return nn.Sequential(across, _norm(config, c_in), ACTIVATIONS[config.activation](), point)


class Block(nn.Module):
    """Two convolutions, squeeze-and-excitation and a residual connection."""

    def __init__(
        self, config: ModelConfig, c_in: int, c_out: int, *, halve: bool, p: float
    ) -> None:
        super().__init__()
        stride = 2 if halve and config.down == "stride" else 1
        folded = config.block == "branches"  # they are normalised inside
        self.conv1 = _convolution(config, c_in, c_out, stride, 1)
        self.norm1 = nn.Identity() if folded else _norm(config, c_out)
        self.act1 = ACTIVATIONS[config.activation]()
        self.down = _halver(config, c_out) if halve else nn.Identity()
        self.conv2 = _convolution(config, c_out, c_out, 1, config.dilation)
        self.norm2 = nn.Identity() if folded else _norm(config, c_out)
        self.squeeze = Squeeze(c_out, config.squeeze) if config.squeeze else nn.Identity()
        self.drop = DropPath(p)
        self.skip = _skip(config, c_in, c_out, halve=halve) if config.skip else None
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
    if config.down == "blur":
        return Blur(channels)
    return nn.MaxPool2d(2) if config.down == "max" else nn.AvgPool2d(2)


def _skip(config: ModelConfig, c_in: int, c_out: int, *, halve: bool) -> nn.Module:
    if not halve and c_in == c_out:
        return nn.Identity()
    pool: nn.Module = nn.AvgPool2d(2) if halve else nn.Identity()
    # Average, then project: a strided 1 x 1 would throw three quarters away (He 2018, 1812.01187).
    return nn.Sequential(pool, nn.Conv2d(c_in, c_out, 1, bias=False), _norm(config, c_out))


class Flatten(nn.Module):
    """From a map to one vector, in one of five ways."""

    def __init__(self, kind: str, channels: int, side: int) -> None:
        super().__init__()
        self.kind, self._side = kind, side
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

    def spread(self, weight_KF: Tensor) -> Tensor:
        """Return the weight of every place of the map, (K, C, h, w), from that of the vector."""
        side = self._side
        if self.kind == "plain":
            return weight_KF.reshape(len(weight_KF), -1, side, side)
        if self.conv is not None:
            return weight_KF[:, :, None, None] * self.conv.weight.detach()[:, 0]
        if self.kind == "mean_max":
            weight_KF = weight_KF.chunk(2, dim=1)[0] + weight_KF.chunk(2, dim=1)[1]
        return weight_KF[:, :, None, None].expand(-1, -1, side, side)


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
        self.standardise = Standardise() if config.standardise else nn.Identity()
        stride, mode = config.stem_stride, config.padding
        self.stem = nn.Sequential(
            nn.Conv2d(1, config.stem, 3, stride, padding=1, bias=False, padding_mode=mode),
            _norm(config, config.stem),
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
        d, side = config.features, config.size_px // config.stem_stride // 2 ** len(config.widths)
        self.flatten = Flatten(config.flatten, c_in, side)
        norm = nn.BatchNorm1d(d) if config.norm == "batch" else nn.LayerNorm(d)
        self.neck = nn.Sequential(nn.Linear(self.flatten.width, d, bias=False), norm, nn.SiLU())
        self.dropout = Dropout(config.dropout)
        self.classifier = nn.Linear(d, config.classes)

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
        return self.read(self.maps(faces_B1HW))

    def read(self, maps_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of maps, as ``forward`` does of faces."""
        features = self.neck(self.flatten(maps_BCHW))
        return features, self.classifier(self.dropout(features))

    def attention(self, maps_BCHW: Tensor) -> Tensor:
        """Return which places speak for which class, (B, K, h, w): class activation maps.

        The neck and the classifier are taken as one linear map, without the bend between them;
        their weights get no gradient from here, so that only the maps can answer for it.

        Source: Zhou et al. 2015, "Learning Deep Features for Discriminative Localization",
        arXiv 1512.04150.
        """
        norm, scale = self.neck[1], self.neck.get_parameter("1.weight").detach()
        if isinstance(norm, _BatchNorm):
            scale = scale / (norm.get_buffer("running_var") + norm.eps).sqrt()
        linear = self.neck.get_parameter("0.weight").detach()
        weight_KF = (self.classifier.weight.detach() * scale) @ linear
        return torch.einsum("kchw,bchw->bkhw", self.flatten.spread(weight_KF), maps_BCHW)


def channels_last(model: FaceNet) -> FaceNet:
    """Store the kernels channels-last, in place: on a CPU an epoch then takes 0.7 of the time."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return model


def _check(config: ModelConfig) -> None:
    for name, allowed in (
        ("activation", tuple(ACTIVATIONS)),
        ("block", ("plain", "depthwise", "branches")),
        ("padding", ("zeros", "replicate", "reflect")),
        ("norm", ("batch", "group")),
        ("down", ("stride", "max", "mean", "blur")),
        ("flatten", ("mean", "max", "mean_max", "plain", "depthwise")),
    ):
        if getattr(config, name) not in allowed:
            got = getattr(config, name)
            raise ConfigError(f"model.{name} is {got!r}; choose one of {', '.join(allowed)}")
    if config.block == "branches" and config.norm != "batch":
        raise ConfigError(
            'model.block "branches" folds batch normalisation away; set model.norm="batch" with it'
        )
    shrinks = config.stem_stride * 2 ** len(config.widths)
    if config.size_px % shrinks or len(config.widths) != len(config.depths):
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
