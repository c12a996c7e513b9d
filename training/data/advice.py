"""What an audit means for training, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from training.data.audit import Audit
    from training.data.coverage import Spread

__all__ = ["advice"]

_FEW = 100  # pictures of a class under which its recall is known to worse than 10 points
_IMBALANCED = 10.0
_UNCLEAR = 0.7
_DISAGREE = 0.6
_DOUBTED = 0.1
_HELPS = 0.03  # share of the error that twice the pictures would take away to be worth them
_UPRIGHT = 12.0  # degrees; a camera above a door sees more tilt than this
_FRONTAL = 0.08  # box widths; about 15 degrees of yaw
_NARROW = 25.0  # grey levels between the 5th and 95th percentile of brightness
_EYES = 0.9


def advice(audit: Audit) -> list[str]:
    """Return sentences, the most important first; at least one."""
    out = [*_leaks(audit), *_classes(audit), *_labels(audit), *_learning(audit), *_seen(audit)]
    return out or ["Nothing stands out: balanced, clearly labelled, no leaks, well covered."]


def _leaks(audit: Audit) -> list[str]:
    out = []
    if audit.across_count:
        out.append(
            f"{audit.across_count} pairs of pictures look the same across two splits and neither "
            "is marked: import again, which marks them, or take one of each pair out before you "
            "trust a score."
        )
    if audit.groups_cut:
        out.append(
            f"{audit.groups_cut} people or groups have pictures in several splits: split by group, "
            "or scores will be too good."
        )
    inside = sum(n for key, n in audit.near_pairs.items() if "/" not in key)
    if inside > audit.faces // 100:
        out.append(
            f"{inside} pairs within a split look the same: they count double; group them, or train "
            "with --set balance.alike=0.9, which shows one of each in large classes."
        )
    return out


def _classes(audit: Audit) -> list[str]:
    out = []
    train = audit.counts.get("train", {})
    bare = audit.unlabelled.get("train", 0)
    if bare:
        out.append(
            f"Nobody has labelled {bare} of the training pictures: let teachers do it "
            "(distill --unlabelled); fit leaves them out."
        )
        if not any(train.values()):
            return out
    empty = [name for name, n in train.items() if n == 0]
    small = [f"{name} ({n})" for name, n in train.items() if 0 < n < _FEW]
    if empty:
        out.append(f"No training picture of {', '.join(empty)}: the model cannot learn it.")
    if small:
        out.append(
            f"Few training pictures of {', '.join(small)}: get more, draw them more often "
            "(balance.power) or merge them (labels.merge)."
        )
    ratio = audit.imbalance.get("train", 1.0)
    if ratio > _IMBALANCED:
        out.append(
            f"The largest class has {ratio:.0f} times the pictures of the smallest: correct it by "
            "logit adjustment (loss.adjust) or by drawing (balance.power), and judge by UAR and "
            "macro F1, not by accuracy alone."
        )
    for split in ("valid", "test"):
        rare = [f"{n} ({c})" for n, c in audit.counts.get(split, {}).items() if 0 < c < _FEW]
        if rare:
            out.append(
                f"The {split} split has few of {', '.join(rare)}: their recall is uncertain by ten "
                "points and more; give intervals."
            )
    return out


def _labels(audit: Audit) -> list[str]:
    out = []
    clear = audit.clear.get("train", 1.0)
    if clear < _UNCLEAR:
        out.append(
            f"On {100 * (1 - clear):.0f} % of the training pictures no half of the voters agrees: "
            "learn from the votes (labels.kind=votes), not from one hard label."
        )
    odd = [f"{k} ({100 * v:.0f} %)" for k, v in audit.agreement.items() if v < _DISAGREE]
    if odd:
        out.append(
            f"The second label agrees seldom on {', '.join(odd)}: these words mean different "
            "things to different labellers."
        )
    if audit.doubts is not None:
        worst = sorted(audit.doubts.share.items(), key=lambda item: -item[1])
        named = ", ".join(f"{k} ({100 * v:.0f} %)" for k, v in worst[:3] if v > _DOUBTED)
        share = audit.doubts.doubted / max(1, audit.doubts.judged)
        if named:
            out.append(
                f"A quick model doubts {100 * share:.0f} % of the labels, most of all {named}. It "
                "is weak, so look at the list before you change anything."
            )
    return out


def _learning(audit: Audit) -> list[str]:
    if audit.learning is None or not np.isfinite(audit.learning.doubled):
        return []
    now, then = audit.learning.errors[-1], audit.learning.doubled
    gain = (now - then) / max(now, 1e-9)
    said = f"With twice the pictures a quick model's error would go from {now:.3f} to {then:.3f}"
    if gain > _HELPS:
        return [f"{said}: more pictures of this kind would still help."]
    return [f"{said}: more pictures of the same kind hardly help; get others, or better labels."]


def _seen(audit: Audit) -> list[str]:
    seen, out = audit.coverage, []
    bright = seen.get("brightness")
    if bright is not None and bright.p95 - bright.p5 < _NARROW:
        out.append("All pictures are lit alike: augment light (augment.light) or record others.")
    turn, roll = seen.get("turn"), seen.get("roll")
    if turn is None or roll is None:
        return [*out, "No eyes are known: import with --detector to learn on the daemon's crops."]
    if turn.known < _EYES:
        out.append(
            f"In {100 * (1 - turn.known):.0f} % of the pictures no eyes were found: these are cut "
            "as published, unlike what the daemon sees."
        )
    if _reach(turn) < _FRONTAL:
        out.append("Nearly all faces look straight ahead: expect worse results on turned heads.")
    if _reach(roll) < _UPRIGHT:
        out.append("Nearly all heads are upright: keep augment.rotate_deg for tilted cameras.")
    return out


def _reach(spread: Spread) -> float:
    """Return how far nine of ten faces go to either side."""
    return max(abs(spread.p5), abs(spread.p95))
