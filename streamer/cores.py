"""How many CPU cores this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["processes", "usable_cores"]

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_CAMERAS_A_PROCESS = 16
"""What one process carries on two cores before its threads wait for one another: with 17 to 23
cameras it keeps 1.6 cores busy and two processes 1.8; with 16 and fewer it takes less (2026-11)."""


def usable_cores(cpu_max: Path = _CGROUP_CPU_MAX) -> int:
    """Return the cores of the affinity mask, limited by the cgroup's quota; at least 1.

    A container with ``--cpus 2`` on a 64-core host sees 64 cores; sizing pools by those makes
    every inference slower than with two threads.

    Args:
        cpu_max: the quota file of cgroup v2: ``<quota or max> <period>``, microseconds.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))


def processes(workers: int, cameras: int) -> int:
    """Return how many processes share the cameras.

    Args:
        workers: ``daemon.workers``; 0: as many as the cameras need, at most one a core.
        cameras: how many there are.
    """
    if workers:
        return workers
    return max(1, min(math.ceil(cameras / _CAMERAS_A_PROCESS), usable_cores()))
