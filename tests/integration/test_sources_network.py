"""Cameras over the network: a real RTSP server, real HTTP, and servers that misbehave."""

from __future__ import annotations

import http.server
import random
import socket
import subprocess
import threading
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import av
import numpy as np
import psutil
import pytest

from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceError, SourceReason
from streamer.feed import CameraFeed
from streamer.mailbox import Mailbox
from streamer.source import CaptureOptions
from tests.rtsp_server import RtspServer, rtsp_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamer.capture import MediaSource
    from streamer.metrics import DropReason
    from streamer.source import DiscardReason, SourceInfo
    from streamer.types import Frame

rtsp = [
    pytest.mark.rtsp,
    pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "never"),
]
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four seconds of FFmpeg's test picture, a keyframe a second, no B-frames."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    lavfi = "testsrc=size=320x240:rate=25:duration=4"
    x264 = ["-c:v", "libx264", "-bf", "0", "-g", "25", "-pix_fmt", "yuv420p"]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", lavfi, *x264, str(path)],
        check=True,
        timeout=60,
    )
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


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


def open_url(
    url: str,
    *,
    transport: str = "tcp",
    tls_verify: bool = False,
    ca_file: str = "",
    open_timeout_s: float = 5.0,
    read_timeout_s: float = 4.0,
) -> MediaSource:
    """Open an address."""
    return open_source(
        CaptureOptions(
            camera="a",
            url=url,
            transport="udp" if transport == "udp" else "tcp",
            tls_verify=tls_verify,
            ca_file=ca_file,
            open_timeout_s=open_timeout_s,
            read_timeout_s=read_timeout_s,
        ),
        SystemClock(),
    )


def read(source: MediaSource, count: int) -> list[Frame]:
    """Read some frames and close."""
    frames = [source.read() for _ in range(count)]
    source.close()
    return frames


def read_to_the_end(source: MediaSource) -> SourceError:
    """Read until the stream fails, close, and return why it did."""
    while True:
        try:
            source.read()
        except SourceError as error:
            source.close()
            return error


def refusal(url: str, *, open_timeout_s: float = 5.0) -> SourceError:
    """Return how the opening of an address fails."""
    with pytest.raises(SourceError) as caught:
        open_url(url, open_timeout_s=open_timeout_s)
    return caught.value


@pytest.mark.parametrize("transport", ["tcp", "udp"])
class TestRtsp:
    """A well-behaved camera."""

    pytestmark = rtsp

    def test_frames_come_evenly_from_the_first_keyframe(self, clip: Path, transport: str) -> None:
        """The first picture is that of the file, and media time steps by 40 ms after the burst."""
        with RtspServer({"cam": clip}) as camera:
            source = open_url(camera.url("cam"), transport=transport)
            assert source.info.live
            assert source.info.codec == "h264"
            frames = [source.read() for _ in range(60)]
            while frames[-1].clock == "host" and len(frames) < 250:  # a report each five seconds
                frames.append(source.read())
            age_s = (time.time_ns() - frames[-1].captured_ns) / 1e9
            source.close()
        with av.open(str(clip)) as container:
            expected_HW = next(container.decode(video=0)).to_ndarray(format="yuv420p")[:240]
        assert np.array_equal(frames[0].luma_HW, expected_HW)
        media_s = np.array([frame.media_s for frame in frames])
        assert np.diff(media_s).min() > 0
        assert np.diff(media_s[-25:]) == pytest.approx(0.04, abs=0.002)
        # the server and we share a clock, so the camera's own time can be checked
        assert frames[-1].clock == "rtcp"
        assert -0.05 < age_s < 1.0


class TestRtspFailures:
    """A camera that refuses, stalls or dies."""

    pytestmark = rtsp

    @pytest.mark.parametrize("digest", [False, True])
    def test_credentials_are_used_and_never_shown(self, clip: Path, *, digest: bool) -> None:
        """With the password it plays; with a wrong one it says auth_failed, and shows none."""
        with RtspServer({"cam": clip}, user="eve", password="hunter2", digest=digest) as camera:  # noqa: S106
            assert len(read(open_url(camera.url("cam")), 3)) == 3
            wrong_url = camera.url("cam").replace("hunter2", "hunter3")
            wrong = refusal(wrong_url)
            missing = refusal(camera.url("cam", credentials=False))
        assert wrong.reason is SourceReason.AUTH_FAILED
        assert missing.reason is SourceReason.AUTH_FAILED
        shown = "".join(traceback.format_exception(wrong))
        assert "auth_failed" in shown
        assert "hunter3" not in shown

    def test_a_wrong_path_is_not_found(self, clip: Path) -> None:
        """A stream that the camera does not have is told from a camera that is off."""
        with RtspServer({"cam": clip}) as camera:
            assert refusal(camera.url("other")).reason is SourceReason.NOT_FOUND
        assert refusal(camera.url("cam")).reason is SourceReason.CONNECTION_REFUSED

    def test_rtsps_is_encrypted_and_checked_on_request(
        self, clip: Path, certificate: tuple[Path, Path]
    ) -> None:
        """A certificate that signs itself plays; with verification only if it is known."""
        with RtspServer({"cam": clip}, tls=certificate) as camera:
            assert camera.url("cam").startswith("rtsps://")
            assert len(read(open_url(camera.url("cam")), 3)) == 3
            known = open_url(camera.url("cam"), tls_verify=True, ca_file=str(certificate[0]))
            assert len(read(known, 3)) == 3
            with pytest.raises(SourceError) as caught:
                open_url(camera.url("cam"), tls_verify=True)
        assert caught.value.reason is SourceReason.TLS

    @pytest.mark.parametrize("transport", ["tcp", "udp"])
    def test_a_stall_ends_at_the_deadline(self, clip: Path, transport: str) -> None:
        """A camera that hangs with its connection open is given up after the read timeout."""
        with RtspServer({"cam": clip}) as camera:
            source = open_url(camera.url("cam"), transport=transport, read_timeout_s=1.0)
            source.read()
            camera.freeze()
            frozen_s = time.monotonic()
            error = read_to_the_end(source)
        assert error.reason is SourceReason.TIMEOUT
        assert time.monotonic() - frozen_s < 3

    def test_a_stream_that_ends_says_so(self, clip: Path) -> None:
        """A killed camera ends the stream at once."""
        with RtspServer({"cam": clip}) as camera:
            source = open_url(camera.url("cam"))
            source.read()
            camera.kill()
            killed_s = time.monotonic()
            error = read_to_the_end(source)
        assert error.reason in {SourceReason.ENDED, SourceReason.IO_ERROR}
        assert time.monotonic() - killed_s < 2


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
        error = read_to_the_end(open_url(f"{web}/mjpeg"))
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


class Notes:
    """An observer that keeps when a camera came and went."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str]] = []
        self.frames = 0
        self.drops = 0

    def captured(self) -> None:
        """Count."""
        self.frames += 1

    def dropped(self, reason: DropReason) -> None:  # noqa: ARG002
        """Count."""
        self.drops += 1

    def discarded(self, reason: DiscardReason) -> None:
        """Nothing to note."""

    def online(self, info: SourceInfo) -> None:  # noqa: ARG002
        """Note the time."""
        self.events.append((time.monotonic(), "online"))

    def offline(self, reason: SourceReason, detail: str) -> None:  # noqa: ARG002
        """Note the time."""
        self.events.append((time.monotonic(), f"offline {reason}"))

    def reconnecting(self, reason: SourceReason) -> None:
        """Nothing to note."""

    def wait_for(self, count: int, kind: str) -> float:
        """Wait for the n-th event of a kind; return when it happened."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            found = [at for at, event in list(self.events) if event.startswith(kind)]
            if len(found) >= count:
                return found[count - 1]
            time.sleep(0.01)
        raise AssertionError(f"no {kind} number {count}: {self.events}")


def feed_of(url: str, draw: float = 0.1) -> tuple[CameraFeed, Notes]:
    """Return a feed of the address, with short waits."""
    notes = Notes()
    feed = CameraFeed(
        CaptureOptions(camera="a", url=url, read_timeout_s=1.0, open_timeout_s=2.0),
        mailbox=Mailbox(threading.Condition()),
        observer=notes,
        clock=SystemClock(),
        opener=open_source,
        random=lambda: draw,
    )
    return feed, notes


class TestReconnection:
    """A feed on a real camera that comes and goes."""

    pytestmark = rtsp

    def test_a_camera_that_is_killed_and_started_again_comes_back(self, clip: Path) -> None:
        """Offline within five seconds of the kill, online again after the start."""
        with RtspServer({"cam": clip}) as camera:
            feed, notes = feed_of(camera.url("cam"))
            feed.start()
            notes.wait_for(1, "online")
            killed_s = time.monotonic()
            camera.kill()
            assert notes.wait_for(1, "offline") - killed_s < 5
            assert not feed.state.online
            camera.restart()
            notes.wait_for(2, "online")
            feed.stop()
            assert feed.join(PATIENCE_S)
        assert notes.frames == notes.drops  # nobody took any: superseded, or left at the stop

    def test_a_camera_that_hangs_goes_offline(self, clip: Path) -> None:
        """A camera that hangs with its connection open is offline after its read timeout."""
        with RtspServer({"cam": clip}) as camera:
            feed, notes = feed_of(camera.url("cam"))
            feed.start()
            notes.wait_for(1, "online")
            camera.freeze()
            frozen_s = time.monotonic()
            assert notes.wait_for(1, "offline timeout") - frozen_s < 5
            camera.thaw()
            notes.wait_for(2, "online")
            feed.stop()
            assert feed.join(PATIENCE_S)

    def test_twenty_reconnections_leak_nothing(self, clip: Path) -> None:
        """After twenty openings there are as many threads and descriptors as after two."""
        process = psutil.Process()
        with RtspServer({"cam": clip}) as camera:
            for n in range(20):
                source = open_url(camera.url("cam"))
                source.read()
                source.close()
                if n == 1:
                    before = (process.num_threads(), process.num_fds())
            assert (process.num_threads(), process.num_fds()) == before
