"""No library of ours reports to its vendor: what a run would leave for that is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SESSION = """
import onnxruntime
onnxruntime.InferenceSession("streamer/bundle_default/features.onnx")
"""


def left_behind(home: Path, code: str) -> list[Path]:
    """Run Python as on a machine that is nobody's test, and return the files in its home folder."""
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "MPLCONFIGDIR": "/nonexistent"},
        timeout=90,
        capture_output=True,
    )
    return [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("package", ["streamer.engine.onnx", "training.export"])
def test_onnxruntime_keeps_no_identifier(tmp_path: Path, package: str) -> None:
    """Left alone it writes one down, and a queue of events for its vendor; ours does not."""
    alone, ours = tmp_path / "alone", tmp_path / "ours"
    alone.mkdir()
    ours.mkdir()
    if not left_behind(alone, SESSION):
        pytest.skip("this build of onnxruntime collects nothing")
    assert left_behind(ours, f"import {package}{SESSION}") == []
