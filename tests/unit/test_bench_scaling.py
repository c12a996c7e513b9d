"""The simulation of a node: bounds that can be computed by hand, and what it refuses."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from rich.console import Console

from streamer.bench.scaling import Constants, Node, capacity, constants_of, scale, simulate
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def constants(**changes: float) -> Constants:
    """Return cameras of 0.1 core each: 4 ms spread, 1 ms alone, 25 × 2 ms decode."""
    values = {
        "captured_fps": 25.0,
        "analysed_fps": 10.0,
        "faces": 1.0,
        "decode": 2.0,
        "spread": 4.0,
        "alone": 1.0,
        "spent": 10.0,
        "usable": 1.0,
        "process_mb": 200.0,
        "camera_mb": 5.0,
    }
    return Constants(**(values | changes))


def test_a_camera_waits_for_those_before_it() -> None:
    """Four at once on two cores: 4 × (4 ms on 1.8 cores, and 1 ms), of which the last sees all."""
    found = simulate(constants(), Node(cores=2), 4)
    assert found.missed == pytest.approx(0.0, abs=0.01)
    assert found.p50_ms == pytest.approx(4 * (4 / 1.8 + 1) + 1, abs=5.0 + 0.1)


def test_what_does_not_fit_is_missed_evenly() -> None:
    """At 8 ms on two cores and 1 ms alone 200 analyses fit a second; 40 cameras want 400."""
    found = simulate(constants(decode=0.0, spread=8.0), Node(cores=2), 40)
    assert found.missed == pytest.approx(0.5, abs=0.05)
    assert not found.served


def test_more_cores_carry_more_until_the_lock_is_the_bound() -> None:
    """One process never does more than 1,000 analyses of 1 ms a second, whatever the cores."""
    carried = [capacity(constants(), Node(cores=cores)) for cores in (1, 2, 4, 8, 64, 256)]
    assert carried == sorted(carried)
    assert 80 <= carried[-1] <= 100
    many = capacity(constants(), Node(cores=64, workers=16))
    assert many > 2 * carried[-2]


def report() -> dict[str, Any]:
    """Return a report of ``streamer bench``, as small as it can be."""
    loads = [
        {
            "cameras": cameras,
            "seconds": 10.0,
            "captured_fps": 25.0 * cameras,
            "analysed_fps": 10.0 * cameras,
            "due_fps": 10.0 * cameras,
            "samples": 150 * cameras,
            "latency_ms": {"p50": 20.0, "p95": 40.0, "p99": 50.0},
            "cpu_s": {"compute": 0.5 * cameras, "decode": 0.5 * cameras},
            "memory_mb": 200.0 + 5 * cameras,
        }
        for cameras in (4, 8, 16)
    ]
    return {
        "date": "2026-11-23T12:00:00+00:00",
        "machine": {"cpu": "a CPU", "cores": 2},
        "analysis_fps": 10.0,
        "capacity": {"cameras": 16},
        "raw_ms": {
            "decode": 1.0,
            "detect": 4.0,
            "track": 0.1,
            "crop": 0.02,
            "features": {"1": 2.0, "8": 1.8},
            "temporal": 0.01,
            "event": 0.01,
        },
        "least_ms_per_analysed": 9.0,
        "spent_ms_per_analysed": 10.0,
        "loads": loads,
    }


def test_the_constants_are_those_of_the_report() -> None:
    """Faces by samples, memory by the line through the loads, the rest is what nothing spreads."""
    found = constants_of(report())
    assert found.faces == pytest.approx(1.5)
    assert found.spread == pytest.approx(4.0 + 1.5 * 1.8)
    assert found.alone == pytest.approx(0.1 + 1.5 * 0.04 + 1.0)
    assert (found.process_mb, found.camera_mb) == pytest.approx((200.0, 5.0))
    assert found.usable == pytest.approx(0.8)


def test_a_report_becomes_tables(tmp_path: Path) -> None:
    """What is measured and what is estimated is said; another file is refused in one line."""
    path = tmp_path / "report.json"
    path.write_bytes(msgspec.json.encode(report()))
    written = io.StringIO()
    scale(path, Console(file=written, width=140))
    text = written.getvalue()
    for words in ("1,000", "simulated", "estimated: 1 Mbit/s a camera", "measured on a CPU"):
        assert words in text
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"--scale: .* is no report of streamer bench"):
        scale(path, Console(file=written))
