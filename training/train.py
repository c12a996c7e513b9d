"""The training loop, one function to be read from top to bottom.

Legend: B batch, N faces, H W pixels, K classes.
"""

from __future__ import annotations

import json
import shlex
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training.batches import Batches
from training.data.cache import recut
from training.data.faces import CLASSES
from training.data.labels import majority
from training.evaluate import confusion, from_confusion
from training.losses import Loss
from training.model import FaceNet, channels_last, place_rows
from training.objective import Objective
from training.optim import Average, at_average, build_optimizer, climb, factor
from training.recipes import TrainConfig, config_from, to_plain
from training.recycle import Recycling
from training.workers import Workers, mean_over_workers, share_statistics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.types import F32, U8
    from training.batches import Batch
    from training.checkpoint import Checkpoint
    from training.data.faces import FaceSet

__all__ = ["BEST", "LAST", "LOG", "Validation", "averaged_model", "best_share", "fit", "predict"]

LAST, BEST, LOG = "last.pt", "best.pt", "log.jsonl"
PRIOR_SHARES = tuple(round(0.05 * i, 2) for i in range(21))
"""How much of the corpus' prior is given back to balanced logits; validation chooses."""


def fit(  # noqa: C901, PLR0912, PLR0915 - one run, readable from top to bottom
    config: TrainConfig,
    faces: FaceSet,
    out: Path,
    *,
    sources: dict[str, str] | None = None,
    start: Checkpoint | None = None,
    resume: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
    tick: Callable[[float], None] = lambda _: None,
) -> Checkpoint:
    """Train on the set's train split, choose by its valid split.

    Args:
        config: the whole run.
        faces: with splits "train" and "valid".
        out: directory for the checkpoints ``last.pt`` and ``best.pt`` and the log.
        sources: sha256 of the files the faces came from, kept in the checkpoint.
        start: a run of the same network, whose averaged weights this one begins with.
        resume: go on from ``last.pt`` where there is one; the outcome is bit for bit that of a run
            that was not interrupted, since every epoch seeds its own randomness. With another
            number of epochs the schedule goes on from the share that is then done.
        report: told each epoch's figures.
        tick: told the share of the run that is done, before every step.

    Returns:
        The last state. Of several processes (see ``workers``) the first one alone writes.

    Raises:
        ConfigError: when a split is empty, ``start`` has another network, or ``last.pt`` is there
            without ``resume`` or of another configuration or of other faces.
        StreamerError: when the disk is full; what was written before is whole.
    """
    # --- data: uint8 in memory, targets, how often each row is shown
    workers, device = Workers.now(), torch.device(config.device)
    batches, valid = Batches(config, faces, workers), Validation.of(faces.part("valid"))
    checksum = faces.rows(faces.split_N != "test").checksum()
    prior_K = batches.prior_K

    # --- model, loss, optimiser, average; then the state of an interrupted run
    torch.manual_seed(config.seed)
    model = channels_last(FaceNet(config.model).to(device))
    if start is not None:
        _begin(model, start)
    if workers.count > 1:
        share_statistics(model, config.device)
    optimizer = build_optimizer(model, config.optim)
    average = Average(model, config.optim.average)
    recycling = Recycling(model, threshold=config.optim.recycle, every=config.optim.recycle_every)
    state: Checkpoint | None = None
    first, best, stale = 0, -1.0, 0
    scores: dict[str, float]
    out.mkdir(parents=True, exist_ok=True)
    if (out / LAST).exists() and not resume:
        raise ConfigError(f"{out / LAST} is there already; give --resume, or another directory")
    if resume and (out / LAST).exists():
        state = checkpoints.load(out / LAST)
        _same_run(state, config, checksum, out)
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        average.load_state_dict(state.average)
        first, best, stale = state.epoch, state.best, state.stale

    # --- the whole network first, then perhaps its classifier alone, each with its own schedule
    body = config.epochs - config.head_epochs
    learner: nn.Module | None = None
    for epoch in range(first, config.epochs):
        if config.patience and stale >= config.patience:
            break
        head = epoch >= body
        begun, length = (body, config.head_epochs) if head else (0, body)
        if learner is None or epoch == body:
            loss = Loss(config.loss, batches.counts(head=head)).to(device)
            _learns(model, head=head)
            learner = workers.together(Objective(model, loss, bfloat16=config.bfloat16))
        began, total, seen, renewed = time.monotonic(), 0.0, 0, 0
        torch.manual_seed(config.seed * 100_003 + epoch)
        at_average(optimizer, average=False)
        _train_mode(model, head=head)
        for step, batch in enumerate(batches.epoch(epoch, head=head)):
            tick((epoch + batch.done) / config.epochs)
            if workers.count > 1:
                place_rows(model, batch.rows)
            done = (epoch - begun + batch.done) / length
            for group in optimizer.param_groups:
                group["lr"] = config.optim.lr * factor(config.optim, done)
            look = recycling.due(step) and not head
            with recycling.watching() if look else nullcontext():
                value = _gradients(learner, batch, workers, config)
            optimizer.step()
            renewed += recycling.renew(optimizer) if look else 0
            average.update(model)
            total, seen = total + value * batch.rows.total, seen + batch.rows.total
        at_average(optimizer, average=True)
        average.settle(model)

        # --- validate the averaged weights; keep the last state and the best
        scores, improved = {}, False
        every = config.validate or config.epochs
        if (epoch + 1) % every == 0 or epoch + 1 == config.epochs:
            if workers.first:
                judged = averaged_model(config, average.state).to(device)
                scores = valid.score(judged, prior_K.numpy())
            score = workers.told(scores.get("score", 0.0))
            improved = score > best
            stale, best = 0 if improved else stale + 1, max(best, score)
        state = checkpoints.Checkpoint(
            config=to_plain(config),
            epoch=epoch + 1,
            model=model.state_dict(),
            average=average.state_dict(),
            optimizer=optimizer.state_dict(),
            prior_K=prior_K,
            best=best,
            data=sources or {},
            faces=checksum,
            stale=stale,
        )
        line = {"epoch": epoch + 1, "loss": total / seen, "seconds": time.monotonic() - began}
        line |= {"lr": optimizer.param_groups[0]["lr"], **scores}
        line |= {"renewed": renewed} if config.optim.recycle else {}
        if workers.first:
            checkpoints.save(out / LAST, state)
            if improved:
                checkpoints.save(out / BEST, state)
            checkpoints.append(out / LOG, line)
            report(line)
    if state is None:
        raise ConfigError("epochs is 0; a run needs at least one")
    return state


def _begin(model: FaceNet, start: Checkpoint) -> None:
    """Take the averaged weights of another run."""
    try:
        model.load_state_dict(start.average["state"])
    except RuntimeError:
        there, here = start.config["model"], asdict(model.config)
        changes = [f"model.{k}={json.dumps(v)}" for k, v in there.items() if v != here.get(k)]
        raise ConfigError(
            "the run to begin with has another network; repeat its shape: "
            + " ".join(f"--set {shlex.quote(change)}" for change in changes)
        ) from None


def _learns(model: FaceNet, *, head: bool) -> None:
    """Let the whole network learn, or its classifier alone."""
    model.requires_grad_(not head)
    model.classifier.requires_grad_()


def _train_mode(model: FaceNet, *, head: bool) -> None:
    """Put into training mode what learns; frozen layers keep their statistics."""
    model.train(not head)
    model.dropout.train()


def _gradients(learner: nn.Module, batch: Batch, workers: Workers, config: TrainConfig) -> float:
    """Put the gradients that a step takes into the model, clipped, and return the loss."""
    loss = _backward(learner, batch, workers, config)
    if config.optim.sharpness > 0.0:
        moves = climb(learner, config.optim.sharpness)
        _backward(learner, batch, workers, config)
        for weight, move in moves:
            weight.data.sub_(move)
    if config.optim.clip > 0.0:
        torch.nn.utils.clip_grad_norm_(learner.parameters(), config.optim.clip)
    return loss


def _backward(learner: nn.Module, batch: Batch, workers: Workers, config: TrainConfig) -> float:
    """Put the gradients of one batch's loss into the model, and return the loss."""
    x = batch.x_B1HW.to(config.device, memory_format=torch.channels_last)
    learner.zero_grad(set_to_none=True)
    loss = learner(x, batch.wanted_BK.to(config.device))
    # Gradients are averaged over the processes; weighed by their rows, that is the whole mean.
    share = (batch.rows.stop - batch.rows.start) / batch.rows.total
    torch.autograd.backward(loss * (share * workers.count) if workers.count > 1 else loss)
    return float(mean_over_workers(loss.detach(), share))


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
        views = (self.raw_NHW, self.recut_NHW)
        logits, log_prior = [predict(model, crops)[1] for crops in views], np.log(prior_K)
        share = best_share(logits, self.labels_N, log_prior)
        pairs = _rates(logits, self.labels_N, np.float32(share) * log_prior)
        best = {"score": float(np.mean(pairs)), "prior_share": share}
        for end, (accuracy, uar, f1) in zip(("", "_recut"), pairs, strict=True):
            best |= {f"accuracy{end}": accuracy, f"uar{end}": uar, f"macro_f1{end}": f1}
        return best


def best_share(logits: list[F32], labels_N: np.ndarray, log_prior: F32) -> float:
    """Return the share of the prior with the best mean of accuracy, recall and macro F1.

    Args:
        logits: balanced, (N, K), one framing of the same faces each.
        labels_N: their classes.
        log_prior: that the logits are balanced against, (K,).
    """
    scores = [
        np.mean(_rates(logits, labels_N, np.float32(share) * log_prior)) for share in PRIOR_SHARES
    ]
    return PRIOR_SHARES[int(np.argmax(scores))]


def _rates(
    logits: list[F32], labels_N: np.ndarray, offset_K: F32
) -> list[tuple[float, float, float]]:
    """Return accuracy, recall (UAR) and macro F1 of each framing."""
    out = []
    for z in logits:
        guess_N = (z + offset_K).argmax(axis=1).astype(np.int64)
        accuracy, recall, f1 = from_confusion(confusion(labels_N, guess_N, len(CLASSES)))
        out.append((float(accuracy), float(np.nanmean(recall)), float(np.nanmean(f1))))
    return out


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


def _same_run(state: Checkpoint, config: TrainConfig, checksum: int, out: Path) -> None:
    if state.faces not in {0, checksum}:
        raise ConfigError(f"{out / LAST} was trained on other faces; choose another directory")
    before = config_from(state.config)
    if replace(before, device=config.device, epochs=config.epochs) != config:
        raise ConfigError(
            f"{out / LAST} belongs to another configuration; choose another directory or the "
            f"recipe it was begun with ({before.name!r}, seed {before.seed})"
        )
