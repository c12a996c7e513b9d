"""Packets that wait to be decoded together, and when each came."""

from __future__ import annotations

from streamer.burst import MOST, Burst, Times


def times(media_s: float) -> Times:
    """Return what is known of a packet that came then."""
    return Times(int(media_s * 1e9), media_s, 0, "host")


def test_packets_wait_until_one_is_wanted() -> None:
    """Then they are given out in order, and each picture finds its own times, once."""
    burst: Burst[str] = Burst(lambda: 10.08)
    assert not burst.add("a", 1, times(10.0))
    assert not burst.add("b", 2, times(10.04))
    assert burst.add("c", 3, times(10.08))
    assert list(burst.take()) == ["a", "b", "c"]
    assert burst.times_of(2) == times(10.04)
    assert burst.times_of(2) is None
    assert burst.times_of(None) is None


def test_no_more_wait_than_are_worth_it() -> None:
    """However long nobody wants one."""
    burst: Burst[int] = Burst(lambda: float("inf"))
    assert [burst.add(n, n, times(n)) for n in range(MOST)] == [False] * (MOST - 1) + [True]


def test_a_time_stamp_that_is_still_awaited_is_known() -> None:
    """Its double could not be told from it."""
    burst: Burst[str] = Burst(lambda: float("inf"))
    burst.add("a", 1, times(1.0))
    assert burst.knows(1)
    burst.times_of(1)
    assert not burst.knows(1)


def test_pictures_that_never_come_out_are_forgotten() -> None:
    """What is remembered of a damaged stream is bounded."""
    burst: Burst[int] = Burst(lambda: float("-inf"))
    for n in range(1000):
        burst.add(n, n, times(n))
        assert list(burst.take()) == [n]
    assert sum(burst.knows(n) for n in range(1000)) < 100
