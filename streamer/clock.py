"""The host's clocks, behind the Protocol ``streamer.stages.Clock``."""

from __future__ import annotations

import time

__all__ = ["SystemClock"]


class SystemClock:
    """The real time."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never jump."""
        return time.monotonic_ns()

    def time_ns(self) -> int:
        """Nanoseconds since the epoch; jumps when the clock is set."""
        return time.time_ns()
