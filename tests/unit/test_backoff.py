"""Waits between attempts: full jitter, doubling bounds, a reset after health."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from streamer.backoff import Backoff


def test_the_bound_doubles_from_one_second_to_sixty() -> None:
    """With the longest draws the waits are the bounds themselves."""
    backoff = Backoff(lambda: 1.0)
    assert [backoff.next_s() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_thirty_seconds_of_health_start_it_again() -> None:
    """A source that delivered for 30 s is tried again quickly, one that did for 29.9 s is not."""
    backoff = Backoff(lambda: 1.0)
    for _ in range(5):
        backoff.next_s()
    assert backoff.next_s(29.9) == 32
    assert backoff.next_s(30.0) == 1
    assert backoff.next_s(0.0) == 2


@given(st.integers(0, 2**32), st.lists(st.floats(0, 100), max_size=30))
def test_no_wait_exceeds_its_bound(seed: int, healthy_s: list[float]) -> None:
    """Whatever is drawn, a wait lies between zero and a bound of at most 60 s."""
    backoff = Backoff(random.Random(seed).random)
    for healthy in healthy_s:
        wait_s = backoff.next_s(healthy)
        assert 0 <= wait_s < 60
        assert 1 <= backoff.bound_s <= 60


def test_the_jitter_is_full() -> None:
    """Waits spread over the whole range, so that cameras lost together come back apart."""
    source = random.Random(7)
    firsts = [Backoff(source.random).next_s() for _ in range(1000)]
    tenths = [sum(i / 10 <= wait < (i + 1) / 10 for wait in firsts) for i in range(10)]
    assert min(tenths) > 60  # 100 expected in each, standard deviation 9.5
