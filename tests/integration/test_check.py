"""`streamer check --probe`: what a person learns about the cameras before anything runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from streamer import probe
from tests.daemon import free_port

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(shared: Path, tmp_path: Path) -> Path:
    """A clip of one face with 30 frames a second, and a camera that is switched off."""
    path = tmp_path / "streamer.toml"
    cameras = {
        "lobby": shared / "video" / "single_face.mp4",
        "yard": f"rtsp://bob:hunter2@127.0.0.1:{free_port()}/stream",
    }
    text = "".join(f'[[cameras]]\nname = "{n}"\nurl = "{url}"\n' for n, url in cameras.items())
    path.write_text(text + f'[detector]\nmirror = "{shared / "models"}"\n')
    path.chmod(0o600)
    return path


def test_a_table_that_fits_a_terminal_says_what_each_camera_delivers(config: Path) -> None:
    """A line a camera at 80 columns, the fault in full below, no password anywhere."""
    console = Console(file=io.StringIO(), width=80)

    with console.capture() as capture:
        code = probe.check(config, console, probe=True)

    assert code == 1
    lines = [line.strip() for line in capture.get().splitlines()]
    heading = next(i for i, line in enumerate(lines) if line.startswith("camera"))
    assert lines[heading].split() == [
        *("camera", "codec", "size", "fps", "declared", "faces", "address")
    ]
    lobby, yard, *rest = lines[heading + 2 :]
    name, codec, width, by, height, fps, declared, faces, _ = lobby.split()
    assert (name, codec, width, by, height) == ("lobby", "h264", "640", "x", "360")
    assert float(fps) == pytest.approx(float(declared), rel=0.1)
    assert faces == "1"
    assert yard.split()[:6] == ["yard", *"-----"]
    assert max(map(len, (lobby, yard))) <= 80
    told = " ".join(rest)
    assert "yard: connection refused" in told.replace("_", " ")
    assert "hunter2" not in capture.get()


def test_it_prints_no_log_and_ends_with_one(config: Path) -> None:
    """What a shell sees: the table alone, and that a camera failed."""
    done = subprocess.run(
        [sys.executable, "-m", "streamer", "check", "--config", str(config), "--probe"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert done.returncode == 1
    assert "detector_chosen" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "detector: yunet" in done.stdout
