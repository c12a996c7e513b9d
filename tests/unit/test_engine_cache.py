"""The cache of compiled engines: what its key holds, and what it refuses to give out."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.engine.cache import EngineCache, EngineKey, Header, default_folder
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

KEY = EngineKey(
    network="reader",
    onnx_sha256="a" * 64,
    library="tensorrt",
    version="10.3.0.26",
    gpu="NVIDIA RTX A2000",
    architecture="sm86",
    platform="linux-x86_64",
    profiles=((("C", 256, 256, 65536), ("N", 1, 1, 2)), (("N", 4, 8, 16),)),
    precision="fp32",
    flags=("no_tf32",),
)
ENGINE = b"engine" * 100

_axis = st.tuples(st.text(min_size=1, max_size=3), *[st.integers(1, 99)] * 3)
_values: dict[str, st.SearchStrategy[Any]] = {
    "network": st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True),
    "onnx_sha256": st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    "profiles": st.lists(st.lists(_axis, max_size=3).map(tuple), max_size=3).map(tuple),
    "flags": st.lists(st.text(max_size=8), max_size=3).map(tuple),
} | {
    name: st.text(max_size=20)
    for name in ("library", "version", "gpu", "architecture", "platform", "precision")
}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """Return a cache in an empty folder."""
    return EngineCache(tmp_path / "engines")


def other(**changes: Any) -> EngineKey:
    """Return the key with some parts changed."""
    return msgspec.structs.replace(KEY, **changes)


@given(st.data())
def test_any_change_of_any_part_gives_another_key(data: st.DataObject) -> None:
    """No two keys that differ anywhere share a digest, and equal ones always do."""
    name = data.draw(st.sampled_from(EngineKey.__struct_fields__))
    value = data.draw(_values[name])
    changed = other(**{name: value})
    assert (changed.digest == KEY.digest) == (value == getattr(KEY, name))
    assert (changed.differences(KEY) == "") == (changed == KEY)


def test_every_part_of_the_key_is_varied_above() -> None:
    """A part that is added later must be added to the test as well."""
    assert set(_values) == set(EngineKey.__struct_fields__)


def test_what_is_stored_is_found_again(cache: EngineCache) -> None:
    """An engine comes back byte for byte, and its header says when and how long."""
    assert cache.look(KEY).why == f"none is in {cache.folder}"
    cache.store(KEY, ENGINE, build_s=1.25)
    assert cache.look(KEY).engine == ENGINE
    (header,) = cache.headers().values()
    assert isinstance(header, Header)
    assert (header.key, header.size, header.build_s) == (KEY, 600, 1.25)
    assert not [path for path in cache.folder.iterdir() if path.suffix == ".part"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": "11.4.0.5"}, "version 10.3.0.26, not 11.4.0.5"),
        ({"gpu": "NVIDIA L4"}, "gpu NVIDIA RTX A2000, not NVIDIA L4"),
        ({"architecture": "sm120"}, "architecture sm86, not sm120"),
        ({"precision": "fp16"}, "precision fp32, not fp16"),
        ({"onnx_sha256": "b" * 64}, "another onnx_sha256"),
        ({"profiles": ()}, "another profiles"),
    ],
)
def test_a_key_that_changed_is_said(cache: EngineCache, changes: dict[str, Any], why: str) -> None:
    """An engine that was built for something else is not taken, and the line says for what."""
    cache.store(KEY, ENGINE, build_s=1)
    entry = cache.look(other(**changes))
    assert entry.engine is None
    assert entry.why == f"the one in {cache.folder} has {why}"


def test_a_file_under_a_name_that_is_not_its_own_is_refused(cache: EngineCache) -> None:
    """Copying one GPU's engine over another's name does not make it run there."""
    there = other(gpu="NVIDIA L4")
    cache.store(KEY, ENGINE, build_s=1)
    for suffix in (".engine", ".json"):
        source = cache.folder / f"{KEY.stem}{suffix}"
        (cache.folder / f"{there.stem}{suffix}").write_bytes(source.read_bytes())
    entry = cache.look(there)
    assert entry.engine is None
    assert "belongs to another engine: gpu NVIDIA RTX A2000, not NVIDIA L4" in entry.why


@given(cut=st.integers(0, 599))
def test_a_truncated_engine_is_refused(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is missing at the end, the line says how much is there."""
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    cache.store(KEY, ENGINE, build_s=1)
    (cache.folder / f"{KEY.stem}.engine").write_bytes(ENGINE[:cut])
    assert cache.look(KEY).engine is None
    assert f"is truncated: {cut} of 600 bytes" in cache.look(KEY).why


@given(at=st.integers(0, 599), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(
    at: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An engine of the right length with a wrong bit never reaches the library."""
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    cache.store(KEY, ENGINE, build_s=1)
    damaged = bytearray(ENGINE)
    damaged[at] ^= 1 << bit
    (cache.folder / f"{KEY.stem}.engine").write_bytes(damaged)
    assert "sha256" in cache.look(KEY).why


@given(text=st.binary(max_size=200))
def test_any_bytes_as_a_header_are_a_reason_and_no_crash(
    text: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A header that is not one is named, and the engine is not given out."""
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    cache.store(KEY, ENGINE, build_s=1)
    (cache.folder / f"{KEY.stem}.json").write_bytes(text)
    assert "is damaged" in cache.look(KEY).why
    assert isinstance(next(iter(cache.headers().values())), str)


def test_an_engine_without_its_header_does_not_count(cache: EngineCache) -> None:
    """The header is written last: a crash before it leaves nothing valid."""
    cache.store(KEY, ENGINE, build_s=1)
    (cache.folder / f"{KEY.stem}.json").unlink()
    assert cache.look(KEY).why == f"none is in {cache.folder}"


def test_a_header_without_its_engine_is_said(cache: EngineCache) -> None:
    """Somebody removed the large file alone."""
    cache.store(KEY, ENGINE, build_s=1)
    (cache.folder / f"{KEY.stem}.engine").unlink()
    assert "cannot be read: No such file" in cache.look(KEY).why


def test_a_header_of_a_later_version_is_refused(cache: EngineCache) -> None:
    """A format that this program does not know is not guessed at."""
    cache.store(KEY, ENGINE, build_s=1)
    path = cache.folder / f"{KEY.stem}.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    assert "format 2, not 1" in cache.look(KEY).why


def _hold(folder: Path, held: Any, leave: Any) -> None:
    with EngineCache(folder).locked(KEY, waiting=lambda: None):
        held.set()
        leave.wait(20)


def test_another_process_is_waited_for(cache: EngineCache) -> None:
    """The second builder waits while the first has the key, and reports that it waits."""
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(cache.folder, held, leave))
    process.start()
    assert held.wait(20)
    waited = threading.Event()

    def waiting() -> None:
        waited.set()
        leave.set()

    with cache.locked(KEY, waiting=waiting):
        assert waited.is_set()
    with cache.locked(other(gpu="NVIDIA L4"), waiting=waiting):
        pass
    process.join(20)
    assert process.exitcode == 0


def test_timings_are_kept_a_library_and_gpu(cache: EngineCache) -> None:
    """Another network on the same GPU shares them; another version or GPU does not."""
    cache.store_timings(KEY, b"measured")
    assert cache.timings(other(network="detector-480", precision="fp16")) == b"measured"
    assert cache.timings(other(version="10.4")) == b""
    assert cache.timings(other(gpu="NVIDIA L4")) == b""


def test_kernels_are_kept_an_engine(cache: EngineCache) -> None:
    """Kernels that were finished at run time belong to one engine."""
    cache.store_runtime_cache(KEY, b"kernels")
    assert cache.runtime_cache(KEY) == b"kernels"
    assert cache.runtime_cache(other(network="detector-480")) == b""


def test_clearing_removes_what_a_cache_writes_alone(cache: EngineCache) -> None:
    """A note that somebody keeps in the folder stays."""
    assert cache.clear() == (0, 0)
    cache.store(KEY, ENGINE, build_s=1)
    cache.store_timings(KEY, b"measured")
    cache.store_runtime_cache(KEY, b"kernels")
    with cache.locked(KEY, waiting=lambda: None):
        pass
    (cache.folder / "notes.json").write_text("{}")
    files, size = cache.clear()
    assert files == 5
    assert size > 600
    assert [path.name for path in cache.folder.iterdir()] == ["notes.json"]


def test_a_folder_that_cannot_be_written_is_a_mistake_of_the_configuration(
    tmp_path: Path,
) -> None:
    """The line names the folder and the key, whoever runs it: a file is in the way."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = EngineCache(blocked / "engines")
    with pytest.raises(ConfigError, match=r"engine\.cache: .*engines cannot be written"):
        cache.store(KEY, ENGINE, build_s=1)
    with (
        pytest.raises(ConfigError, match=r"engine\.cache"),
        cache.locked(KEY, waiting=lambda: None),
    ):
        pass
    assert cache.clear() == (0, 0)
    assert cache.look(KEY).engine is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    """The engine that does not fit is refused with the system's reason, and leaves no part."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        cache = EngineCache(tmp_path)
        cache.store(KEY, b"small", build_s=1)
        with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
            cache.store(other(gpu="another"), bytes(100_000), build_s=1)
        assert cache.look(KEY).engine == b"small"
        assert not list(tmp_path.glob("*.part"))
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_the_default_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Chosen by hand, else systemd's cache directory, else the user's."""
    for name in ("STREAMER_ENGINES", "CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache/emotion-streamer/engines"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg/emotion-streamer/engines"
    monkeypatch.setenv("CACHE_DIRECTORY", f"/var/cache/streamer{os.pathsep}/other")
    assert default_folder().as_posix() == "/var/cache/streamer/engines"
    monkeypatch.setenv("STREAMER_ENGINES", "/opt/engines")
    assert default_folder().as_posix() == "/opt/engines"
