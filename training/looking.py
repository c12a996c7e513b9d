"""Where a network looks: the places of a face that speak for the class it names.

Legend: N faces, K classes, C channels, H W pixels, h w places of the last maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from training.data.cache import recut
from training.data.faces import CLASSES
from training.data.labels import majority
from training.report import Section, figure_svg

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.types import F32, U8
    from training.data.faces import FaceSet
    from training.model import FaceNet

__all__ = ["Sheet", "grad_cam", "looking_section", "sheet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Some faces of each class, and where the network looked.

    Attributes:
        crops_NHW: faces as the daemon cuts them, uint8.
        heat_NHW: 0..1, how much each place speaks for the class that was named, float32.
        labels_N, guesses_N: true and named class.
        confidence_N: probability of the named class.
    """

    crops_NHW: U8
    heat_NHW: F32
    labels_N: NDArray[np.int64]
    guesses_N: NDArray[np.int64]
    confidence_N: F32


def grad_cam(net: FaceNet, crops_NHW: U8, classes_N: NDArray[np.int64] | None = None) -> F32:
    """Weigh the last maps by the gradient of one logit, and keep what speaks for it.

    Args:
        net: any network; put into evaluation mode.
        crops_NHW: faces, uint8.
        classes_N: of which class; None: the one each face is taken for.

    Returns:
        heat_NHW: float32 at the size of the faces, each scaled to a largest value of 1; all zeros
        where nothing speaks for the class.

    Source: Selvaraju et al. 2016, "Grad-CAM", arXiv 1610.02391.
    """
    x = torch.from_numpy(crops_NHW)[:, None].float() / 255.0
    net.eval()
    with torch.enable_grad():
        maps_NChw = net.maps(x).detach().requires_grad_()
        _, logits_NK = net.read(maps_NChw)
        wanted = logits_NK.argmax(dim=1) if classes_N is None else torch.from_numpy(classes_N)
        chosen = logits_NK.gather(1, wanted[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, maps_NChw)
    weight_NC = gradient.mean(dim=(2, 3))
    heat = torch.einsum("nc,nchw->nhw", weight_NC, maps_NChw.detach()).clamp(min=0.0)
    heat = F.interpolate(heat[:, None], crops_NHW.shape[1:], mode="bicubic")[:, 0].clamp(min=0.0)
    return np.asarray(heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9), np.float32)


def sheet(net: FaceNet, faces: FaceSet, each: int = 4) -> Sheet:
    """Choose clearly labelled faces of each class, right ones and, where there are any, wrong ones.

    Args:
        net: any network.
        faces: any set; the first suitable ones are taken, so that the sheet is always the same.
        each: how many a class, half of them wrong where there are enough.
    """
    labels, clear = majority(faces)
    kept = faces.rows(clear)
    labels = labels[clear]
    crops = recut(kept)[0]
    with torch.no_grad():
        logits = [
            net.eval()(torch.from_numpy(part)[:, None].float() / 255.0)[1]
            for part in np.array_split(crops, max(1, len(crops) // 256))
        ]
    p_NK = torch.cat(logits).softmax(dim=1).numpy()
    guesses = p_NK.argmax(axis=1)
    rows: list[int] = []
    for k in range(len(CLASSES)):
        wrong = np.flatnonzero((labels == k) & (guesses != k))[: each // 2]
        right = np.flatnonzero((labels == k) & (guesses == k))[: each - len(wrong)]
        rows += [*right.tolist(), *wrong.tolist()]
    some = np.array(rows, np.int64)
    return Sheet(
        crops_NHW=crops[some],
        heat_NHW=grad_cam(net, crops[some]),
        labels_N=labels[some],
        guesses_N=guesses[some].astype(np.int64),
        confidence_N=p_NK[some].max(axis=1),
    )


def looking_section(found: Sheet) -> Section:
    """Return the section with a row of faces a class; wrong ones have a red title."""
    present = np.unique(found.labels_N)
    columns = max(1, int(max((found.labels_N == k).sum() for k in present)))
    figure = Figure(figsize=(2.3 * columns, 1.5 * len(present)))
    grid = figure.subplots(len(present), 2 * columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for line, k in zip(grid, present, strict=True):
        for place, row in enumerate(np.flatnonzero(found.labels_N == k)):
            face, over = line[2 * place], line[2 * place + 1]
            face.imshow(found.crops_NHW[row], cmap="gray", vmin=0, vmax=255)
            over.imshow(found.crops_NHW[row], cmap="gray", vmin=0, vmax=255)
            over.imshow(found.heat_NHW[row], cmap="inferno", vmin=0, vmax=1, alpha=0.55)
            said = CLASSES[found.guesses_N[row]]
            colour = "#1b1f24" if found.guesses_N[row] == k else "#b42318"
            face.set_title(CLASSES[k], fontsize=7)
            percent = 100 * found.confidence_N[row]
            over.set_title(f"{said} {percent:.0f} %", fontsize=7, color=colour)
    text = (
        "Each face beside the places that speak for the class it is taken for (Grad-CAM); the "
        "title is what it is and what was said, in red where that is wrong. The network is read as "
        "trained: without the prior and the temperature of a bundle."
    )
    plot = ("Validation faces as the daemon cuts them", figure_svg(figure))
    return Section(title="Where it looks", text=text, plots=[plot])
