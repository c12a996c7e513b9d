"""What answers at a camera's address: real HTTP, and servers that misbehave."""

from __future__ import annotations

import http.server
import random
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamer.errors import SourceReason
from tests.clips import camera_clip, open_url, read, read_all, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 20.0


@contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run a TCP server that answers each connection in its own way; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(PATIENCE_S)
            try:
                talk(connection)
                over.wait(PATIENCE_S)
            except OSError:
                return

    def accept() -> None:
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        thread.join()
        listener.close()


SILENT: Callable[[socket.socket], None] = lambda _connection: None  # noqa: E731


def garbage(connection: socket.socket) -> None:
    """Answer with noise, for ever."""
    rng = random.Random(5)
    while True:
        connection.recv(1000)
        connection.sendall(rng.randbytes(2000))


def trickle(connection: socket.socket) -> None:
    """Answer a byte at a time: data comes all the time, an answer never."""
    connection.recv(1000)
    while True:
        connection.sendall(b"R")
        time.sleep(0.1)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https"])
class TestBadServers:
    """Things that listen at the port and are no camera."""

    def test_a_silent_server_times_out(self, scheme: str) -> None:
        """It accepts and says nothing: a timeout at the deadline."""
        with server(SILENT) as port:
            started_s = time.monotonic()
            error = refusal(f"{scheme}://u:hunter2@127.0.0.1:{port}/x", open_timeout_s=0.5)
            assert time.monotonic() - started_s < 2
        assert error.reason is SourceReason.TIMEOUT
        assert "hunter2" not in str(error)

    @pytest.mark.parametrize("talk", [garbage, trickle])
    def test_noise_ends_within_the_deadline(
        self, scheme: str, talk: Callable[[socket.socket], None]
    ) -> None:
        """It talks nonsense: a typed error within the deadline, whatever the nonsense."""
        with server(talk) as port:
            started_s = time.monotonic()
            error = refusal(f"{scheme}://127.0.0.1:{port}/x", open_timeout_s=0.5)
            assert time.monotonic() - started_s < 3
        assert isinstance(error.reason, SourceReason)

    def test_a_closed_port_is_refused(self, scheme: str) -> None:
        """Nothing listens: connection_refused at once."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        error = refusal(f"{scheme}://127.0.0.1:{port}/x")
        assert error.reason is SourceReason.CONNECTION_REFUSED


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four seconds as a camera sends them."""
    return camera_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


class Web(http.server.BaseHTTPRequestHandler):
    """Serves a clip, an endless MJPEG, and refusals."""

    clip: bytes
    pictures: tuple[bytes, ...]

    def do_GET(self) -> None:
        """Answer by path."""
        if self.path == "/clip.mp4":
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(self.clip)))
            self.end_headers()
            self.wfile.write(self.clip)
        elif self.path == "/mjpeg":
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for picture in self.pictures:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n"
                self.wfile.write(head.encode() + b"\r\n" + picture + b"\r\n")
                time.sleep(0.1)
        else:
            self.send_error(int(self.path[1:4]))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its signature
        """Say nothing."""


@pytest.fixture(scope="module")
def web(clip: Path) -> Iterator[str]:
    """Yield the address of a web server with videos."""
    with av.open(str(clip)) as container:
        frames = [f.to_ndarray(format="bgr24") for f in container.decode(video=0)]
    import cv2  # noqa: PLC0415

    class Handler(Web):
        pass

    Handler.clip = clip.read_bytes()
    Handler.pictures = tuple(cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames[:12])
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=[0.05])
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


class TestHttp:
    """Cameras and files over HTTP."""

    def test_mjpeg_is_timed_by_arrival(self, web: str) -> None:
        """MJPEG has no time stamps: ten pictures a second are 100 ms apart, not FFmpeg's 40."""
        frames = read(open_url(f"{web}/mjpeg"), 10)
        distances_s = np.diff([frame.media_s for frame in frames])
        assert np.median(distances_s) == pytest.approx(0.1, abs=0.02)
        assert {frame.clock for frame in frames} == {"host"}

    def test_the_end_of_a_camera_is_an_error(self, web: str) -> None:
        """An MJPEG camera that hangs up is noticed at once."""
        error = read_all(open_url(f"{web}/mjpeg"))[1]
        assert error.reason in {SourceReason.ENDED, SourceReason.IO_ERROR}

    def test_a_file_over_http_is_paced(self, web: str) -> None:
        """A file from a web server has an end, so it is no camera: paced by its time stamps."""
        source = open_url(f"{web}/clip.mp4")
        assert not source.info.live
        assert not source.info.regular_file
        frames = read(source, 25)
        taken_s = (frames[-1].monotonic_ns - frames[0].monotonic_ns) / 1e9
        assert taken_s == pytest.approx(0.96, abs=0.2)

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (401, "auth_failed"),
            (403, "auth_failed"),
            (404, "not_found"),
            (429, "busy"),
            (500, "io_error"),
        ],
    )
    def test_refusals_are_typed(self, web: str, status: int, reason: str) -> None:
        """Each status has its reason; tokens in the address are not shown."""
        error = refusal(f"{web}/{status}?token=hunter2")
        assert error.reason == reason
        assert "hunter2" not in str(error)
