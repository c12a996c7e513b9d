"""From a network to an engine: cached, built, built again, shared, refused; without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from structlog.testing import capture_logs

from streamer.engine import graphs
from streamer.engine.accelerator import Accelerator, compile_ahead
from streamer.engine.cache import EngineCache
from streamer.engine.device import UnavailableError
from streamer.errors import ConfigError, EngineError
from tests.engine_fixtures import HostCompiler, HostDevice, write_networks

if TYPE_CHECKING:
    from pathlib import Path

FACE = {"faces": np.ones((1, 1, 8, 8), np.float32)}


@dataclass
class Machine:
    """A machine with a cache, a compiler and a GPU of host memory."""

    cache: EngineCache
    network: graphs.Network
    compiler: HostCompiler = field(default_factory=HostCompiler)
    devices: list[HostDevice] = field(default_factory=list)
    progress: list[str] = field(default_factory=list)

    def start(self) -> Accelerator:
        """Begin as a process does."""

        def opener() -> HostDevice:
            self.devices.append(HostDevice())
            return self.devices[-1]

        return Accelerator(
            self.cache,
            progress=lambda: self.progress.append("step"),
            library=lambda: self.compiler,
            opener=opener,
        )

    def engine_file(self) -> Path:
        """Return the only engine in the cache."""
        (path,) = self.cache.folder.glob("*.engine")
        return path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine whose cache is empty."""
    features, _ = write_networks(tmp_path)
    return Machine(EngineCache(tmp_path / "engines"), graphs.batched(features))


def why_built(machine: Machine) -> list[str]:
    """Start, open the network, and return the reasons for each build."""
    with capture_logs() as logs:
        engine = machine.start().open(machine.network)
    assert engine.run(FACE)["features"].tolist() == [[1.0, 2.0, 3.0]]
    engine.close()
    return [line["why"] for line in logs if line["event"] == "engine_building"]


def test_an_engine_is_built_once(machine: Machine) -> None:
    """The second start takes it from the cache; the build was reported as progress."""
    assert why_built(machine) == [f"none is in {machine.cache.folder}"]
    assert machine.progress == ["step"]
    assert why_built(machine) == []
    assert all(device.closed for device in machine.devices)


def test_a_truncated_engine_is_built_again(machine: Machine) -> None:
    """Half an engine costs a build and a line, not the start."""
    why_built(machine)
    path = machine.engine_file()
    content = path.read_bytes()
    path.write_bytes(content[:100])
    assert why_built(machine) == [f"{path} is truncated: 100 of {len(content)} bytes"]
    assert path.read_bytes() == content


def test_an_engine_that_does_not_load_is_built_again(machine: Machine) -> None:
    """The library's own reason is in the line, and the next start is clean."""
    why_built(machine)
    machine.compiler.fail_loads = 1
    assert why_built(machine) == ["features: the engine does not load: wrong driver"]
    assert why_built(machine) == []


def test_an_engine_of_another_version_is_built_again(machine: Machine) -> None:
    """After an update the line names both versions."""
    why_built(machine)
    machine.compiler.version = "1.1"
    assert why_built(machine) == [f"the one in {machine.cache.folder} has version 1.0, not 1.1"]


def test_an_engine_that_was_compiled_ahead_is_taken(machine: Machine) -> None:
    """What an image brought along for this architecture needs no build at the start."""
    done = compile_ahead(machine.network, "sm86", machine.compiler, machine.cache)
    assert done == f"built: none is in {machine.cache.folder}"
    assert machine.compiler.builds[-1][1] == "sm86"
    again = compile_ahead(machine.network, "sm86", machine.compiler, machine.cache)
    assert again == "in the cache"
    assert why_built(machine) == []


def test_an_engine_for_another_architecture_is_not_taken(machine: Machine) -> None:
    """An image for one GPU, run on another, builds and says why."""
    compile_ahead(machine.network, "sm120", machine.compiler, machine.cache)
    (why,) = why_built(machine)
    assert "architecture sm120, not sm86" in why


def test_timings_speed_up_the_next_build(machine: Machine) -> None:
    """What was measured for one network is handed to the build of the next."""
    why_built(machine)
    machine.compiler.version = "1.0"
    machine.engine_file().unlink()
    why_built(machine)
    assert [timings for _, _, timings in machine.compiler.builds] == [b"", b"measured"]


def test_kernels_are_remembered(machine: Machine) -> None:
    """Kernels that were finished in one run are handed to the library in the next."""
    accelerator = machine.start()
    engine = accelerator.open(machine.network)
    engine.run(FACE)
    accelerator.keep()
    engine.close()
    machine.start().open(machine.network).close()
    assert machine.compiler.loads == [b"", b"kernel"]


def test_a_build_that_fails_leaves_nothing_open(machine: Machine) -> None:
    """The device is given back, nothing is cached, and the reason is the library's."""
    machine.compiler.fail_build = "features: cannot compile: out of memory"
    accelerator = machine.start()
    with pytest.raises(EngineError, match="out of memory"):
        accelerator.open(machine.network)
    assert all(device.closed for device in machine.devices)
    assert not list(machine.cache.folder.glob("*.engine"))


def test_an_unsupported_architecture_is_said_at_once(machine: Machine) -> None:
    """A GPU that the library does not run on is refused before anything is built."""
    machine.compiler.architectures = ("sm120",)
    with pytest.raises(UnavailableError, match="does not support sm86"):
        machine.start()
    assert all(device.closed for device in machine.devices)


def test_a_cache_that_cannot_be_written_is_a_mistake(machine: Machine, tmp_path: Path) -> None:
    """Compiling at every start for ever would be worse than refusing to start."""
    (tmp_path / "file").write_text("")
    machine.cache = EngineCache(tmp_path / "file" / "engines")
    accelerator = machine.start()
    with pytest.raises(ConfigError, match=r"engine\.cache"):
        accelerator.open(machine.network)
    assert machine.compiler.builds == []


def test_a_read_only_cache_that_holds_the_engine_is_enough(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image's file system may be read-only: what is there is read, and no lock is asked for."""
    why_built(machine)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    accelerator = machine.start()
    engine = accelerator.open(machine.network)
    engine.run(FACE)
    with capture_logs() as logs:
        accelerator.keep()
    assert [line["event"] for line in logs] == ["runtime_cache_not_kept"]
    engine.close()
