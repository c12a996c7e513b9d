"""How the C library keeps freed memory: a daemon of many threads and few allocations at a time."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from typing import Final

__all__ = ["TRIM_S", "Trim", "keep_freed", "settle", "share_arenas"]

_M_ARENA_MAX: Final = -8  # malloc.h of the GNU C library
_ARENAS: Final = 2
"""Malloc's default is eight a core, each with freed memory of its own: a soak of eight cameras with
faults kept 77 MB in 15 of them, and they took half an hour to fill. Small blocks come from each
thread's own cache and pictures from pools, so that threads hardly meet here."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 256 * 2**20  # bytes; more than all activations of one call of any network here
_OWN_MAP: Final = 32 * 2**20  # bytes; the most that malloc takes
TRIM_S: Final = 10.0
"""A trim of 90 MB took 1 to 6 ms with eight cameras at work: less than a thousandth of a core."""


def share_arenas() -> None:
    """Have all threads allocate from two arenas; before the first thread starts.

    Without effect where ``MALLOC_ARENA_MAX`` is set, and with another C library than GNU's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, _ARENAS)


def keep_freed() -> None:
    """Have malloc keep what is freed until ``Trim`` gives it back.

    A network's activations are freed with each call. Malloc gives blocks of megabytes back at once,
    and the next call has the system map and clear them again, a page at a time: 7 to 68 faults an
    analysed frame, differently in each process, and up to 0.25 ms of it in the kernel; 4 with this.

    Without effect where ``MALLOC_TRIM_THRESHOLD_`` or ``MALLOC_MMAP_THRESHOLD_`` is set, and with
    another C library than GNU's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_MMAP_THRESHOLD, _OWN_MAP)


def settle() -> None:
    """Hide from the collector what is alive now; once everything that stays has been loaded.

    A collection of the oldest generation visits every object with the interpreter's lock held:
    100,000 of modules, networks and metrics took 160 ms on a busy machine, and no frame was read.
    """
    gc.collect()
    gc.freeze()


class Trim:
    """Gives freed memory back to the system now and then.

    Malloc gives back only what lies at the end of an arena. Whatever lives on above it (a camera's
    new decoder, say) keeps all that was freed below, so that an arena becomes as large as its worst
    moment ever was: with cameras that break and come back, 5 MB an hour without anything leaking.

    Args:
        every_s: how long from one to the next, seconds.
    """

    def __init__(self, every_s: float = TRIM_S) -> None:
        self._every_s = every_s
        self._last_s = time.monotonic()
        self._malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # GNU's alone

    def when_due(self) -> None:
        """Do it if it is time; other threads that allocate wait for some milliseconds."""
        now_s = time.monotonic()
        if self._malloc_trim is not None and now_s - self._last_s >= self._every_s:
            self._malloc_trim(0)
            self._last_s = now_s
