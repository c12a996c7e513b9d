"""An operator sees which thread is which."""

from __future__ import annotations

import threading
from pathlib import Path

from streamer.threads import show_name


def test_the_kernel_knows_the_name() -> None:
    """The thread's name, as far as the kernel keeps it, stands in /proc while it runs."""
    seen: list[str] = []

    def work() -> None:
        show_name()
        task = threading.current_thread().native_id
        seen.append(Path(f"/proc/self/task/{task}/comm").read_text().strip())

    thread = threading.Thread(target=work, name="feed-a-very-long-name")
    thread.start()
    thread.join()
    assert seen == ["feed-a-very-lon"]
