"""Becomes another program that ends when the thread that started it does.

``python -m streamer.fleet.leash PARENT NICE PROGRAM…``: the kernel then sends SIGKILL, whatever
that thread dies of, so that nothing runs on whose keeper has gone. It is a program of its own
because what is asked of the kernel holds for the process that asks, and Python may not run between
the fork and the exec of a process that has threads. NICE is 0 for cameras: Ray gives its workers
less.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Final

__all__ = ["main"]

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> None:
    """Ask the kernel, look whether the parent is still there, and become the program."""
    parent, nice, *program = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != int(parent):  # it died before it was asked: nobody would end us
        raise SystemExit(1)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, int(nice))
    os.execv(program[0], program)  # noqa: S606 - what the agent names


if __name__ == "__main__":
    main()
