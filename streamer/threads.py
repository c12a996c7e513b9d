"""What the kernel knows of our threads: their names, and which of them are in no hurry."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

__all__ = ["give_way", "show_name"]

_LIMIT = 15  # bytes that the kernel keeps of a thread's name, see proc(5)


def show_name() -> None:
    """Give the kernel the calling thread's Python name, which CPython does by itself from 3.14.

    It is seen in ``top -H``, ``ps -L`` and profilers.

    Threads that a library starts from this one inherit it. Where there is no /proc the name stays
    with Python alone.
    """
    thread = threading.current_thread()
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{thread.native_id}/comm").write_bytes(
            thread.name.encode(errors="replace")[:_LIMIT]
        )


def give_way() -> None:
    """Let the calling thread, when it wakes, wait its turn instead of interrupting who computes.

    For threads that wake often and whose work may be done some milliseconds later: each time that
    one of 16 decoders broke in on a network, both found the caches filled by the other. Linux
    alone; elsewhere, and where a sandbox forbids it, nothing changes.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
