"""Several processes train as one does: started by the real torchrun, compared with one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch

from training import checkpoint as checkpoints
from training.data import cache
from training.train import BEST, LAST, LOG

if TYPE_CHECKING:
    from pathlib import Path

    from training.data.faces import FaceSet

TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "training",
)


def fit(
    how: tuple[str, ...], data: Path, out: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """Run ``fit`` with the smoke recipe; ``how`` starts one process or two."""
    options = ("fit", "--data", str(data), "--out", str(out), "--recipe", "smoke", "--threads", "1")
    return subprocess.run(
        [sys.executable, *how, *options, *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def curve(out: Path) -> list[dict[str, float]]:
    """Return the log of a run."""
    return [json.loads(line) for line in (out / LOG).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_walk_the_curve_of_one(tmp_path: Path, faces: FaceSet) -> None:
    """Same losses, scores and weights within rounding, with every random part switched on.

    Then both go on from their checkpoints, the two processes after being told to resume.
    """
    data = tmp_path / "faces.npz"
    cache.save(data, faces, [])
    one, two = tmp_path / "one", tmp_path / "two"
    # 31 faces a batch: the two shares differ by one face.
    changes = ["chunks=2", "batch=31", "augment.cutmix=0.5", "loss.consistency=1", "model.rest=0.6"]
    more = [part for change in changes for part in ("--set", change)]
    for how, out in ((("-m", "training"), one), (TORCHRUN, two)):
        for again in (["--set", "epochs=1"], ["--set", "epochs=2", "--resume"]):
            done = fit(how, data, out, *more, *again)
            assert done.returncode == 0, done.stderr
    assert done.stdout.count('"epoch"') == 1  # one of the two speaks
    assert [line["epoch"] for line in curve(two)] == [1, 2]
    for a, b in zip(curve(one), curve(two), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["score"] == pytest.approx(a["score"], abs=0.05)
    assert (two / BEST).exists()
    lone, shared = checkpoints.load(one / LAST), checkpoints.load(two / LAST)
    for name, value in lone.model.items():
        torch.testing.assert_close(shared.model[name], value, rtol=1e-2, atol=1e-3, msg=name)


def test_chunks_that_cannot_be_shared_are_named(tmp_path: Path, faces: FaceSet) -> None:
    """Two processes and one chunk: one line says what to set."""
    data = tmp_path / "faces.npz"
    cache.save(data, faces, [])
    done = fit(TORCHRUN, data, tmp_path / "run")
    assert done.returncode != 0
    assert "2 processes cannot share chunks=1; set a multiple, e.g. --set chunks=2" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_nodes_walk_the_curve_of_one_machine(tmp_path: Path, faces: FaceSet) -> None:
    """Two torchrun of one process each, as on two machines, meet and write one run, as one does."""
    data = tmp_path / "faces.npz"
    cache.save(data, faces, [])
    changes = ("--set", "chunks=2", "--set", "epochs=1", "--set", "batch=31")
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    torchrun = ["-m", "torch.distributed.run", *options, "--rdzv-endpoint", meeting]
    with ThreadPoolExecutor(2) as machines:
        nodes = [
            machines.submit(fit, (*torchrun, "-m", "training"), data, tmp_path / name, *changes)
            for name in ("first", "second")
        ]
        done = [node.result() for node in nodes]
    assert [node.returncode for node in done] == [0, 0], done[0].stderr + done[1].stderr
    assert fit(("-m", "training"), data, tmp_path / "one", *changes).returncode == 0
    (written,) = [path.parent for path in tmp_path.glob("*/log.jsonl") if path.parent.name != "one"]
    (alone,), (shared,) = curve(tmp_path / "one"), curve(written)
    assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert shared["score"] == pytest.approx(alone["score"], abs=0.05)
