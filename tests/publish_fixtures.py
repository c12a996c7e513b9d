"""What the tests of publishing share: events, an observer that counts, a running publisher."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import zmq

from streamer.errors import SourceReason
from streamer.events import (
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    DaemonStopping,
    EmotionChanged,
    EmotionSample,
    Event,
    EventData,
    FaceAppeared,
    FaceLost,
    FrameInfo,
    Sighting,
    rfc3339,
)
from streamer.publish import Publisher, PublishOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.client import Subscriber

__all__ = [
    "LOOPBACK",
    "Recorder",
    "ask",
    "event",
    "every_event",
    "joined",
    "publisher",
    "wait_until",
]

LOOPBACK = "tcp://127.0.0.1:0"
"""A free port, which nobody else can reach."""
_CAPTURED_NS = 1_769_860_800_061_000_000  # 2026-01-31T12:00:00.061Z


@dataclass(slots=True)
class Recorder:
    """Remembers what a publisher says about itself."""

    sent: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    peers: int = 0
    most_peers: int = 0
    failures: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def published(self, type_name: str, latency_s: float | None) -> None:
        """Count what was sent."""
        self.sent[type_name] += 1
        if latency_s is not None:
            self.latencies_s.append(latency_s)

    def dropped(self, type_name: str) -> None:
        """Count what was dropped; several threads emit."""
        with self._lock:
            self.lost[type_name] += 1

    def connections(self, count: int) -> None:
        """Remember the peers, now and at most."""
        self.peers = count
        self.most_peers = max(self.most_peers, count)

    def handshake_failed(self) -> None:
        """Count who was refused."""
        self.failures += 1


@contextmanager
def publisher(options: PublishOptions | None = None) -> Iterator[tuple[Publisher, Recorder]]:
    """Start a publisher, on free ports of loopback unless told otherwise, and stop it."""
    recorder = Recorder()
    made = Publisher(
        options or PublishOptions(bind=LOOPBACK, snapshot=LOOPBACK),
        observer=recorder,
        clock=time,
    )
    made.start()
    try:
        yield made, recorder
    finally:
        assert made.stop(10.0), "the publisher did not stop"


def ask(address: str, *frames: bytes, timeout_ms: int = 10_000) -> bytes:
    """Send one request from a REQ socket and return the reply."""
    with zmq.Context() as context, context.socket(zmq.REQ) as request:
        request.linger = 0
        request.connect(address)
        request.send_multipart(frames)
        assert request.poll(timeout_ms), "no reply"
        return request.recv()


def joined(source: Publisher, subscriber: Subscriber) -> None:
    """Return when the subscription has reached the publisher; takes daemon.stopping events.

    A subscription travels for a moment after the handshake, and what is sent before it arrives is
    lost; so probes are sent until one comes back, and then the last of them is waited for.
    """
    assert subscriber.wait_connected(10), "the publisher was not reached"
    for probes in range(1, 101):
        source.emit(event(DaemonStopping))
        received = subscriber.receive(0.1)
        while received is not None and received.sequence < probes:
            received = subscriber.receive(10)
        if received is not None:
            return
    raise AssertionError("no probe came back")


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return when the condition holds; fail when it does not come to hold."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def event(kind: type[EventData], camera: str = "lobby", track: int = 17) -> Event:
    """Return an event of a type, with everything filled in."""
    who = {"camera": camera, "track": track}
    seen = who | {
        "box": (10.0, 20.5, 110.0, 140.5),
        "frame": FrameInfo(seq=812, width=640, height=360),
        "captured_at": rfc3339(_CAPTURED_NS),
        "clock": "host",
    }
    read = {
        "label": "happiness",
        "confidence": 0.91,
        "probabilities": {"neutral": 0.09, "happiness": 0.91},
        "bundle": "fer@0123456789ab",
    }
    values: dict[type[EventData], dict[str, object]] = {
        FaceAppeared: seen,
        EmotionSample: seen | read,
        EmotionChanged: seen | read | {"previous": "neutral"},
        FaceLost: who
        | {
            "duration_s": 12.5,
            "samples": 125,
            "label": "happiness",
            "confidence": 0.8,
            "mean_probabilities": {"neutral": 0.2, "happiness": 0.8},
            "bundle": "fer@0123456789ab",
        },
        CameraOnline: {"camera": camera, "reason": "connected", "width": 640, "height": 360},
        CameraOffline: {"camera": camera, "reason": SourceReason.TIMEOUT, "detail": "no frame"},
        DaemonStarted: {
            "versions": {"streamer": "0.1.0"},
            "bundle": "fer@0123456789ab",
            "engine": "onnxruntime on CPU",
            "cameras": (camera,),
            "purpose": "a test",
        },
        DaemonStopping: {"reason": "SIGTERM"},
    }
    captured_ns = time.monotonic_ns() if issubclass(kind, Sighting) else None
    return Event(data=kind(**values[kind]), captured_monotonic_ns=captured_ns)


def every_event() -> list[Event]:
    """Return one event of every type that the daemon publishes, in an order that makes sense."""
    kinds = (
        DaemonStarted,
        CameraOnline,
        FaceAppeared,
        EmotionSample,
        EmotionChanged,
        FaceLost,
        CameraOffline,
        DaemonStopping,
    )
    return [event(kind) for kind in kinds]
