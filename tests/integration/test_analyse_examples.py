"""The consumers that are shown do what they say, against a real daemon."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
NODE = shutil.which("node")


@pytest.fixture(scope="module")
def daemon(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon on one clip that shows a face all the time, over and over."""
    body = (
        f'[[cameras]]\nname = "lobby"\nurl = "{shared / "video" / "distress_to_smile.mp4"}"\n'
        f'loop = true\n[detector]\nmirror = "{shared / "models"}"\n'
    )
    with DaemonProcess(tmp_path_factory.mktemp("daemon"), body) as process:
        with process.subscriber("emotion.sample/") as subscriber:
            assert subscriber.receive(20) is not None
        yield process


def events_address(daemon: DaemonProcess) -> str:
    """Return where a daemon publishes."""
    return f"tcp://127.0.0.1:{daemon.ports[0]}"


def test_the_live_plot_draws_what_it_hears(daemon: DaemonProcess, tmp_path: Path) -> None:
    """Three seconds of a face at ten readings a second, and a picture of them."""
    picture = tmp_path / "live.png"
    done = subprocess.run(
        [
            *(sys.executable, str(EXAMPLES / "plot_live.py"), "--connect", events_address(daemon)),
            *("--camera", "lobby", "--seconds", "3", "--save", str(picture)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    match = re.fullmatch(r"(\d+) readings, 0 missed\n", done.stdout)
    assert match
    assert int(match[1]) >= 10
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_the_node_subscriber_prints_readings(daemon: DaemonProcess) -> None:
    """Two seconds of one camera's readings, counted without a gap."""
    if NODE is None:
        pytest.skip("needs Node 18 or later")
    folder = EXAMPLES / "node"
    if not (folder / "node_modules" / "zeromq").is_dir():
        pytest.skip(f"needs: npm install --prefix {folder}")
    done = subprocess.run(
        [
            *(NODE, "subscribe.js", "--connect", events_address(daemon)),
            *("--topic", "emotion.sample/lobby/", "--seconds", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=folder,
    )
    lines = done.stdout.splitlines()
    assert len(lines) >= 5
    assert all(re.fullmatch(r"[\d:.]{12} lobby face \d+ \w+ \d+ %", line) for line in lines)
    assert re.search(r"^\d+ events, 0 missed$", done.stderr, re.MULTILINE)
