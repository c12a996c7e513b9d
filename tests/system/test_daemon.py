"""The daemon as a user meets it: real streams, a real subscriber, signals and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from streamer import bundle
from streamer.events import CameraOffline, CameraOnline, DaemonStopping, EmotionSample
from tests.daemon import DaemonProcess, collect, wait_for
from tests.rtsp_server import RtspServer, rtsp_missing

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.client import Received
    from streamer.events import CameraData

CYCLES = int(os.environ.get("RECONNECT_CYCLES", "6"))
"""Each waits for the daemon's back-off, which grows to a minute: fifty take half an hour."""
needs_rtsp = pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "there")


def cameras(urls: dict[str, str], shared: Path, extra: str = "") -> str:
    """Return a configuration of looped cameras with YuNet."""
    tables = "".join(
        f'[[cameras]]\nname = "{name}"\nurl = "{url}"\nloop = true\n' for name, url in urls.items()
    )
    return f'{tables}[detector]\nmirror = "{shared / "models"}"\n{extra}'


def of_type(events: list[Received], kind: type[CameraData]) -> set[str]:
    """Return the cameras that gave an event of this kind."""
    return {e.data.camera for e in events if isinstance(e.data, kind)}


def sampled(events: list[Received]) -> set[str]:
    """Return the cameras that gave samples."""
    return of_type(events, EmotionSample)


@needs_rtsp
@pytest.mark.timeout(180)
def test_two_files_and_two_streams_survive_the_server(shared: Path, tmp_path: Path) -> None:
    """Events from all four; the server dies and comes back; the files are not disturbed."""
    video = shared / "video"
    large = tmp_path / "large.mp4"
    subprocess.run(
        [
            *("ffmpeg", "-v", "error", "-i", video / "single_face.mp4", "-vf", "scale=1920:1080"),
            *("-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-an", large),
        ],
        check=True,
    )
    with RtspServer({"small": video / "single_face.mp4", "large": large}) as server:
        urls = {
            "file-a": str(video / "distress_to_smile.mp4"),
            "file-b": str(video / "single_face.mp4"),
            "rtsp-small": server.url("small"),
            "rtsp-large": server.url("large"),
        }
        with DaemonProcess(tmp_path, cameras(urls, shared)) as daemon, daemon.subscriber() as sub:
            collect(sub, lambda events: sampled(events) == set(urls), 40)
            server.kill()
            killed_s = time.monotonic()
            streams = {"rtsp-small", "rtsp-large"}
            events = collect(sub, lambda events: of_type(events, CameraOffline) >= streams, 15)
            assert time.monotonic() - killed_s < 5.0
            reasons = {e.data.reason for e in events if isinstance(e.data, CameraOffline)}
            assert reasons <= {"ended", "io_error", "timeout", "connection_refused"}
            assert {c["state"] for c in daemon.get("/api/cameras")["cameras"]} == {
                "online",
                "offline",
            }
            assert daemon.get("/readyz")["status"] == "ready"
            time.sleep(1.0)
            server.restart()
            events = collect(sub, lambda events: of_type(events, CameraOnline) >= streams, 60)
            events += collect(sub, lambda events: sampled(events) == set(urls), 30)
            assert not any(e.gap for e in events)
            assert not of_type(events, CameraOffline) & {"file-a", "file-b"}
            code, took_s = daemon.stop()
            assert (code, took_s < 5.0) == (0, True), daemon.log.read_text()[-2000:]
            stopping = collect(sub, lambda events: events[-1:] != [] and is_stop(events[-1]), 5)
            assert stopping[-1].data == DaemonStopping(reason="SIGTERM")
            assert "Traceback" not in daemon.log.read_text()


def is_stop(event: Received) -> bool:
    """Tell whether the daemon says that it stops."""
    return event.type == "daemon.stopping"


def test_captured_is_analysed_and_dropped_and_in_flight(shared: Path, tmp_path: Path) -> None:
    """The identity holds in every scrape but for the frame under way, and exactly at the end."""
    urls = {"one": str(shared / "video" / "single_face.mp4")}
    with DaemonProcess(tmp_path, cameras(urls, shared)) as daemon, daemon.subscriber() as sub:
        collect(sub, lambda events: sampled(events) == {"one"}, 30)
        for _ in range(5):
            time.sleep(0.3)
            captured = sum(daemon.metric("streamer_frames_captured_total").values())
            analysed = sum(daemon.metric("streamer_frames_analysed_total").values())
            dropped = sum(daemon.metric("streamer_frames_dropped_total").values())
            assert captured > 0
            # Three scrapes are 3 moments: up to 0.5 s of 30 frames a second lie between them.
            assert -15 <= captured - analysed - dropped <= 2


def test_an_unreachable_camera_stops_nobody(shared: Path, tmp_path: Path) -> None:
    """The daemon starts, is ready, serves the others and says why one is down."""
    urls = {
        "dead": "rtsp://user:hunter2@127.0.0.1:9/stream",
        "alive": str(shared / "video" / "single_face.mp4"),
    }
    with DaemonProcess(tmp_path, cameras(urls, shared)) as daemon, daemon.subscriber() as sub:
        events = collect(sub, lambda events: sampled(events) == {"alive"}, 30)
        wait_for(
            lambda: daemon.get("/api/cameras")["cameras"][0]["reason"] == "connection_refused",
            10,
            "the reason in the API",
        )
        assert daemon.get("/readyz")["status"] == "ready"
        assert daemon.get("/livez")
        page = json.dumps(daemon.get("/api/cameras"))
        assert daemon.stop()[0] == 0
        for text in (page, daemon.log.read_text(), *(e.raw.decode() for e in events)):
            assert "hunter2" not in text


def test_the_daemon_says_what_runs(shared: Path, tmp_path: Path) -> None:
    """Bundle, cameras and purpose are in daemon.started, and in the snapshot for late comers."""
    urls = {"one": str(shared / "video" / "single_face.mp4")}
    body = cameras(urls, shared, '[purpose]\ndeclared = "a test"\n')
    with DaemonProcess(tmp_path, body) as daemon, daemon.subscriber() as sub:
        collect(sub, lambda events: sampled(events) == {"one"}, 30)
        started = sub.snapshot().daemon
        assert started is not None
        assert started.purpose == "a test"
        assert started.cameras == ("one",)
        assert started.bundle == bundle.load(bundle.bundled_path()).identity


def test_reload_adds_and_removes_cameras(shared: Path, tmp_path: Path) -> None:
    """SIGHUP takes a new file; a bad one is refused and the old one kept."""
    clip = str(shared / "video" / "single_face.mp4")
    with DaemonProcess(tmp_path, cameras({"a": clip, "b": clip}, shared)) as daemon:
        config = tmp_path / "streamer.toml"
        with daemon.subscriber() as sub:
            collect(sub, lambda events: sampled(events) == {"a", "b"}, 30)
            good = config.read_text()
            config.write_text(good.replace('name = "b"', 'name = "c"'))
            os.kill(daemon.pid, signal.SIGHUP)
            collect(sub, lambda events: "c" in sampled(events), 20)
            names = [c["name"] for c in daemon.get("/api/cameras")["cameras"]]
            assert sorted(names) == ["a", "c"]
            assert 'camera="b"' not in str(daemon.metric("streamer_camera_up"))
            snapshot = sub.snapshot()
            assert snapshot.daemon is not None
            assert snapshot.daemon.cameras == ("a", "c")
            assert [camera.camera for camera in snapshot.cameras] == ["a", "c"]
            config.write_text("nonsense = 1\n" + good)
            os.kill(daemon.pid, signal.SIGHUP)
            wait_for(lambda: "reload_refused" in daemon.log.read_text(), 10, "the refusal")
            collect(sub, lambda events: sampled(events) == {"a", "c"}, 20)


def run_to_end(config: Path) -> subprocess.CompletedProcess[str]:
    """Run the daemon on a configuration that it must refuse."""
    return subprocess.run(
        [sys.executable, "-m", "streamer", "run", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("[analyis]\nfps = 1\n", 78, "analyis: unknown key"),
        ("[analysis]\nfps = 'fast'\n", 78, "analysis.fps: expected float, got str"),
        ('[bundle]\npath = "BUNDLE"\n', 78, "features.onnx is damaged"),
        ('[bundle]\npath = "/nonexistent"\n', 78, "cannot read manifest.json"),
        ('[publish]\nbind = "tcp://0.0.0.0:0"\n', 78, "publish.bind"),
        ('[http]\nbind = "0.0.0.0:0"\n', 78, "http.bind"),
        ('[publish]\nbind = "tcp://127.0.0.1:TAKEN"\n', 1, "publish.bind"),
        ('[http]\nbind = "127.0.0.1:TAKEN"\n', 1, "http.bind"),
    ],
)
def test_a_start_that_fails_says_so_in_one_line(
    shared: Path, tmp_path: Path, change: str, code: int, said: str
) -> None:
    """Exit 78 for what a restart cannot cure and 1 for a taken port; nothing half-started."""
    damaged = shutil.copytree(bundle.bundled_path(), tmp_path / "damaged")
    with (damaged / "features.onnx").open("ab") as file:
        file.write(b"x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        change = change.replace("BUNDLE", str(damaged))
        change = change.replace("TAKEN", str(taken.getsockname()[1]))
        others = {
            "publish": '[publish]\nbind = "tcp://127.0.0.1:0"\nsnapshot = "tcp://127.0.0.1:0"\n',
            "http": '[http]\nbind = "127.0.0.1:0"\n',
        }
        if "[publish]" in change:
            change += 'snapshot = "tcp://127.0.0.1:0"\n'
        rest = "".join(text for name, text in others.items() if f"[{name}]" not in change)
        config = tmp_path / "bad.toml"
        clip = str(shared / "video" / "single_face.mp4")
        config.write_text(cameras({"a": clip}, shared, change + rest))
        done = run_to_end(config)
    assert done.returncode == code, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert said in last
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("what", ["config", "camera"])
def test_a_missing_file_is_a_configuration_error(tmp_path: Path, what: str) -> None:
    """Whether the configuration itself or a camera's file."""
    config = tmp_path / "c.toml"
    if what == "camera":
        config.write_text('[[cameras]]\nname = "a"\nurl = "/nonexistent.mp4"\n')
    done = run_to_end(config)
    assert done.returncode == 78
    assert len(done.stderr.strip().splitlines()) == 1


def state_of(daemon: DaemonProcess) -> str:
    """Return the state of the first camera."""
    return str(daemon.get("/api/cameras")["cameras"][0]["state"])


def _held(process: psutil.Process) -> tuple[int, int]:
    """Return threads and descriptors; those of our own question may still go at any one look."""
    looks = []
    for _ in range(20):
        looks.append((process.num_threads(), process.num_fds()))
        time.sleep(0.05)
    return min(threads for threads, _ in looks), min(descriptors for _, descriptors in looks)


@needs_rtsp
@pytest.mark.slow
@pytest.mark.timeout(120 + 90 * CYCLES)
def test_reconnects_leave_nothing_behind(shared: Path, tmp_path: Path) -> None:
    """After many cycles of a dying server: as many threads, descriptors and megabytes as before."""
    with RtspServer({"cam": shared / "video" / "single_face.mp4"}) as server:
        urls = {"cam": server.url("cam")}
        body = cameras(urls, shared)
        with DaemonProcess(tmp_path, body) as daemon:
            wait_for(lambda: daemon.log.read_text().count("daemon_started"), 60, "the start")
            process = psutil.Process(daemon.pid)
            counts = []
            for _ in range(CYCLES):
                wait_for(lambda: state_of(daemon) == "online", 90, "the camera online")
                server.kill()
                wait_for(lambda: state_of(daemon) == "offline", 10, "the camera offline")
                counts.append((*_held(process), process.memory_info().rss / 2**20))
                sys.stdout.write(f"threads, descriptors, MiB: {counts[-1]}\n")
                server.restart()
            first, last = counts[1], counts[-1]
            assert last[0] <= first[0], counts
            assert last[1] <= first[1], counts
            assert last[2] - first[2] < 30, counts
