"""The bridge to MQTT: events as they come, a state a camera, and Home Assistant's discovery.

PREFIX/status                online | offline, retained: whether bridge and daemon are there
PREFIX/CAMERA/state          {"online": …, "faces": …, "expression": …}, retained
PREFIX/CAMERA/event/TYPE     an event of the camera, the JSON that the daemon sent
PREFIX/event/TYPE            an event of the daemon itself
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from streamer.bridge.cameras import CAMERA_NAME, Cameras
from streamer.bridge.homeassistant import discovery
from streamer.errors import StreamerError
from streamer.logs import Repeated

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.bridge.broker import Broker
    from streamer.client import Received
    from streamer.snapshot import Snapshot
    from streamer.stages import Clock

__all__ = ["SAMPLES", "TOPICS", "MqttBridge", "status_topic"]

TOPICS: Final = ("face.", "emotion.changed/", "camera.", "daemon.")
"""Prefixes of what is bridged unless samples are asked for, too: a few events a minute a face."""
SAMPLES: Final = "emotion.sample/"
_TYPE: Final = re.compile(r"[a-z0-9._-]{1,64}")
_SNAPSHOT_AGAIN_S: Final = 5.0

log = structlog.get_logger(__name__)


def status_topic(prefix: str) -> str:
    """Return where it is said whether the states are to be trusted."""
    return f"{prefix}/status"


class MqttBridge:
    """Publishes what it takes; a ``streamer.relay.Destination`` for one thread.

    Args:
        broker: where to.
        prefix: of the topics.
        discovery_prefix: where Home Assistant listens; empty: no discovery.
        fetch: asks the daemon for its snapshot; raises a StreamerError if there is none.
        clock: times the log.

    Attributes:
        dropped: events given up because the broker was away for too long.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        prefix: str,
        discovery_prefix: str,
        fetch: Callable[[], Snapshot],
        clock: Clock,
    ) -> None:
        self.dropped = 0
        self._broker = broker
        self._prefix = prefix
        self._discovery_prefix = discovery_prefix
        self._fetch = fetch
        self._cameras = Cameras()
        self._announced: set[str] = set()
        self._owed: dict[str, bytes] = {}  # what is to be retained, by topic, until it is sent
        self._connected = False
        self._must_sync = False
        self._asked_s = -_SNAPSHOT_AGAIN_S
        self._repeated = Repeated(clock)

    def take(self, event: Received) -> None:
        """Publish an event and take note of what it changes."""
        gap = event.gap is not None and event.gap.missing > 0
        if self._cameras.apply(event) or gap:
            self._must_sync = True
        camera = event.topic.removeprefix(f"{event.type}/").removesuffix("/")
        if not _TYPE.fullmatch(event.type) or (camera and not CAMERA_NAME.fullmatch(camera)):
            if self._repeated.offer("refused") is not None:
                log.warning("event_refused", topic=event.topic, do="is that the daemon's address?")
            return  # no daemon sends such a name, and MQTT would take parts of it for wildcards
        place = f"{self._prefix}/{camera}" if camera else self._prefix
        topic = f"{place}/event/{event.type}"
        if not self._broker.publish(topic, event.raw):
            self.dropped += 1
            if self._repeated.offer("dropped") is not None:
                log.warning("events_dropped", total=self.dropped, do="is the broker there?")

    def tick(self, *, connected: bool) -> None:
        """Publish what has changed.

        Raises:
            ConfigError: if the broker refuses this user.
            StreamerError: if nobody tries to reach the broker any more.
        """
        if connected != self._connected:
            self._connected = self._must_sync = connected
            self._asked_s = -_SNAPSHOT_AGAIN_S
            self._tell_status()
        if self._broker.fresh():
            self._announced.clear()
            self._cameras.changed.update(self._cameras.names)
            self._tell_status()
        if self._must_sync and connected and time.monotonic() - self._asked_s > _SNAPSHOT_AGAIN_S:
            self._synchronise()
        self._tell_states()
        self._pay()

    def close(self, deadline_s: float) -> int:
        """Say offline, and wait for the broker's acknowledgements; see ``Broker.close``."""
        self._connected = False
        self._tell_status()
        self._pay()
        return self._broker.close(deadline_s) + self.dropped

    def _synchronise(self) -> None:
        self._asked_s = time.monotonic()
        try:
            self._cameras.load(self._fetch())
        except StreamerError as error:
            if self._repeated.offer("snapshot") is not None:
                log.warning("no_snapshot", error=str(error))
        else:
            self._must_sync = False

    def _tell_status(self) -> None:
        self._owe(status_topic(self._prefix), b"online" if self._connected else b"offline")

    def _tell_states(self) -> None:
        for name in sorted(self._cameras.gone):
            for topic, _payload in self._discovery(name):
                self._owe(topic, b"")
            self._owe(self._state_topic(name), b"")
            self._announced.discard(name)
        self._cameras.gone.clear()
        for name in sorted(self._cameras.changed):
            if name not in self._announced:
                for topic, payload in self._discovery(name):
                    self._owe(topic, payload)
                self._announced.add(name)
            self._owe(self._state_topic(name), msgspec.json.encode(self._cameras.state(name)))
        self._cameras.changed.clear()

    def _owe(self, topic: str, payload: bytes) -> None:
        """Have a topic say this, after what was said before: a state follows its discovery."""
        self._owed.pop(topic, None)
        self._owed[topic] = payload

    def _pay(self) -> None:
        """Send what is owed, as far as the broker takes it; the rest is tried again, each turn."""
        while self._owed:
            topic, payload = next(iter(self._owed.items()))
            if not self._broker.retain(topic, payload):
                return
            del self._owed[topic]

    def _state_topic(self, camera: str) -> str:
        return f"{self._prefix}/{camera}/state"

    def _discovery(self, camera: str) -> list[tuple[str, bytes]]:
        if not self._discovery_prefix:
            return []
        return list(
            discovery(
                camera,
                discovery_prefix=self._discovery_prefix,
                prefix=self._prefix,
                state_topic=self._state_topic(camera),
                status_topic=status_topic(self._prefix),
            )
        )
