"""Jobs shared out: all of them, in order, at the same time, and errors are told."""

from __future__ import annotations

import threading

import pytest

from streamer.hands import Hands


@pytest.fixture
def hands() -> Hands:
    """Return three hands."""
    return Hands(3)


def test_results_come_in_the_order_of_the_jobs(hands: Hands) -> None:
    """Whoever did them."""
    assert hands.share(lambda job: job * job, range(1000)) == [job * job for job in range(1000)]
    assert hands.share(str, []) == []
    hands.close()


def test_all_hands_work_at_the_same_time(hands: Hands) -> None:
    """Three jobs that wait for one another end, and the caller has done one of them."""
    meet = threading.Barrier(3)

    def meets(_: int) -> str:
        meet.wait(5)
        return threading.current_thread().name

    names = hands.share(meets, range(3))
    assert len(set(names)) == 3
    assert threading.current_thread().name in names
    hands.close()


def test_one_job_stays_with_the_caller(hands: Hands) -> None:
    """Handing it over would only add latency; and one hand alone does everything."""
    here = threading.current_thread()
    assert hands.share(lambda _: threading.current_thread(), [0]) == [here]
    alone = Hands(1)
    assert alone.share(lambda _: threading.current_thread(), range(3)) == [here] * 3
    alone.close()
    hands.close()


@pytest.mark.parametrize("bad", [0, 1, 2, 7])
def test_an_error_reaches_the_caller_when_nobody_works_any_more(hands: Hands, bad: int) -> None:
    """Whichever hand met it."""
    working: set[int] = set()

    def call(job: int) -> int:
        working.add(job)
        if job == bad:
            working.discard(job)
            raise ValueError("job failed")
        threading.Event().wait(0.005)
        working.discard(job)
        return job

    with pytest.raises(ValueError, match="job failed"):
        hands.share(call, range(8))
    assert not working
    hands.close()
