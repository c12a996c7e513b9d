"""Compiled engines on disk: found by everything that they depend on, never trusted blindly.

A file pair a key: ``<network>-<digest>.engine`` and the JSON header beside it, which is written
last and so makes the pair valid. What does not fit in any way is built again, with the reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from streamer.errors import ConfigError
from streamer.folders import kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ANY_GPU", "EngineCache", "EngineKey", "Entry", "Header", "default_folder", "folder_of"]

ANY_GPU = "any"
"""GPU name of an engine that was compiled for an architecture where no GPU was."""
_FORMAT = 1
_HEADER_LIMIT = 1 << 20  # bytes; a real one is about 1 kB
_DIGEST_CHARACTERS = 16  # of 64; 2^64 names are enough for a folder, the header holds the rest
_LOCK_POLL_S = 0.2
_OURS = re.compile(
    r"[a-z0-9_-]+-[0-9a-f]{16}\.(engine|json|lock|runtime)|tensorrt[^/]*\.timing|.*\.part"
)
"""Names of what a cache writes, so that clearing a folder removes nothing else."""

Axis = tuple[str, int, int, int]
"""Name of a free axis, its least, best and largest size."""


class EngineKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an engine depends on.

    Attributes:
        network: its label, which is in the file's name too.
        onnx_sha256: of the ONNX bytes, external weights included.
        library: ``tensorrt`` or ``tensorrt_rtx``.
        version: the library's full version.
        gpu: the GPU's name, or ``ANY_GPU``.
        architecture: such as ``sm86``.
        platform: operating system and processor.
        profiles: for each optimisation profile the ranges of its free axes.
        precision: what the network computes in.
        flags: builder flags.
    """

    network: Annotated[str, Meta(pattern="^[a-z0-9_-]{1,64}$")]
    onnx_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    library: str
    version: str
    gpu: str
    architecture: str
    platform: str
    profiles: tuple[tuple[Axis, ...], ...]
    precision: str
    flags: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Hex sha256 over all of it."""
        text = msgspec.json.encode(self, order="deterministic")
        return hashlib.sha256(text).hexdigest()

    @property
    def stem(self) -> str:
        """The file name without its suffix."""
        return f"{self.network}-{self.digest[:_DIGEST_CHARACTERS]}"

    def differences(self, other: EngineKey) -> str:
        """Say in words where another key differs from this one."""
        found = []
        for field in self.__struct_fields__:
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                plain = isinstance(mine, str) and field != "onnx_sha256"
                found.append(f"{field} {theirs}, not {mine}" if plain else f"another {field}")
        return "; ".join(found)


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON beside an engine.

    Attributes:
        format: of this file.
        key: what the engine was built from and for.
        size: bytes of the engine.
        sha256: of the engine.
        built_at: UTC, ISO 8601.
        build_s: how long it took, seconds.
    """

    format: int = _FORMAT
    key: EngineKey
    size: Annotated[int, Meta(ge=0)]
    sha256: str
    built_at: str
    build_s: float


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a look into the cache gave.

    Attributes:
        engine: its bytes; None: to be built.
        why: in that case, the reason in one clause.
    """

    engine: bytes | None = None
    why: str = ""


class EngineCache:
    """A folder of engines; several processes may share it.

    Args:
        folder: made when something is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def look(self, key: EngineKey) -> Entry:
        """Return the engine of a key, or the reason why there is none; never raises."""
        header = self._header_of(key)
        if isinstance(header, str):
            return Entry(why=header)
        engine = self._path(key, ".engine")
        try:
            content = engine.read_bytes()
        except OSError as error:
            return Entry(why=f"{engine} cannot be read: {error.strerror}")
        if len(content) != header.size:
            return Entry(why=f"{engine} is truncated: {len(content)} of {header.size} bytes")
        if hashlib.sha256(content).hexdigest() != header.sha256:
            return Entry(why=f"{engine} is damaged: its sha256 is not the one in its header")
        return Entry(engine=content)

    def store(self, key: EngineKey, engine: bytes, *, build_s: float) -> None:
        """Write an engine and then its header, each at once or not at all.

        Raises:
            ConfigError: when the folder cannot be written.
        """
        header = Header(
            key=key,
            size=len(engine),
            sha256=hashlib.sha256(engine).hexdigest(),
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            build_s=round(build_s, 3),
        )
        text = msgspec.json.format(msgspec.json.encode(header), indent=2) + b"\n"
        self.discard(key)  # the old pair ends before the new one begins
        self._write(self._path(key, ".engine"), engine)
        self._write(self._path(key, ".json"), text)

    def discard(self, key: EngineKey) -> None:
        """Forget an engine that turned out not to load; a folder that is read-only keeps it."""
        with contextlib.suppress(OSError):
            self._path(key, ".json").unlink(missing_ok=True)
            self._path(key, ".engine").unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, key: EngineKey, *, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the key, so that an engine that two processes want is built once.

        Args:
            key: of the engine.
            waiting: called several times a second while another process builds it.

        Raises:
            ConfigError: when the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self._path(key, ".lock").open("w")
        except OSError as error:
            raise self._unwritable(error) from None
        with file:  # closing it gives the lock back, and so does the end of the process
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waiting()
                    time.sleep(_LOCK_POLL_S)
                else:
                    break
            yield

    def timings(self, key: EngineKey) -> bytes:
        """Return what the compiler measured before with this library on this GPU, or nothing."""
        return _read(self._timings(key))

    def store_timings(self, key: EngineKey, content: bytes) -> None:
        """Keep what the compiler measured; raises ConfigError as ``store`` does."""
        if content:
            self._write(self._timings(key), content)

    def runtime_cache(self, key: EngineKey) -> bytes:
        """Return the kernels that were finished for an engine when it ran, or nothing."""
        return _read(self._path(key, ".runtime"))

    def store_runtime_cache(self, key: EngineKey, content: bytes) -> None:
        """Keep finished kernels; raises ConfigError as ``store`` does."""
        if content:
            self._write(self._path(key, ".runtime"), content)

    def headers(self) -> dict[Path, Header | str]:
        """Return the header of every engine here, or what is wrong with it, by its path."""
        return {path: _read_header(path) for path in sorted(self.folder.glob("*.json"))}

    def clear(self) -> tuple[int, int]:
        """Remove everything that a cache writes, and nothing else; return files and bytes."""
        removed = size = 0
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if _OURS.fullmatch(path.name) and path.is_file():
                size += path.stat().st_size
                path.unlink()
                removed += 1
        return removed, size

    def _header_of(self, key: EngineKey) -> Header | str:
        """Return the header that a key should have, or what is wrong."""
        path = self._path(key, ".json")
        header = _read_header(path)
        if isinstance(header, str):
            return f"{path} is damaged: {header}" if path.exists() else self._why_missing(key)
        if header.key != key:
            return f"{path} belongs to another engine: {key.differences(header.key)}"
        return header

    def _why_missing(self, key: EngineKey) -> str:
        """Compare with the engines of the same network, to say what has changed."""
        others = [
            header.key
            for header in self.headers().values()
            if isinstance(header, Header) and header.key.network == key.network
        ]
        if not others:
            return f"none is in {self.folder}"
        nearest = min(
            (key.differences(other) for other in others), key=lambda text: text.count(";")
        )
        return f"the one in {self.folder} has {nearest}"

    def _path(self, key: EngineKey, suffix: str) -> Path:
        return self.folder / f"{key.stem}{suffix}"

    def _timings(self, key: EngineKey) -> Path:
        gpu = re.sub(r"[^a-z0-9]+", "-", key.gpu.lower())
        return self.folder / f"{key.library}-{key.version}-{gpu}-{key.architecture}.timing"

    def _write(self, path: Path, content: bytes) -> None:
        """Write under another name, flush to the disk, rename."""
        part = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                part = file.name
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(part).chmod(0o644)  # an image is built by one user and run by another
            Path(part).replace(path)
        except OSError as error:
            if part:
                Path(part).unlink(missing_ok=True)
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"engine.cache: {self.folder} cannot be written: {error.strerror}; "
            "name a folder that can"
        )


def default_folder() -> Path:
    """Return where engines lie when nothing else is configured.

    ``$STREAMER_ENGINES``, else ``engines`` in systemd's cache directory, else in the user's cache.
    """
    return kept("engines", chosen="STREAMER_ENGINES", service="CACHE_DIRECTORY")


def folder_of(configured: str) -> Path:
    """Return the folder that ``[engine] cache`` means; empty: the default one."""
    return Path(configured) if configured else default_folder()


def _read_header(path: Path) -> Header | str:
    try:
        with path.open("rb") as file:
            text = file.read(_HEADER_LIMIT + 1)
    except OSError as error:
        return error.strerror or "cannot be read"
    if len(text) > _HEADER_LIMIT:
        return f"larger than {_HEADER_LIMIT} bytes"
    try:
        header = msgspec.json.decode(text, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return str(error)
    return header if header.format == _FORMAT else f"format {header.format}, not {_FORMAT}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
