"""Losses on target distributions; every one takes logits and returns one number.

Legend: B batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamer.errors import ConfigError

__all__ = ["Loss", "LossConfig", "class_weights", "inconsistency"]

_KINDS = ("cross_entropy", "binary", "focal", "asymmetric")
_PICTURE = 0.5  # less than this of one picture in all is rounding
_MARGIN = 0.05  # of the asymmetric loss, as in its source


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """What is minimised.

    Attributes:
        kind: "cross_entropy" with probability targets; "binary", a yes or no for every class;
            "focal" (Lin 2017, arXiv 1708.02002); "asymmetric", binary with easy negatives
            discounted (Ridnik 2020, arXiv 2009.14119).
        smoothing: share of the target spread over all classes (Szegedy 2015, arXiv 1512.00567).
        adjust: tau of logit adjustment: tau * log prior is added to the logits in training, so
            that the bare logits are those of balanced classes (Menon 2020, arXiv 2007.07314).
        weights: "none", "inverse" or "effective" number of samples (Cui 2019, arXiv 1901.05555).
        weight_cap: largest ratio of a class weight to the smallest.
        gamma: of the focal loss, and of the negatives of the asymmetric one.
        l1: times the sum of absolute weights.
        consistency: weight of erasing attention consistency: a face and its mirror picture must be
            judged by mirrored places, which wrong labels cannot teach (Zhang 2022, arXiv
            2207.10299, which takes 5); nearly doubles the time; 0: off. Erasing itself is
            ``augment.erase``.
    """

    kind: str = "cross_entropy"
    smoothing: float = 0.0
    adjust: float = 1.0
    weights: str = "none"
    weight_cap: float = 4.0
    gamma: float = 2.0
    l1: float = 0.0
    consistency: float = 0.0


def class_weights(counts_K: Tensor, kind: str, cap: float) -> Tensor:
    """Return a weight for each class, with mean one over the classes.

    Args:
        counts_K: (soft) number of training pictures of each class.
        kind: as in ``LossConfig.weights``.
        cap: largest accepted ratio to the smallest weight.
    """
    if kind == "none":
        return torch.ones_like(counts_K)
    if kind == "inverse":
        weights = 1.0 / counts_K.clamp(min=1.0)
    elif kind == "effective":
        beta = 0.9999  # the source's value for sets of this size
        weights = (1.0 - beta) / (1.0 - beta ** counts_K.clamp(min=1.0))
    else:
        raise ConfigError(f"loss.weights is {kind!r}; choose none, inverse or effective")
    weights = (weights / weights.min()).clamp(max=cap)
    return weights / weights.mean()


def inconsistency(attention_BKHW: Tensor, mirrored_BKHW: Tensor) -> Tensor:
    """Return the mean squared difference of attention to faces and to their mirror pictures.

    Args:
        attention_BKHW: of the faces, float32.
        mirrored_BKHW: of the mirror pictures, not yet turned back.

    Source: Zhang et al. 2022, arXiv 2207.10299, equation 4.
    """
    return F.mse_loss(attention_BKHW, mirrored_BKHW.flip(3))


class Loss(nn.Module):
    """The loss of a configuration over a training set with the given class counts."""

    def __init__(self, config: LossConfig, counts_K: Tensor) -> None:
        """Prepare for classes of these (soft) counts, as the sampler draws them.

        Raises:
            ConfigError: when an option is not one of those listed.
        """
        super().__init__()
        if config.kind not in _KINDS:
            raise ConfigError(f"loss.kind is {config.kind!r}; choose one of {', '.join(_KINDS)}")
        self.config = config
        prior = (counts_K / counts_K.sum()).clamp(min=1e-6)
        # A class without a picture is not adjusted for: its logit would be left where it began,
        # and the balanced logits would name it.
        offset = torch.where(counts_K >= _PICTURE, config.adjust * prior.log(), 0.0)
        self.register_buffer("offset", offset)
        weights = class_weights(counts_K, config.weights, config.weight_cap)
        self.register_buffer("class_weights", weights)

    def forward(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            logits_BK: float32, balanced: without the prior.
            targets_BK: float32, rows sum to 1.
        """
        k = targets_BK.shape[1]
        smooth = self.config.smoothing
        targets = (1.0 - smooth) * targets_BK + smooth / k
        weights = self.get_buffer("class_weights")
        logits = logits_BK + self.get_buffer("offset")
        if self.config.kind == "binary":
            each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            return (each * weights).sum(dim=1).mean()
        if self.config.kind == "asymmetric":
            return (_asymmetric(logits, targets, self.config.gamma) * weights).sum(dim=1).mean()
        log_p = F.log_softmax(logits, dim=1)
        each = -targets * log_p * weights
        if self.config.kind == "focal":
            each = each * (1.0 - log_p.exp()) ** self.config.gamma
        return each.sum(dim=1).mean()

    def penalty(self, model: nn.Module) -> Tensor:
        """Return the L1 penalty on weights of convolutions and linear layers; zero when off."""
        if self.config.l1 == 0.0:
            return torch.zeros(())
        weights = [p.abs().sum() for p in model.parameters() if p.ndim > 1]
        return self.config.l1 * torch.stack(weights).sum()


def _asymmetric(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Return the loss of each class: probabilities of negatives under the margin cost nothing."""
    p = torch.sigmoid(logits)
    shifted = (p - _MARGIN).clamp(min=0.0)
    positive = targets * F.logsigmoid(logits)
    negative = (1.0 - targets) * shifted**gamma * torch.log1p(-shifted)
    return -(positive + negative)
