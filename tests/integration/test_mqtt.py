"""`streamer bridge mqtt` between a real publisher and a real broker, as Home Assistant sees it."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from streamer.bridge import broker as connection
from streamer.bridge.broker import Broker, BrokerOptions
from streamer.bridge.mqtt import MqttBridge, status_topic
from streamer.errors import ConfigError, SourceReason, StreamerError
from streamer.events import (
    CameraOffline,
    CameraOnline,
    DaemonStarted,
    EmotionChanged,
    EmotionSample,
    Event,
    FaceAppeared,
    FaceLost,
)
from streamer.outbox import Outbox
from tests.daemon import free_port
from tests.publish_fixtures import event, every_event, publisher, wait_until
from tests.relay_fixtures import (
    RelayProcess,
    addresses,
    logged,
    received,
    relaying,
    until_heard,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamer.publish import PublishOptions

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto absent (Debian: apt install mosquitto)"
)


@dataclass
class Mosquitto:
    """A broker that can be killed and started again; it forgets everything."""

    folder: Path
    rules: str = "allow_anonymous true"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\n{self.rules}\npersistence false\n"
            f"user {getpass.getuser()}\n"
        )
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(MOSQUITTO), "-c", str(config)], stdout=log, stderr=log
            )
        wait_until(self._listens)

    def stop(self) -> None:
        """Kill it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@dataclass
class Home:
    """A client of the broker that hears everything, as Home Assistant does.

    Attributes:
        retained: what the broker told at once, by topic.
        state: the last payload of each topic.
        heard: every message in order.
    """

    port: int
    retained: dict[str, bytes] = field(default_factory=dict)
    state: dict[str, bytes] = field(default_factory=dict)
    heard: list[tuple[str, bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = self._message
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()
        assert subscribed.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        if message.retain:
            self.retained[message.topic] = payload
        self.state[message.topic] = payload
        self.heard.append((message.topic, payload))

    def lobby(self) -> dict[str, Any]:
        """Return the state of the camera, empty before the first."""
        found: dict[str, Any] = json.loads(self.state.get("streamer/lobby/state") or b"{}")
        return found

    def becomes(self, **expected: Any) -> None:
        """Wait until the camera's state is this."""
        wait_until(lambda: self.lobby() == expected, 20)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return what came of an event type of the camera."""
        topic = f"streamer/lobby/event/{kind}"
        return [json.loads(payload) for name, payload in list(self.heard) if name == topic]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker that lets everyone in."""
    made = Mosquitto(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def options() -> PublishOptions:
    """Where the daemon is, each time it is started."""
    return addresses()


@contextmanager
def bridging(
    folder: Path, options: PublishOptions, port: int, *more: str
) -> Iterator[RelayProcess]:
    """Run the bridge between a daemon and a broker."""
    arguments = ("--connect", options.bind, "--snapshot", options.snapshot)
    address = f"mqtt://127.0.0.1:{port}"
    with relaying(folder, "bridge", "mqtt", *arguments, "--broker", address, *more) as process:
        yield process


def named(camera: str) -> Event:
    """Return the daemon's start with one camera."""
    return event(DaemonStarted, camera=camera)


def test_home_assistant_finds_cameras_and_follows_their_state(
    tmp_path: Path, options: PublishOptions, broker: Mosquitto
) -> None:
    """What was before the bridge comes from the snapshot, then each change; all is retained."""
    with publisher(options) as (source, _):
        for earlier in (named("lobby"), event(CameraOnline), event(FaceAppeared)):
            source.emit(earlier)
        with bridging(tmp_path, options, broker.port) as process, Home(broker.port) as home:
            home.becomes(online=True, faces=1, expression=None)
            until_heard(source, lambda: bool(home.events("camera.online")), CameraOnline)
            source.emit(event(FaceAppeared, track=18))
            source.emit(event(EmotionChanged))
            home.becomes(online=True, faces=2, expression="happiness")
            with Home(broker.port) as late:
                wait_until(lambda: len(late.retained) == 5)
                assert late.lobby() == {"online": True, "faces": 2, "expression": "happiness"}
                assert late.state["streamer/status"] == b"online"
                check_discovery(late.retained)
            source.emit(event(FaceLost))
            home.becomes(online=True, faces=1, expression=None)
            source.emit(event(CameraOffline))
            home.becomes(online=False, faces=0, expression=None)
            wait_until(lambda: bool(home.events("camera.offline")))
            assert home.events("camera.offline")[0]["data"]["reason"] == "timeout"
            assert process.stop() == 0, process.log.read_text()
            wait_until(lambda: home.state["streamer/status"] == b"offline")


def check_discovery(retained: dict[str, bytes]) -> None:
    """Check the entities of the camera against Home Assistant's documentation of discovery."""
    found = {
        topic: json.loads(payload)
        for topic, payload in retained.items()
        if topic.startswith("homeassistant/")
    }
    assert set(found) == {
        "homeassistant/binary_sensor/streamer_lobby/connection/config",
        "homeassistant/sensor/streamer_lobby/faces/config",
        "homeassistant/sensor/streamer_lobby/expression/config",
    }
    assert len({entity["unique_id"] for entity in found.values()}) == 3
    for entity in found.values():
        assert entity["state_topic"] in retained
        assert entity["availability_topic"] in retained
        assert entity["device"]["identifiers"] == ["streamer_lobby"]
        assert entity["origin"]["name"] == "emotion-streamer"
    templates = {topic.split("/")[3]: entity["value_template"] for topic, entity in found.items()}
    state = json.loads(retained["streamer/lobby/state"])
    for name, template in templates.items():
        (key,) = set(re.findall(r"value_json\.(\w+)", template))
        assert key in state, name


def test_every_event_comes_as_it_was_sent(
    tmp_path: Path, options: PublishOptions, broker: Mosquitto
) -> None:
    """With samples, each type has its topic and the daemon's own JSON; SIGTERM loses nothing."""
    with (
        publisher(options) as (source, _),
        bridging(tmp_path, options, broker.port, "--samples", "--discovery", "") as process,
        Home(broker.port) as home,
    ):
        until_heard(source, lambda: "streamer/event/daemon.stopping" in home.state)
        for value in every_event():
            source.emit(value)
        for _ in range(500):
            source.emit(event(EmotionSample))
        assert source.drain(10)
        assert process.stop() == 0, process.log.read_text()
        wait_until(lambda: len(home.events("emotion.sample")) == 501)
        assert [e["sequence"] for e in home.events("emotion.sample")] == list(range(1, 502))
        for value in every_event():
            place = "streamer/lobby" if value.camera else "streamer"
            payload = json.loads(home.state[f"{place}/event/{value.type}"])
            assert (payload["specversion"], payload["type"]) == ("1.0", value.type)
        assert not [topic for topic in home.state if topic.startswith("homeassistant/")]


def test_it_survives_the_brokers_restart(
    tmp_path: Path, options: PublishOptions, broker: Mosquitto
) -> None:
    """Events of the outage arrive when the broker is back, and what it forgot is told again."""
    with publisher(options) as (source, _), bridging(tmp_path, options, broker.port) as process:
        source.emit(named("lobby"))
        with Home(broker.port) as home:
            until_heard(source, lambda: bool(home.events("camera.online")), CameraOnline)
        broker.stop()
        wait_until(lambda: len(process.logged("broker_disconnected")) > 0)
        for _ in range(50):
            source.emit(event(EmotionChanged))
        broker.start()
        with Home(broker.port) as home:
            wait_until(lambda: len(home.events("emotion.changed")) == 50, 30)
            home.becomes(online=True, faces=1, expression="happiness")
            wait_until(lambda: home.state.get("streamer/status") == b"online")
            check_discovery({**home.retained, **home.state})
            assert process.stop() == 0, process.log.read_text()


@pytest.mark.parametrize("outage", ["hung", "gone"])
def test_states_are_told_after_an_outage_that_filled_the_queue(
    outage: str, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events beyond the queue are dropped and counted; status, states and removals are not."""
    monkeypatch.setattr(connection, "_MOST_QUEUED", 50)
    monkeypatch.setattr(connection, "_ROOM", 4)
    source = Outbox(limit=1000, wake=lambda: None)
    options = BrokerOptions(url=f"mqtt://127.0.0.1:{broker.port}")
    target = Broker(options, will=(status_topic("streamer"), "offline"), clock=time)
    bridge = MqttBridge(
        broker=target,
        prefix="streamer",
        discovery_prefix="homeassistant",
        fetch=lambda: source.snapshot(time_ns=0, monotonic_ns=0),
        clock=time,
    )

    def take(*events: Event) -> None:
        source.put(*events)
        for numbered in source.take():
            bridge.take(received(numbered))

    def until(condition: Callable[[], bool]) -> None:
        def turned() -> bool:
            bridge.tick(connected=True)
            return condition()

        wait_until(turned, 20)

    def started(*cameras: str) -> Event:
        return Event(data=msgspec.structs.replace(named("lobby").data, cameras=cameras))

    with Home(broker.port) as home:
        until(lambda: home.state.get("streamer/status") == b"online")
        others = [f"c{number}" for number in range(10)]
        take(started("lobby", "yard", *others), event(CameraOnline))
        until(lambda: home.lobby().get("online") is True and "streamer/yard/state" in home.state)
        assert broker.process is not None
        if outage == "hung":
            broker.process.send_signal(signal.SIGSTOP)
        else:
            broker.stop()
            wait_until(lambda: not target._client.is_connected())
        take(*[event(EmotionChanged)] * 100)
        bridge.tick(connected=False)
        take(started("lobby", *others), event(CameraOnline), event(FaceAppeared))
        take(*(event(CameraOnline, name) for name in others))
        bridge.tick(connected=True)
        assert bridge.dropped > 50
        if outage == "hung":
            broker.process.send_signal(signal.SIGCONT)
        else:
            broker.start()
    with Home(broker.port) as home:
        until(lambda: home.lobby() == {"online": True, "faces": 1, "expression": "happiness"})
        for name in others:
            until(lambda: b'"online":true' in home.state.get(f"streamer/{name}/state", b""))  # noqa: B023
        until(lambda: home.state.get("streamer/status") == b"online")
        until(lambda: not bridge._owed)
        with Home(broker.port) as late:
            wait_until(lambda: len(late.retained) == 1 + 4 * (1 + len(others)))
            check_discovery({t: p for t, p in late.retained.items() if "/streamer_c" not in t})
        assert bridge.close(5.0) == bridge.dropped
        wait_until(lambda: home.state["streamer/status"] == b"offline")


def test_it_survives_the_daemons_restart(
    tmp_path: Path, options: PublishOptions, broker: Mosquitto
) -> None:
    """Faces of the old run are gone, a camera that left the configuration leaves the home."""
    with bridging(tmp_path, options, broker.port) as process, Home(broker.port) as home:
        with publisher(options) as (source, _):
            source.emit(named("lobby"))
            until_heard(source, lambda: bool(home.events("camera.online")), CameraOnline)
            source.emit(event(FaceAppeared))
            home.becomes(online=True, faces=1, expression=None)
        wait_until(lambda: home.state["streamer/status"] == b"offline", 20)
        with publisher(options) as (source, _):
            source.emit(named("yard"))
            until_heard(source, lambda: "streamer/yard/state" in home.state)
            wait_until(lambda: home.state["streamer/status"] == b"online")
            wait_until(lambda: home.state["streamer/lobby/state"] == b"")
            removed = "homeassistant/sensor/streamer_lobby/faces/config"
            wait_until(lambda: home.state[removed] == b"")
            assert process.stop() == 0, process.log.read_text()


def test_a_camera_that_a_reload_removed_leaves_the_home(
    tmp_path: Path, options: PublishOptions, broker: Mosquitto
) -> None:
    """Its retained messages are deleted, its last words do not bring it back, the other stays."""
    stops = CameraOffline(camera="lobby", reason=SourceReason.STOPPED.value)
    with (
        publisher(options) as (source, _),
        bridging(tmp_path, options, broker.port),
        Home(broker.port) as home,
    ):
        source.emit(named("lobby"))
        until_heard(source, lambda: bool(home.events("camera.online")), CameraOnline)
        source.emit(event(FaceAppeared), event(CameraOnline, "yard"))
        home.becomes(online=True, faces=1, expression=None)
        source.configure(["yard"])
        source.emit(Event(data=stops), event(FaceLost))
        wait_until(lambda: home.state["streamer/lobby/state"] == b"", 20)
        source.emit(event(FaceLost), Event(data=stops), event(CameraOnline, "gate"))
        wait_until(lambda: "streamer/gate/state" in home.state)
        with Home(broker.port) as late:
            wait_until(lambda: "streamer/gate/state" in late.retained)
            assert not [topic for topic in late.retained if "lobby" in topic]
            assert json.loads(late.retained["streamer/yard/state"])["online"] is True


def test_without_a_broker_it_waits_and_stops_in_time(
    tmp_path: Path, options: PublishOptions
) -> None:
    """A broker that is not there is tried again; what it never got is said and is exit code 1."""
    with publisher(options) as (source, _), bridging(tmp_path, options, free_port()) as process:
        logged(process, "daemon_found")
        unreachable = logged(process, "broker_unreachable")
        assert re.fullmatch(r"mqtt://127\.0\.0\.1:\d+", unreachable["broker"])
        assert "refused" in unreachable["error"]
        sent = iter(range(20))  # the first of them may be sent before the subscription is there
        until_heard(source, lambda: next(sent, None) is None, EmotionChanged)
        assert source.drain(10)
        assert process.stop() == 1
    assert 0 < logged(process, "events_not_delivered")["count"] <= 20


def test_a_password_is_needed_and_a_wrong_one_is_exit_78(
    tmp_path: Path, options: PublishOptions
) -> None:
    """The right password lets it in, a wrong one ends it with one line without the password."""
    passwords = tmp_path / "passwords"
    passwd = ["mosquitto_passwd", "-b", "-c", str(passwords), "bridge", "right-one"]
    subprocess.run(passwd, check=True, capture_output=True)
    secured = Mosquitto(tmp_path, rules=f"allow_anonymous false\npassword_file {passwords}")
    secured.start()
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    arguments = ("bridge", "mqtt", "--connect", options.bind, "--password-file", str(secret))
    address = f"mqtt://bridge@127.0.0.1:{secured.port}"
    try:
        secret.write_text("wrong-one\n")
        with relaying(tmp_path, *arguments, "--broker", address) as process:
            assert process.process.wait(20) == 78
        assert "check the user and the password" in process.log.read_text().splitlines()[-1]
        assert "wrong-one" not in process.log.read_text()
        secret.write_text("right-one\n")
        with relaying(tmp_path, *arguments, "--broker", address) as process:
            logged(process, "broker_connected")
            assert process.stop() == 0
    finally:
        secured.stop()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"url": "localhost"}, "expected mqtt://"),
        ({"url": "http://localhost"}, "expected mqtt://"),
        ({"url": "mqtt://host:99999"}, "expected mqtt://"),
        ({"url": "mqtt://broker..local"}, "expected mqtt://"),
        ({"url": f"mqtt://{'long' * 16}.local"}, "expected mqtt://"),
        ({"url": "mqtt://user:planted@host"}, "--password-file"),
        ({"url": "mqtt://host", "password": "planted"}, "needs a user"),
        ({"url": "mqtt://host", "prefix": "a/#"}, "prefix"),
        ({"url": "mqtt://us\udcffer@host"}, "is not UTF-8"),
    ],
)
def test_options_that_make_no_sense_are_refused(values: dict[str, str], told: str) -> None:
    """Each mistake has its message, and no message has a password in it."""
    with pytest.raises(ConfigError, match=told) as caught:
        BrokerOptions(**values)  # type: ignore[arg-type]
    assert "planted" not in str(caught.value)


def test_a_connection_that_nobody_tries_any_more_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What paho has not foreseen ends its thread: the bridge does not go on without it."""

    class Unchecked(BrokerOptions):
        def __post_init__(self) -> None:
            pass

    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: died.set())
    target = Broker(Unchecked(url="mqtt://broker..local"), will=("status", "offline"), clock=time)
    assert died.wait(20)
    with pytest.raises(StreamerError, match="start the bridge again"):
        wait_until(target.fresh)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--broker", "mqtts://127.0.0.1", "--ca", "absent.pem"), "absent.pem: no certificates"),
        (("--discovery", "homeassistant/#"), "discovery: 'homeassistant/#', expected letters"),
    ],
)
def test_a_mistake_is_one_line_and_exit_78(
    tmp_path: Path, options: PublishOptions, arguments: tuple[str, ...], told: str
) -> None:
    """An authority that cannot be read, a prefix with a wildcard: it ends at once."""
    with relaying(tmp_path, "bridge", "mqtt", "--connect", options.bind, *arguments) as process:
        assert process.process.wait(20) == 78
    (line,) = process.log.read_text().splitlines()
    assert told in line
