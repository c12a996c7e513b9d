"""The unit files, judged by systemd's own tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "systemd"
UNITS = ("streamer.service", "streamer@.service")

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze absent (Debian: systemd)"
)


def run(*command: str | Path) -> str:
    """Run a tool and return what it wrote; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault(unit: str, tmp_path: Path) -> None:
    """Every key and value is known; only the program is replaced by one that is installed."""
    text = (FOLDER / unit).read_text()
    name = unit.replace("@", "@north")
    (tmp_path / name).write_text(text.replace("/opt/streamer/bin/streamer", "/bin/true"))
    assert run("systemd-analyze", "verify", "--recursive-errors=no", tmp_path / name) == ""


@pytest.mark.parametrize("unit", UNITS)
def test_the_sandbox_is_tight(unit: str) -> None:
    """The exposure is at most 2.0 of 10, with cameras and GPUs still reachable."""
    report = run("systemd-analyze", "security", "--offline=yes", "--no-pager", FOLDER / unit)
    found = re.search(r"exposure level for \S+: (\d+\.\d)", report)
    assert found is not None
    assert float(found[1]) <= 2.0
    for device in ("char-video4linux", "char-nvidia", "char-drm"):
        assert f"DeviceAllow={device} rw" in (FOLDER / unit).read_text()


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_does_what_the_exit_codes_promise(unit: str) -> None:
    """Readiness, watchdog and restarts are as the manual says."""
    lines = set((FOLDER / unit).read_text().splitlines())
    assert lines >= {
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=30",
        "Restart=on-failure",
        "RestartPreventExitStatus=78",
    }


def test_the_template_differs_from_the_unit_in_its_paths_alone() -> None:
    """What is hardened in one is hardened in the other."""

    def settings(name: str) -> set[str]:
        lines = (FOLDER / name).read_text().splitlines()
        return {line for line in lines if line and not line.startswith("#")}

    single, template = (settings(unit) for unit in UNITS)
    keys = {line.partition("=")[0] for line in single ^ template}
    paths = {"ConditionPathExists", "StateDirectory", "CacheDirectory", "WorkingDirectory"}
    assert keys == {"Description", "ExecStart", "EnvironmentFile", *paths}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck (Debian: shellcheck)")
def test_the_scripts_have_no_known_pitfall() -> None:
    """Installation, build and what Debian runs, read by a linter that knows the shell."""
    maintainer = [FOLDER / "debian" / name for name in ("postinst", "prerm", "postrm")]
    run("shellcheck", *FOLDER.glob("*.sh"), *maintainer)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to an account needs root")
def test_account_and_folders_are_made(tmp_path: Path) -> None:
    """The account is made in an empty system, and the folders get their rights."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (etc / "group").write_text("root:x:0:\n")
    run("systemd-sysusers", f"--root={tmp_path}", FOLDER / "sysusers.d" / "streamer.conf")
    account = next(
        line for line in (etc / "passwd").read_text().splitlines() if line.startswith("streamer:")
    )
    assert account.split(":")[4:] == ["Emotion streamer", "/var/lib/streamer", "/usr/sbin/nologin"]
    run("systemd-tmpfiles", "--create", f"--root={tmp_path}", FOLDER / "tmpfiles.d/streamer.conf")
    assert (etc / "streamer").stat().st_mode & 0o777 == 0o750
    assert (etc / "streamer" / "secrets").stat().st_mode & 0o777 == 0o700
