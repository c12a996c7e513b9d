"""Keys on both sockets: who is known comes in, who is not is refused, counted and told."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from streamer.client import Subscriber
from streamer.errors import ConfigError, StreamerError
from streamer.events import EmotionSample
from streamer.keys import KeyPair, generate, load_pair, load_public
from streamer.publish import PublishOptions
from streamer.watch import _silence
from tests.publish_fixtures import event, joined, publisher, wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def options(tmp_path: Path) -> PublishOptions:
    """Return options with a server key and one authorised client, alice, on every interface."""
    generate(tmp_path / "server", "daemon")
    generate(tmp_path / "clients", "alice")
    return PublishOptions(
        bind="tcp://0.0.0.0:0",  # with keys, no permission is needed to leave loopback
        snapshot="tcp://127.0.0.1:0",
        server_secret_key=tmp_path / "server" / "daemon.key_secret",
        authorized_keys=tmp_path / "clients",
    )


@pytest.fixture
def server_key(options: PublishOptions) -> bytes:
    """Return what a client has to know of the server."""
    assert options.server_secret_key is not None
    return load_public(options.server_secret_key)


@pytest.fixture
def alice(tmp_path: Path, options: PublishOptions) -> KeyPair:
    """Return the keys of the authorised client."""
    assert options.authorized_keys is not None
    return load_pair(tmp_path / "clients" / "alice.key_secret")


def local(address: str) -> str:
    """Return how this host reaches an address that is bound on every interface."""
    return address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 it is replaced


def test_a_known_client_gets_stream_and_snapshot(
    options: PublishOptions, server_key: bytes, alice: KeyPair
) -> None:
    """With the right keys on both sides everything works as without."""
    with (
        publisher(options) as (source, recorder),
        Subscriber(
            connect=local(source.bind), snapshot=source.snapshot, server_key=server_key, keys=alice
        ) as subscriber,
    ):
        joined(source, subscriber)
        source.emit(event(EmotionSample))
        received = subscriber.receive(10)
        assert received is not None
        assert isinstance(received.data, EmotionSample)
        assert subscriber.snapshot(10).epoch == source.epoch
        assert recorder.failures == 0


def test_an_unknown_client_is_refused_counted_and_told(
    options: PublishOptions, server_key: bytes, tmp_path: Path
) -> None:
    """Knowing the server's public key is not enough: mallory hears nothing, on either socket."""
    mallory = load_pair(generate(tmp_path / "mallory", "mallory")[1])
    with (
        publisher(options) as (source, recorder),
        Subscriber(
            connect=local(source.bind),
            snapshot=source.snapshot,
            server_key=server_key,
            keys=mallory,
        ) as subscriber,
    ):
        with pytest.raises(StreamerError, match=r"publish\.authorized_keys"):
            subscriber.wait_connected(10)
        assert subscriber.refused
        assert "refuses the connection" in _silence(subscriber)
        wait_until(lambda: recorder.failures >= 1)
        before = recorder.failures
        with pytest.raises(StreamerError, match="are the keys right"):
            subscriber.snapshot(0.5)
        assert recorder.failures > before
        source.emit(event(EmotionSample))
        assert subscriber.receive(0.5) is None


def test_a_client_without_keys_is_refused_and_counted(options: PublishOptions) -> None:
    """A subscriber in the clear gets nothing and shows up as a failed handshake."""
    with (
        publisher(options) as (source, recorder),
        Subscriber(connect=local(source.bind), snapshot=source.snapshot) as subscriber,
    ):
        wait_until(lambda: recorder.failures >= 1)
        source.emit(event(EmotionSample))
        assert subscriber.receive(0.5) is None


def test_the_first_version_of_the_protocol_is_no_way_around_the_keys(
    options: PublishOptions,
) -> None:
    """A peer that greets as in ZMTP 1.0, which knew no keys, is let go without an event."""
    with publisher(options) as (source, _):
        address = ("127.0.0.1", int(source.bind.rpartition(":")[2]))
        with socket.create_connection(address, timeout=5) as peer:
            peer.sendall(b"\x01\x00" + b"\x02\x00\x01")  # no name; subscribe to everything
            heard = b""
            while part := peer.recv(4096):
                heard += part
                source.emit(event(EmotionSample))
    assert len(heard) <= 64  # the server's own greeting, or its first part
    assert b"emotion" not in heard


def test_a_client_with_another_servers_key_is_refused(
    options: PublishOptions, alice: KeyPair, tmp_path: Path
) -> None:
    """Who expects another server does not talk to this one, although its own key is known."""
    other = load_public(generate(tmp_path / "other", "other")[0])
    with (
        publisher(options) as (source, recorder),
        Subscriber(connect=local(source.bind), server_key=other, keys=alice) as subscriber,
    ):
        wait_until(lambda: recorder.failures >= 1)
        source.emit(event(EmotionSample))
        assert subscriber.receive(0.5) is None


def test_refusals_in_another_process(options: PublishOptions, tmp_path: Path) -> None:
    """Pyzmq alone, in a process of its own, with a key nobody knows, hears nothing."""
    assert options.server_secret_key is not None
    code = (
        "import sys, zmq\n"
        "public, secret = zmq.curve_keypair()\n"
        "with zmq.Context() as context, context.socket(zmq.SUB) as sub:\n"
        "    sub.curve_serverkey = sys.argv[2].encode()\n"
        "    sub.curve_publickey, sub.curve_secretkey = public, secret\n"
        "    sub.subscribe(b'')\n"
        "    sub.connect(sys.argv[1])\n"
        "    print(sub.poll(1500))\n"
    )
    key = load_public(options.server_secret_key).decode()
    with publisher(options) as (source, recorder):
        with subprocess.Popen(
            [sys.executable, "-c", code, local(source.bind), key],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        ) as stranger:
            while stranger.poll() is None:
                source.emit(event(EmotionSample))
                time.sleep(0.01)
            assert stranger.stdout is not None
            heard = stranger.stdout.read().strip()
        assert heard == "0"
        assert stranger.returncode == 0
        assert recorder.failures >= 1


def test_half_a_configuration_of_keys_is_refused(options: PublishOptions) -> None:
    """Either key setting alone is a mistake, on the client's side as well."""
    half = PublishOptions(
        bind="tcp://127.0.0.1:0",
        snapshot="tcp://127.0.0.1:0",
        server_secret_key=options.server_secret_key,
    )
    with pytest.raises(ConfigError, match="go together"), publisher(half):
        pass
    with pytest.raises(ConfigError, match="go together"):
        Subscriber(server_key=b"x" * 40)
