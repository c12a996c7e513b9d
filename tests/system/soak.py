"""Runs the daemon for a long time under random faults, and reports what grows.

    python -m tests.system.soak --minutes 65 --cameras 8 --report soak.json

Real cameras (RTSP servers that are killed, frozen, replaced by noise), real subscribers (a healthy
one that must miss nothing, others that stall, flood and leave), scrapes, watchers of the live page
and reloads, in rounds drawn from a seed. Every round ends with everything healed and all cameras
online: there the daemon is measured at rest, so that the slopes show what stays and not what a
fault needs while it lasts. Two cameras are never touched: they must keep their rate.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from streamer.memory import TRIM_S
from tests.daemon import DaemonProcess
from tests.rtsp_server import RtspServer
from tests.unrest import (
    MANNERS,
    Impostor,
    flood_subscriptions,
    leave_at_once,
    speak_garbage,
    stall_subscriber,
    watch_live,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.client import Subscriber

__all__ = ["Plan", "Report", "Trend", "run"]

SHARED = Path(__file__).resolve().parents[3] / "shared"
CLIPS = ("single_face.mp4", "noface_face.mov")
"""One face that stays, and faces that come and go: tracks begin and end all the time."""
CAMERA_FPS = 10.0
ANALYSED_FPS = 2.5
"""So that eight cameras take a quarter of a core and the soak can run beside other work."""
STEADY = 2
"""Cameras that no fault touches."""
READ_S = 0.02
"""Between two readings of memory at a rest, of which the least counts."""
ONLINE_S = 150.0
"""A camera comes back within its back-off (up to 60 s) and its deadlines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run.

    Attributes:
        minutes: for how long, warm-up included.
        cameras: how many, four or more, an even number.
        seed: of all chance.
        warm_up_minutes: measurements before it do not count.
        video, models: folders of the clips and of the detector's model.
    """

    minutes: float
    cameras: int
    seed: int
    warm_up_minutes: float
    video: Path
    models: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """The daemon while nothing is broken; anonymous memory is that which no file backs."""

    minute: float
    rss_mb: float
    anonymous_mb: float
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A straight line through measurements, least squares.

    Attributes:
        per_hour: its slope.
        error: one standard error of the slope.
    """

    per_hour: float
    error: float

    @classmethod
    def of(cls, minutes: list[float], values: list[float]) -> Trend | None:
        """Fit it; None for fewer than four points, through which any line goes."""
        if len(minutes) < 4:
            return None
        x = np.array(minutes) / 60.0
        (slope, _), covariance = np.polyfit(x, np.array(values), 1, cov=True)
        return cls(per_hour=round(float(slope), 3), error=round(float(covariance[0, 0]) ** 0.5, 3))


@dataclass(slots=True, kw_only=True)
class Report:
    """What came out; ``failures`` is empty where all is as it should be."""

    plan: dict[str, Any]
    faults: Counter[str] = field(default_factory=Counter)
    rests: list[Rest] = field(default_factory=list)
    trends: dict[str, Trend | None] = field(default_factory=dict)
    cpu_share: float = 0.0
    accounting: dict[str, dict[str, float]] = field(default_factory=dict)
    steady_fps: dict[str, float] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    malformed: int = 0
    reconnects: dict[str, float] = field(default_factory=dict)
    log: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return it as indented JSON."""
        known = {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in fields(self))
        }
        return json.dumps(known, indent=1, default=_plain)


def _plain(value: object) -> object:
    """Turn what JSON does not know into what it does."""
    return asdict(value) if isinstance(value, Rest | Trend) else str(value)


class _Listener(threading.Thread):
    """The healthy subscriber: takes every event and knows what it missed."""

    def __init__(self, subscriber: Subscriber) -> None:
        super().__init__(name="listener")
        self.subscriber = subscriber
        self.events: Counter[str] = Counter()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            event = self.subscriber.receive(0.2)
            if event is not None:
                self.events[event.type] += 1


class _Site:
    """Servers, their cameras, and the faults that can be done to them."""

    def __init__(self, plan: Plan, folder: Path, stack: ExitStack) -> None:
        self._random = Random(plan.seed)
        self._folder = folder
        self.faults: Counter[str] = Counter()
        clips = [_clip(plan.video / name, folder) for name in CLIPS]
        self.servers = [
            stack.enter_context(RtspServer({f"cam{k}": clips[k % 2] for k in (i, i + 1)}))
            for i in range(0, plan.cameras, 2)
        ]
        self.urls = {f"cam{k}": self.servers[k // 2].url(f"cam{k}") for k in range(plan.cameras)}
        self.steady = tuple(f"cam{k}" for k in range(STEADY))
        body = "".join(
            f'[[cameras]]\nname = "{name}"\nurl = "{url}"\n' for name, url in self.urls.items()
        )
        body += f"[analysis]\nfps = {ANALYSED_FPS}\n"
        body += f'[detector]\ninput_px = 320\nmirror = "{plan.models}"\n'
        self.daemon = stack.enter_context(DaemonProcess(folder, body))
        self._good = (folder / "streamer.toml").read_text()

    def round(self, lasts_s: float) -> None:
        """Do a few faults at once, and heal them all."""
        random = self._random
        jobs: list[tuple[Callable[..., str], tuple[Any, ...]]] = [
            (self._server_fault, (server, random.random()))
            for server in random.sample(self.servers[1:], random.randint(1, len(self.servers) - 1))
        ]
        jobs += [(self._visitor, (random.random(),)) for _ in range(random.randint(2, 4))]
        if random.random() < 0.5:
            jobs.append((self._reload, (random.random(),)))
        threads = [
            threading.Thread(target=self._later, args=(do, args, random.random(), lasts_s))
            for do, args in jobs
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _later(
        self, do: Callable[..., str], args: tuple[Any, ...], chance: float, lasts_s: float
    ) -> None:
        time.sleep(chance * lasts_s / 3)
        self.faults[do(*args, lasts_s / 2)] += 1

    def _server_fault(self, server: RtspServer, draw: float, lasts_s: float) -> str:
        random = Random(draw)
        kind = random.choice(("killed", "restarted", "frozen", *MANNERS))
        if kind == "frozen":
            server.freeze()
            time.sleep(lasts_s)
            server.thaw()
            return kind
        server.kill()
        if kind == "killed":
            time.sleep(lasts_s)
        for manner in MANNERS:
            if kind == manner:
                with Impostor(server.port, manner, random):
                    time.sleep(lasts_s)
        server.start()
        return kind

    def _visitor(self, draw: float, lasts_s: float) -> str:
        random = Random(draw)
        events, snapshot, http = self.daemon.ports
        stream = f"tcp://127.0.0.1:{events}"
        visits: dict[str, Callable[[], object]] = {
            "stalled_subscriber": lambda: stall_subscriber(stream, lasts_s),
            "subscription_flood": lambda: flood_subscriptions(stream, random, 2000),
            "subscribers_leaving": lambda: leave_at_once(stream, 10),
            "snapshots": self._snapshots,
            "garbage_on_a_port": lambda: speak_garbage(
                random.choice((events, snapshot, http)), random, times=10
            ),
            "live_watcher": lambda: watch_live(http, lasts_s, read=True),
            "stalled_watcher": lambda: watch_live(http, lasts_s, read=False),
            "scrapes": lambda: [self.daemon.get("/api/cameras") for _ in range(50)],
        }
        name = random.choice(sorted(visits))
        visits[name]()
        return name

    def _snapshots(self) -> None:
        with self.daemon.subscriber("none/") as visitor:
            for _ in range(20):
                visitor.snapshot()

    def _reload(self, draw: float, lasts_s: float) -> str:
        """Change the configuration, and change it back."""
        random = Random(draw)
        kind = random.choice(("camera_removed", "camera_added", "camera_changed", "bad_file"))
        last = f"cam{len(self.urls) - 1}"
        table = f'[[cameras]]\nname = "{last}"\nurl = "{self.urls[last]}"\n'
        guest = f'[[cameras]]\nname = "guest"\nurl = "{self.urls[self.steady[0]]}"\n'
        text = {
            "camera_removed": self._good.replace(table, ""),
            "camera_added": guest + self._good,
            "camera_changed": self._good.replace(table, table + "read_timeout_s = 3.0\n"),
            "bad_file": "nonsense = 1\n" + self._good,
        }[kind]
        for content in (text, self._good):
            (self._folder / "streamer.toml").write_text(content)
            os.kill(self.daemon.pid, signal.SIGHUP)
            time.sleep(lasts_s / 2)
        return f"reload_{kind}"


def run(plan: Plan, say: Callable[[str], object]) -> Report:
    """Run it to its end.

    Args:
        plan: what.
        say: takes a line of progress now and then.

    Raises:
        AssertionError: where the daemon did not even start, or a port of it went dead.
    """
    report = Report(plan=asdict(plan))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        site = _Site(plan, Path(folder), stack)
        daemon = site.daemon
        listener = _Listener(stack.enter_context(daemon.subscriber()))
        listener.start()
        try:
            _rounds(plan, site, report, say)
            _account(site, report)
            code, _ = daemon.stop()
            if code:
                report.failures.append(f"the daemon ended with {code}")
        finally:
            time.sleep(1.0)
            listener.done.set()
            listener.join()
        report.faults, report.events = site.faults, listener.events
        report.missed = listener.subscriber.missed
        report.malformed = listener.subscriber.malformed
        report.log = _logged(daemon.log)
    _judge(plan, report)
    return report


def _rounds(plan: Plan, site: _Site, report: Report, say: Callable[[str], object]) -> None:
    """Break, heal and measure until the time is over."""
    daemon = site.daemon
    process = psutil.Process(daemon.pid)
    _wait_online(site)
    begin_s, begin_cpu_s = time.monotonic(), sum(process.cpu_times()[:2])
    first = _captured(site)
    while (gone_s := time.monotonic() - begin_s) < 60.0 * plan.minutes:
        site.round(min(30.0, 6.0 * plan.minutes))
        _wait_online(site)
        time.sleep(TRIM_S + 2.0)  # what the faults needed is free, and given back
        rss_mb, anonymous_mb = _memory_mb(process)
        rest = Rest(
            minute=round((time.monotonic() - begin_s) / 60.0, 2),
            rss_mb=rss_mb,
            anonymous_mb=anonymous_mb,
            descriptors=process.num_fds(),
            threads=process.num_threads(),
        )
        report.rests.append(rest)
        say(f"{gone_s / 60:6.1f} min  {rest}  {sum(site.faults.values())} faults")
    gone_s = time.monotonic() - begin_s
    report.cpu_share = round((sum(process.cpu_times()[:2]) - begin_cpu_s) / gone_s, 3)
    last = _captured(site)
    report.steady_fps = {
        name: round((last[name] - first[name]) / gone_s, 3) for name in site.steady
    }
    counted = [rest for rest in report.rests if rest.minute >= plan.warm_up_minutes]
    for name in ("rss_mb", "anonymous_mb", "descriptors", "threads"):
        report.trends[name] = Trend.of(
            [rest.minute for rest in counted], [float(getattr(rest, name)) for rest in counted]
        )


def _memory_mb(process: psutil.Process) -> tuple[float, float]:
    """Return resident and anonymous memory, each the least of one period of Trim.

    Between two trims 10 to 20 MB come and go, which every batch allocates and frees: what stays is
    what is there just after one.
    """
    readings = []
    end_s = time.monotonic() + TRIM_S + 1.0
    while time.monotonic() < end_s:
        memory = process.memory_info()
        readings.append((memory.rss / 2**20, (memory.rss - memory.shared) / 2**20))
        time.sleep(READ_S)
    rss_mb, anonymous_mb = np.min(readings, axis=0)
    return round(float(rss_mb), 2), round(float(anonymous_mb), 2)


def _account(site: _Site, report: Report) -> None:
    """Switch every camera off, so that nothing is in flight, and compare the counts exactly."""
    report.reconnects = site.daemon.metric("streamer_camera_reconnects_total")
    for server in site.servers:
        server.kill()
    _wait(site, "offline")
    for camera in site.daemon.get("/api/cameras")["cameras"]:
        dropped = sum(camera["dropped"].values())
        report.accounting[camera["name"]] = {
            "captured": camera["captured"],
            "analysed": camera["analysed"],
            "dropped": dropped,
            "unexplained": camera["captured"] - camera["analysed"] - dropped,
        }


def _judge(plan: Plan, report: Report) -> None:
    """Say what is not as it should be; slopes only where the run was long enough to show them."""
    wrong = [
        f"{name}: {row['unexplained']:.0f} frames unaccounted for"
        for name, row in report.accounting.items()
        if row["unexplained"]
    ]
    if report.missed or report.malformed:
        wrong.append(f"missed {report.missed} events, {report.malformed} malformed")
    wrong += [
        f"{name}: {fps} frames a second of {CAMERA_FPS}"
        for name, fps in report.steady_fps.items()
        if abs(fps / CAMERA_FPS - 1.0) > 0.1
    ]
    wrong += [
        f"the log has {word} {report.log[word]} times"
        for word in ("Traceback", "worker_stuck", "thread_failed")
        if report.log[word]
    ]
    if plan.minutes - plan.warm_up_minutes >= 30.0:
        wrong += [
            f"{name} grows by {trend.per_hour} ± {trend.error} an hour"
            for name, trend in report.trends.items()
            if trend is not None and trend.per_hour - 2.0 * trend.error > 1.0
        ]
    report.failures += wrong


def _clip(source: Path, folder: Path) -> Path:
    """Make a small camera's stream of a clip: 320 wide, 10 frames a second, a keyframe a second."""
    clip = folder / f"{source.stem}.mp4"
    small = ("-vf", f"scale=320:-2,fps={CAMERA_FPS:g}", "-an", "-t", "20")
    codec = (
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-g",
        "10",
        "-bf",
        "0",
        "-pix_fmt",
        "yuv420p",
    )
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, *small, *codec, clip], check=True)
    return clip


def _wait_online(site: _Site) -> None:
    _wait(site, "online")


def _wait(site: _Site, state: str) -> None:
    """Wait until every camera is in this state."""
    end_s, states = time.monotonic() + ONLINE_S, {""}
    while states != {state}:
        assert time.monotonic() < end_s, f"not all {state}: {site.daemon.log.read_text()[-3000:]}"
        time.sleep(0.5)
        try:
            states = {camera["state"] for camera in site.daemon.get("/api/cameras")["cameras"]}
        except OSError:  # it is about to listen
            continue


def _captured(site: _Site) -> dict[str, int]:
    """Return how many frames each camera delivered so far."""
    cameras = site.daemon.get("/api/cameras")["cameras"]
    return {camera["name"]: camera["captured"] for camera in cameras}


def _logged(log: Path) -> Counter[str]:
    """Count what the daemon said, by event, and the tracebacks in it."""
    counts: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        try:
            counts[str(json.loads(line)["event"])] += 1
        except (ValueError, KeyError, TypeError):
            counts["not_json"] += 1
        counts["Traceback"] += "Traceback" in line
    return counts


def main() -> int:
    """Run from the command line; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=65.0, help="warm-up included")
    parser.add_argument("--warm-up", type=float, default=None, help="minutes; default: a sixth")
    parser.add_argument("--cameras", type=int, default=8, help="an even number from 4")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=Path("soak.json"), help="JSON to write")
    parser.add_argument("--video", type=Path, default=SHARED / "video", help="folder of the clips")
    parser.add_argument("--models", type=Path, default=SHARED / "models", help="detector's folder")
    given = parser.parse_args()
    if given.cameras < 4 or given.cameras % 2:
        parser.error("--cameras: expected an even number from 4")
    plan = Plan(
        minutes=given.minutes,
        cameras=given.cameras,
        seed=given.seed,
        warm_up_minutes=given.minutes / 6 if given.warm_up is None else given.warm_up,
        video=given.video,
        models=given.models,
    )
    report = run(plan, lambda line: sys.stderr.write(line + "\n"))
    given.report.write_text(report.text() + "\n")
    sys.stdout.write(f"{report.trends}\n{report.failures or 'all as it should be'}\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
