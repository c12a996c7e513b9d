"""A camera that is a device, plugged in and pulled out: a real driver in a kernel of its own."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from streamer.events import CameraOffline, CameraOnline
from tests.clips import make
from tests.daemon import collect, free_port, wait_for
from tests.guest import (
    Guest,
    GuestDaemon,
    debian_kernel,
    guest_missing,
    processor_runs_it,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.client import Received, Subscriber

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(
        600
    ),  # a minute and a half interpreted, on a machine with nothing else to do
    pytest.mark.skipif(bool(guest_missing()), reason=guest_missing() or "there"),
]

DEVICE = "/dev/video0"
"""The daemon's: the first of two, which have four video nodes each."""
DEVICE_FPS = 5.0
"""What the driver's web cam gives unless asked for something else."""
FILE_FPS = 10.0
DRIVER = "/sys/bus/platform/drivers/vivid"
PULL = f"echo vivid.0 > {DRIVER}/unbind"
PLUG = f"echo vivid.0 > {DRIVER}/bind"
WINDOW_S = 6.0
"""A frame of the device more or less at either end is then 3 %."""
TRIES = 4
OPENINGS = """
import fcntl, json, os, struct
from streamer.capture import open_source
from streamer.clock import SystemClock
from streamer.errors import SourceError
from streamer.source import CaptureOptions

SET_CONTROL, DISCONNECT = 0xC008561C, 0xF0F041  # VIDIOC_S_CTRL, and the driver's own control

def look(url):
    return open_source(CaptureOptions(camera="a", url=url), SystemClock())

def refusal(url):
    try:
        look(url).close()
    except SourceError as error:
        return [error.reason, str(error)]

said = {name: refusal("/dev/" + name) for name in ("video5", "video6", "v4l-touch1", "null")}
source = look("/dev/video4")
said["found"] = [source.info.container, source.info.live, source.info.declared_fps]
frames = [source.read()]
said["busy"] = refusal("/dev/video4")
beside = os.open("/dev/video4", os.O_RDWR)
fcntl.ioctl(beside, SET_CONTROL, bytearray(struct.pack("Ii", DISCONNECT, 1)))
os.close(beside)
try:
    while True:
        frames.append(source.read())
except SourceError as error:
    said["pulled"] = [error.reason, str(error)]
source.close()
said["means"] = [float(frame.luma_HW.mean()) for frame in frames]
said["colours"] = frames[-1].picture.bgr().shape
said["seqs"] = [frame.seq for frame in frames]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def daemon(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestDaemon]:
    """A daemon that is starting on a device and a file, in a kernel with two web cams of software.

    They are the ones by which the kernel's developers test programs.
    """
    folder = tmp_path_factory.mktemp("guest")
    clip = make(
        folder / "steady.mp4",
        *("-c:v", "libx264", "-bf", "0", "-g", "10", "-pix_fmt", "yuv420p"),
        source=f"testsrc=size=160x120:rate={FILE_FPS:g}:duration=4",
    )
    body = (
        f'[[cameras]]\nname = "desk"\nurl = "{DEVICE}"\n'
        f'[[cameras]]\nname = "steady"\nurl = "{clip}"\nloop = true\n'
        f'[detector]\ninput_px = 320\nmirror = "{shared / "models"}"\n'
        "[analysis]\nfps = 0.5\n[daemon]\nworkers = 1\n"
    )
    ports = (free_port(), free_port(), free_port())
    with (
        Guest(debian_kernel("vivid"), folder, ports, "vivid.n_devs=2") as guest,
        GuestDaemon(folder, body, ports, guest=guest) as started,
    ):
        yield started


def test_a_device_is_opened_refused_and_outlived(daemon: GuestDaemon) -> None:
    """Each wrong node has its reason; a picture is still there when its device no longer is.

    Pictures of a device once were the driver's memory: looking at one after the pull was SIGSEGV.
    """
    guest = daemon.inside()
    script = guest.folder / "openings.py"
    script.write_text(OPENINGS)
    said = json.loads(
        guest.ask(f"{shlex.quote(sys.executable)} -X faulthandler {script}", 120).splitlines()[-1]
    )
    assert said["found"] == ["v4l2", True, DEVICE_FPS]
    words = {
        "video5": ("not_found", "not a video device"),  # takes pictures, gives none
        "video6": ("not_found", "no pictures come from it"),  # a camera's second node: metadata
        "v4l-touch1": ("codec_unsupported", "a format that FFmpeg cannot read"),
        "null": ("not_found", "not a video device"),
        "busy": ("busy", "another program uses the device"),
        "pulled": ("not_found", "was it unplugged?"),
    }
    for name, (reason, part) in words.items():
        assert said[name][0] == reason, said[name]
        assert part in said[name][1]
    assert said["seqs"] == list(range(1, len(said["seqs"]) + 1))
    assert all(0.0 < mean < 255.0 for mean in said["means"]), said["means"]
    assert said["colours"] == [360, 640, 3]


def cameras(daemon: GuestDaemon) -> dict[str, Any]:
    """Return what the daemon says of each camera."""
    return {camera["name"]: camera for camera in daemon.get("/api/cameras")["cameras"]}


def states(daemon: GuestDaemon) -> dict[str, str]:
    """Return what each camera is."""
    return {name: camera["state"] for name, camera in cameras(daemon).items()}


def captured(daemon: GuestDaemon) -> tuple[float, dict[str, int]]:
    """Return the frames that each camera has given, and when that was asked."""
    asked_s = time.monotonic()
    counts = {name: camera["captured"] for name, camera in cameras(daemon).items()}
    return (asked_s + time.monotonic()) / 2, counts


def gives(daemon: GuestDaemon, fps: dict[str, float], since: tuple[float, dict[str, int]]) -> bool:
    """Tell whether cameras kept their rates, within 10 %, from a moment on, six seconds at least.

    Where the machine has more to do than cores, a guest that is interpreted gets too little of it
    to be held to that: its cameras then have to go on, at any rate.
    """
    time.sleep(max(0.0, since[0] + WINDOW_S - time.monotonic()))
    now_s, counts = captured(daemon)
    rates = {name: (counts[name] - since[1][name]) / (now_s - since[0]) for name in fps}
    starved = not processor_runs_it() and os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    return all(
        rates[name] == pytest.approx(wanted, rel=0.1) or (starved and rates[name] > 0.0)
        for name, wanted in fps.items()
    )


def held(daemon: GuestDaemon) -> tuple[int, int, list[str]]:
    """Return the daemon's descriptors of devices, all of them, and its threads.

    Threads of the web server come and go with the questions of this test.
    """
    process = f"/proc/{daemon.pid}"
    links = daemon.inside().ask(f"ls -l {process}/fd").splitlines()
    threads = daemon.inside().ask(f"cat {process}/task/*/comm").splitlines()
    devices = sum("/dev/video" in link for link in links)
    return devices, len(links), sorted(name for name in threads if not name.startswith("AnyIO"))


def none_left(before: tuple[int, int, list[str]], now: tuple[int, int, list[str]]) -> bool:
    """Tell whether nothing was kept; a question under way may have had a descriptor before."""
    return (now[0], now[2]) == (1, before[2]) and now[1] <= before[1]


def assert_exact(daemon: GuestDaemon) -> None:
    """Every captured frame of every camera is explained, but for those under way."""
    for camera in cameras(daemon).values():
        left = camera["captured"] - camera["analysed"] - sum(camera["dropped"].values())
        assert -3 <= left <= 3, camera  # the counts are read one after the other, frames come on


def about(events: list[Received], kind: type[CameraOffline | CameraOnline]) -> list[Any]:
    """Return the news of one kind that the device made."""
    return [e.data for e in events if isinstance(e.data, kind) and e.data.camera == "desk"]


def pull_and_plug(daemon: GuestDaemon, subscriber: Subscriber) -> None:
    """Unplug the device, see it go, plug it in again and see it come back."""
    daemon.inside().ask(PULL)
    events = collect(subscriber, lambda got: bool(about(got, CameraOffline)), 60)
    assert [gone.reason for gone in about(events, CameraOffline)] == ["not_found"]
    daemon.inside().ask(f"! test -e {DEVICE}")
    assert states(daemon) == {"desk": "offline", "steady": "online"}
    daemon.inside().ask(PLUG)
    daemon.inside().ask(f"test -c {DEVICE}")  # its old number is free: nobody has it open
    back = collect(subscriber, lambda got: bool(about(got, CameraOnline)), 90)
    assert not about(back, CameraOffline)
    assert not any(event.gap for event in events + back)


def keeps_rate(daemon: GuestDaemon, subscriber: Subscriber) -> bool:
    """Tell whether the file's camera kept its rate while the device went and came twice."""
    start = captured(daemon)
    for _ in range(2):
        pull_and_plug(daemon, subscriber)
    return gives(daemon, {"steady": FILE_FPS}, start)


def test_a_device_unplugged_comes_back_and_stops_nobody(daemon: GuestDaemon) -> None:
    """Offline with its reason, twice; online again by itself; the file beside it keeps its rate.

    What is held to a rate may try again: a machine that was busy with something else is no fault.
    """
    both_fps = {"desk": DEVICE_FPS, "steady": FILE_FPS}
    wait_for(lambda: "daemon_started" in daemon.log.read_text(), 200, "the daemon")
    wait_for(lambda: set(states(daemon).values()) == {"online"}, 60, "both cameras")
    with daemon.subscriber("camera.") as subscriber:
        before = held(daemon)
        assert any(gives(daemon, both_fps, captured(daemon)) for _ in range(TRIES))
        assert any(keeps_rate(daemon, subscriber) for _ in range(TRIES))
        assert any(gives(daemon, both_fps, captured(daemon)) for _ in range(TRIES))
        assert_exact(daemon)
    wait_for(lambda: none_left(before, held(daemon)), 30, f"{held(daemon)}, it was {before}")
    assert daemon.stop()[0] == 0
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    assert not [line for line in lines if line["level"] == "error"]
