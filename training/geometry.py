"""A teacher that sees no pixel: it reads expressions from the shape of the face's mesh alone.

Pose and size are taken away by laying the parts of the head that no expression moves on their mean;
what is left, in its principal directions, goes into a small perceptron. Its opinion of a training
picture is that of a reader which has not seen it (out of fold), so that it teaches what shapes tell
and not what was learned by heart.

Legend: N faces, M points of the mesh, P principal directions, B batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from training.data.balance import BalanceConfig, draw_rates
from training.data.labels import targets
from training.data.splits import folds

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from streamer.types import F32, I64
    from training.data.faces import FaceSet
    from training.data.labels import LabelConfig
    from training.mesh import Mesh

__all__ = ["Geometry", "aligned", "read_geometry"]

_RIGID = (33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 10, 151, 9, 234, 454)
"""Points that expressions hardly move: corners of the eyes, ridge of the nose, forehead, ears."""
_DIRECTIONS = 200
"""They hold 99.9 % of what varies (measured on FER+)."""
_FOLDS = 5
_EPOCHS = 15
_LEAST_STEPS = 400
"""So that a few hundred faces are learned from, too."""
_BATCH = 256
_JITTER = 0.1
"""Deviation of the noise on inputs of deviation 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What the shapes of a training split tell.

    Attributes:
        logits_NK: float32, balanced: without the corpus' prior; zero where no mesh is known.
        known_N: bool, where one is.
        accuracy: share of the clear pictures that it names rightly, prior given back.
    """

    logits_NK: F32
    known_N: NDArray[np.bool_]
    accuracy: float


def aligned(points_NM3: F32, rounds: int = 3) -> F32:
    """Lay meshes on their mean by turning, moving and scaling them; see ``_RIGID``.

    Args:
        points_NM3: finite.
        rounds: the mean is that of the meshes as laid the round before.

    Source: Kabsch 1976, with Umeyama's scale 1991.
    """
    centred = points_NM3 - points_NM3[:, _RIGID].mean(axis=1, keepdims=True)
    size_N = np.sqrt((centred[:, _RIGID] ** 2).sum(axis=(1, 2)))
    laid = centred / size_N[:, None, None]
    mean = laid.mean(axis=0)
    for _ in range(rounds):
        laid = _laid_on(centred, mean)
        mean = laid.mean(axis=0)
        mean /= np.sqrt((mean[list(_RIGID)] ** 2).sum())
    return np.asarray(laid, np.float32)


def _laid_on(centred_NM3: F32, mean_M3: F32) -> F32:
    rigid = centred_NM3[:, _RIGID]
    u, s, v = np.linalg.svd(np.einsum("nij,ik->njk", rigid, mean_M3[list(_RIGID)]))
    sign = np.ones_like(s)
    sign[:, 2] = np.sign(np.linalg.det(u @ v))  # a turn, never a mirror
    scale_N = (s * sign).sum(axis=1) / (rigid**2).sum(axis=(1, 2))
    turn = (u * sign[:, None, :]) @ v
    return np.asarray(np.einsum("nij,njk->nik", centred_NM3, turn) * scale_N[:, None, None], "f4")


def read_geometry(
    mesh: Mesh,
    faces: FaceSet,
    labels: LabelConfig,
    *,
    seed: int = 0,
    tick: Callable[[float], None] = lambda _: None,
) -> Geometry:
    """Read the train split's meshes, each by a reader that learned from the others.

    Args:
        mesh: of ``faces``.
        faces: the whole set.
        labels: how votes become targets.
        seed: of weights and order.
        tick: told the share that is done.
    """
    in_train = faces.split_N == "train"
    part, points = faces.rows(in_train), mesh.points_NM3[in_train]
    wanted_NK, usable_N = targets(part, labels)
    known_N = np.isfinite(points).all(axis=(1, 2))
    inputs_NP = np.zeros((len(part), _DIRECTIONS), np.float32)
    inputs_NP[known_N] = _directions(aligned(points[known_N]).reshape(int(known_N.sum()), -1))
    rows = np.flatnonzero(known_N & usable_N)
    logits_NK = np.zeros_like(wanted_NK)
    for number, (learn, held) in enumerate(folds(part.group_N, _FOLDS, seed)):
        tick(number / _FOLDS)
        reader = _learn(inputs_NP, wanted_NK, np.intersect1d(rows, learn), seed * _FOLDS + number)
        with torch.no_grad():
            logits_NK[held] = reader(torch.from_numpy(inputs_NP[held])).numpy()
    logits_NK[~known_N] = 0.0
    clear = rows[wanted_NK[rows].max(axis=1) > 0.5]  # noqa: PLR2004 - over half of the votes
    prior_K = np.log(wanted_NK[rows].mean(axis=0) + 1e-9)
    right = (logits_NK[clear] + prior_K).argmax(axis=1) == wanted_NK[clear].argmax(axis=1)
    return Geometry(logits_NK=logits_NK, known_N=known_N, accuracy=float(right.mean()))


def _directions(flat_NX: F32) -> F32:
    """Return the coordinates along the principal directions, of deviation 1, (N, P)."""
    centred = (flat_NX - flat_NX.mean(axis=0)) / (flat_NX.std(axis=0) + 1e-6)
    _, turn = np.linalg.eigh(centred.T @ centred)
    along = centred @ turn[:, ::-1][:, :_DIRECTIONS]
    out = np.zeros((len(flat_NX), _DIRECTIONS), np.float32)
    out[:, : along.shape[1]] = np.clip(along / (along.std(axis=0) + 1e-6), -5.0, 5.0)
    return out


def _learn(inputs_NP: F32, wanted_NK: F32, rows: I64, seed: int) -> nn.Module:
    """Train one reader on some rows: classes drawn by the root of their size, logits adjusted."""
    classes = wanted_NK.shape[1]
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    rates = draw_rates(wanted_NK[rows], BalanceConfig())
    rates = rates / rates.sum()
    offset = torch.from_numpy(np.log((wanted_NK[rows] * rates[:, None]).sum(axis=0) + 1e-6))
    x, wanted = torch.from_numpy(inputs_NP), torch.from_numpy(wanted_NK)
    net = nn.Sequential(
        nn.Linear(_DIRECTIONS, 256),
        nn.GELU(),
        nn.Dropout(0.4),
        nn.Linear(256, 128),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.Linear(128, classes),
    )
    steps = max(_LEAST_STEPS, _EPOCHS * len(rows) // _BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(steps):
        b = torch.from_numpy(random.choice(rows, _BATCH, p=rates))
        z = net(x[b] + _JITTER * torch.randn(_BATCH, _DIRECTIONS)) + offset
        loss = F.cross_entropy(z.float(), wanted[b])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return net.eval()
