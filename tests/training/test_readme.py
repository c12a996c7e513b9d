"""The commands of training/README.md, typed as they stand there, on a corpus of drawings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MADE = ("cache/ferplus.npz", "audit.html", "runs/first/last.pt", "report.html", "bundle")


def draw_corpus(path: Path) -> None:
    """Write fer2013.csv: 168 drawings, seven classes told apart by a bright bar."""
    rng = np.random.default_rng(0)
    lines = ["emotion,pixels,Usage"]
    for i in range(168):
        usage = "Training" if i < 112 else "PublicTest" if i < 140 else "PrivateTest"
        picture_HW = rng.normal(110, 20, (48, 48))
        picture_HW[6 * (i % 7) :][:6] += 60
        pixels = " ".join(map(str, picture_HW.clip(0, 255).astype(int).ravel()))
        lines.append(f"{i % 7},{pixels},{usage}")
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commands_of_the_readme_lead_to_a_bundle(shared: Path, tmp_path: Path) -> None:
    """From a CSV to a verified bundle; only the recipe and the stills are made small."""
    draw_corpus(tmp_path / "fer2013.csv")
    weights = shared / "models" / "face_detection_yunet_2026may.onnx"
    shutil.copy(weights, tmp_path / "yunet.onnx")
    text = (ROOT / "training" / "README.md").read_text()
    commands = re.findall(r"^    (streamer(?:-train)? [a-z].*)$", text, re.MULTILINE)
    assert len(commands) >= len(MADE) + 1
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands:
        if command.startswith("streamer-train cluster"):  # test_cluster.py has a cluster
            continue
        small = command.partition("#")[0].replace("--recipe ferplus", "--recipe smoke")
        small += " --stills 16" if " export " in small else ""
        if " ablate --data" in small:  # of its runs one is enough, on what there is
            small = (
                "streamer-train ablate --data cache/ferplus.npz --recipe smoke --seeds 1 --only L1"
            )
        done = subprocess.run(
            ["bash", "-c", small],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    for made in MADE:
        assert (tmp_path / made).exists(), made
