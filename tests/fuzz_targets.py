"""What is fuzzed: for each parser, honest inputs, and the check of one input.

Each check lets what the parser declares pass, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zmq

from streamer import bundle, config, keys, settings
from streamer.analyse import state as analysis
from streamer.capture import open_source
from streamer.client import Subscriber
from streamer.clock import SystemClock
from streamer.engine.cache import _read_header
from streamer.engine.onnx import OnnxEngine
from streamer.errors import BundleError, ConfigError, EngineError, SourceError
from streamer.source import CaptureOptions
from tests.publish_fixtures import publisher
from tests.website import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Opened = AbstractContextManager[Callable[[bytes], None]]
    Target = tuple[Callable[[], list[bytes]], Callable[[], Opened]]

__all__ = ["TARGETS"]

ROOT = Path(__file__).resolve().parents[1]
_TOKEN = "a-token-of-the-fuzzer"  # noqa: S105 - a test's own


@contextmanager
def _configuration() -> Iterator[Callable[[bytes], None]]:
    def check(data: bytes) -> None:
        with contextlib.suppress(ConfigError):
            parsed = config.parse(data.decode(errors="replace"))
            for camera in parsed.cameras:
                settings.capture_options(camera)
            settings.publish_options(parsed)
            settings.web_options(parsed)

    yield check


@contextmanager
def _manifest() -> Iterator[Callable[[bytes], None]]:
    with _copied_bundle() as folder:

        def check(data: bytes) -> None:
            (folder / bundle.MANIFEST).write_bytes(data)
            with contextlib.suppress(BundleError):
                bundle.load(folder)

        yield check


@contextmanager
def _parity() -> Iterator[Callable[[bytes], None]]:
    """Samples that the manifest vouches for, as an attacker's would."""
    with _copied_bundle() as folder:
        manifest = json.loads((folder / bundle.MANIFEST).read_bytes())

        def check(data: bytes) -> None:
            (folder / bundle.PARITY).write_bytes(data)
            manifest["files"][bundle.PARITY] = hashlib.sha256(data).hexdigest()
            (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
            with contextlib.suppress(BundleError):
                bundle.load(folder)

        yield check


@contextmanager
def _copied_bundle() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield shutil.copytree(bundle.bundled_path(), Path(folder) / "bundle")


@contextmanager
def _network() -> Iterator[Callable[[bytes], None]]:
    shapes = bundle.load(bundle.bundled_path()).manifest

    def check(data: bytes) -> None:
        with contextlib.suppress(BundleError, EngineError):
            engine = OnnxEngine(data, threads=1, label="fuzzed")
            zeros = np.zeros((1, shapes.features), np.float32)
            engine.run({"features": zeros, **shapes.temporal.zeros(1)})

    yield check


@contextmanager
def _event() -> Iterator[Callable[[bytes], None]]:
    with Subscriber(connect="tcp://127.0.0.1:9", snapshot=None) as subscriber:

        def check(data: bytes) -> None:
            topic, _, rest = data.partition(b"\n")
            for frames in ([topic, rest], [b"emotion.sample/lobby/", data], [data]):
                before = subscriber.malformed
                got = subscriber._decode(frames)
                assert got is None or subscriber.malformed == before

        yield check


@contextmanager
def _snapshot_request() -> Iterator[Callable[[bytes], None]]:
    with publisher() as (source, _), zmq.Context() as context:

        def check(data: bytes) -> None:
            with context.socket(zmq.DEALER) as dealer:
                dealer.setsockopt(zmq.LINGER, 0)
                dealer.connect(source.snapshot)
                dealer.send_multipart(data.split(b"\n")[:8])
                dealer.send_multipart([b"", b"snapshot"])
                answers: list[list[bytes]] = []
                while not any(b'"cameras"' in part for answer in answers for part in answer):
                    assert dealer.poll(5000), "the honest request got no answer"
                    answers.append(dealer.recv_multipart())

        yield check


@contextmanager
def _http() -> Iterator[Callable[[bytes], None]]:
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    with serving(token=_TOKEN) as site:
        address = ("127.0.0.1", site.port)

        def say(data: bytes) -> bytes:
            with socket.create_connection(address, timeout=5) as talker:
                try:
                    talker.sendall(data)
                    talker.shutdown(socket.SHUT_WR)
                    return talker.recv(4096)
                except ConnectionError:  # let go in mid-sentence
                    return b""

        def check(data: bytes) -> None:
            answer = say(data)
            assert not answer.startswith(b"HTTP/1.1 5"), answer
            alive = say(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert alive.startswith(b"HTTP/1.1 200")

        yield check


@contextmanager
def _video() -> Iterator[Callable[[bytes], None]]:
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip"

        def check(data: bytes) -> None:
            clip.write_bytes(data)
            options = CaptureOptions(camera="a", url=str(clip), realtime=False, loop=False)
            with (
                contextlib.suppress(SourceError),
                contextlib.closing(open_source(options, clock)) as source,
            ):
                for _ in range(12):
                    frame = source.read()
                    assert frame.luma_HW.ndim == 2
                    int(frame.luma_HW[-1, -1])  # its memory is there

        yield check


@contextmanager
def _key() -> Iterator[Callable[[bytes], None]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.key_secret"

        def check(data: bytes) -> None:
            path.write_bytes(data)
            path.chmod(0o600)
            for read in (keys.load_pair, keys.load_public):
                with contextlib.suppress(ConfigError):
                    read(path)

        yield check


@contextmanager
def _secret() -> Iterator[Callable[[bytes], None]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret"
        camera = config.Camera(name="a", url="rtsp://host/stream", credentials=str(path))

        def check(data: bytes) -> None:
            path.write_bytes(data)
            path.chmod(0o600)
            with contextlib.suppress(ConfigError):
                config.camera_url(camera)

        yield check


@contextmanager
def _stored() -> Iterator[Callable[[bytes], None]]:
    """What earlier runs left on the disk: the state of an analysis, an engine's header."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / analysis.NAME

        def check(data: bytes) -> None:
            path.write_bytes(data)
            analysis.read(Path(folder))
            _read_header(path)

        yield check


def _clips() -> list[bytes]:
    """Make very small videos of the usual kinds."""
    kinds = {
        "mp4": ("libx264", "mp4"),
        "mkv": ("libx265", "matroska"),
        "ts": ("libx264", "mpegts"),
        "avi": ("mjpeg", "avi"),
        "h264": ("libx264", "h264"),
        "gif": ("gif", "gif"),
        "webm": ("libvpx-vp9", "webm"),
    }
    source = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1")
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (codec, form) in kinds.items():
            out = Path(folder) / name
            command = ("ffmpeg", "-v", "quiet", *source, "-c:v", codec, "-f", form, out)
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            clips.append(out.read_bytes())
    return clips


def _requests() -> list[bytes]:
    bearer = b"Authorization: Bearer " + _TOKEN.encode() + b"\r\n"
    head = b" HTTP/1.1\r\nHost: localhost\r\n"
    paths = [b"/", b"/metrics", b"/livez", b"/readyz", b"/api/version", b"/api/cameras"]
    paths += [b"/api/cameras/a", b"/static/app.js", b"/?token=x", b"/api/live?width=1"]
    form = b"token=a-token&x=%zz%00"
    length = str(len(form)).encode()
    return [
        *(b"GET " + path + head + bearer + b"Accept: text/html\r\n\r\n" for path in paths),
        b"POST /login" + head + b"Content-Length: " + length + b"\r\n\r\n" + form,
        b"POST /login" + head + b"Transfer-Encoding: chunked\r\n\r\n5\r\ntoken\r\n0\r\n\r\n",
    ]


def _events() -> list[bytes]:
    sample = {
        "specversion": "1.0",
        "id": "a-1",
        "source": "/cameras/lobby",
        "type": "emotion.sample",
        "dataschema": "https://example.org/schema/emotion.sample/v1",
        "subject": "tracks/17",
        "time": "2026-01-31T12:00:00.123456Z",
        "sequence": 4711,
        "epoch": "e",
        "data": {"camera": "lobby", "track": 17, "box": [1, 2, 3, 4], "label": "happiness"},
    }
    return [b"emotion.sample/lobby/\n" + json.dumps(sample).encode(), b"\n{}"]


def _key_file() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        public, secret = keys.generate(Path(folder), "a")
        return [public.read_bytes(), secret.read_bytes()]


def _bundled(name: str) -> list[bytes]:
    return [(bundle.bundled_path() / name).read_bytes()]


TARGETS: dict[str, Target] = {
    "configuration": (lambda: [(ROOT / "deploy/streamer.toml").read_bytes()], _configuration),
    "manifest": (lambda: _bundled(bundle.MANIFEST), _manifest),
    "parity": (lambda: _bundled(bundle.PARITY), _parity),
    "network": (lambda: _bundled(bundle.TEMPORAL), _network),
    "event": (_events, _event),
    "snapshot_request": (
        lambda: [b"\nsnapshot", b"snapshot", b"\n\n\nsnapshot"],
        _snapshot_request,
    ),
    "http": (_requests, _http),
    "video": (_clips, _video),
    "key": (_key_file, _key),
    "secret": (lambda: [b"user:pass%40word\n"], _secret),
    "stored": (lambda: [b'{"format": 1, "input": {"path": "x"}}'], _stored),
}
"""Name to what honest inputs look like, and to what opens the check."""
