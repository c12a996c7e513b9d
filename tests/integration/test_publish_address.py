"""Where the publisher listens, and who comes there: wrong addresses, strangers, peers."""

from __future__ import annotations

import json
import random
import socket
import time
from typing import TYPE_CHECKING

import pytest

from streamer.client import Subscriber
from streamer.errors import ConfigError, StreamerError
from streamer.events import EmotionSample
from streamer.publish import Publisher, PublishOptions
from tests.publish_fixtures import LOOPBACK, Recorder, ask, event, joined, publisher, wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("which", ["bind", "snapshot"])
def test_an_address_in_use_is_named(which: str) -> None:
    """A taken port is an error that a restart may cure, in one line, and leaves nothing bound."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        options = PublishOptions(
            bind=address if which == "bind" else LOOPBACK,
            snapshot=address if which == "snapshot" else LOOPBACK,
        )
        source = Publisher(options, observer=Recorder(), clock=time)
        with pytest.raises(StreamerError, match=f"publish.{which}: {address} is in use") as caught:
            source.start()

    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert source.stop(1)


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ("tcp://127.0.0.1:99999", "last one is 65535"),
        ("127.0.0.1:5556", "is no address"),
        ("tcp://127.0.0.1", "is no address"),
        ("udp://127.0.0.1:5556", "is no address"),
        ("inproc://events", "is no address"),
        ("", "is no address"),
        ("tcp://0.0.0.0:0", "open to the network"),
        ("tcp://*:0", "open to the network"),
        ("tcp://[::]:0", "open to the network"),
        ("tcp://eth0:0", "open to the network"),
        ("ipc:///no/such/folder/socket", "cannot bind"),
    ],
)
def test_a_wrong_address_is_refused_with_advice(bind: str, message: str) -> None:
    """What cannot or must not be bound is a mistake of the configuration."""
    options = PublishOptions(bind=bind, snapshot=LOOPBACK)
    source = Publisher(options, observer=Recorder(), clock=time)

    with pytest.raises(ConfigError, match=message) as caught:
        source.start()

    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    assert source.stop(1)


def test_beyond_loopback_it_binds_when_told_to(tmp_path: Path) -> None:
    """allow_remote binds every interface; an ipc path needs no permission."""
    options = PublishOptions(
        bind="tcp://0.0.0.0:0", snapshot=f"ipc://{tmp_path}/snapshot", allow_remote=True
    )
    with publisher(options) as (source, _):
        assert json.loads(ask(f"ipc://{tmp_path}/snapshot", b"snapshot"))["epoch"] == source.epoch


@pytest.mark.parametrize("port", ["bind", "snapshot"])
def test_strangers_on_the_port_are_counted_and_let_go(port: str) -> None:
    """HTTP, nonsense and a peer that hangs up are failed handshakes; the stream goes on."""
    with (
        publisher() as (source, recorder),
        Subscriber(connect=source.bind) as subscriber,
    ):
        joined(source, subscriber)
        number = int((source.bind if port == "bind" else source.snapshot).rpartition(":")[2])

        def say(noise: bytes) -> None:
            with socket.create_connection(("127.0.0.1", number)) as stranger:
                stranger.sendall(noise)

        for noise in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 64, b""):
            say(noise)
        wait_until(lambda: recorder.failures == 3)
        rng = random.Random(7)
        for _ in range(50):  # some of it happens to open like ZMTP 1.0, which fails later, unnamed
            say(rng.randbytes(500))
        wait_until(lambda: recorder.peers == 1)

        source.emit(event(EmotionSample))
        assert subscriber.receive(10) is not None


def test_peers_are_counted_while_they_stay() -> None:
    """The number of connections follows subscribers that come and go."""
    with publisher() as (source, recorder):
        with Subscriber(connect=source.bind) as first:
            joined(source, first)
            wait_until(lambda: recorder.peers == 1)
            with Subscriber(connect=source.bind) as second:
                assert second.wait_connected(10)
                wait_until(lambda: recorder.peers == 2)
            wait_until(lambda: recorder.peers == 1)
        wait_until(lambda: recorder.peers == 0)
        assert recorder.failures == 0
