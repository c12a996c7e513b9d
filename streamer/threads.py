"""Names of threads where an operator sees them: in ``top -H``, ``ps -L`` and profilers."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

__all__ = ["show_name"]

_LIMIT = 15  # bytes that the kernel keeps of a thread's name, see proc(5)


def show_name() -> None:
    """Give the kernel the calling thread's Python name, which CPython does by itself from 3.14.

    Threads that a library starts from this one inherit it. Where there is no /proc the name stays
    with Python alone.
    """
    thread = threading.current_thread()
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{thread.native_id}/comm").write_bytes(
            thread.name.encode(errors="replace")[:_LIMIT]
        )
