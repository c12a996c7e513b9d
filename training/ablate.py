"""What each technique of the theory is worth, measured: one change at a time, several seeds.

All variants of a seed share its pictures, its weights' seed and its order, so that differences are
paired. Every finished run is kept, so that an ablation can be stopped and gone on with at any time.

Legend: N faces, F framings.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import ConfigError
from training.means import read_by
from training.recipes import changed, to_plain
from training.train import best_share
from training.variants import ALONE, BASE, VARIANTS
from training.yardstick import VALID, Yardstick

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from training.data.faces import FaceSet
    from training.recipes import TrainConfig
    from training.variants import Variant

__all__ = ["Progress", "Run", "ablate", "quarter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished run.

    Attributes:
        variant, seed: which.
        guesses: what it said of each set, (F, N) class indices, at the share of the prior that
            validation chose.
        prior_share: that share.
        seconds: of training and reading, by the clock.
        cpu_s: the same by the processors' time, which other work on the machine does not stretch.
    """

    variant: str
    seed: int
    guesses: dict[str, NDArray[np.uint8]]
    prior_share: float
    seconds: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where an ablation stands after a run.

    Attributes:
        runs: all that are finished; the last one just now, or found finished.
        sets: what they read.
        total: how many there will be.
        left_s: seconds that the others will take, from the time of those made now; None before.
    """

    runs: list[Run]
    sets: dict[str, Yardstick]
    total: int
    left_s: float | None


def quarter(faces: FaceSet, share: float, seed: int) -> FaceSet:
    """Return the set with a share of every class of its train split, the other splits whole."""
    rng = np.random.default_rng(seed)
    keep = faces.split_N != "train"
    top = faces.votes_NK.argmax(axis=1)
    for k in np.unique(top[~keep]):
        rows = np.flatnonzero((faces.split_N == "train") & (top == k))
        keep[rng.permutation(rows)[: int(np.ceil(share * len(rows)))]] = True
    return faces.rows(keep)


def ablate(
    base: TrainConfig,
    faces: FaceSet,
    unseen: dict[str, FaceSet],
    out: Path,
    *,
    names: tuple[str, ...] = tuple(VARIANTS),
    seeds: tuple[int, ...] = (0, 1, 2),
    share: float = 0.25,
    report: Callable[[Progress], None] = lambda _: None,
) -> list[Run]:
    """Run every variant with every seed.

    Args:
        base: the recipe that is changed; its number of epochs is the budget of each run.
        faces: with splits "train" and "valid".
        unseen: corpora that are only measured.
        out: a directory a run.
        names: variants to run; the base is always among them.
        seeds: of the paired runs; every seed draws its own share of the pictures.
        share: of the train split that a run sees.
        report: told each run; all runs of a seed come before those of the next.

    Returns:
        The runs.

    Raises:
        ConfigError: when a name is no variant, or an unseen corpus takes validation's.
    """
    if VALID in unseen:
        raise ConfigError(f"an unseen corpus cannot be called {VALID!r}; give it another name")
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise ConfigError(
            f"variant {unknown[0]!r} does not exist; `ablate --list` prints those that do"
        )
    sets = {VALID: Yardstick.of(faces.part("valid"), raw=True)}
    sets |= {name: Yardstick.of(other, raw=False) for name, other in unseen.items()}
    stamp = {"share": share, "sets": {k: _checksum(v) for k, v in sets.items()}}
    stamp |= {"train": faces.part("train").checksum()}
    chosen = tuple(dict.fromkeys((BASE, *names)))
    runs: list[Run] = []
    made: list[float] = []
    for seed in seeds:
        part: FaceSet | None = None
        for name in chosen:
            variant, place = VARIANTS[name], _place(out, name, seed)
            config = replace(changed(base, list(variant.changes)), seed=seed)
            means = {} if variant.means == ALONE else {"means": variant.means}
            key = json.dumps({"config": to_plain(config), **stamp, **means}, sort_keys=True)
            run = _finished(place, key)
            if run is None:
                part = part or quarter(faces, share, seed)
                run = _run(variant, config, part, sets, place, key)
                made.append(run.seconds)
            runs.append(run)
            total = len(chosen) * len(seeds)
            left = float(np.mean(made)) * (total - len(runs)) if made else None
            report(Progress(runs=runs, sets=sets, total=total, left_s=left))
    return runs


def _place(out: Path, name: str, seed: int) -> Path:
    return out / "runs" / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}-{seed}"


def _run(  # noqa: PLR0917 - one call
    variant: Variant,
    config: TrainConfig,
    faces: FaceSet,
    sets: dict[str, Yardstick],
    place: Path,
    key: str,
) -> Run:
    began, cpu_began = time.monotonic(), time.process_time()
    shutil.rmtree(place, ignore_errors=True)
    reading, log_prior = read_by(variant.means, config, faces, sets, place)
    share = best_share(reading[VALID], sets[VALID].labels_N, log_prior)
    guesses = {
        which: np.stack([(z + share * log_prior).argmax(axis=1).astype(np.uint8) for z in framings])
        for which, framings in reading.items()
    }
    run = Run(
        variant=variant.name,
        seed=config.seed,
        guesses=guesses,
        prior_share=share,
        seconds=time.monotonic() - began,
        cpu_s=time.process_time() - cpu_began,
    )
    plain = {f: getattr(run, f) for f in ("variant", "seed", "prior_share", "seconds", "cpu_s")}
    np.savez_compressed(place / "guesses.npz", allow_pickle=False, **guesses)
    part = place / "run.json.part"
    part.write_text(json.dumps({**plain, "key": key}))
    part.rename(place / "run.json")  # last, so that a run is there whole or not at all
    return run


def _finished(place: Path, key: str) -> Run | None:
    """Return a run of an earlier call, if it was of this very configuration and data."""
    try:
        saved = json.loads((place / "run.json").read_text())
        if saved.pop("key") != key:
            return None
        with np.load(place / "guesses.npz", allow_pickle=False) as arrays:
            return Run(**saved, guesses={k: arrays[k] for k in arrays.files})
    except (OSError, ValueError, KeyError, EOFError):
        return None  # never begun, or cut off by an interruption


def _checksum(yardstick: Yardstick) -> int:
    sum_ = zlib.crc32(np.ascontiguousarray(yardstick.labels_N).data)
    for view in yardstick.views_FNHW:
        sum_ = zlib.crc32(np.ascontiguousarray(view).data, sum_)
    return sum_
