"""The loop: golden losses, exact resumption, early stopping, optimisers, schedules and losses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from streamer.errors import ConfigError
from training import checkpoint as checkpoints
from training.losses import Loss, LossConfig, class_weights, inconsistency
from training.model import Block, FaceNet
from training.muon import orthogonal
from training.objective import Objective
from training.optim import (
    SCHEDULES,
    Average,
    OptimConfig,
    at_average,
    build_optimizer,
    climb,
    factor,
)
from training.recipes import RECIPES, TrainConfig, changed, config_from, recipe, to_plain
from training.recycle import Recycling
from training.train import BEST, LAST, LOG, averaged_model, fit, predict

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet


def losses(out: Path) -> list[float]:
    """Return the training loss of each epoch from the log."""
    return [json.loads(line)["loss"] for line in (out / LOG).read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["optim.name=schedule_free", "optim.schedule=constant", "optim.average=0"],
        ["optim.name=muon", "optim.recycle=0.9", "optim.recycle_every=2", "model.rest=0.6"],
        ["head_epochs=1", "loss.consistency=5", "augment.minority=1", "augment.cutmix=0.5"],
    ],
)
def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig, changes: list[str]
) -> None:
    """Stopping after epoch 1 of 3 and resuming gives the very same weights and averages."""
    config = changed(replace(tiny, epochs=3), changes)
    whole = fit(config, faces, tmp_path / "whole")

    class Interrupted(Exception):  # noqa: N818 - not an error
        pass

    def stop(_: object) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        fit(config, faces, tmp_path / "parts", report=stop)
    assert checkpoints.load(tmp_path / "parts" / LAST).epoch == 1
    resumed = fit(config, faces, tmp_path / "parts", resume=True)
    for name, value in whole.model.items():
        assert torch.equal(value, resumed.model[name]), name
    for name, value in whole.average["state"].items():
        assert torch.equal(value, resumed.average["state"][name]), name
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_golden_losses(tmp_path: Path, faces: FaceSet, tiny: TrainConfig) -> None:
    """The losses of three epochs are those of the last change that was meant to alter them.

    A change that must not alter results leaves these figures as they are; one that must replaces
    them, and says so. The tolerance is for other processors' order of summation.
    """
    fit(replace(tiny, epochs=3), faces, tmp_path)
    assert losses(tmp_path) == pytest.approx([2.11767, 2.11299, 2.05271], rel=1e-3)


def test_a_run_begins_where_another_ended(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """At a rate of nothing its averaged weights stay; another network is refused, with advice."""
    first = fit(replace(tiny, epochs=1), faces, tmp_path / "first")
    still = replace(tiny, epochs=1, optim=replace(tiny.optim, lr=0.0))
    second = fit(still, faces, tmp_path / "second", start=first)
    for name, _ in FaceNet(tiny.model).named_parameters():
        assert torch.equal(second.model[name], first.average["state"][name]), name
    other = replace(tiny, model=replace(tiny.model, widths=(8, 16, 24), flatten="max"))
    with pytest.raises(ConfigError, match=r"repeat its shape: --set 'model.widths=\[8, 16, 16\]'"):
        fit(other, faces, tmp_path / "third", start=first)


def test_resuming_another_configuration_is_refused(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """The error names the checkpoint and the seed it was begun with."""
    fit(replace(tiny, epochs=1), faces, tmp_path)
    with pytest.raises(ConfigError, match="another configuration"):
        fit(replace(tiny, epochs=1, seed=9), faces, tmp_path, resume=True)


def test_network_learns_the_drawn_faces(tmp_path: Path, faces: FaceSet, tiny: TrainConfig) -> None:
    """Twelve epochs tell eight kinds of picture apart far above the chance of 1/8."""
    optim = replace(tiny.optim, lr=1e-2, average=0.9)
    mild = replace(tiny.augment, zoom=0.0, shift=0.0, rotate_deg=0.0, mixup=0.0)
    config = replace(tiny, epochs=12, optim=optim, augment=mild)
    state = fit(config, faces, tmp_path)
    test = faces.part("test")
    _, logits = predict(averaged_model(config, state.average["state"]), test.images_NHW)
    assert float((logits.argmax(1) == test.votes_NK.argmax(1)).mean()) > 0.7
    assert (tmp_path / BEST).exists()


def test_patience_stops_a_run_that_does_not_improve(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """With a learning rate of zero nothing improves after the first epoch."""
    frozen = replace(tiny.optim, lr=0.0, average=1.0)
    config = replace(tiny, epochs=9, patience=2, optim=frozen)
    state = fit(config, faces, tmp_path / "whole")
    assert state.epoch <= 4

    def stop(line: dict[str, object]) -> None:
        if line["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, faces, tmp_path / "parts", report=stop)
    for _ in range(2):  # it stops where the other did, and goes no further when asked again
        assert fit(config, faces, tmp_path / "parts", resume=True).epoch == state.epoch


def test_a_line_after_a_torn_one_is_whole(tmp_path: Path) -> None:
    """What a power cut left stays a line of its own."""
    log = tmp_path / LOG
    for line in ({"epoch": 1}, {"epoch": 2}):
        checkpoints.append(log, line)
    log.write_bytes(log.read_bytes()[:-4])
    checkpoints.append(log, {"epoch": 3})
    assert log.read_text() == '{"epoch": 1}\n{"epoch":\n{"epoch": 3}\n'


def test_a_run_does_not_go_on_with_other_faces(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """One vote is enough to be refused; the test split plays no part."""
    config = replace(tiny, epochs=1)
    fit(config, faces, tmp_path)
    votes = faces.votes_NK.copy()
    votes[faces.split_N == "test"] += 1.0
    fit(config, replace(faces, votes_NK=votes), tmp_path, resume=True)
    votes[np.flatnonzero(faces.split_N == "train")[0], 3] += 1.0
    with pytest.raises(ConfigError, match="trained on other faces"):
        fit(config, replace(faces, votes_NK=votes), tmp_path, resume=True)


def test_empty_split_is_refused(tmp_path: Path, faces: FaceSet, tiny: TrainConfig) -> None:
    """A set without training pictures is named as such."""
    with pytest.raises(ConfigError, match="split 'train'"):
        fit(tiny, faces.rows(faces.split_N != "train"), tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Any bytes in place of a checkpoint give a ConfigError."""
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"last\.pt"):
        checkpoints.load(path)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_survives_its_checkpoint(name: str) -> None:
    """A configuration turned to plain values and back is the same one."""
    config = recipe(name)
    assert config_from(json.loads(json.dumps(to_plain(config)))) == config


@pytest.mark.parametrize(
    "name", ["sgd", "nesterov", "rmsprop", "adam", "adamw", "muon", "schedule_free"]
)
def test_every_optimiser_lowers_a_loss(name: str) -> None:
    """Ten steps on one batch lower its loss."""
    torch.manual_seed(0)
    net = FaceNet(recipe("smoke").model).train()
    config = OptimConfig(name=name, lr=1e-3 if name != "sgd" else 1e-2)
    optimizer = build_optimizer(net, config)
    at_average(optimizer, average=False)
    x, y = torch.rand(16, 1, 48, 48), torch.arange(16) % 8
    seen = []
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(net(x)[1], y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < seen[0]


def test_norms_and_biases_are_not_decayed() -> None:
    """Only tensors of two and more dimensions are in the group with weight decay."""
    net = FaceNet(recipe("smoke").model)
    decayed, free = build_optimizer(net, OptimConfig(decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1
    assert all(p.ndim > 1 for p in decayed["params"])
    assert free["weight_decay"] == 0.0
    assert all(p.ndim == 1 for p in free["params"])


@pytest.mark.parametrize(
    ("schedule", "done", "expected"),
    [
        ("constant", 0.9, 1.0),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
        ("exponential", 1.0, math.exp(-5.0)),
        ("step", 0.6, 0.1),
        ("step", 0.9, 0.01),
        ("linear", 0.25, 0.75),
        ("one_cycle", 0.3, 1.0),
        ("stable_decay", 0.85, 0.5),
    ],
)
def test_schedules(schedule: str, done: float, expected: float) -> None:
    """Each schedule's factor at a point worked out by hand."""
    config = OptimConfig(schedule=schedule, warmup=0.0)
    assert factor(config, done) == pytest.approx(expected, abs=1e-9)


def test_warm_up_rises_from_nothing_and_every_schedule_ends_within_reason() -> None:
    """The first steps are gentle; no schedule leaves 0..1."""
    assert factor(OptimConfig(schedule="constant", warmup=0.1), 0.05) == pytest.approx(0.5)
    for schedule in SCHEDULES:
        values = [factor(OptimConfig(schedule=schedule), t / 50) for t in range(51)]
        assert 0.0 <= min(values) <= max(values) <= 1.0 + 1e-9


def test_average_follows_the_weights() -> None:
    """After the first update with decay 0.5 the average moves by the early rate 1 - 2/11."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = Average(layer, 0.5)
    torch.nn.init.ones_(layer.weight)
    average.update(layer)
    assert float(average.state["weight"]) == pytest.approx(1 - 2 / 11)


def test_cross_entropy_with_votes_by_hand() -> None:
    """Even logits cost ln 2 for two classes, whatever the votes."""
    loss = Loss(LossConfig(adjust=0.0), torch.ones(2))
    value = loss(torch.zeros(1, 2), torch.tensor([[0.7, 0.3]]))
    assert float(value) == pytest.approx(math.log(2))


def test_logit_adjustment_by_hand() -> None:
    """With a prior of 3 to 1 and even logits, the rare class costs ln 4, the frequent ln 4/3."""
    loss = Loss(LossConfig(adjust=1.0), torch.tensor([3.0, 1.0]))
    rare = loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    frequent = loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert float(rare) == pytest.approx(math.log(4))
    assert float(frequent) == pytest.approx(math.log(4 / 3))


def test_a_class_without_pictures_is_pushed_down_as_any_other() -> None:
    """Its logit gets the gradient of a class with no adjustment: its full probability."""
    loss = Loss(LossConfig(adjust=1.0), torch.tensor([4.0, 4.0, 0.0]))
    logits = torch.zeros(1, 3, requires_grad=True)
    torch.autograd.backward(loss(logits, torch.tensor([[1.0, 0.0, 0.0]])))
    assert logits.grad is not None
    # Adjusted logits are ln 1/2, ln 1/2 and 0, so the probabilities are 1/4, 1/4 and 1/2.
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.75, 0.25, 0.5]]))


def test_binary_and_focal_losses_by_hand() -> None:
    """Even logits: binary 2 ln 2 over two classes; focal with gamma 2 a quarter of ln 2."""
    even, first = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    binary = Loss(LossConfig(kind="binary", adjust=0.0), torch.ones(2))
    focal = Loss(LossConfig(kind="focal", gamma=2.0, adjust=0.0), torch.ones(2))
    assert float(binary(even, first)) == pytest.approx(2 * math.log(2))
    assert float(focal(even, first)) == pytest.approx(0.25 * math.log(2))


def test_asymmetric_loss_forgets_easy_negatives() -> None:
    """A sure positive costs almost nothing and a negative under the margin exactly nothing."""
    loss = Loss(LossConfig(kind="asymmetric", adjust=0.0), torch.ones(2))
    easy = loss(torch.tensor([[20.0, -20.0]]), torch.tensor([[1.0, 0.0]]))
    assert float(easy) == pytest.approx(0.0, abs=1e-6)
    # An even positive costs ln 2; an even negative 0.45 ** 2 * -ln(1 - 0.45).
    even = loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert float(even) == pytest.approx(math.log(2) + 0.45**2 * -math.log(0.55))


def test_climbing_moves_up_by_the_radius_and_can_be_undone() -> None:
    """The weights move along the gradient by the radius in all."""
    layer = torch.nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    torch.autograd.backward(layer(torch.tensor([3.0, 4.0])).sum())
    moves = climb(layer, 0.5)
    # The gradient is (3, 4) of norm 5, so the move is (0.3, 0.4).
    torch.testing.assert_close(layer.weight.detach() - before, torch.tensor([[0.3, 0.4]]))
    for weight, move in moves:
        weight.data.sub_(move)
    torch.testing.assert_close(layer.weight.detach(), before)


def test_sharpness_aware_run_trains(tmp_path: Path, faces: FaceSet, tiny: TrainConfig) -> None:
    """With a radius the run differs from the ordinary one and its loss is finite."""
    aware = replace(tiny, epochs=1, optim=replace(tiny.optim, sharpness=0.05))
    fit(replace(tiny, epochs=1), faces, tmp_path / "plain")
    fit(aware, faces, tmp_path / "aware")
    plain, other = losses(tmp_path / "plain")[0], losses(tmp_path / "aware")[0]
    assert math.isfinite(other)
    assert plain != other


def test_muon_moves_a_kernel_by_an_orthogonal_step() -> None:
    """All singular values of a step lie within the band that the source gives, 0.7 to 1.2."""
    torch.manual_seed(0)
    for shape in ((8, 40), (40, 8), (16, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.25


def test_muon_leaves_ends_and_single_channels_to_adam() -> None:
    """Orthogonal are kernels between maps; the ends, norms and kernels of one channel are not."""
    net = FaceNet(replace(recipe("smoke").model, block="depthwise"))
    groups = build_optimizer(net, OptimConfig(name="muon")).param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    inner = {names[id(p)] for g in groups if g["orthogonal"] for p in g["params"]}
    assert "blocks.0.conv1.3.weight" in inner
    assert not inner & {"stem.0.weight", "classifier.weight", "blocks.0.conv1.0.weight"}
    assert sum(len(g["params"]) for g in groups) == len(names)


@pytest.mark.parametrize("block", ["plain", "depthwise"])
def test_recycling_renews_dead_channels_and_changes_no_answer(block: str) -> None:
    """A channel that never fires gets fresh weights before it and zeros behind it."""
    torch.manual_seed(0)
    net = FaceNet(replace(recipe("smoke").model, block=block, dropout=0.0, drop_path=0.0)).train()
    inside = net.get_submodule("blocks.1")
    assert isinstance(inside, Block)
    with torch.no_grad():
        inside.norm1.get_parameter("weight")[3] = 0.0
        inside.norm1.get_parameter("bias")[3] = -1.0
    optimizer = build_optimizer(net, OptimConfig())
    recycling = Recycling(net, threshold=0.01, every=1)
    faces = torch.rand(8, 1, 48, 48)
    assert recycling.due(0)
    with recycling.watching():
        before = net(faces)[1]
    torch.autograd.backward(before.sum())
    optimizer.step()
    with torch.no_grad():
        before = net.eval()(faces)[1]
        assert recycling.renew(optimizer) == 1
        torch.testing.assert_close(net(faces)[1], before)
    assert inside.norm1.get_parameter("weight")[3].item() == 1.0
    last = inside.conv2[-1] if isinstance(inside.conv2, torch.nn.Sequential) else inside.conv2
    weight = last.get_parameter("weight")
    assert not weight[:, 3].any()
    assert not optimizer.state[weight]["exp_avg"][:, 3].any()
    assert optimizer.state[weight]["exp_avg"][:, 2].any()


def test_consistent_attention_costs_nothing() -> None:
    """Mirrored attention to the mirror picture is free; a difference of two costs four."""
    left = torch.zeros(1, 2, 3, 4)
    left[..., 0] = 2.0
    assert float(inconsistency(left, left.flip(3))) == 0.0
    # One column of four differs by two on each side: mean of (4, 0, 0, 4).
    assert float(inconsistency(left, left)) == pytest.approx(2.0)


def test_objective_counts_attention_and_votes(tiny: TrainConfig) -> None:
    """A picture that is its own mirror costs the votes alone; another one more, as its weight."""
    torch.manual_seed(0)
    net = FaceNet(replace(tiny.model, dropout=0.0, drop_path=0.0)).eval()
    faces, wanted = torch.rand(4, 1, 48, 48), torch.eye(8)[:4]
    costs = {}
    for weight in (0.0, 1.0, 5.0):
        loss = Loss(LossConfig(consistency=weight), torch.ones(8))
        costs[weight] = float(Objective(net, loss, bfloat16=False)(faces, wanted).detach())
    assert costs[5.0] - costs[0.0] == pytest.approx(5 * (costs[1.0] - costs[0.0]), rel=1e-3)
    assert costs[1.0] > costs[0.0]


def test_head_epochs_leave_the_features_alone(
    tmp_path: Path, faces: FaceSet, tiny: TrainConfig
) -> None:
    """The last epoch moves the classifier and nothing else, statistics of norms included."""
    config = replace(tiny, epochs=2, head_epochs=1, optim=replace(tiny.optim, average=0.0))
    states = []

    def keep(_: object) -> None:
        states.append(checkpoints.load(tmp_path / LAST).model)

    fit(config, faces, tmp_path, report=keep)
    moved = {n for n, v in states[0].items() if not torch.equal(v, states[1][n])}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_validation_can_be_rarer(tmp_path: Path, faces: FaceSet, tiny: TrainConfig) -> None:
    """Every second epoch and the last one are judged."""
    fit(replace(tiny, epochs=3, validate=2), faces, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert ["score" in line for line in lines] == [False, True, True]


def test_smoothing_spreads_the_target() -> None:
    """With smoothing 0.5 a certain, right answer still pays for the other class."""
    logits = torch.tensor([[4.0, 0.0]])
    log_p = torch.log_softmax(logits, 1)[0]
    loss = Loss(LossConfig(smoothing=0.5, adjust=0.0), torch.ones(2))
    expected = -(0.75 * log_p[0] + 0.25 * log_p[1])
    assert float(loss(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx(float(expected))


def test_class_weights_are_capped() -> None:
    """Sizes 1000, 500 and 1 give inverse weights 1 : 2 : 4 with a cap of four."""
    weights = class_weights(torch.tensor([1000.0, 500.0, 1.0]), "inverse", 4.0)
    np.testing.assert_allclose((weights / weights[0]).numpy(), [1, 2, 4], rtol=1e-5)
    assert float(weights.mean()) == pytest.approx(1.0)


def test_l1_penalty_counts_matrices_only() -> None:
    """A linear layer of four twos costs 8 times the factor; its bias is free."""
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(layer.weight, 2.0)
    torch.nn.init.constant_(layer.bias, 9.0)
    assert float(Loss(LossConfig(l1=0.5), torch.ones(2)).penalty(layer).detach()) == 4.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: recipe("magic"),
        lambda: Loss(LossConfig(kind="magic"), torch.ones(2)),
        lambda: class_weights(torch.ones(2), "magic", 4.0),
        lambda: build_optimizer(torch.nn.Linear(1, 1), OptimConfig(name="magic")),
        lambda: factor(OptimConfig(schedule="magic"), 0.5),
    ],
)
def test_unknown_names_are_refused(make: object) -> None:
    """Each error names the word that is wrong and the choices."""
    assert callable(make)
    with pytest.raises(ConfigError, match=r"'magic'.*choose"):
        make()
