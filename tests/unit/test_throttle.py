"""Overload: the declared order, no reaction to a hiccup, and the way back."""

from __future__ import annotations

from streamer.throttle import LEVELS, Throttle


class Machine:
    """Runs ten rounds a second; how busy and how late it is depends on the share analysed."""

    def __init__(self) -> None:
        self.throttle = Throttle()
        self.now_s = 100.0

    def run(self, seconds: float, load: float) -> list[int]:
        """Run under a load: the share of the time that the full rate would take; return levels."""
        seen = []
        for _ in range(round(10 * seconds)):
            self.now_s += 0.1
            busy = load * self.throttle.level.share
            lag_s = 0.03 if busy < 0.85 else 0.15
            self.throttle.note(self.now_s, 0.1 * min(1.0, busy), [lag_s] * 3)
            seen.append(self.throttle.index)
        return seen


def test_the_order_is_the_declared_one() -> None:
    """Ever less often, and the smaller picture only after half of the frames."""
    assert LEVELS[0].share == 1.0
    shares = [level.share for level in LEVELS]
    assert shares == sorted(shares, reverse=True)
    assert not any(level.frugal for level in LEVELS if level.share > 0.5)
    assert all(level.frugal for level in LEVELS if level.share < 0.5)


def test_a_machine_that_keeps_up_gives_nothing_up() -> None:
    """Nor does one that is late for a second."""
    machine = Machine()
    assert set(machine.run(60, load=0.8)) == {0}
    assert set(machine.run(1, load=5.0)) == {0}
    assert set(machine.run(30, load=0.8)) == {0}


def test_overload_goes_as_far_as_needed_and_stays_there() -> None:
    """At a load of 1.2 three levels do: 0.8 of it is late still, 0.65 is not; no flapping."""
    machine = Machine()
    seen = machine.run(60, load=1.2)
    assert seen[:10] == [0] * 10
    assert set(seen[100:]) == {3}
    assert seen == sorted(seen)


def test_what_is_very_late_goes_two_levels_at_once() -> None:
    """With a lag of 0.3 s the sixth second is at the sixth level; with 0.15 s at the third."""
    reached = []
    for lag_s in (0.15, 0.3):
        throttle = Throttle()
        for second in range(7):
            throttle.note(100.0 + second, 1.0, [lag_s])
        reached.append(throttle.index)
    assert reached == [3, 6]


def test_a_hopeless_load_ends_at_the_last_level() -> None:
    """Beyond it there is nothing left to give up."""
    machine = Machine()
    assert machine.run(60, load=20.0)[-1] == len(LEVELS) - 1


def test_when_the_load_goes_everything_is_taken_back() -> None:
    """Step by step, each after five calm seconds."""
    machine = Machine()
    machine.run(30, load=1.2)
    seen = machine.run(30, load=0.3)
    assert seen[0] == 3
    assert seen[-1] == 0
    assert seen == sorted(seen, reverse=True)


def test_what_was_taken_back_too_early_is_tried_less_often() -> None:
    """A load that looks light only while less is done changes the level ever more rarely."""
    machine = Machine()
    changes = []
    for _ in range(10):
        before = machine.throttle.index
        for _ in range(60):
            # Late at the full rate, and idle otherwise: the worst that can be promised.
            machine.now_s += 1.0
            late = machine.throttle.index == 0
            machine.throttle.note(machine.now_s, 0.1, [0.3 if late else 0.01])
            changes.append(machine.throttle.index != before)
            before = machine.throttle.index
    first, last = sum(changes[:120]), sum(changes[-120:])
    assert first > 2 * last > 0


def test_rounds_without_a_paced_camera_say_nothing() -> None:
    """A file read as fast as possible fills the loop, and is not late."""
    throttle = Throttle()
    for second in range(100):
        throttle.note(float(second), 1.0, [])
    assert throttle.index == 0
