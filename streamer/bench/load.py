"""N cameras at once: the real daemon in its own process, this one as its subscriber."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from streamer.client import Subscriber
from streamer.cores import processes
from streamer.errors import StreamerError
from streamer.events import EmotionSample, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from streamer.config import Config

__all__ = ["Load", "measure"]

_START_S: Final = 60.0
_SETTLE_S: Final = 3.0  # cameras have begun, tracks are confirmed, caches are warm
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SERIES: Final = re.compile(r"streamer_(?P<name>\w+)_total\{(?P<labels>[^}]*)\} (?P<value>\S+)")
_LEVEL: Final = re.compile(r"^streamer_overload_level\{[^}]*\} (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What N cameras cost and how they were served.

    Attributes:
        cameras: how many.
        seconds: of measurement.
        captured_fps: frames decoded a second, all cameras.
        analysed_fps: frames analysed a second, all cameras.
        due_fps: frames that should have been.
        samples: faces read.
        latency_ms: from frame arrival to receipt by the subscriber, by percentile.
        dropped: frames by reason.
        looks: pictures and parts of pictures shown to the detector, by kind.
        overload: the highest level of overload at the end, see ``streamer.throttle``.
        cpu_s: CPU seconds by thread group.
        memory_mb: highest resident memory; of several processes what they hold together at the end,
            each page once.
        watched: whether somebody looked at the live page's pictures of all cameras meanwhile.
        workers: processes that shared the cameras.
    """

    cameras: int
    seconds: float
    captured_fps: float
    analysed_fps: float
    due_fps: float
    samples: int
    latency_ms: dict[str, float]
    dropped: dict[str, int]
    cpu_s: dict[str, float]
    memory_mb: float
    looks: dict[str, int] = field(default_factory=dict)
    overload: int = 0
    watched: bool = False
    workers: int = 1

    @property
    def missed(self) -> float:
        """The share of due frames that were not analysed."""
        return max(0.0, 1.0 - self.analysed_fps / self.due_fps)

    @property
    def cpu_per_analysed_ms(self) -> float:
        """CPU milliseconds for one analysed frame, everything included."""
        return 1e3 * sum(self.cpu_s.values()) / max(1.0, self.analysed_fps * self.seconds)


def measure(
    config: Config, clips: list[Path], cameras: int, seconds: float, *, watched: bool = False
) -> Load:
    """Run the daemon on cameras that play the clips in turn, and listen.

    Args:
        config: everything but the cameras and the addresses.
        clips: what the cameras show; each is looped and paced by its time stamps.
        cameras: how many.
        seconds: how long to measure once they have settled.
        watched: also look at the live page's pictures of all cameras.

    Raises:
        StreamerError: if the daemon does not start.
    """
    with (
        _Daemon(config, clips, cameras) as daemon,
        daemon.subscriber() as subscriber,
        daemon.watcher() if watched else nullcontext(),
    ):
        _listen(subscriber, _SETTLE_S)
        before = daemon.look()
        latencies_ms = _listen(subscriber, seconds)
        after = daemon.look()
    spent_s = after.at_s - before.at_s
    counts = Counter({key: count - before.counts[key] for key, count in after.counts.items()})
    return Load(
        cameras=cameras,
        seconds=spent_s,
        captured_fps=counts["captured"] / spent_s,
        analysed_fps=counts["analysed"] / spent_s,
        due_fps=cameras * config.analysis.fps,
        samples=len(latencies_ms),
        latency_ms={
            f"p{q}": round(float(np.percentile(latencies_ms or [0.0], q)), 1) for q in (50, 95, 99)
        },
        dropped={
            key.removeprefix("dropped "): count
            for key, count in counts.items()
            if key.startswith("dropped ")
        },
        looks={
            key.removeprefix("looks "): count
            for key, count in counts.items()
            if key.startswith("looks ")
        },
        overload=after.overload,
        cpu_s={
            group: round((ticks - before.cpu[group]) / _TICKS, 3)
            for group, ticks in after.cpu.items()
        },
        memory_mb=after.memory_mb,
        watched=watched,
        workers=processes(config.daemon.workers, cameras),
    )


def _listen(subscriber: Subscriber, seconds: float) -> list[float]:
    """Return the latency of every sample that arrives, milliseconds."""
    latencies_ms = []
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        event = subscriber.receive(left_s)
        if event is not None and type(event.data) is EmotionSample:
            on_the_way = datetime.now(UTC) - parse_time(event.time)
            latencies_ms.append(event.data.latency_ms + 1e3 * on_the_way.total_seconds())
    return latencies_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The daemon's counters at one moment."""

    at_s: float
    counts: Counter[str] = field(default_factory=Counter)
    cpu: Counter[str] = field(default_factory=Counter)
    memory_mb: float = 0.0
    overload: int = 0


class _Daemon:
    """``streamer run`` as a child, on free ports."""

    def __init__(self, config: Config, clips: list[Path], cameras: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="streamer-bench-")
        self._ports = [_free_port() for _ in range(3)]
        self._path = Path(self._folder.name) / "streamer.toml"
        self._path.write_text(_toml(config, clips, cameras, self._ports))
        self._path.chmod(0o600)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "streamer", "run", "--config", str(self._path)]
        self._log = Path(self._folder.name, "log").open("w+b")
        self._process = subprocess.Popen(  # noqa: S603 our own program
            command, stdout=self._log, stderr=subprocess.STDOUT
        )
        end_s = time.monotonic() + _START_S
        while self._get("readyz") is None:
            if self._process.poll() is not None or time.monotonic() > end_s:
                said = Path(self._log.name).read_text().strip().splitlines()
                self.__exit__(None, None, None)
                raise StreamerError(f"the daemon did not start: {said[-1] if said else 'silent'}")
            time.sleep(0.1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def subscriber(self) -> Subscriber:
        """Return a subscriber to the samples of all cameras."""
        address = f"tcp://127.0.0.1:{self._ports[0]}"
        return Subscriber(connect=address, snapshot=None, topics=("emotion.sample/",))

    @contextmanager
    def watcher(self) -> Iterator[None]:
        """Take the pictures of all cameras as a browser does, and throw them away."""
        url = f"http://127.0.0.1:{self._ports[2]}/api/live"
        done = threading.Event()
        with urllib.request.urlopen(url, timeout=10) as stream:

            def take() -> None:
                while not done.is_set() and stream.read1(1 << 16):
                    pass

            thread = threading.Thread(target=take, name="watcher", daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join(10)  # the stream tells the cameras' states each second

    def look(self) -> _Look:
        """Read the metrics and what the kernel knows of the process and its workers."""
        processes = _family(self._process.pid)
        text = self._get("metrics") or ""
        counts: Counter[str] = Counter()
        for match in _SERIES.finditer(text):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
            if match["name"] == "frames_analysed":
                counts["analysed"] += int(float(match["value"]))
            elif match["name"] == "frames_captured":
                counts["captured"] += int(float(match["value"]))
            elif match["name"] == "detector_looks":
                counts[f"looks {labels['type']}"] += int(float(match["value"]))
            elif match["name"] == "frames_dropped":
                counts[f"dropped {labels['reason']}"] += int(float(match["value"]))
        cpu: Counter[str] = Counter()
        for process in processes:
            cpu.update(_cpu_ticks(process))  # not with +, which leaves out who has used none yet
        return _Look(
            at_s=time.monotonic(),
            counts=counts,
            cpu=cpu,
            memory_mb=_held_mb(processes) if len(processes) > 1 else _peak_mb(processes[0]),
            overload=max((int(float(level)) for level in _LEVEL.findall(text)), default=0),
        )

    def _get(self, path: str) -> str | None:
        url = f"http://127.0.0.1:{self._ports[2]}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return str(reply.read().decode())
        except OSError:
            return None


def _cpu_ticks(pid: int) -> Counter[str]:
    """Return the CPU time of a process's threads, by what they do."""
    ticks: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # the thread has ended since
            continue
        group = re.split(r"[-_/]", name)[0]
        group = {"feed": "decode", "python": "other", "python3": "other"}.get(group, group)
        ticks[group] += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
    return ticks


def _family(pid: int) -> list[int]:
    """Return a process and those it started."""
    started = (task / "children" for task in Path(f"/proc/{pid}/task").iterdir())
    return [pid, *(int(child) for path in started for child in path.read_text().split())]


def _held_mb(pids: list[int]) -> float:
    """Return what processes hold together: of a page that several share, each has its part."""
    kilobytes = 0
    for pid in pids:
        match = re.search(r"Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
        kilobytes += int(match[1]) if match else 0
    return round(kilobytes / 1024, 1)


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return round(int(match[1]) / 1024, 1) if match else 0.0


def _toml(config: Config, clips: list[Path], cameras: int, ports: list[int]) -> str:
    tables = "".join(
        f'[[cameras]]\nname = "c{index}"\nurl = {json.dumps(str(clips[index % len(clips)]))}\n'
        "loop = true\n"
        for index in range(cameras)
    )
    events, snapshot, http = ports
    return (
        f"{tables}[daemon]\nworkers = {config.daemon.workers}\n"
        f"[analysis]\nfps = {config.analysis.fps}\n"
        f"[detector]\nbackend = {json.dumps(config.detector.backend)}\n"
        f"input_px = {config.detector.input_px}\nwhole_s = {config.detector.whole_s}\n"
        f"mirror = {json.dumps(config.detector.mirror)}\n"
        f'[publish]\nbind = "tcp://127.0.0.1:{events}"\n'
        f'snapshot = "tcp://127.0.0.1:{snapshot}"\n'
        f'[http]\nbind = "127.0.0.1:{http}"\n'
        '[purpose]\ndeclared = "benchmark"\n[log]\nlevel = "error"\n'
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
