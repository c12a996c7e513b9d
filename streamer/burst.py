"""Packets that have arrived and wait to be decoded together.

A camera sends 25 pictures a second and ten are analysed. Decoded one by one, each finds the caches
filled with other work: 1.4 ms a 640 x 360 picture where a loop over them takes 0.8 ms. So packets
whose pictures nobody wants yet are kept, and decoded in one go with the next that is wanted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.types import ClockName

__all__ = ["MOST", "Burst", "Times"]

Packet = TypeVar("Packet")

MOST: Final = 8
"""Packets that wait at most: a third of a second of the usual 25 a second, some 100 kB."""
_REMEMBERED: Final = 64
"""Arrivals kept for pictures that are yet to come out of a decoder; some never do."""


class Times(NamedTuple):
    """When a picture came and was taken.

    Attributes:
        arrival_ns: when it arrived, on the monotonic clock, nanoseconds.
        media_s: its media time, seconds.
        captured_ns: when it was taken, nanoseconds since the epoch.
        clock: whose clock says so.
    """

    arrival_ns: int
    media_s: float
    captured_ns: int
    clock: ClockName


class Burst(Generic[Packet]):
    """The packets of one source that wait, and when each arrived.

    Args:
        wanted_s: tells the media time from which on a picture is wanted, seconds.
    """

    def __init__(self, wanted_s: Callable[[], float]) -> None:
        self._wanted_s = wanted_s
        self._packets: deque[Packet] = deque()
        self._times: dict[int, Times] = {}

    def knows(self, pts: int) -> bool:
        """Tell whether a picture of this time stamp is yet to come; no two can be told apart."""
        return pts in self._times

    def add(self, packet: Packet, pts: int, times: Times) -> bool:
        """Keep a packet; tell whether all that are kept should be decoded now.

        Args:
            packet: whose picture comes out of the decoder next but for those kept.
            pts: its time stamp, by which its picture is known again.
            times: when it came.
        """
        self._packets.append(packet)
        self._times[pts] = times
        if len(self._times) > _REMEMBERED:
            del self._times[next(iter(self._times))]
        return times.media_s >= self._wanted_s() or len(self._packets) >= MOST

    def take(self) -> Iterator[Packet]:
        """Give out the packets kept, oldest first."""
        while self._packets:
            yield self._packets.popleft()

    def times_of(self, pts: int | None) -> Times | None:
        """Return when the packet of a picture came, once; None if it was not kept here."""
        return None if pts is None else self._times.pop(pts, None)
