"""What breaks around a running daemon, each with a real counterpart, and what it then does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import psutil
import pytest

from streamer.events import CameraOffline, EmotionSample
from tests.daemon import DaemonProcess, collect, wait_for
from tests.ribbon import PART_S, Ribbon, part
from tests.unrest import flood_subscriptions, watch_live

if TYPE_CHECKING:
    from streamer.client import Received


def body(cameras: dict[str, object], shared: Path, extra: str = "") -> str:
    """Return a configuration of looped cameras with a small detector."""
    tables = "".join(
        f'[[cameras]]\nname = "{name}"\nurl = "{url}"\nloop = true\n'
        for name, url in cameras.items()
    )
    return f'{tables}[detector]\ninput_px = 320\nmirror = "{shared / "models"}"\n{extra}'


def test_no_thread_is_open_to_signals(shared: Path, tmp_path: Path) -> None:
    """One that were, as a numeric library's, would end the process where it should reload."""
    waited = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with DaemonProcess(tmp_path, body({"a": shared / "video" / "no.mkv"}, shared)) as daemon:
        wait_for(lambda: "camera_online" in daemon.log.read_text(), 60, "the camera")
        masks = [
            int(line.split()[1], 16)
            for task in Path(f"/proc/{daemon.pid}/task").iterdir()
            if task.name != str(daemon.pid)  # the main thread waits for them, open while it does
            for line in (task / "status").read_text().splitlines()
            if line.startswith("SigBlk")
        ]
    assert len(masks) > 5
    assert all(mask >> (number - 1) & 1 for mask in masks for number in waited), masks


def samples_of(events: list[Received], camera: str) -> list[EmotionSample]:
    """Return a camera's readings."""
    return [e.data for e in events if isinstance(e.data, EmotionSample) and e.data.camera == camera]


CLIP_FPS = 30.0
"""Of single_face.mp4."""
ANALYSED_FPS = 2.5
"""What is asked for where a rate is held to, so low that a busy machine has no reason to shed."""
CALM = f"[analysis]\nfps = {ANALYSED_FPS}\n"
WINDOW_S = 20.0
"""A frame more or less at either end is then 4 % of the analysed, and a late answer 2 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a camera that no fault touches had done at a moment, on the steady clock.

    Attributes:
        at_s: the moment.
        captured, analysed: frames.
        shares: of the configured rate that the daemon left itself under overload, one after the
            other, since its start.
    """

    at_s: float
    captured: float
    analysed: float
    shares: tuple[float, ...]

    @classmethod
    def of(cls, daemon: DaemonProcess, camera: str) -> Kept:
        """Ask now."""
        asked_s = time.monotonic()
        cameras = {c["name"]: c for c in daemon.get("/api/cameras")["cameras"]}
        lines = [line for line in daemon.log.read_text().splitlines() if "analysed_share" in line]
        return cls(
            at_s=(asked_s + time.monotonic()) / 2,
            captured=cameras[camera]["captured"],
            analysed=cameras[camera]["analysed"],
            shares=(1.0, *(float(json.loads(line)["analysed_share"]) for line in lines)),
        )


def assert_kept(daemon: DaemonProcess, camera: str, since: Kept) -> None:
    """Hold a camera to its rates, within 10 %, from a moment before the fault until now.

    Where the machine has more to do than cores, the daemon may analyse less, as it then says.
    """
    time.sleep(max(0.0, since.at_s + WINDOW_S - time.monotonic()))
    now = Kept.of(daemon, camera)
    gone_s = now.at_s - since.at_s
    captured_fps = (now.captured - since.captured) / gone_s
    analysed_fps = (now.analysed - since.analysed) / gone_s
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    share = min(now.shares[len(since.shares) - 1 :])
    assert busy or share == 1.0, "a fault made the daemon shed work"
    assert captured_fps == pytest.approx(CLIP_FPS, rel=0.1), (captured_fps, gone_s)
    assert 0.9 * share <= analysed_fps / ANALYSED_FPS <= 1.1, (analysed_fps, gone_s, share)


def assert_exact(daemon: DaemonProcess) -> None:
    """Every captured frame of every camera is explained, but for those under way."""
    for camera in daemon.get("/api/cameras")["cameras"]:
        left = camera["captured"] - camera["analysed"] - sum(camera["dropped"].values())
        assert -3 <= left <= 3, camera  # the counts are read one after the other, frames come on


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_stream_may_change_while_it_runs(shared: Path, tmp_path: Path) -> None:
    """Another size, another codec, time stamps ten hours later and earlier: it goes on by itself.

    A change of codec ends the connection; the next one begins with the new codec. Nobody else
    notices, nothing is miscounted, and no reading is dated by the camera's wild clock.
    """
    clip = shared / "video" / "single_face.mp4"
    changes = {
        "larger": part(clip, height=360, codec="libx264", offset_s=PART_S),
        "hevc": part(clip, height=180, codec="libx265", offset_s=2 * PART_S),
        "hours later": part(clip, height=180, codec="libx264", offset_s=36_000),
        "back again": part(clip, height=180, codec="libx264", offset_s=5),
    }
    first = part(clip, height=180, codec="libx264", offset_s=0)
    with Ribbon([first, *changes.values()]) as ribbon:
        urls = {"changing": ribbon.url, "steady": clip}
        with (
            DaemonProcess(tmp_path, body(urls, shared, CALM)) as daemon,
            daemon.subscriber("emotion.sample/", "camera.") as subscriber,
        ):
            events = collect(
                subscriber,
                lambda events: all(samples_of(events, name) for name in urls),
                60,
            )
            steady = Kept.of(daemon, "steady")
            events += collect(subscriber, lambda _: ribbon.sent > len(changes) + 1, 120)
            events += collect(
                subscriber,
                lambda events: len(samples_of(events, "changing")) > 10,
                90,
            )
            assert_kept(daemon, "steady", steady)
            assert_exact(daemon)
    assert {s.frame.height for s in samples_of(events, "changing")} == {180, 360}
    assert not any(e.gap for e in events)
    assert all(0 <= s.latency_ms < 60_000 for s in samples_of(events, "changing"))
    offline = [e.data for e in events if isinstance(e.data, CameraOffline)]
    assert {e.camera for e in offline} <= {"changing"}
    assert {e.reason for e in offline} <= {"decode_error", "ended", "io_error"}, offline


STEP = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long off(void) {
    char text[32] = {0};
    int file = open(getenv("CLOCK_STEP"), O_RDONLY);
    if (file >= 0) { if (read(file, text, 31) < 0) text[0] = 0; close(file); }
    return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, at);
    if (id == CLOCK_REALTIME) at->tv_sec += off();
    return done;
}
"""
"""A library that moves the clock of the day by what a file says, and leaves the steady one alone:
what an administrator's `date -s` or a first NTP answer does, for one process."""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc (builds the false clock) absent")
@pytest.mark.timeout(240)
def test_the_clock_may_be_stepped(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day forward and two back: events carry the new time, and nothing else changes."""
    source, library, step = (tmp_path / name for name in ("step.c", "step.so", "step"))
    source.write_text(STEP)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    step.write_text("0")
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK_STEP", str(step))
    clip = shared / "video" / "single_face.mp4"
    with DaemonProcess(tmp_path, body({"a": clip, "b": clip}, shared, CALM)) as daemon:
        monkeypatch.delenv("LD_PRELOAD")
        with daemon.subscriber() as subscriber:
            collect(subscriber, lambda events: len(samples_of(events, "a")) > 5, 60)
            before = Kept.of(daemon, "a")
            for day in (1, -1):
                step.write_text(str(day * 86_400))
                events = collect(subscriber, lambda events: len(samples_of(events, "a")) > 20, 60)
                sent = datetime.fromisoformat(events[-1].time)
                shift_s = (sent - datetime.now(UTC)).total_seconds()
                assert abs(shift_s - day * 86_400) < 60
                assert not any(event.gap for event in events)
                assert not [e for e in events if e.type in {"camera.offline", "face.lost"}]
                latencies_ms = [s.latency_ms for s in samples_of(events[5:], "a")]
                assert all(0 <= latency < 60_000 for latency in latencies_ms), latencies_ms
            assert daemon.get("/livez")["status"] == "ok"
            assert_kept(daemon, "a", before)
            assert_exact(daemon)
            assert daemon.stop(20)[0] == 0


@pytest.mark.timeout(240)
def test_a_file_cut_short_and_a_device_that_is_gone_stop_nobody(
    shared: Path, tmp_path: Path
) -> None:
    """A looped file that is truncated goes offline with a reason and comes back when it is whole.

    A device that was never there is asked for again and again; `test_video_device.py` pulls one.
    """
    whole = shared / "video" / "single_face.mp4"
    cut = tmp_path / "cut.mp4"
    shutil.copy(whole, cut)
    urls = {"cut": cut, "gone": "/dev/v4l/by-id/usb-gone-index0", "steady": whole}
    with (
        DaemonProcess(tmp_path, body(urls, shared, CALM)) as daemon,
        daemon.subscriber() as subscriber,
    ):
        collect(
            subscriber,
            lambda events: all(samples_of(events, name) for name in ("cut", "steady")),
            60,
        )
        steady = Kept.of(daemon, "steady")
        os.truncate(cut, 20_000)
        events = collect(subscriber, lambda events: bool(offline_of(events, "cut")), 60)
        assert offline_of(events, "cut")[0].reason in {"decode_error", "io_error"}
        states = {
            c["name"]: (c["state"], c["reason"]) for c in daemon.get("/api/cameras")["cameras"]
        }
        assert states["gone"] == ("offline", "not_found")
        shutil.copy(whole, cut)
        events += collect(subscriber, lambda events: bool(samples_of(events, "cut")), 90)
        assert_kept(daemon, "steady", steady)
        assert not offline_of(events, "steady")
        assert not any(event.gap for event in events)
        assert_exact(daemon)
        assert daemon.metric("streamer_camera_reconnects_total")[
            '{camera="gone",reason="not_found"}'
        ]


def offline_of(events: list[Received], camera: str) -> list[CameraOffline]:
    """Return what was told of a camera that went away."""
    return [e.data for e in events if isinstance(e.data, CameraOffline) and e.data.camera == camera]


def test_a_flood_of_subscriptions_costs_only_its_sender(shared: Path, tmp_path: Path) -> None:
    """Three peers with 20,000 topics each: neither a subscriber nor a camera notices."""
    clip = shared / "video" / "single_face.mp4"
    with DaemonProcess(tmp_path, body({"a": clip}, shared, CALM)) as daemon:
        address = f"tcp://127.0.0.1:{daemon.ports[0]}"
        with daemon.subscriber() as subscriber:
            collect(subscriber, lambda events: bool(samples_of(events, "a")), 60)
            before = Kept.of(daemon, "a")
            floods = [
                threading.Thread(target=flood_subscriptions, args=(address, Random(k), 20_000))
                for k in range(3)
            ]
            for flood in floods:
                flood.start()
            events = collect(
                subscriber,
                lambda events: (
                    not any(flood.is_alive() for flood in floods)
                    and len(samples_of(events, "a")) > 10
                ),
                60,
            )
            assert not any(event.gap for event in events)
            assert_kept(daemon, "a", before)
            assert_exact(daemon)
            assert daemon.stop(20)[0] == 0


@pytest.mark.timeout(240)
def test_without_memory_it_goes_on_or_ends_with_one(shared: Path, tmp_path: Path) -> None:
    """No address space is left from one moment on: what needs more fails, and says what it was.

    The analysis runs on what it has. A thread that cannot go on ends the process with 1, for a
    service manager to start it anew; nothing limps on, and a stop is heard in any case.
    """
    clip = shared / "video" / "single_face.mp4"
    with DaemonProcess(tmp_path, body({"a": clip}, shared)) as daemon:
        with daemon.subscriber() as subscriber:
            collect(subscriber, lambda events: bool(samples_of(events, "a")), 60)
            limited = psutil.Process(daemon.pid)
            size = limited.memory_info().vms + (1 << 20)
            limited.rlimit(psutil.RLIMIT_AS, (size, size))
            with contextlib.suppress(OSError, HTTPException):  # refused, or cut off
                watch_live(daemon.ports[2], 3.0, read=True)
        code, _ = daemon.stop(30)
        log = daemon.log.read_text()
        assert code == 0 or (code == 1 and "thread_failed" in log), (code, log[-2000:])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_full_disk_is_one_line(shared: Path, tmp_path: Path) -> None:
    """`analyse` and `record` on a disk of 256 kB; the daemon beside them does not need one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=True)
    clip = shared / "video" / "single_face.mp4"
    streamer = (sys.executable, "-m", "streamer")
    try:
        with DaemonProcess(tmp_path, body({"a": clip}, shared)) as daemon:
            wait_for(lambda: "camera_online" in daemon.log.read_text(), 60, "the camera")
            address = f"tcp://127.0.0.1:{daemon.ports[0]}"
            config = tmp_path / "streamer.toml"
            for command in (
                ("record", "--out", disk / "events", "--connect", address),
                ("analyse", clip, "--out", disk / "out", "--video", "--config", config),
            ):
                done = subprocess.run(
                    [*streamer, *map(str, command)],
                    capture_output=True,
                    text=True,
                    timeout=100,
                    check=False,
                )
                said = done.stdout + done.stderr
                assert done.returncode == 1, said
                assert "Traceback" not in said
                assert re.search(r"No space left on device|disk is full", said), said
                shutil.rmtree(disk / command[2] if command[0] == "record" else disk / "out")
            assert_exact(daemon)
            assert daemon.stop(20)[0] == 0
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
