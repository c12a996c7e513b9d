"""`streamer demo` as somebody meets it who has just installed it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEIGHTS = "face_detection_yunet_2026may.onnx"


@contextmanager
def demo(clip: Path, assets: Path) -> Iterator[subprocess.Popen[str]]:
    """Run it on a clip."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "streamer", "demo", "--camera", str(clip)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"STREAMER_ASSETS": str(assets)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until_a_sample(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return what it says to open and to type, once it has printed a reading."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.strip())
        if "emotion.sample" in line:
            pairs = [re.split(r"\s{2,}", one) for one in said]
            return {words[0]: words[1] for words in pairs if len(words) > 1}
    raise AssertionError(said)


def fetched(address: str) -> str:
    """Return what the demo's web server answers."""
    with urllib.request.urlopen(f"http://{address.removeprefix('http://')}", timeout=5) as reply:
        text: str = reply.read().decode()
        return text


@pytest.mark.slow
def test_what_it_says_is_right_beside_another_one_and_ctrl_c_ends_it(
    shared: Path, tmp_path: Path
) -> None:
    """Its ports are taken by the first demo; page, metrics and table are where it says."""
    (tmp_path / WEIGHTS).symlink_to(shared / "models" / WEIGHTS)
    clip = shared / "video" / "distress_to_smile.mp4"
    with demo(clip, tmp_path) as first:
        pages = [until_a_sample(first)["The live page"]]
        with demo(clip, tmp_path) as second:
            told = until_a_sample(second)
            pages.append(told["The live page"])
            assert "<title>Live" in fetched(told["The live page"])
            assert "streamer_camera_up" in fetched(told["The metrics"])
            program, *words = shlex.split(told["A live table"])
            assert (program, *words[:3]) == ("python", "-m", "streamer", "watch")
            watch = shlex.join([sys.executable, *words])
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", f"{watch} --json | head -n 1"],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
            assert '"sequence":' in done.stdout
            ends_with_ctrl_c(second)
        ends_with_ctrl_c(first)
    assert pages[0] != pages[1]


def ends_with_ctrl_c(process: subprocess.Popen[str]) -> None:
    """It says goodbye and ends with 0."""
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=10)
    assert process.returncode == 0, rest
    assert re.search(r"daemon\.stopping +SIGINT", rest)
    assert "Traceback" not in rest
