"""``streamer fleet run`` as its users have it: a process, other shells, a subscriber."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import av

from tests.daemon import free_port, wait_for
from tests.fleet.witness import longest_silence_s, seen

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CAMERAS", "Fleet"]

ROOT = Path(__file__).resolve().parents[2]
CAMERAS = tuple(f"c{number}" for number in range(1, 13))


def small_clip(source: Path, target: Path) -> None:
    """Write a face of 160x90 at 5 fps, so that a dozen cameras fit into one core."""
    with av.open(str(source)) as film, av.open(str(target), "w") as out:
        stream = out.add_stream("libx264", rate=5, options={"g": "10", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for number, frame in enumerate(film.decode(video=0)):
            if number % 6 == 0:
                small = frame.reformat(160, 90, "yuv420p")
                small.pts, small.time_base = number // 6, Fraction(1, 5)
                out.mux(stream.encode(small))
        out.mux(stream.encode())


@dataclass
class Fleet:
    """``streamer fleet run`` as a process, and a subscriber in another one.

    Args:
        folder: takes configuration, log and what the subscriber saw.
        address: of the cluster.
        mirror: has the model files.
        extra: further keys of ``[fleet]``.
    """

    folder: Path
    address: str
    mirror: Path
    extra: str = ""
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(4)])
    process: subprocess.Popen[bytes] | None = None
    witness: subprocess.Popen[bytes] | None = None
    place: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp")))

    def __enter__(self) -> Self:
        small_clip(self.mirror.parent / "video" / "single_face.mp4", self.folder / "face.mp4")
        self.write(CAMERAS)
        self.witness = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/fleet/witness.py"), self.events, str(self.seen)],
            env={"PYTHONPATH": str(ROOT)},
        )
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in (self.process, self.witness):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(10)
        shutil.rmtree(self.place, ignore_errors=True)

    @property
    def events(self) -> str:
        """The one address of all events."""
        return f"tcp://127.0.0.1:{self.ports[0]}"

    @property
    def snapshot(self) -> str:
        """The address of the snapshot of all."""
        return f"tcp://127.0.0.1:{self.ports[1]}"

    @property
    def link(self) -> str:
        """Where nodes report."""
        return f"tcp://127.0.0.1:{self.ports[3]}"

    @property
    def seen(self) -> Path:
        """What the witness writes."""
        return self.folder / "seen.jsonl"

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.folder / "fleet.toml"

    def write(self, cameras: tuple[str, ...]) -> None:
        """Write the configuration; tracks outlive a slow machine, so that readings go on."""
        tables = "".join(
            f'[[cameras]]\nname = "{name}"\nurl = "{self.folder / "face.mp4"}"\nloop = true\n'
            for name in cameras
        )
        self.config.write_text(
            f"{tables}"
            "[analysis]\nfps = 2.0\nmin_face_px = 5.0\ngap_reset_s = 30.0\n"
            "[tracker]\nlost_s = 30.0\n"
            f'[detector]\ninput_px = 320\nmirror = "{self.mirror}"\n'
            f'[publish]\nbind = "{self.events}"\nsnapshot = "{self.snapshot}"\n'
            f'[http]\nbind = "127.0.0.1:{self.ports[2]}"\n'
            f'[fleet]\nname = "{self.place.name}"\nfolder = "{self.place}"\n'
            f'link = "{self.link}"\n{self.extra}'
        )
        self.config.chmod(0o600)

    def start(self) -> None:
        """Start the fleet's process."""
        with (self.folder / "fleet.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "streamer", "fleet", "run"),
                    *("--config", str(self.config), "--address", self.address),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for((self.place / "control").exists, 60, "the fleet's socket")

    def stop(self) -> None:
        """Send SIGTERM and wait for the end."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(15) == 0, (self.folder / "fleet.log").read_text()[-3000:]

    def kill(self) -> None:
        """Kill the fleet's process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        (self.place / "control").unlink()

    def type(self, *words: str) -> Any:
        """Type a command into another shell and return the status that it prints."""
        command = [sys.executable, "-m", "streamer", "fleet", *words]
        done = subprocess.run(
            [*command, "--config", str(self.config), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def running(self) -> Counter[str]:
        """Return how many cameras run on each node."""
        cameras = self.type("status")["cameras"]
        return Counter(one["node"] for one in cameras if one["state"] == "running")

    def wait_running(self, timeout_s: float = 240, **nodes: int) -> None:
        """Wait until each node runs so many cameras."""
        try:
            wait_for(lambda: self.running() == Counter(nodes), timeout_s, f"running on {nodes}")
        except AssertionError as error:
            status = json.dumps(self.type("status"), indent=1)
            log = (self.folder / "fleet.log").read_text()[-3000:]
            raise AssertionError(f"{error}\n{status}\n{log}") from None

    def wait_readings(self, since_s: float, timeout_s: float = 60) -> None:
        """Wait until every camera has been read since a time."""

        def missing() -> set[str]:
            fresh = (e for e in seen(self.seen) if e.at_s > since_s and e.type == "emotion.sample")
            return set(CAMERAS) - {e.camera for e in fresh}

        wait_for(lambda: not missing(), timeout_s, "a reading of every camera")

    def silence_s(self, start_s: float, end_s: float) -> float:
        """Return the longest time without a reading, over all cameras."""
        events = seen(self.seen)
        return max(longest_silence_s(events, camera, start_s, end_s) for camera in CAMERAS)
