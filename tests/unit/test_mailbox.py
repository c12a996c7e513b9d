"""The newest frame wins, each is given out once, and none vanishes uncounted."""

from __future__ import annotations

import threading
import time

import numpy as np

from streamer.mailbox import Mailbox
from streamer.metrics import DropReason
from streamer.types import Frame


def frame(seq: int) -> Frame:
    """Return a small frame with this number, which is its media time in seconds too."""
    luma_HW = np.zeros((2, 2), np.uint8)
    return Frame(
        camera="a", seq=seq, luma_HW=luma_HW, captured_ns=0, monotonic_ns=0, media_s=float(seq)
    )


def test_the_newest_frame_wins() -> None:
    """A second frame displaces the first and says so; it is given out once."""
    box = Mailbox(threading.Condition())
    assert not box.due
    assert box.put(frame(1)) is None
    assert box.put(frame(2)) is DropReason.OVERLOAD
    assert box.due
    taken = box.take()
    assert taken is not None
    assert taken.seq == 2
    assert box.take() is None
    assert not box.due


def test_a_frame_that_nobody_wanted_yet_is_superseded() -> None:
    """Before its due time a displaced frame is no sign of overload."""
    box = Mailbox(threading.Condition())
    box.due_s = 2.5
    assert box.put(frame(1)) is None
    assert box.put(frame(2)) is DropReason.SUPERSEDED
    assert not box.due
    assert box.put(frame(3)) is DropReason.SUPERSEDED
    assert box.due
    assert box.put(frame(4)) is DropReason.OVERLOAD


def test_a_frame_put_off_for_overload_counts_as_such() -> None:
    """It would have been due, had nothing been given up."""
    box = Mailbox(threading.Condition())
    box.due_s, box.put_off_s = 4.5, 2.0
    assert [box.put(frame(seq)) for seq in (2, 3, 4, 5)] == [
        None,
        DropReason.SUPERSEDED,
        DropReason.OVERLOAD,
        DropReason.OVERLOAD,
    ]
    assert box.due


def test_one_wait_covers_many_mailboxes() -> None:
    """A frame in any mailbox wakes the loop that waits for all of them."""
    ready = threading.Condition()
    boxes = [Mailbox(ready) for _ in range(3)]
    timer = threading.Timer(0.05, boxes[2].put, [frame(1)])
    timer.start()
    started_s = time.monotonic()
    with ready:
        assert ready.wait_for(lambda: any(box.due for box in boxes), timeout=5)
    assert time.monotonic() - started_s < 4
    timer.join()


def test_a_reader_can_wait_until_its_frame_is_taken() -> None:
    """The wait ends with the taking; it fails while a due frame lies there."""
    box = Mailbox(threading.Condition())
    box.put(frame(1))
    assert not box.wait_taken(0.01)
    timer = threading.Timer(0.05, box.take)
    timer.start()
    assert box.wait_taken(5)
    timer.join()


def test_every_frame_is_taken_or_displaced() -> None:
    """With a reader and a loop at full speed: put = taken + displaced + left, in order."""
    box = Mailbox(threading.Condition())
    displaced = 0
    taken: list[int] = []
    done = threading.Event()

    def consume() -> None:
        while not done.is_set():
            got = box.take()
            if got is not None:
                taken.append(got.seq)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    for seq in range(1, 5001):
        displaced += box.put(frame(seq)) is not None
    done.set()
    consumer.join()
    left = box.take() is not None
    assert len(taken) + displaced + left == 5000
    assert taken == sorted(set(taken))
