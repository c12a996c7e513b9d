"""The parts of sharing cameras out: who gets which, what is said, and how counts add up."""

from __future__ import annotations

import queue
import socket
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from streamer import config as configuration
from streamer.backoff import Backoff
from streamer.camera import Past
from streamer.events import CameraOffline, Event, FaceLost
from streamer.metrics import DropReason, Metrics
from streamer.outbox import Outbox
from streamer.workers.link import Events, Family, Link, More, Said, packed, unpacked
from streamer.workers.series import Tally, merged
from streamer.workers.share import share
from streamer.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from streamer.workers.link import Picture

NAMES = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=20)


@given(names=NAMES, workers=st.integers(1, 5))
def test_cameras_are_shared_out_evenly(names: list[str], workers: int) -> None:
    """Every camera has a worker, and no two workers differ by more than one camera."""
    shares = share(names, workers, {})
    load = Counter(dict.fromkeys(range(workers), 0))
    load.update(shares.values())
    assert set(shares) == set(names)
    assert max(load.values()) - min(load.values()) <= 1
    assert set(load) == set(range(workers))


@given(before=NAMES, after=NAMES, workers=st.integers(1, 5))
def test_a_camera_that_stays_does_not_move(
    before: list[str], after: list[str], workers: int
) -> None:
    """A move would end its tracks; those that come go where there are fewest."""
    held = share(before, workers, {})
    shares = share(after, workers, held)
    assert all(shares[name] == held[name] for name in set(before) & set(after))
    assert set(shares) == set(after)


@contextmanager
def linked() -> Iterator[tuple[Link, Link]]:
    """Yield both ends of a link."""
    near, far = (Link(end) for end in socket.socketpair())
    yield near, far
    near.close()
    far.close()


def test_events_arrive_as_they_were_sent() -> None:
    """Types, data and times of capture survive the way, in order, whatever their size."""
    events = [
        Event(data=CameraOffline(camera=f"c{n}", reason="timeout", detail="x" * 997 * n))
        for n in range(100)
    ]
    events.append(Event(data=lost("lobby", 7), captured_monotonic_ns=12))
    with linked() as (near, far):
        sender = threading.Thread(target=near.send, args=(Events(events=packed(events)),))
        sender.start()
        message = far.receive(10.0)
        sender.join(10)
    assert isinstance(message, Events)
    assert unpacked(message.events) == events


def lost(camera: str, track: int) -> FaceLost:
    """Return an end of a track."""
    return FaceLost(
        camera=camera,
        track=track,
        duration_s=1.0,
        samples=0,
        label="unknown",
        confidence=0.0,
        mean_probabilities={},
        bundle="b",
    )


def test_a_link_tells_silence_from_the_end() -> None:
    """None while nothing comes; EOFError when the other end has gone, after what it sent."""
    with linked() as (near, far):
        assert far.receive(0.01) is None
        assert near.send(More(watcher=3))
        near.close()
        assert far.receive(1.0) == More(watcher=3)
        with pytest.raises(EOFError):
            far.receive(1.0)
        assert not far.send(More(watcher=4))
        assert not near.send(More(watcher=5))


@given(cuts=st.lists(st.integers(1, 30), max_size=10))
def test_messages_may_arrive_in_pieces(cuts: list[int]) -> None:
    """Wherever the stream is cut, the same messages come out."""
    sent = [More(watcher=number) for number in range(5)]
    first, second = socket.socketpair()
    with first, second:
        source = Link(first)
        for message in sent:
            source.send(message)
        stream = second.recv(1 << 16)
    near, far = socket.socketpair()
    with near, far:
        target = Link(far)
        got: list[Said | None] = []
        for cut in (*cuts, len(stream)):
            near.sendall(stream[:cut])
            stream = stream[cut:]
            got.append(target.receive(0.0))
        got += [target.receive(0.0) for _ in sent]
    assert [message for message in got if message is not None] == sent


def test_a_lost_event_leaves_a_hole_in_its_topic_alone() -> None:
    """Two samples of one camera were lost on the way: its next number is two further."""
    outbox = Outbox(limit=10, wake=lambda: None)
    for camera in ("a", "b"):
        outbox.put(Event(data=lost(camera, 1)))
    outbox.skip("face.lost", "a", 2)
    for camera in ("a", "b"):
        outbox.put(Event(data=lost(camera, 2)))
    numbers = [(one.topic, one.sequence) for one in outbox.take()]
    assert numbers == [
        ("face.lost/a/", 1),
        ("face.lost/b/", 1),
        ("face.lost/a/", 4),
        ("face.lost/b/", 2),
    ]


IMPOSTOR = """
import socket, sys, time
from streamer.web.state import About, WorkerHealth
from streamer.workers.link import Link, Loaded, Report

link = Link(socket.socket(fileno=int(sys.argv[1])))
link.receive(10)
link.send(Loaded(about=About(version="0", bundle="b", engines={}, classes=())))
while True:  # it talks, and its compute loop hangs
    health = WorkerHealth(age_s=16.0, limit_s=15.0)
    link.send(Report(liveness={"compute": health}, cameras=[], tracks={}))
    time.sleep(0.1)
"""


class Witness:
    """A parent that takes note of the ends."""

    def __init__(self) -> None:
        self.ends: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()

    def past(self, _camera: str) -> Past:
        """Nothing was published."""
        return Past()

    def take(self, events: Sequence[Event], lost: Sequence[tuple[str, str | None, int]]) -> None:
        """There are none."""

    def busy(self) -> None:
        """Nothing waits."""

    def show(self, worker: Worker, picture: Picture) -> None:
        """Nobody looks."""

    def begun(self, worker: Worker) -> None:
        """Nobody looks."""

    def ended(self, _worker: Worker, *, why: str, stuck: bool) -> None:
        """Take note."""
        self.ends.put((why, stuck))


def test_a_worker_that_talks_and_does_nothing_is_ended(tmp_path: Path) -> None:
    """Its reports say that its compute loop hangs: it is killed, and another one is started."""
    program = tmp_path / "impostor.py"
    program.write_text(IMPOSTOR)
    witness = Witness()
    config = configuration.parse('[[cameras]]\nname = "a"\nurl = "rtsp://host/stream"\n')
    worker = Worker(
        1,
        config=config,
        parent=witness,
        backoff=Backoff(lambda: 0.0),
        program=(str(program),),
    )
    worker.start(config.cameras)
    assert worker.wait_loaded().bundle == "b"
    for _ in range(2):
        why, stuck = witness.ends.get(timeout=20)
        assert stuck
        assert "SIGKILL" in why
    worker.order_stop(0.1)
    worker.wait_stopped(0.1)
    assert worker.wait_stopped(10)


def families_of(metrics: Metrics) -> list[Family]:
    """Return metrics as a worker reports them, after the way over the link."""
    made = [
        Family(m.name, m.type, m.documentation, [(s.name, s.labels, s.value) for s in m.samples])
        for m in metrics.registry.collect()
    ]
    return msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=list[Family])


def counted(camera: str, captured: int) -> Metrics:
    """Return the metrics of a worker that watches one camera."""
    metrics = Metrics(CollectorRegistry())
    series = metrics.camera(camera)
    series.captured.inc(captured)
    series.dropped[DropReason.OVERLOAD].inc(1)
    metrics.observe_stage("detect", 0.004)
    metrics.live_viewers.inc()
    return metrics


def test_the_counts_of_all_processes_are_one_exposition() -> None:
    """Cameras stand side by side, stages are added up, what a process is comes from the parent."""
    parent = Metrics(CollectorRegistry())
    parent.events_published.labels("face.lost").inc(3)
    parent.live_viewers.inc()
    parent.bundle_info.info({"bundle": "demo"})
    workers = [families_of(counted("a", 5)), families_of(counted("b", 7))]

    class Together:
        def collect(self) -> object:
            return merged(parent.registry.collect(), workers, Tally())

    text = generate_latest(Together()).decode()  # type: ignore[arg-type] # all it needs
    for line in (
        'streamer_frames_captured_total{camera="a"} 5.0',
        'streamer_frames_captured_total{camera="b"} 7.0',
        'streamer_stage_seconds_count{stage="detect"} 2.0',
        'streamer_stage_seconds_bucket{le="0.005",stage="detect"} 2.0',
        'streamer_events_published_total{type="face.lost"} 3.0',
        "streamer_live_viewers 1.0",
        'streamer_bundle_info{bundle="demo"} 1.0',
    ):
        assert f"\n{line}\n" in text, line
    assert text.count("python_info{") == 1


def test_what_a_worker_counted_outlives_it_and_its_gauges_do_not() -> None:
    """Its counters are kept until the camera is removed; how it was is forgotten with it."""
    dead = counted("a", 5)
    dead.camera("a").up.set(1)
    tally = Tally()
    tally.add(families_of(dead))
    tally.add(families_of(dead))

    def value(name: str, families: list[list[Family]]) -> float | None:
        for metric in merged([], families, tally):
            for sample in metric.samples:
                if sample.name == name and sample.labels.get("camera") == "a":
                    return float(sample.value)
        return None

    assert value("streamer_frames_captured_total", []) == 10.0
    assert value("streamer_frames_captured_total", [families_of(counted("a", 2))]) == 12.0
    assert value("streamer_camera_up", []) is None
    tally.forget("a")
    assert value("streamer_frames_captured_total", []) is None
