"""Media time from time stamps: pure state machines without I/O, one an opened source.

``LiveTimeline`` lays a camera's time stamps on the host's monotonic clock; ``FileTimeline`` strings
the pictures of a file, over all its loops; ``Pacer`` says when they are due, ``RtcpClock`` what the
camera takes for the time, and ``FrameRate`` measures what a camera really delivers.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["FileTimeline", "FrameRate", "LiveTimeline", "Pacer", "RtcpClock"]

NS: Final = 1_000_000_000
JUMP_S: Final = 1.0
"""A step of the time stamps that is this far off the step of the arrivals is a jump. Networks delay
by less, and clocks that are set move by more (cameras without NTP: hours)."""
LATE_FOR_S: Final = 5.0
"""A stream this long behind its own time stamps does not catch up: a longer one is no backlog."""
CREEP: Final = 2e-4
"""How fast a growing delay is taken for drift, s/s; quartz drifts by less than 1e-4 s/s."""
PLAUSIBLE_S: Final = 600.0
"""A camera's wall clock is believed within ten minutes of the host's; without NTP it is years
off."""
LEAST_STEP_S: Final = 1e-6
"""No camera is quicker than a frame a microsecond, and equal times would divide by zero."""
USUAL_STEP_S: Final = 1 / 25
"""The distance of frames until one has been measured (PAL; only a file's first frames need it)."""
GAP_S: Final = 10.0
"""A hole in a file's time stamps longer than this is a fault of its recorder, not media time."""
BEHIND_S: Final = 1.0
"""A paced file this late (the machine slept) goes on from here and does not race to catch up."""


class LiveTimeline:
    """Lays time stamps on the monotonic clock: the quickest frame gives the offset.

    Media time steps as the camera's time stamps do, free of the network's jitter, and is never
    later than the arrival. Growing delay creeps into the offset, so that the clocks may drift.

    Args:
        after_s: media time starts later than this, seconds; where an earlier session ended.

    Attributes:
        jumps: time stamps that jumped, went back, or fell behind for good; each starts anew.
    """

    def __init__(self, *, after_s: float = 0.0) -> None:
        self.jumps = 0
        self._offset_s = 0.0
        self._pts_s: float | None = None
        self._arrival_s: float | None = None
        self._media_s = after_s
        self._late_since_s: float | None = None

    def place(self, pts_s: float | None, arrival_ns: int) -> float:
        """Return the media time of the frame that arrived last.

        Args:
            pts_s: its time stamp, seconds from any origin; None where it has none.
            arrival_ns: when it arrived on the host's monotonic clock, nanoseconds.

        Returns:
            seconds on the monotonic clock; strictly later than the frame before.
        """
        arrival_s = arrival_ns / NS
        if pts_s is None or pts_s == self._pts_s:
            waited_s = None if self._arrival_s is None else arrival_s - self._arrival_s
            media_s = arrival_s if waited_s is None else self._media_s + waited_s
        else:
            media_s = self._follow(pts_s, arrival_s)
        self._media_s = max(media_s, self._media_s + LEAST_STEP_S)
        self._arrival_s = arrival_s
        return self._media_s

    def _follow(self, pts_s: float, arrival_s: float) -> float:
        if self._pts_s is None or self._arrival_s is None:
            self._offset_s = arrival_s - pts_s
        else:
            step_s = pts_s - self._pts_s
            waited_s = arrival_s - self._arrival_s
            if step_s < 0 or step_s > waited_s + JUMP_S or self._fell_behind(pts_s, arrival_s):
                self.jumps += 1
                self._offset_s = arrival_s - pts_s
                self._late_since_s = None
            late_s = arrival_s - (pts_s + self._offset_s)
            self._offset_s += min(late_s, CREEP * waited_s)
        self._pts_s = pts_s
        return pts_s + self._offset_s

    def _fell_behind(self, pts_s: float, arrival_s: float) -> bool:
        if arrival_s - (pts_s + self._offset_s) <= JUMP_S:
            self._late_since_s = None
            return False
        if self._late_since_s is None:
            self._late_since_s = arrival_s
        return arrival_s - self._late_since_s > LATE_FOR_S


class FileTimeline:
    """Strings the frames of a file: media time goes on over loops and over faulty time stamps.

    Args:
        origin_s: media time of the first frame, seconds on the monotonic clock.

    Attributes:
        jumps: time stamps that went back or left a hole.
    """

    def __init__(self, origin_s: float) -> None:
        self.jumps = 0
        self._media_s: float | None = None
        self._origin_s = origin_s
        self._pts_s: float | None = None
        self._step_s = USUAL_STEP_S

    def place(self, pts_s: float | None) -> float:
        """Return the media time of the next frame.

        Args:
            pts_s: its time stamp, seconds; None where it has none.

        Returns:
            seconds; strictly later than the frame before.
        """
        if self._media_s is None:
            self._media_s = self._origin_s
        else:
            self._media_s += self._distance(pts_s)
        self._pts_s = pts_s
        return self._media_s

    def loop(self) -> None:
        """Say that the next frame is the file's first again; it follows after one frame's time."""
        self._pts_s = None

    def _distance(self, pts_s: float | None) -> float:
        if pts_s is None or self._pts_s is None:
            return self._step_s
        step_s = pts_s - self._pts_s
        if not LEAST_STEP_S <= step_s < GAP_S:
            self.jumps += 1
            return self._step_s
        self._step_s = step_s
        return step_s


class RtcpClock:
    """Wall-clock time of a frame by the camera's own clock, as its RTCP sender reports tell it."""

    def __init__(self) -> None:
        self._start_us: int | None = None
        self._jumps = 0

    def captured_ns(
        self, start_us: int | None, pts_s: float | None, *, host_ns: int, jumps: int
    ) -> int | None:
        """Return when the camera took the frame, or None where that cannot be believed.

        Args:
            start_us: wall-clock time of time stamp zero, microseconds since the epoch.
            pts_s: the frame's time stamp, seconds.
            host_ns: the host's wall clock now, nanoseconds since the epoch.
            jumps: how often the time stamps jumped so far; the report holds only until they do.
        """
        if start_us is None or pts_s is None:
            return None
        if start_us != self._start_us:
            self._start_us, self._jumps = start_us, jumps
        captured_ns = start_us * 1000 + int(pts_s * NS)
        if jumps != self._jumps or abs(captured_ns - host_ns) > PLAUSIBLE_S * NS:
            return None
        return captured_ns


class Pacer:
    """When the frames of a file are due, by their media time; waits do not add up to a drift."""

    def __init__(self) -> None:
        self._start_ns: int | None = None

    def wait_s(self, media_s: float, now_ns: int) -> float:
        """Return how long to wait for a frame; 0 or less when it is due.

        Args:
            media_s: its media time, seconds.
            now_ns: the monotonic clock, nanoseconds.
        """
        media_ns = int(media_s * NS)
        if self._start_ns is None:
            self._start_ns = now_ns - media_ns
        wait_ns = self._start_ns + media_ns - now_ns
        if wait_ns < -BEHIND_S * NS:
            self._start_ns = now_ns - media_ns
            return 0.0
        return wait_ns / NS


class FrameRate:
    """Frames a second, measured over a sliding window; one thread ticks, any may ask.

    Args:
        window_s: its length, seconds; ten cover also a camera that sends one frame a second.
    """

    def __init__(self, window_s: float = 10.0) -> None:
        self._window_ns = int(window_s * NS)
        self._arrivals_ns: deque[int] = deque()
        self._seen = (0, 0, 0)  # one tuple, so that another thread reads all of it or none

    def tick(self, arrival_ns: int) -> None:
        """Count a frame that arrived at this time of the monotonic clock, nanoseconds."""
        arrivals_ns = self._arrivals_ns
        arrivals_ns.append(arrival_ns)
        oldest_ns = arrival_ns - self._window_ns
        while arrivals_ns[0] < oldest_ns:
            arrivals_ns.popleft()
        self._seen = (len(arrivals_ns) - 1, arrivals_ns[0], arrival_ns)

    def per_second(self, now_ns: int) -> float:
        """Return the rate now; it falls while nothing arrives and is 0 after a whole window."""
        steps, first_ns, last_ns = self._seen
        silent_ns = now_ns - last_ns
        if not steps or last_ns == first_ns or silent_ns > self._window_ns:
            return 0.0
        typical_ns = (last_ns - first_ns) / steps
        return steps * NS / (last_ns - first_ns + max(0.0, silent_ns - typical_ns))
