"""What a quick model learns from a set: whether more pictures would help, which labels to doubt.

The model is no network but one that learns within seconds on one core: gradients' directions in
cells (HOG), and a logistic regression on a random-feature kernel over them. It is far weaker than a
network, so its curve and its doubts are leads; it has seen no picture that it judges.

Legend: N faces, H W pixels, K classes, P points of the curve.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.optimize import curve_fit
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from training.data.faces import CLASSES
from training.data.labels import majority
from training.data.splits import folds

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.pipeline import Pipeline

    from streamer.types import F32, I64
    from training.data.faces import FaceSet

__all__ = ["FOLDS", "Doubts", "LearningCurve", "curve", "describe", "doubts", "law", "sample"]

_SIDE = 48
FOLDS = 4
"""Parts that groups are dealt to; fewer groups than that cannot be held out."""
_SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)
_REPEATS = 3
_COMPONENTS = 400  # of the kernel; more gains little on 6,000 pictures and costs its square
_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """How the quick model's error falls with the number of pictures it learns from.

    Attributes:
        sizes: P, pictures learned from.
        errors: P, mean share of held-out pictures read wrong.
        deviations: P, over the repetitions.
        exponent: c of error = a + b n^-c fitted to it; 0: it could not be fitted.
        doubled: the error that the fit expects with twice the pictures; NaN likewise.
    """

    sizes: list[int]
    errors: list[float]
    deviations: list[float]
    exponent: float
    doubled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """Labels that the quick model and the rest of the set speak against.

    Attributes:
        judged: pictures looked at.
        doubted: how many labels are probably wrong.
        share: of each class's labels that are doubted.
        worst: name, given label and suggested label of the most doubtful ones.
    """

    judged: int
    doubted: int
    share: dict[str, float]
    worst: list[tuple[str, str, str]]


def sample(faces: FaceSet, count: int, seed: int = 0) -> tuple[FaceSet, I64]:
    """Draw faces that most people agree on, of classes with enough of them for every fold.

    Returns:
        The faces, not more than ``count``, and their labels.
    """
    labels, clear = majority(faces)
    clear &= ~faces.leak_N
    each = np.bincount(labels[clear], minlength=len(CLASSES))
    clear &= each[labels] >= 2 * FOLDS
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(clear))[:count]
    return faces.rows(rows), labels[rows]


def describe(faces: FaceSet) -> F32:
    """Return the directions of gradients in cells of 8 pixels, (N, 900)."""
    hog = cv2.HOGDescriptor((_SIDE, _SIDE), (16, 16), (8, 8), (8, 8), 9)
    side = (_SIDE, _SIDE)
    scaled = (cv2.resize(i, side, interpolation=cv2.INTER_AREA) for i in faces.images_NHW)
    return np.stack([np.asarray(hog.compute(image)).ravel() for image in scaled])


def curve(features_ND: F32, labels_N: I64, groups_N: NDArray[np.str_]) -> LearningCurve:
    """Learn from growing shares of a set and fit how the error falls.

    Args:
        features_ND: of ``describe``.
        labels_N: class indices.
        groups_N: what must not be both learned from and judged.

    Source of the law: Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically",
    arXiv 1712.00409.
    """
    sizes, errors = [], []
    for repeat in range(_REPEATS):
        learn, held = next(folds(groups_N, FOLDS, repeat))
        order = np.random.default_rng(repeat).permutation(learn)
        for share in _SHARES:
            rows = order[: max(2 * FOLDS, round(share * len(order)))]
            model = _fitted(features_ND[rows], labels_N[rows])
            wrong = model.predict(features_ND[held]) != labels_N[held]
            sizes.append(round(share * len(order)))
            errors.append(float(wrong.mean()))
    table = np.array(errors).reshape(_REPEATS, -1)
    mean = table.mean(axis=0)
    at = np.array(sizes).reshape(_REPEATS, -1).mean(axis=0)
    exponent, doubled = law(at, mean)
    return LearningCurve(
        sizes=[round(v) for v in at],
        errors=[float(v) for v in mean],
        deviations=[float(v) for v in table.std(axis=0)],
        exponent=exponent,
        doubled=doubled,
    )


def doubts(
    features_ND: F32, labels_N: I64, groups_N: NDArray[np.str_], names_N: NDArray[np.str_]
) -> Doubts:
    """Find labels that are probably wrong, by confident learning on out-of-fold predictions.

    Source: Northcutt et al. 2021, "Confident Learning", arXiv 1911.00068; the library cleanlab.
    """
    from cleanlab.filter import find_label_issues  # noqa: PLC0415 - pandas takes a second to load

    kinds, dense = np.unique(labels_N, return_inverse=True)
    said = np.zeros((len(labels_N), len(kinds)))
    for learn, held in folds(groups_N, FOLDS, 0):
        model = _fitted(features_ND[learn], dense[learn])
        said[held[:, None], model.classes_[None]] = model.predict_proba(features_ND[held])
    ranked = find_label_issues(
        dense, said, return_indices_ranked_by="self_confidence", n_jobs=1
    ).astype(np.int64)
    doubted = np.bincount(dense[ranked], minlength=len(kinds)) / np.bincount(dense)
    of = [CLASSES[k] for k in kinds]
    return Doubts(
        judged=len(labels_N),
        doubted=len(ranked),
        share={name: float(v) for name, v in zip(of, doubted, strict=True)},
        worst=[(str(names_N[i]), of[dense[i]], of[int(said[i].argmax())]) for i in ranked[:_SHOWN]],
    )


def _fitted(features_ND: F32, labels_N: I64) -> Pipeline:
    parts = min(100, len(features_ND) - 1, features_ND.shape[1])
    kernel = Nystroem(n_components=min(_COMPONENTS, len(features_ND)), gamma=0.5, random_state=0)
    last = LogisticRegression(C=3.0, max_iter=150)
    model = make_pipeline(PCA(parts, svd_solver="covariance_eigh"), kernel, last)
    # One thread: several that wait for one another by spinning are slower on a busy machine.
    with threadpool_limits(1), warnings.catch_warnings():
        # A few steps more or less do not matter to a lead.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features_ND, labels_N)
    return model


def law(sizes_P: NDArray[np.float64], errors_P: NDArray[np.float64]) -> tuple[float, float]:
    """Fit error = a + b (n / n_last)^-c; return c and the error at twice the last size."""
    last = sizes_P[-1]

    def power(n: NDArray[np.float64], a: float, b: float, c: float) -> NDArray[np.float64]:
        return np.asarray(a + b * (n / last) ** -c, np.float64)

    try:
        found, _ = curve_fit(
            power, sizes_P, errors_P, p0=(0.1, errors_P[-1], 0.3), bounds=(0.0, (1.0, 1.0, 2.0))
        )
    except (RuntimeError, ValueError):
        return 0.0, float("nan")
    return float(found[2]), float(power(np.array([2.0 * last]), *found)[0])
