"""The compute loop: the newest due frame of each camera, every frame accounted for."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streamer.compute import ComputeLoop
from streamer.errors import SourceReason
from streamer.events import CameraOffline, CameraOnline
from streamer.mailbox import Mailbox
from streamer.metrics import DropReason, Metrics
from streamer.throttle import LEVELS
from tests.fakes import CollectingSink, FakeClock, frame_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.types import Frame


class FakePipeline:
    """Remembers what it was given, and can be made to wait."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.calls: list[list[str]] = []
        self.lost: list[str] = []
        self.frugal: list[bool] = []
        self.takes: Callable[[int], None] = lambda _frames: None
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)

    def process(self, frames: Sequence[Frame], *, frugal: bool = False) -> None:
        """Note the frames, then wait at the gate."""
        self.frugal.append(frugal)
        self.seen.extend((frame.camera, frame.seq) for frame in frames)
        self.calls.append([frame.camera for frame in frames])
        self.takes(len(frames))
        self.arrived.release()
        self.gate.wait(5)

    def lose(self, camera: str) -> None:
        """Note it."""
        self.lost.append(camera)

    def forget(self, camera: str) -> None:
        """Note it."""
        self.lost.append(camera)


class Rig:
    """A loop with its thread over a fake pipeline."""

    def __init__(self, fps: float, cameras: Sequence[str] = ("a",)) -> None:
        self.metrics = Metrics(CollectorRegistry(), process=False)
        self.pipeline = FakePipeline()
        self.sink = CollectingSink()
        self.clock = FakeClock()
        self.loop = ComputeLoop(
            self.pipeline,
            fps=fps,
            sink=self.sink,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.boxes = {name: Mailbox(self.loop.ready) for name in cameras}
        for name, box in self.boxes.items():
            self.loop.attach(name, box)
        self.dropped: list[DropReason] = []
        self.seq = 0

    def put(self, camera: str, seq: int, fps: float = 25.0) -> None:
        """Deliver a frame as a feed does."""
        reason = self.boxes[camera].put(frame_of(camera, seq, fps=fps))
        if reason is not None:
            self.dropped.append(reason)

    def play(self, seconds: float, work_s: float) -> Counter[str]:
        """Let ten frames a second arrive from every camera; return how many were analysed.

        Args:
            seconds: how long; each frame's arrival is a tenth of a second after the last one's.
            work_s: how long one frame keeps the loop busy.
        """
        self.pipeline.takes = lambda frames: self.clock.advance(frames * work_s)
        self.pipeline.seen.clear()
        for _ in range(round(10 * seconds)):
            self.clock.advance(0.1)
            self.seq += 1
            for camera, box in self.boxes.items():
                frame = replace(frame_of(camera, self.seq), monotonic_ns=self.clock.monotonic_ns())
                reason = box.put(frame)
                if reason is not None:
                    self.dropped.append(reason)
            self.settle()
        return Counter(camera for camera, _ in self.pipeline.seen)

    def level(self, camera: str) -> float | None:
        """Return the overload that the metrics show."""
        return self.metrics.registry.get_sample_value("streamer_overload_level", {"camera": camera})

    def settle(self) -> None:
        """Wait until nothing due is left."""
        for box in self.boxes.values():
            assert box.wait_taken(5)


def test_frames_are_taken_at_the_rate_asked_for() -> None:
    """Ten a second of twenty-five: by media time, however fast they come."""
    rig = Rig(fps=10.0)
    rig.loop.start()
    for seq in range(101):
        rig.put("a", seq)
        rig.settle()
    assert rig.loop.stop(5)
    taken = [seq for _, seq in rig.pipeline.seen]
    assert len(taken) == pytest.approx(41, abs=1)
    assert taken[:5] == [0, 3, 5, 8, 10]
    assert set(rig.dropped) == {DropReason.SUPERSEDED}


def test_zero_means_every_frame() -> None:
    """With fps = 0 nothing is passed over that can be taken."""
    rig = Rig(fps=0.0)
    rig.loop.start()
    for seq in range(20):
        rig.put("a", seq)
        rig.settle()
    assert rig.loop.stop(5)
    assert [seq for _, seq in rig.pipeline.seen] == list(range(20))


def test_a_busy_loop_takes_the_newest_of_all_cameras_in_one_batch() -> None:
    """What waits meanwhile is replaced, counted as overload, and never queued."""
    rig = Rig(fps=10.0, cameras=("a", "b", "c"))
    rig.pipeline.gate.clear()
    rig.loop.start()
    rig.put("a", 0)
    assert rig.pipeline.arrived.acquire(timeout=5)
    for seq in (10, 20, 30):
        for camera in "abc":
            rig.put(camera, seq)
    rig.pipeline.gate.set()
    rig.settle()
    assert rig.loop.stop(5)
    assert rig.pipeline.calls == [["a"], ["a", "b", "c"]]
    assert rig.pipeline.seen[1:] == [("a", 30), ("b", 30), ("c", 30)]
    assert rig.dropped == [DropReason.OVERLOAD] * 6


def test_a_camera_going_offline_is_told_in_order() -> None:
    """Its tracks end first, its waiting frame is counted, then the event goes out."""
    rig = Rig(fps=10.0)
    rig.loop.start()
    rig.loop.tell(CameraOnline(camera="a", reason="connected", width=320, height=240))
    rig.put("a", 0)
    rig.settle()
    rig.put("a", 1)
    rig.loop.tell(CameraOffline(camera="a", reason=SourceReason.TIMEOUT.value))
    assert rig.loop.detach("a", forget=True, timeout_s=5)
    assert rig.loop.stop(5)
    assert rig.sink.types == ["camera.online", "camera.offline"]
    assert rig.pipeline.lost == ["a", "a"]
    stopped = rig.metrics.registry.get_sample_value(
        "streamer_frames_dropped_total", {"camera": "a", "reason": "stopped"}
    )
    assert stopped == 1


def test_overload_is_borne_evenly_in_the_declared_order_and_taken_back() -> None:
    """Late for long: fewer frames of every camera, then small pictures; after it, all of them."""
    rig = Rig(fps=10.0, cameras=("a", "b", "c"))
    rig.loop.start()
    assert rig.play(10, work_s=0.002) == {"a": 100, "b": 100, "c": 100}
    assert rig.level("a") == 0
    rig.play(60, work_s=0.2)
    assert rig.level("a") == rig.level("b") == len(LEVELS) - 1
    assert rig.pipeline.frugal[0] is False
    assert rig.pipeline.frugal[-1] is True
    borne = rig.play(20, work_s=0.2)
    assert borne["a"] == borne["b"] == borne["c"] < 200 * 0.2
    assert set(rig.dropped) == {DropReason.OVERLOAD}
    rig.play(120, work_s=0.002)
    assert rig.level("c") == 0
    assert rig.play(10, work_s=0.002) == {"a": 100, "b": 100, "c": 100}
    assert rig.pipeline.frugal[-1] is False
    assert rig.loop.stop(5)


def test_a_file_read_as_fast_as_possible_is_never_in_a_hurry() -> None:
    """Its reader waits until each frame is taken, so that every due one is analysed."""
    rig = Rig(fps=10.0)
    rig.boxes["a"].patient = True
    rig.loop.start()
    assert rig.play(30, work_s=0.5) == {"a": 300}
    assert rig.level("a") == 0
    assert rig.loop.stop(5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 7)), max_size=60),
    st.sampled_from([0.0, 5.0, 10.0]),
)
def test_every_captured_frame_is_accounted_for(steps: list[tuple[str, int]], fps: float) -> None:
    """Captured = analysed + dropped, once nothing is in flight, whatever comes when."""
    rig = Rig(fps=fps, cameras=("a", "b"))
    rig.loop.start()
    position = {"a": 0, "b": 0}
    for camera, step in steps:
        position[camera] += step
        rig.put(camera, position[camera])
    assert rig.loop.stop(5)
    stopped = sum(
        rig.metrics.registry.get_sample_value(
            "streamer_frames_dropped_total", {"camera": name, "reason": "stopped"}
        )
        or 0
        for name in "ab"
    )
    assert len(steps) == len(rig.pipeline.seen) + len(rig.dropped) + stopped
    for name in "ab":
        seqs = [seq for camera, seq in rig.pipeline.seen if camera == name]
        assert seqs == sorted(set(seqs))
