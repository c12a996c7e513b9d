"""Cameras that speak RTSP, from a real server: good ones, refusals, stalls, reconnections."""

from __future__ import annotations

import subprocess
import threading
import time
import traceback
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
from tests.clips import camera_clip, open_url, read, read_all, refusal
from tests.rtsp_server import RtspServer, rtsp_missing

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.metrics import DropReason
    from streamer.source import DiscardReason, SourceInfo

pytestmark = [
    pytest.mark.rtsp,
    pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "never"),
]
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four seconds as a camera sends them."""
    return camera_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


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


@pytest.mark.parametrize("transport", ["tcp", "udp"])
class TestRtsp:
    """A well-behaved camera."""

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
            error = read_all(source)[1]
        assert error.reason is SourceReason.TIMEOUT
        assert time.monotonic() - frozen_s < 3

    def test_a_stream_that_ends_says_so(self, clip: Path) -> None:
        """A killed camera ends the stream at once."""
        with RtspServer({"cam": clip}) as camera:
            source = open_url(camera.url("cam"))
            source.read()
            camera.kill()
            killed_s = time.monotonic()
            error = read_all(source)[1]
        assert error.reason in {SourceReason.ENDED, SourceReason.IO_ERROR}
        assert time.monotonic() - killed_s < 2


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
