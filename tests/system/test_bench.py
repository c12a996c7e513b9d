"""The benchmark measures what it says, and its report has the keys that machines read."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from streamer.bench.load import Load
from streamer.bench.run import Goal, compare, saved

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(180)
def test_the_report_has_what_machines_read(shared: Path, tmp_path: Path) -> None:
    """One camera for two seconds: every figure is there and is one of a daemon that ran."""
    report_path = tmp_path / "report.json"
    command = [sys.executable, "-m", "streamer", "bench", "--cameras", "1", "--seconds", "2"]
    clip = str(shared / "video" / "single_face.mp4")
    options = ["--video", clip, "--mirror", str(shared / "models")]
    done = subprocess.run(
        [*command, *options, "--json", str(report_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(report_path.read_text())
    assert report["capacity"]["cameras"] in {0, 1}
    assert 0 < report["efficiency"] <= 1.5
    assert set(report["latency_ms"]) == {"p50", "p95", "p99"}
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert {"decode", "detect", "features", "temporal", "event"} <= set(report["raw_ms"])
    assert {"detect_small", "detect_window"} <= set(report["raw_ms"])
    assert {"decode", "compute", "publish"} <= set(report["cpu_ms"])
    assert set(report["loads"][0]["looks"]) == {"whole", "small", "window"}
    assert report["memory_mb"] > 50
    assert report["loads"][0]["captured_fps"] == pytest.approx(30, rel=0.3)
    assert report["watched"]["watched"]
    assert report["watched"]["cpu_s"]["web"] > report["loads"][0]["cpu_s"]["web"]
    assert "efficiency" in done.stdout
    console = Console(file=io.StringIO(), record=True, width=120)
    compare(console, "against itself", saved(report_path), report)
    (line,) = (line for line in console.export_text().splitlines() if "efficiency" in line)
    assert re.findall(r"[\w.]+", line) == ["efficiency", *[f"{report['efficiency']:g}"] * 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--json", "{}/none/x.json"), "there is no folder {}/none; make it first"),
        (("--save", "{}"), "is a folder; name a file in it"),
        (("--engine", "--json", "{}/none/x.json"), "there is no folder {}/none"),
        (("--compare", "{}/none.json"), "none.json is no report of streamer bench: No such file"),
        (("--compare", "{}/older.json"), "older.json is no report of streamer bench: 'capacity'"),
    ],
)
def test_a_place_for_the_report_is_looked_at_before_the_work(
    options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """A mistake costs one line, and no measurement whose report nobody gets."""
    (tmp_path / "older.json").write_text('{"efficiency": 0.5}')
    command = [sys.executable, "-m", "streamer", "bench", "--video", str(tmp_path / "no clip")]
    done = subprocess.run(
        [*command, *(option.format(tmp_path) for option in options)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 78
    assert said.format(tmp_path) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "--video" not in done.stderr


def test_a_full_disk_is_told_in_one_line(shared: Path) -> None:
    """Where the report cannot be written after all, the tables are printed and the rest is told."""
    command = [sys.executable, "-m", "streamer", "bench", "--engine", "--seconds", "1"]
    done = subprocess.run(
        [*command, "--mirror", str(shared / "models"), "--json", "/dev/full"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1
    assert "onnxruntime" in done.stdout
    assert "streamer: error: --json /dev/full: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def load_of(*, p95: float, analysed: float) -> Load:
    """Return a load of ten cameras with 100 due frames a second."""
    return Load(
        cameras=10,
        seconds=10.0,
        captured_fps=250.0,
        analysed_fps=analysed,
        due_fps=100.0,
        samples=1000,
        latency_ms={"p50": 10.0, "p95": p95, "p99": 2 * p95},
        dropped={},
        cpu_s={"compute": 5.0, "decode": 5.0},
        memory_mb=300.0,
    )


def test_served_means_in_time_and_complete() -> None:
    """Both bounds count, each alone."""
    assert Goal().met(load_of(p95=150.0, analysed=99.5))
    assert not Goal().met(load_of(p95=151.0, analysed=100.0))
    assert not Goal().met(load_of(p95=50.0, analysed=98.9))
    assert load_of(p95=1.0, analysed=100.0).cpu_per_analysed_ms == pytest.approx(10.0)
