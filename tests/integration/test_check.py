"""`streamer check --probe`: what a person learns about the cameras before anything runs."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from streamer import probe
from streamer.errors import ConfigError
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


def make_certificate(folder: Path, name: str, *extra: str) -> tuple[Path, Path]:
    """Return a certificate and its key, made by openssl."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2 -subj /CN=x"
    subprocess.run(
        [*make.split(), *(extra or ("-nodes",)), "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl (makes the certificates) absent"
)
def test_files_that_the_daemon_would_open_are_opened(tmp_path: Path) -> None:
    """Each file that is missing, or is something else, is told in a line that names its key."""
    cert, key = make_certificate(tmp_path, "ours")
    _, other = make_certificate(tmp_path, "other")
    _, locked = make_certificate(tmp_path, "locked", "-passout", "pass:hunter2")
    text, gone = tmp_path / "note.txt", tmp_path / "gone.pem"
    text.write_text("not a certificate\n")
    text.chmod(0o600)
    config = tmp_path / "streamer.toml"
    camera = '[[cameras]]\nname = "lobby"\nurl = "rtsps://127.0.0.1/"\n'
    tls = '[http]\ntls_certificate = "{}"\ntls_key = "{}"\n'

    def check(body: str) -> int:
        config.write_text(body)
        config.chmod(0o600)
        return probe.check(config, Console(file=io.StringIO()), probe=False)

    assert check(f'{camera}tls_ca = "{cert}"\n' + tls.format(cert, key)) == 0
    together = "expected PEM files that belong together"
    key_of_nobody = tmp_path / "server.key_secret"
    for body, told in {
        tls.format(gone, key): "http.tls_certificate: names no readable file.*No such file",
        tls.format(cert, gone): "http.tls_key: names no readable file.*No such file",
        tls.format(tmp_path, key): "http.tls_certificate: names no readable file.*directory",
        tls.format(text, key): together,
        tls.format(cert, text): together,
        tls.format(cert, other): together,
        tls.format(cert, locked): "the key without a passphrase",
        f'[http]\ntoken = "{gone}"\n': "http.token: names no readable file",
        f'[http]\ntoken = "{text}"\n': "http.token: expected 16 to 512",
        f'[publish]\nserver_secret_key = "{key_of_nobody}"\nauthorized_keys = "{tmp_path}"\n': (
            "key_secret"
        ),
    }.items():
        with pytest.raises(ConfigError, match=told) as refused:
            check(camera + body)
        assert "\n" not in str(refused.value)
    for path, told in {
        gone: "cameras.lobby.tls_ca: .*gone.pem cannot be read: No such file",
        text: "cameras.lobby.tls_ca: .*note.txt has no certificate in it",
    }.items():
        with pytest.raises(ConfigError, match=told):
            check(f'{camera}tls_ca = "{path}"\n')
