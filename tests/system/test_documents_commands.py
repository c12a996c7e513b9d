"""What the READMEs tell people to type is typed: the wording is read from the files."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from streamer import bundle
from streamer.client import Subscriber
from streamer.events import EmotionSample
from tests.daemon import collect, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "streamer/**/*.md", "deploy/**/*.md", "systemd/*.md")
    for path in ROOT.glob(pattern)
    if path.name == "README.md" and "node_modules" not in path.parts
)
# Subcommands that take more than seconds or a GPU; tests/test_documents.py checks their options.
ELSEWHERE = {
    "bench": "takes minutes; the benchmarks run it",
    "engines": "needs an NVIDIA GPU; tests/unit/test_engine_*.py have the compiler",
    "fleet": "needs a cluster; tests/fleet has one, and the simulation",
    "record": "runs until it is stopped; tests/integration/test_recorder.py has the databases",
    "bridge": "needs a broker; tests/integration/test_mqtt.py has one",
}
"""Commands that other tests run; test_documents.py holds their options to --help."""
# What each subcommand prints when it has done its work.
PRINTS = {
    "analyse": r".",
    "assets": r"yunet",
    "bundle": bundle.load(bundle.path_of("")).identity.split("@")[0],
    "check": r"valid; 1 cameras",
    "demo": r"face\.appeared(?s:.*)emotion\.sample(?s:.*)daemon\.stopping",
    "keys": r"public: .*\.key\n",
    "run": r"daemon_started",
    "watch": r"lobby",
}
pytestmark = pytest.mark.slow
VIDEO = {".mp4", ".mkv", ".avi", ".mov", ".webm"}


def commands() -> list[str]:
    """Return every `streamer …` of the READMEs: a line of a code block, or a piece of code.

    Of those that differ in a camera's or a configuration's address alone, which are replaced here
    anyway, it is one.
    """
    found: list[str] = []
    for document in DOCUMENTS:
        for line in document.read_text().splitlines():
            pieces = [line.strip()] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
            for piece in pieces:
                typed = re.match(r"(?:\$ )?(?:[\w./~-]*/)?(streamer [a-z].*)", piece)
                if typed is not None and typed[1].split()[1] not in ELSEWHERE:
                    found.append(re.sub(r"\s+#.*| &$", "", typed[1]).strip())
    alike = {re.sub(r"(--camera|--config) \S+", r"\1 …", command): command for command in found}
    return sorted(alike.values())


def indented(start: str) -> str:
    """Return the README's code block that begins with a text."""
    lines = README.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("    " + start))
    block = []
    for line in lines[first:]:
        if line and not line.startswith("    "):
            break
        block.append(line[4:])
    return "\n".join(block)


@dataclass
class Place:
    """A new user's folder: the README's configuration for a clip, the weights, free ports."""

    folder: Path
    clip: Path
    ports: tuple[int, int, int] = field(
        default_factory=lambda: (free_port(), free_port(), free_port())
    )

    @property
    def environment(self) -> dict[str, str]:
        """With the program on the path and weights that need no network."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | {"PATH": path, "STREAMER_ASSETS": str(self.folder / "assets")}

    def furnish(self, weights: Path) -> None:
        """Write the configuration as the README has it, but for the address and the ports."""
        (self.folder / "assets").mkdir()
        shutil.copy(weights, self.folder / "assets")
        text, count = re.subn(
            r'url = ".*"', f'url = "{self.clip}"\nloop = true', indented("# streamer.toml")
        )
        assert count == 1
        events, snapshot, http = self.ports
        text += f'\n[publish]\nbind = "tcp://127.0.0.1:{events}"\n'
        text += f'snapshot = "tcp://127.0.0.1:{snapshot}"\n[http]\nbind = "127.0.0.1:{http}"\n'
        config = self.folder / "streamer.toml"
        config.write_text(text)
        config.chmod(0o600)

    def adapted(self, command: str) -> str:
        """Return a command for this place: its clip, its ports, a few seconds."""
        command = re.sub(r"(--camera )\S+", rf"\g<1>{self.clip}", command)
        command = re.sub(r"(--config |-c )\S+", r"\g<1>streamer.toml", command)
        words = shlex.split(command)
        if words[1] == "demo" and "--seconds" not in words:
            command += " --seconds 4"
        if words[1] == "watch":
            connect = f"--connect tcp://127.0.0.1:{self.ports[0]}"
            command = re.sub(r"--connect \S+", "", command)
            command = command.replace("streamer watch", f"streamer watch {connect}")
        command = command.replace(" VIDEO ", f" {self.clip} ")
        for word in words[2:]:
            if Path(word).suffix in VIDEO and not (self.folder / word).exists():
                (self.folder / word).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / word).symlink_to(self.clip)
        return command

    def start(self, command: str) -> subprocess.Popen[str]:
        """Type a command into a shell of its own process group."""
        return subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def get(self, path: str) -> tuple[int, str]:
        """Return what the daemon's web server answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[2]}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()


@pytest.fixture(scope="module")
def place(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A furnished folder."""
    made = Place(
        folder=tmp_path_factory.mktemp("user"), clip=shared / "video" / "distress_to_smile.mp4"
    )
    made.furnish(shared / "models" / "face_detection_yunet_2026may.onnx")
    return made


@pytest.fixture(scope="module")
def daemon(place: Place) -> Iterator[Place]:
    """The daemon, started by the README's own line, and stopped as a service manager does."""
    (line,) = (command for command in commands() if command.startswith("streamer run "))
    log = place.folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {place.adapted(line)}"],
            cwd=place.folder,
            env=place.environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "daemon_started" in log.read_text(), 30, "daemon_started")
        yield place
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documents_does_what_they_say(command: str, daemon: Place) -> None:
    """It ends with 0 and has printed what it is for."""
    subcommand = command.split()[1]
    assert subcommand in PRINTS, f"{command}: say in PRINTS what it prints, or why not in ELSEWHERE"
    if subcommand == "run":
        assert PRINTS["run"] in (daemon.folder / "log").read_text()
        assert daemon.get("/readyz")[0] == 200
        return
    process = daemon.start(daemon.adapted(command))
    if subcommand == "watch" and "|" not in command:  # for ever: until Ctrl-C
        assert process.stdout is not None
        said = "".join(process.stdout.readline() for _ in range(5))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    else:
        said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert re.search(PRINTS[subcommand], said), said


def test_a_pipe_of_json_is_what_a_shell_expects(daemon: Place) -> None:
    """`streamer watch --json | head` gives envelopes and ends by itself."""
    process = daemon.start(daemon.adapted("streamer watch --json | head -n 3"))
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert [set(json.loads(line)) >= {"id", "type", "sequence"} for line in said.splitlines()] == [
        *[True] * 3
    ]


def test_make_demo_runs_the_demo() -> None:
    """The README's first command ends in the program's own."""
    assert "    make demo " in README
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "exec .venv/bin/streamer demo"


def test_the_python_of_the_readme_runs(daemon: Place) -> None:
    """The subscriber's example prints changes, but for the address as it stands there."""
    code = indented("from streamer.client import")
    adapted = code.replace(
        "Subscriber(", f'Subscriber(connect="tcp://127.0.0.1:{daemon.ports[0]}", '
    )
    assert adapted != code
    with subprocess.Popen(
        [sys.executable, "-u", "-c", adapted],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog_s = time.monotonic()
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
        assert time.monotonic() - watchdog_s < 60
    assert re.fullmatch(r"20\S+Z \w+ → \w+ (None|Gap\(.*\))\n", line)


def test_the_event_of_the_readme_is_one(daemon: Place) -> None:
    """The example has the keys of a real event, no more and no fewer, at every level."""
    text = re.sub(r", …", "", indented('{"specversion"'))
    shown = json.loads(text)
    connect = f"tcp://127.0.0.1:{daemon.ports[0]}"
    with Subscriber(connect=connect, topics=("emotion.sample/",)) as events:
        (event, *_) = collect(events, bool, 20)
    assert isinstance(event.data, EmotionSample)
    real: dict[str, Any] = json.loads(event.raw)
    assert list(shown) == list(real)
    assert list(shown["data"]) == list(real["data"])
    assert list(shown["data"]["frame"]) == list(real["data"]["frame"])
    assert set(shown["data"]["probabilities"]) <= set(real["data"]["probabilities"])
    for field_name in re.findall(r"^\| `(\w+)`", README, flags=re.MULTILINE):
        assert field_name in real | real["data"], field_name


def test_the_metrics_and_addresses_of_the_readme_are_there(daemon: Place) -> None:
    """Each metric named for an alert is exported, each address answers."""
    status, metrics = daemon.get("/metrics")
    assert status == 200
    named = set(re.findall(r"`[^`]*?(streamer_[a-z_]+[a-z])", README))
    assert len(named) >= 4
    assert {name for name in named if name not in metrics} == set()
    for path in set(re.findall(r"`(/[a-z/]*)`", README)):
        assert daemon.get(path)[0] == 200, path
