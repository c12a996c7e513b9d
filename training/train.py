"""The training loop, one function to be read from top to bottom.

Legend: B batch, N faces, H W pixels, K classes.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training.augment import augment, framings, mix
from training.data.balance import draw_rates, epoch_order
from training.data.cache import recut
from training.data.faces import CLASSES
from training.data.labels import majority, prior, targets
from training.evaluate import confusion, from_confusion
from training.losses import Loss
from training.model import FaceNet, channels_last
from training.optim import Average, build_optimizer, climb, factor
from training.recipes import TrainConfig, config_from, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.types import F32, U8
    from training.checkpoint import Checkpoint
    from training.data.faces import FaceSet

__all__ = ["BEST", "LAST", "LOG", "Validation", "averaged_model", "fit", "predict"]

LAST, BEST, LOG = "last.pt", "best.pt", "log.jsonl"
PRIOR_SHARES = tuple(round(0.05 * i, 2) for i in range(21))
"""How much of the corpus' prior is given back to balanced logits; validation chooses."""


def fit(  # noqa: PLR0915 - one run, readable from top to bottom
    config: TrainConfig,
    faces: FaceSet,
    out: Path,
    *,
    sources: dict[str, str] | None = None,
    resume: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Checkpoint:
    """Train on the set's train split, choose by its valid split.

    Args:
        config: the whole run.
        faces: with splits "train" and "valid".
        out: directory for the checkpoints ``last.pt`` and ``best.pt`` and the log.
        sources: sha256 of the files the faces came from, kept in the checkpoint.
        resume: go on from ``last.pt`` where there is one; the outcome is bit for bit that of a run
            that was not interrupted, since every epoch seeds its own randomness. With another
            number of epochs the schedule goes on from the share that is then done.
        report: told each epoch's figures.

    Returns:
        The last state.

    Raises:
        ConfigError: when a split is empty or ``last.pt`` is of another configuration.
    """
    # --- data: uint8 in memory, targets, how often each row is shown
    train, valid = faces.part("train"), Validation.of(faces.part("valid"))
    targets_NK, usable_N = targets(train, config.labels)
    train, targets_NK = train.rows(usable_N), targets_NK[usable_N]
    if len(train) == 0:
        raise ConfigError("the face set has no usable picture in its split 'train'")
    rates_N = draw_rates(targets_NK, config.balance)
    prior_K = torch.from_numpy(prior(targets_NK))
    counts_K = torch.from_numpy(prior(targets_NK, rates_N)) * float(rates_N.sum())
    pixels_NHW, framing_N23 = torch.from_numpy(train.images_NHW), framings(train)
    wanted_NK = torch.from_numpy(targets_NK)

    # --- model, loss, optimiser, average; then the state of an interrupted run
    torch.manual_seed(config.seed)
    device = torch.device(config.device)
    model = channels_last(FaceNet(config.model).to(device))
    loss_of = Loss(config.loss, counts_K).to(device)
    optimizer = build_optimizer(model, config.optim)
    average = Average(model, config.optim.average)
    state: Checkpoint | None = None
    first, best, stale = 0, -1.0, 0
    out.mkdir(parents=True, exist_ok=True)
    if resume and (out / LAST).exists():
        state = checkpoints.load(out / LAST)
        _same_run(state, config, out)
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        average.load_state_dict(state.average)
        first, best = state.epoch, state.best

    for epoch in range(first, config.epochs):
        began, total, seen = time.monotonic(), 0.0, 0
        seed = config.seed * 100_003 + epoch
        torch.manual_seed(seed)
        random = torch.Generator().manual_seed(seed)
        rows_N = torch.from_numpy(epoch_order(rates_N, epoch, config.seed))
        steps = max(1, len(rows_N) // config.batch)
        model.train()
        for step, rows in enumerate(rows_N.tensor_split(steps)):
            x = augment(pixels_NHW[rows], framing_N23[rows], config.augment, random)
            x, wanted = mix(x, wanted_NK[rows], config.augment, random)
            x = x.to(device, memory_format=torch.channels_last)
            loss = _gradients(model, x, wanted.to(device), loss_of, config)
            done = (epoch + step / steps) / config.epochs
            for group in optimizer.param_groups:
                group["lr"] = config.optim.lr * factor(config.optim, done)
            optimizer.step()
            average.update(model)
            total, seen = total + loss * len(rows), seen + len(rows)

        # --- validate the averaged weights; keep the last state and the best
        judged = averaged_model(config, average.state).to(device)
        scores = valid.score(judged, prior_K.numpy())
        stale = 0 if scores["score"] > best else stale + 1
        improved, best = scores["score"] > best, max(best, scores["score"])
        state = checkpoints.Checkpoint(
            config=to_plain(config),
            epoch=epoch + 1,
            model=model.state_dict(),
            average=average.state_dict(),
            optimizer=optimizer.state_dict(),
            prior_K=prior_K,
            best=best,
            data=sources or {},
        )
        checkpoints.save(out / LAST, state)
        if improved:
            checkpoints.save(out / BEST, state)
        line = {"epoch": epoch + 1, "loss": total / seen, "seconds": time.monotonic() - began}
        line |= {"lr": optimizer.param_groups[0]["lr"], **scores}
        with (out / LOG).open("a") as log:
            log.write(json.dumps(line) + "\n")
        report(line)
        if config.patience and stale >= config.patience:
            break
    if state is None:
        raise ConfigError("epochs is 0; a run needs at least one")
    return state


def _gradients(
    model: FaceNet, x_B1HW: Tensor, wanted_BK: Tensor, loss_of: Loss, config: TrainConfig
) -> float:
    """Put the gradients that a step takes into the model, clipped, and return the loss."""
    loss = _backward(model, x_B1HW, wanted_BK, loss_of, config)
    if config.optim.sharpness > 0.0:
        moves = climb(model, config.optim.sharpness)
        _backward(model, x_B1HW, wanted_BK, loss_of, config)
        for weight, move in moves:
            weight.data.sub_(move)
    if config.optim.clip > 0.0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
    return loss


def _backward(
    model: FaceNet, x_B1HW: Tensor, wanted_BK: Tensor, loss_of: Loss, config: TrainConfig
) -> float:
    """Put the gradients of one batch's loss into the model, and return the loss."""
    with torch.autocast(x_B1HW.device.type, torch.bfloat16, enabled=config.bfloat16):
        _, logits = model(x_B1HW)
    loss = loss_of(logits.float(), wanted_BK) + loss_of.penalty(model)
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    return float(loss.detach())


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Pictures to choose by: those whose voters agree, as published and as the daemon cuts them."""

    raw_NHW: U8
    recut_NHW: U8
    labels_N: np.ndarray

    @staticmethod
    def of(faces: FaceSet) -> Validation:
        """Keep the clear pictures of a split.

        Raises:
            ConfigError: when there are none.
        """
        labels, clear = majority(faces)
        if not clear.any():
            raise ConfigError("the face set has no clearly labelled picture in its split 'valid'")
        kept = faces.rows(clear)
        return Validation(raw_NHW=kept.images_NHW, recut_NHW=recut(kept)[0], labels_N=labels[clear])

    def score(self, model: FaceNet, prior_K: F32) -> dict[str, float]:
        """Return the figures at the best share of the prior, with their mean as "score".

        The score is the mean of accuracy, recall (UAR) and macro F1. Recall alone rewards saying a
        rare class too often: of FER+'s clear validation pictures 5 show contempt and 11 disgust,
        so that one of them moves it as much as 66 of all pictures move accuracy.
        """
        log_prior = np.log(prior_K)
        logits = [predict(model, crops)[1] for crops in (self.raw_NHW, self.recut_NHW)]
        best: dict[str, float] = {"score": -1.0}
        for share in PRIOR_SHARES:
            pairs = [self._rates((z + share * log_prior).argmax(axis=1)) for z in logits]
            score = float(np.mean(pairs))
            if score > best["score"]:
                best = {"score": score, "prior_share": share}
                for end, (accuracy, uar, f1) in zip(("", "_recut"), pairs, strict=True):
                    best |= {f"accuracy{end}": accuracy, f"uar{end}": uar, f"macro_f1{end}": f1}
        return best

    def _rates(self, guess_N: np.ndarray) -> tuple[float, float, float]:
        counts = confusion(self.labels_N, guess_N.astype(np.int64), len(CLASSES))
        accuracy, recall, f1 = from_confusion(counts)
        return float(accuracy), float(np.nanmean(recall)), float(np.nanmean(f1))


@torch.no_grad()
def predict(model: FaceNet, crops_NHW: U8, *, batch: int = 256) -> tuple[F32, F32]:
    """Run a network over uint8 crops, one single view each.

    Returns:
        features_ND, logits_NK: float32.
    """
    model.eval()
    device = next(model.parameters()).device
    features: list[Tensor] = []
    logits: list[Tensor] = []
    for start in range(0, len(crops_NHW), batch):
        part = torch.from_numpy(crops_NHW[start : start + batch])
        x = (part[:, None].to(device).float() / 255.0).contiguous(memory_format=torch.channels_last)
        f, z = model(x)
        features.append(f.cpu())
        logits.append(z.cpu())
    return torch.cat(features).numpy(), torch.cat(logits).numpy()


def averaged_model(config: TrainConfig, state: dict[str, Tensor]) -> FaceNet:
    """Return a network with the given weights, ready to predict."""
    model = FaceNet(config.model)
    model.load_state_dict(state)
    return channels_last(model.eval())


def _same_run(state: Checkpoint, config: TrainConfig, out: Path) -> None:
    before = config_from(state.config)
    if replace(before, device=config.device, epochs=config.epochs) != config:
        raise ConfigError(
            f"{out / LAST} belongs to another configuration; choose another directory or the "
            f"recipe it was begun with ({before.name!r}, seed {before.seed})"
        )
