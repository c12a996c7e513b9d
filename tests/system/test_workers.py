"""A daemon whose cameras are shared out to worker processes: one daemon, to whoever looks at it."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
import urllib.request
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from streamer import keys
from streamer.client import Subscriber
from streamer.events import (
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    EmotionSample,
    FaceAppeared,
    FaceLost,
)
from tests.daemon import DaemonProcess, collect, wait_for
from tests.rtsp_server import RtspServer, rtsp_missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.client import Received

CAMERAS = ("a", "b", "c", "d")
DIED = "worker_died"


def configuration(shared: Path, *names: str, extra: str = "") -> str:
    """Return a configuration of two workers with looped cameras and YuNet."""
    clip = shared / "video" / "single_face.mp4"
    tables = "".join(
        f'[[cameras]]\nname = "{name}"\nurl = "{clip}"\nloop = true\n' for name in names
    )
    return f'{tables}[daemon]\nworkers = 2\n[detector]\nmirror = "{shared / "models"}"\n{extra}'


def workers_of(daemon: DaemonProcess) -> list[psutil.Process]:
    """Return the worker processes, in the order of their start."""
    children = psutil.Process(daemon.pid).children()
    return sorted(
        (one for one in children if "streamer.workers" in one.cmdline()),
        key=lambda one: one.create_time(),
    )


def sampled(events: list[Received]) -> set[str]:
    """Return the cameras that gave samples."""
    return {e.data.camera for e in events if isinstance(e.data, EmotionSample)}


def in_flight(daemon: DaemonProcess) -> float:
    """Return captured - analysed - dropped over all cameras, of one scrape."""
    url = f"http://127.0.0.1:{daemon.ports[2]}/metrics"
    with urllib.request.urlopen(url, timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    signs = {"captured": 1.0, "analysed": -1.0, "dropped": -1.0}
    return sum(
        sign * float(line.rpartition(" ")[2])
        for name, sign in signs.items()
        for line in lines
        if line.startswith(f"streamer_frames_{name}_total{{")
    )


@pytest.mark.timeout(180)
def test_a_worker_that_is_killed_takes_only_its_cameras_with_it(
    shared: Path, tmp_path: Path
) -> None:
    """They go offline with a reason and come back; every number goes on; nobody else notices."""
    with DaemonProcess(tmp_path, configuration(shared, *CAMERAS)) as daemon:
        with daemon.subscriber() as sub:
            before = collect(sub, lambda events: sampled(events) == set(CAMERAS), 60)
            captured = daemon.metric("streamer_frames_captured_total")
            assert len(captured) == 4
            first, second = workers_of(daemon)
            first.kill()
            events = collect(
                sub, lambda events: len(of_type(events, CameraOnline)) == 2 and again(events), 60
            )
            code, took_s = daemon.stop()
            assert (code, took_s < 5.0) == (0, True), daemon.log.read_text()[-2000:]
            events += collect(sub, lambda events: events[-1:] != [] and stops(events[-1]), 5)
        gone = of_type(events, CameraOffline)
        assert len(gone) == 2
        reasons = [e.data for e in events if isinstance(e.data, CameraOffline)]
        assert [data.reason for data in reasons] == [DIED, DIED]
        assert "SIGKILL" in reasons[0].detail
        back = [e.data for e in events if isinstance(e.data, CameraOnline)]
        assert {(data.camera, data.reason) for data in back} == {(c, "reconnected") for c in gone}
        assert not any(event.gap for event in events), [e.gap for e in events if e.gap]
        assert len({event.epoch for event in before + events}) == 1
        numbers: dict[str, list[int]] = defaultdict(list)
        for event in before + events:
            if isinstance(event.data, FaceAppeared):
                numbers[event.data.camera].append(event.data.track)
        for camera in gone:
            assert len(numbers[camera]) > 1
            assert numbers[camera] == sorted(set(numbers[camera])), "a number was used twice"
        ended = ends(before + events)
        assert {face.camera for face in ended} == gone
        for face in ended:
            assert face.samples >= len(read(before + events, face)) > 0
            assert (face.duration_s > 0) is (face.samples > 1)
            assert sum(face.mean_probabilities.values()) == pytest.approx(1, abs=0.01)
            assert face.label in {*face.mean_probabilities, "unknown"}
            assert face.bundle
        assert not first.is_running()
        assert not second.is_running()
        assert "Traceback" not in daemon.log.read_text()


def ends(events: list[Received]) -> list[FaceLost]:
    """Return the faces that were told lost as their camera went; none was left open."""
    followed: dict[str, set[int]] = defaultdict(set)
    lost: list[FaceLost] = []
    told: list[FaceLost] = []
    for event in events:
        data = event.data
        if isinstance(data, EmotionSample):
            followed[data.camera].add(data.track)
        elif isinstance(data, FaceLost):
            followed[data.camera].discard(data.track)
            lost.append(data)
        elif isinstance(data, CameraOffline):
            assert not followed[data.camera], data
            told += [face for face in lost if face.camera == data.camera]
    return told


def read(events: list[Received], face: FaceLost) -> list[EmotionSample]:
    """Return the readings of a face."""
    mine = (face.camera, face.track)
    samples = [e.data for e in events if type(e.data) is EmotionSample]
    return [data for data in samples if (data.camera, data.track) == mine]


def of_type(events: list[Received], kind: type[CameraOffline | CameraOnline]) -> set[str]:
    """Return the cameras that gave an event of this kind."""
    return {e.data.camera for e in events if isinstance(e.data, kind)}


def again(events: list[Received]) -> bool:
    """Tell whether every camera that came back was read since."""
    back: set[str] = set()
    for event in events:
        if isinstance(event.data, CameraOnline):
            back.add(event.data.camera)
        elif isinstance(event.data, EmotionSample):
            back.discard(event.data.camera)
    return not back


def stops(event: Received) -> bool:
    """Tell whether the daemon says that it stops."""
    return event.type == "daemon.stopping"


@pytest.mark.timeout(180)
def test_the_counts_of_a_worker_outlive_it(shared: Path, tmp_path: Path) -> None:
    """No counter goes back, the accounts balance, and the restart itself is counted."""
    body = configuration(shared, "a", "b")
    with DaemonProcess(tmp_path, body) as daemon, daemon.subscriber() as sub:
        collect(sub, lambda events: sampled(events) == {"a", "b"}, 60)
        before = daemon.metric("streamer_frames_captured_total")
        stages = daemon.metric("streamer_stage_seconds_count")
        workers_of(daemon)[0].kill()
        collect(sub, lambda events: bool(of_type(events, CameraOffline)), 20)
        dead = daemon.metric("streamer_frames_captured_total")
        assert all(dead[key] >= value for key, value in before.items())
        up = daemon.metric("streamer_camera_up")
        assert sorted(up.values()) == [0.0, 1.0]
        states = {c["name"]: c for c in daemon.get("/api/cameras")["cameras"]}
        assert sorted(c["state"] for c in states.values()) == ["offline", "online"]
        assert DIED in {c["reason"] for c in states.values()}
        assert daemon.get("/livez")["status"] == "ok"
        assert daemon.get("/readyz")["status"] == "ready"
        collect(sub, lambda events: bool(of_type(events, CameraOnline)), 60)
        wait_for(
            lambda: min(daemon.metric("streamer_camera_up").values(), default=0) == 1.0,
            20,
            "both cameras up",
        )
        after = daemon.metric("streamer_frames_captured_total")
        assert all(after[key] >= value for key, value in dead.items())
        for key, value in stages.items():
            assert daemon.metric("streamer_stage_seconds_count")[key] >= value
        assert daemon.metric("streamer_worker_restarts_total")['{reason="died"}'] == 1.0
        views = daemon.get("/api/cameras")["cameras"]
        assert [view["name"] for view in views] == ["a", "b"]
        wait_for(
            lambda: all(
                view["captured"] > 0 and view["tracks"]
                for view in daemon.get("/api/cameras")["cameras"]
            ),
            20,
            "faces of both cameras",
        )
        for _ in range(5):
            assert 0 <= in_flight(daemon) <= 4


@pytest.mark.timeout(180)
def test_reload_pictures_and_keys_reach_all_workers(shared: Path, tmp_path: Path) -> None:
    """One address with CURVE for all cameras; SIGHUP adds and removes; the page shows everyone."""
    folder = tmp_path / "keys"
    folder.mkdir()
    _, secret = keys.generate(folder, "daemon")
    clients = tmp_path / "clients"
    clients.mkdir()
    public, mine = keys.generate(folder, "me")
    (clients / public.name).write_bytes(public.read_bytes())
    body = configuration(shared, "a", "b", "c")
    secured = f'server_secret_key = "{secret}"\nauthorized_keys = "{clients}"\n'
    with DaemonProcess(tmp_path, body, publish=secured) as daemon:
        config = tmp_path / "streamer.toml"
        text = config.read_text()
        sub = Subscriber(
            connect=f"tcp://127.0.0.1:{daemon.ports[0]}",
            snapshot=f"tcp://127.0.0.1:{daemon.ports[1]}",
            server_key=keys.load_public(folder / "daemon.key"),
            keys=keys.load_pair(mine),
        )
        with sub:
            assert sub.wait_connected(30)
            collect(sub, lambda events: sampled(events) == {"a", "b", "c"}, 60)
            snapshot = sub.snapshot()
            assert snapshot.daemon is not None
            assert snapshot.daemon.cameras == ("a", "b", "c")
            assert [state.camera for state in snapshot.cameras if state.online] == ["a", "b", "c"]
            assert {track.camera for track in snapshot.tracks} == {"a", "b", "c"}
            with urllib.request.urlopen(
                f"http://127.0.0.1:{daemon.ports[2]}/api/live?width=320", timeout=10
            ) as stream:
                shown = {}
                for header, picture in messages(stream):
                    if header["type"] == "frame":
                        assert picture[:2] == b"\xff\xd8"
                        shown[header["camera"]] = header["seq"]
                    if set(shown) == {"a", "b", "c"}:
                        break
            assert daemon.metric("streamer_live_viewers")[""] <= 1.0
            config.write_text(text.replace('name = "b"', 'name = "e"'))
            os.kill(daemon.pid, signal.SIGHUP)
            events = collect(sub, lambda events: "e" in sampled(events), 30)
            assert of_type(events, CameraOffline) <= {"b"}
            assert not [
                e for e in events if isinstance(e.data, CameraOnline) and e.data.camera in "ac"
            ]
            views = daemon.get("/api/cameras")["cameras"]
            assert [view["name"] for view in views] == ["a", "e", "c"]
            assert 'camera="b"' not in str(daemon.metric("streamer_frames_captured_total"))
            config.write_text("nonsense = 1\n" + text)
            os.kill(daemon.pid, signal.SIGHUP)
            collect(sub, lambda events: sampled(events) == {"a", "e", "c"}, 30)
            # As Ctrl-C in a terminal: the whole group hears it, and the workers do not obey.
            workers = workers_of(daemon)
            for pid in (*(worker.pid for worker in workers), daemon.pid):
                os.kill(pid, signal.SIGINT)
            assert daemon.process is not None
            assert daemon.process.wait(10) == 0
            assert not any(worker.is_running() for worker in workers)


@pytest.mark.skipif(bool(rtsp_missing()), reason=rtsp_missing() or "there")
@pytest.mark.timeout(180)
def test_reload_takes_a_changed_password(shared: Path, tmp_path: Path) -> None:
    """SIGHUP opens a camera whose file of credentials has changed, and no other one."""
    clip = shared / "video" / "single_face.mp4"
    secret = tmp_path / "secret"
    secret.write_text("op:old")
    secret.chmod(0o600)
    user, _, password = (right := "op:new").partition(":")
    with RtspServer({"cam": clip}, user=user, password=password) as server:
        body = (
            f'[[cameras]]\nname = "lobby"\nurl = "{server.url("cam", credentials=False)}"\n'
            f'credentials = "{secret}"\n{configuration(shared, "yard")}'
        )
        with DaemonProcess(tmp_path, body) as daemon, daemon.subscriber() as sub:
            collect(
                sub,
                lambda events: (
                    "yard" in sampled(events) and "lobby" in of_type(events, CameraOffline)
                ),
                60,
            )
            secret.write_text(right)
            os.kill(daemon.pid, signal.SIGHUP)
            events = collect(sub, lambda events: "lobby" in sampled(events), 40)
            assert of_type(events, CameraOnline) == {"lobby"}
            assert "yard" not in of_type(events, CameraOffline)
            os.kill(daemon.pid, signal.SIGHUP)  # nothing has changed: nobody is disturbed
            reloaded = "configuration_reloaded"
            wait_for(lambda: daemon.log.read_text().count(reloaded) == 2, 20, "the reload")
            events = collect(sub, lambda events: sampled(events) == {"lobby", "yard"}, 20)
            assert not of_type(events, CameraOffline) | of_type(events, CameraOnline)


def messages(stream: Any) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield header and picture of each message of the live stream."""
    while True:
        header_size, picture_size = struct.unpack("!II", stream.read(8))
        yield json.loads(stream.read(header_size)), stream.read(picture_size)


@pytest.mark.timeout(120)
def test_the_manager_hears_of_the_workers_and_they_go_with_their_parent(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY once, from the parent, when both have loaded; pings; a killed parent leaves nobody."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")

        def told(text: bytes) -> bool:
            while True:
                try:
                    heard.append(manager.recv(4096))
                except BlockingIOError:
                    return any(text in one for one in heard)

        with DaemonProcess(tmp_path, configuration(shared, "a", "b")) as daemon:
            with daemon.subscriber() as sub:
                wait_for(lambda: told(b"READY=1"), 60, "READY")
                assert daemon.get("/readyz")["status"] == "ready"
                parts = {"worker 1", "worker 2", "worker 1 compute", "camera a", "camera b", "web"}
                wait_for(
                    lambda: parts <= set(daemon.get("/livez")["workers"]),
                    10,
                    "every part in /livez",
                )
                wait_for(lambda: told(b"WATCHDOG=1"), 20, "a ping")
                assert sum(b"READY=1" in one for one in heard) == 1
                started = collect(sub, lambda events: sampled(events) == {"a", "b"}, 30)
                assert sum(isinstance(e.data, DaemonStarted) for e in started) <= 1
            workers = workers_of(daemon)
            assert len(workers) == 2
            os.kill(daemon.pid, signal.SIGKILL)
            _, alive = psutil.wait_procs(workers, timeout=15)
            assert not alive


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_worker_that_hangs_is_ended_and_started_again(shared: Path, tmp_path: Path) -> None:
    """It is named as stuck after its deadline, killed, and its camera comes back."""
    body = configuration(shared, "a", "b")
    with DaemonProcess(tmp_path, body) as daemon, daemon.subscriber() as sub:
        collect(sub, lambda events: sampled(events) == {"a", "b"}, 60)
        workers_of(daemon)[1].send_signal(signal.SIGSTOP)
        start_s = time.monotonic()
        events = collect(sub, lambda events: len(of_type(events, CameraOnline)) == 1, 60)
        assert time.monotonic() - start_s > 14.0
        (camera,) = of_type(events, CameraOffline)
        rest = {"a", "b"} - {camera}
        seconds = [e.time[17:19] for e in events if rest == sampled([e])]
        assert len(set(seconds)) > 12, "the other camera was read all the time"
        assert daemon.metric("streamer_worker_restarts_total")['{reason="stuck"}'] == 1.0


def test_a_worker_that_cannot_start_ends_the_daemon_with_its_line(
    shared: Path, tmp_path: Path
) -> None:
    """Exit 78 for a bundle that is not there, told once, as without workers."""
    body = configuration(shared, "a", "b", extra='[bundle]\npath = "/nonexistent"\n')
    with DaemonProcess(tmp_path, body) as daemon:
        assert daemon.process is not None
        assert daemon.process.wait(60) == 78
    text = daemon.log.read_text()
    assert text.count("cannot read manifest.json") == 1
    assert "Traceback" not in text
