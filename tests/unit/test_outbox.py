"""The hand-over: numbers, the bound, waiting and closing, without a socket."""

from __future__ import annotations

import threading

from streamer.events import (
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    EmotionSample,
    FaceAppeared,
    FaceLost,
)
from streamer.outbox import Outbox
from tests.publish_fixtures import event


def outbox(limit: int = 10) -> tuple[Outbox, list[int]]:
    """Return an outbox and the list that grows by one with each wake-up."""
    wakes: list[int] = []
    return Outbox(limit=limit, wake=lambda: wakes.append(1)), wakes


def test_the_first_to_wait_wakes_and_the_rest_do_not() -> None:
    """One wake-up serves everything that is taken at once."""
    box, wakes = outbox()

    for _ in range(3):
        assert box.put(event(EmotionSample)) == []
    assert len(wakes) == 1
    assert [numbered.sequence for numbered in box.take()] == [1, 2, 3]
    box.put(event(EmotionSample), event(EmotionSample))
    assert len(wakes) == 2
    assert [numbered.sequence for numbered in box.take()] == [4, 5]


def test_a_full_outbox_gives_up_the_oldest() -> None:
    """The newest stay, the hole is in front of them, and the dropped type is named."""
    box, _ = outbox(limit=2)

    dropped = [box.put(event(kind)) for kind in (FaceAppeared, EmotionSample, EmotionSample)]

    assert dropped == [[], [], ["face.appeared"]]
    together = box.put(event(EmotionSample), event(FaceLost), event(FaceLost))
    assert together == ["emotion.sample"] * 3
    assert [numbered.event.type for numbered in box.take()] == ["face.lost"] * 2


def test_a_dropped_end_still_ends_the_track() -> None:
    """State is kept when the event that made it is dropped: no ghost stays in the snapshot."""
    box, _ = outbox(limit=1)
    box.put(event(FaceAppeared))
    box.put(event(FaceLost))
    box.put(event(EmotionSample, "yard"))

    snapshot = box.snapshot(time_ns=0, monotonic_ns=0)

    assert [(state.camera, state.track) for state in snapshot.tracks] == [("yard", 17)]
    assert snapshot.sequences["face.lost/lobby/"] == 1
    assert snapshot.time == "1970-01-01T00:00:00.000000Z"


def test_a_camera_that_is_no_longer_configured_leaves_the_snapshot() -> None:
    """Its last words do not bring it back, one that is new is heard, and the numbers go on."""
    box, _ = outbox()
    box.put(event(DaemonStarted), event(CameraOnline), event(FaceAppeared))
    box.put(event(CameraOnline, "yard"))

    box.configure(["yard", "gate"])
    box.put(event(FaceLost), event(CameraOffline), event(CameraOnline, "gate"))

    snapshot = box.snapshot(time_ns=0, monotonic_ns=0)
    assert snapshot.daemon is not None
    assert snapshot.daemon.cameras == ("yard", "gate")
    assert [camera.camera for camera in snapshot.cameras] == ["gate", "yard"]
    assert snapshot.tracks == []
    assert snapshot.sequences["camera.offline/lobby/"] == 1
    box.configure(["yard", "lobby"])
    box.put(event(CameraOnline))
    snapshot = box.snapshot(time_ns=0, monotonic_ns=0)
    assert [camera.camera for camera in snapshot.cameras] == ["lobby", "yard"]
    assert snapshot.sequences["camera.online/lobby/"] == 2


def test_empty_means_sent_and_not_only_taken() -> None:
    """Waiting ends when what was taken is done, and gives up when time runs out."""
    box, _ = outbox()
    assert box.wait_empty(0)
    box.put(event(EmotionSample))
    box.take()
    assert not box.wait_empty(0.01)

    sender = threading.Timer(0.05, box.done)
    sender.start()
    assert box.wait_empty(10)
    sender.join()


def test_a_closed_outbox_refuses_and_keeps_what_waits() -> None:
    """After the close a put is a drop; what waited can be taken, or is given up by type."""
    box, _ = outbox()
    box.put(event(EmotionSample))
    box.close()

    assert box.put(event(FaceLost), event(FaceLost)) == ["face.lost"] * 2
    assert box.abandon() == ["emotion.sample"]
    assert not box.take()
