"""The benchmark of the networks: what it times, and what it says of a runtime that is missing."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from streamer import config as configuration
from streamer.bench import engine as engines
from streamer.engine import graphs
from streamer.engine.device import UnavailableError, open_device
from streamer.engine.gpu import GpuEngine
from streamer.reading import GpuReading
from tests.engine_fixtures import HostDevice, HostNetwork, write_networks

if TYPE_CHECKING:
    from pathlib import Path


def test_a_gpus_time_is_split_into_shares(tmp_path: Path) -> None:
    """A device that takes 1 ms a copy and a run tells its shares, and the rest is launching."""
    network = graphs.reader(*write_networks(tmp_path))
    device = HostDevice()
    reading = GpuReading(
        GpuEngine(network, HostNetwork(network, device), device, name="host"), size_px=8
    )
    row = engines.measure("host", reading, 4, size_px=8, seconds=0.0)
    assert (row.engine, row.batch, row.ticks) == ("host", 4, 20)
    assert row.faces_s == pytest.approx(4000 / row.median_ms, rel=0.01)
    assert row.shares is not None
    assert row.shares.transfer == pytest.approx(2 * row.shares.compute, rel=0.02)
    reading.close()


def test_runtimes_are_measured_side_by_side(tmp_path: Path) -> None:
    """The CPU's rows are there, and a GPU that does not answer is named with the reason."""
    try:
        open_device().close()
    except UnavailableError:
        pass
    else:
        pytest.skip("a GPU answers here")
    config = configuration.parse(
        f'[[cameras]]\nname = "a"\nurl = "a.mp4"\n[engine]\ncache = "{tmp_path}"\n'
    )
    out = io.StringIO()
    report = engines.bench(
        config, seconds=0.0, console=Console(file=out, width=200), batches=(1, 2)
    )
    assert {row.batch for row in report.rows} == {1, 2}
    assert all(row.engine.startswith("onnxruntime") for row in report.rows)
    assert all(0 < row.median_ms <= row.p95_ms for row in report.rows)
    assert max(report.differences.values()) < 1e-4
    (missing,) = report.missing
    assert missing.engine == "tensorrt"
    assert missing.why in out.getvalue()
