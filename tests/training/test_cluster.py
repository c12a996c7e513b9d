"""Training on a real Ray cluster of two nodes: one curve, one search, and who is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.fleet.cluster import Cluster
from training.data import cache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from training.data.faces import FaceSet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
pytest.importorskip("ray", reason="needs Ray: pip install 'emotion-streamer[fleet]'")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yield two nodes with a core each to give, and a head with none."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.start_head()
        made.start("a")
        made.start("b")
        yield made


def typed(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Type a command."""
    command = [sys.executable, "-m", "training", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def curve(out: Path) -> list[dict[str, Any]]:
    """Return the epochs of a run."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_fit_on_two_nodes_walks_the_curve_of_one_machine(
    cluster: Cluster, tmp_path: Path, faces: FaceSet
) -> None:
    """The processes share each batch; one of them speaks and writes."""
    data = tmp_path / "faces.npz"
    cache.save(data, faces, [])
    words: list[str | Path] = [
        "fit",
        "--data",
        data,
        "--recipe",
        "smoke",
        "--set",
        "epochs=1",
        "--threads",
        "1",
    ]
    words += ["--set", "chunks=2", "--set", "batch=31"]
    both: list[str | Path] = ["cluster", "--processes", "2", "--address", cluster.address]
    both += ["--cpus", "0.5"]  # less than one is enough to be started and to meet
    shared = typed(*both, *words, "--out", tmp_path / "shared")
    assert shared.returncode == 0, shared.stderr + shared.stdout
    assert shared.stdout.count('"epoch"') == 1
    alone = typed(*words, "--out", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    (one,), (two,) = curve(tmp_path / "alone"), curve(tmp_path / "shared")
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_a_search_ends_although_a_node_is_lost(
    cluster: Cluster, tmp_path: Path, faces: FaceSet
) -> None:
    """Three processes share the trials; one's node is killed, and all trials are done."""
    data, out = tmp_path / "faces.npz", tmp_path / "search"
    cache.save(data, faces, [])
    cluster.start("c")
    command = [sys.executable, "-m", "training", "cluster", "--address", cluster.address]
    command += ["--processes", "3", "tune", "--data", str(data), "--out", str(out)]
    command += ["--recipe", "smoke", "--set", "epochs=2", "--vary", "optim.lr=0.001..0.02:log"]
    command += ["--trials", "5", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as search:
        assert search.stdout is not None
        assert ", epoch 1 of 2" in search.stdout.readline()
        cluster.kill("c")
        said, _ = search.communicate(timeout=300)
    assert search.returncode == 0, said
    assert said.count("best: streamer-train fit") >= 1
    assert len(list(out.glob("trial-*/log.jsonl"))) == 5


def test_interrupted_it_ends_its_processes_and_says_so(
    cluster: Cluster, tmp_path: Path, faces: FaceSet
) -> None:
    """Ctrl-C ends with one line and 130, as everywhere, and nothing of it runs on."""
    data, out = tmp_path / "faces.npz", tmp_path / "search"
    cache.save(data, faces, [])
    command = [sys.executable, "-m", "training", "cluster", "--address", cluster.address]
    command += ["--processes", "2", "tune", "--data", str(data), "--out", str(out)]
    command += ["--recipe", "smoke", "--set", "epochs=50", "--trials", "9", "--threads", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as search:  # type: ignore[call-overload]
        # On a busy machine Ray may tell of its own troubles before.
        assert any(", epoch 1 of 50" in line for line in search.stdout)
        search.send_signal(signal.SIGINT)
        _, words = search.communicate(timeout=100)
    assert search.returncode == 130, words
    (line,) = words.splitlines()
    assert line.startswith("streamer-train: interrupted; what is done is kept")
    mine = [p for p in psutil.process_iter(["cmdline"]) if str(out) in (p.info["cmdline"] or [])]
    assert not psutil.wait_procs(mine, timeout=20)[1]


def test_what_cannot_be_is_one_line(cluster: Cluster) -> None:
    """No room, no cluster, another command: each says what to do."""
    fit = ["fit", "--data", "x.npz", "--out", "y"]
    tune = ["tune", *fit[1:]]
    for words, reason in (
        (("--address", "127.0.0.1:1", *fit), "start one with: ray start --head"),
        (("--address", cluster.address, "report"), "expected fit or tune"),
        (("--address", cluster.address, "--processes", "1", *fit), "x.npz"),
        (("--address", cluster.address, "--cpus", "2", *tune), "no room for a process of 2 CPUs"),
        (("--address", cluster.address, "--gpus", "1", *tune), "and 1 GPUs on any machine"),
        (("--address", cluster.address, "--processes", "5", *tune), "of 5 processes; the others"),
    ):
        done = typed("cluster", *words)
        assert done.returncode != 0
        assert reason in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
