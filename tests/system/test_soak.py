"""The soak, for a third of a minute: that its faults happen, heal, and leave the counts exact."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.rtsp_server import rtsp_missing
from tests.system.soak import Trend

if TYPE_CHECKING:
    from pathlib import Path


def test_a_trend_is_the_slope_of_a_line() -> None:
    """Two megabytes more each half hour are four an hour; a flat line has no slope."""
    minutes = [0.0, 30.0, 60.0, 90.0]
    grown = Trend.of(minutes, [100.0, 102.0, 104.0, 106.0])
    flat = Trend.of(minutes, [100.0, 101.0, 101.0, 100.0])
    assert grown is not None
    assert flat is not None
    assert (grown.per_hour, flat.per_hour) == (4.0, 0.0)
    assert flat.error > 0.0
    assert Trend.of(minutes[:3], [1.0, 2.0, 3.0]) is None


@pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "there")
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_some_seconds_of_faults_leaves_the_counts_exact(shared: Path, tmp_path: Path) -> None:
    """Servers die and come back, peers misbehave; nothing is lost, miscounted or left over."""
    written = tmp_path / "soak.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.system.soak", "--minutes", "0.3", "--cameras", "4"),
            *("--video", shared / "video", "--models", shared / "models", "--report", written),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads(written.read_text())
    assert report["failures"] == []
    assert report["missed"] == 0
    assert sum(report["faults"].values()) >= 4
    assert report["reconnects"]
    assert report["events"]["emotion.sample"] > 0
    assert set(report["accounting"]) == {"cam0", "cam1", "cam2", "cam3"}
    assert {row["unexplained"] for row in report["accounting"].values()} == {0}
