"""An operator sees which thread is which, and the kernel which is in no hurry."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from streamer.threads import give_way, show_name


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


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has this policy")
def test_a_thread_gives_way_and_others_do_not() -> None:
    """The policy is that of the one thread."""
    seen: list[int] = []

    def work() -> None:
        give_way()
        seen.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
