"""The witness of the fleet's tests would have seen it."""

from __future__ import annotations

from tests.fleet.witness import Seen, longest_silence_s, overlaps, untold


def told(at_s: float, epoch: str, type_name: str = "emotion.sample") -> Seen:
    """Return an event of the one camera."""
    return Seen(
        at_s=at_s, sent_s=at_s, camera="c", type=type_name, epoch=epoch, sequence=1, missing=0
    )


def test_two_daemons_at_a_time_are_told_from_one_after_the_other() -> None:
    """A camera may come back to a daemon, but none speaks while another one has it."""
    taken = [
        *(told(0, "a", "camera.online"), told(1, "a"), told(3, "b", "camera.online")),
        *(told(4, "b"), told(6, "a", "camera.online"), told(7, "a")),
    ]
    assert overlaps(taken) == []
    assert overlaps([*taken, told(5, "a")]) == ["c at 5: a, not b"]
    assert overlaps([*taken, told(3.5, "a"), told(6.5, "b")]) != []
    late = [told(0, "a", "camera.online"), told(1, "a"), told(2, "b")]
    assert overlaps(late) == []
    assert overlaps([*late, told(3, "a")]) == ["c at 3: a, not b"]
    assert untold(late) == {("c", "b")}
    assert not untold([*late, told(4, "b", "camera.online")])


def test_silence_counts_to_both_ends_of_the_time() -> None:
    """A camera that never came back has been silent till the end."""
    events = [told(1, "a"), told(2, "a"), told(6, "a")]
    assert longest_silence_s(events, "c", 0, 7) == 4
    assert longest_silence_s(events, "c", 0, 20) == 14
    assert longest_silence_s(events, "nobody", 3, 8) == 5
