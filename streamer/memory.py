"""How the C library keeps freed memory: a daemon of many threads and few allocations at a time."""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = ["share_arenas"]

_M_ARENA_MAX: Final = -8  # malloc.h of the GNU C library
_ARENAS: Final = 2
"""Malloc's default is eight a core, each with freed memory of its own: a soak of eight cameras with
faults kept 77 MB in 15 of them, and they took half an hour to fill. Small blocks come from each
thread's own cache and pictures from pools, so that threads hardly meet here."""


def share_arenas() -> None:
    """Have all threads allocate from two arenas; before the first thread starts.

    Without effect where ``MALLOC_ARENA_MAX`` is set, and with another C library than GNU's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, _ARENAS)
