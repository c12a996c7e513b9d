"""What breaks around a running daemon, each with a real counterpart, and what it then does."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.daemon import DaemonProcess, wait_for


def body(cameras: dict[str, object], shared: Path, extra: str = "") -> str:
    """Return a configuration of looped cameras with a small detector."""
    tables = "".join(
        f'[[cameras]]\nname = "{name}"\nurl = "{url}"\nloop = true\n'
        for name, url in cameras.items()
    )
    return f'{tables}[detector]\ninput_px = 320\nmirror = "{shared / "models"}"\n{extra}'


def test_no_thread_is_open_to_signals(shared: Path, tmp_path: Path) -> None:
    """One that were, as a numeric library's, would end the process where it should reload."""
    waited = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with DaemonProcess(tmp_path, body({"a": shared / "video" / "no.mkv"}, shared)) as daemon:
        wait_for(lambda: "camera_online" in daemon.log.read_text(), 60, "the camera")
        masks = [
            int(line.split()[1], 16)
            for task in Path(f"/proc/{daemon.pid}/task").iterdir()
            if task.name != str(daemon.pid)  # the main thread waits for them, open while it does
            for line in (task / "status").read_text().splitlines()
            if line.startswith("SigBlk")
        ]
    assert len(masks) > 5
    assert all(mask >> (number - 1) & 1 for mask in masks for number in waited), masks
