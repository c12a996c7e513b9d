"""How many processes share the cameras."""

from __future__ import annotations

from streamer import cores


def test_what_was_asked_for_is_taken() -> None:
    """Whatever the machine and the cameras."""
    assert cores.processes(1, 100) == 1
    assert cores.processes(5, 1) == 5


def test_otherwise_the_cameras_decide_and_the_cores_limit() -> None:
    """One for every sixteen, at least one, at most one a core."""
    assert [cores.processes(0, count) for count in (0, 1, 16)] == [1, 1, 1]
    assert cores.processes(0, 17) == min(2, cores.usable_cores())
    assert cores.processes(0, 10_000) == cores.usable_cores()
