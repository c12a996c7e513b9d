"""Runs the bridges and the recorder as processes: options in, exit code out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamer import keys, logs
from streamer.address import following
from streamer.archive.recorder import Recorder, parquet_format, sqlite_format
from streamer.archive.rotation import Rotation
from streamer.client import Subscriber
from streamer.clock import SystemClock
from streamer.config import read_secret
from streamer.errors import ConfigError
from streamer.relay import relay
from streamer.supervisor import block_signals

if TYPE_CHECKING:
    from streamer.keys import KeyPair
    from streamer.snapshot import Snapshot

__all__ = ["Feed", "mqtt", "record"]

_SNAPSHOT_S = 0.4  # a stop that comes in the middle of it stays within 2 s
_HOUR_S = 3600.0
_FORMATS = {"sqlite": sqlite_format, "parquet": parquet_format}


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The daemon whose events are handed on.

    Attributes:
        connect: address of its stream.
        snapshot: address of its snapshot; empty: the port after the stream's.
        server_key: its public CURVE file; empty: without keys.
        client_key: our own secret CURVE file.
    """

    connect: str
    snapshot: str = ""
    server_key: str = ""
    client_key: str = ""

    def subscribe(self, topics: tuple[str, ...]) -> Subscriber:
        """Return a subscriber, which connects in the background.

        Raises:
            ConfigError: if an address or a key makes no sense.
        """
        if bool(self.server_key) != bool(self.client_key):
            raise ConfigError("--server-key and --client-key are needed together")
        pair: KeyPair | None = keys.load_pair(Path(self.client_key)) if self.client_key else None
        return Subscriber(
            connect=self.connect,
            topics=topics,
            snapshot=self.snapshot or following(self.connect),
            server_key=keys.load_public(Path(self.server_key)) if self.server_key else None,
            keys=pair,
        )

    def fetch_snapshot(self) -> Snapshot:
        """Ask for the snapshot on a connection of its own.

        On the stream's own the client would pass over events that the snapshot contains and that
        have not been handed on yet.

        Raises:
            StreamerError: if there is no answer.
        """
        with self.subscribe(()) as asking:
            return asking.snapshot(_SNAPSHOT_S)


def record(
    feed: Feed,
    *,
    topics: tuple[str, ...],
    out: Path,
    form: str,
    rotate_mb: float,
    rotate_hours: float,
    keep: int,
) -> int:
    """Record events to files until SIGTERM; see ``streamer record``.

    Raises:
        StreamerError: if an option makes no sense or the files cannot be written.
    """
    clock = _start()
    make = _FORMATS.get(form)
    if make is None:
        raise ConfigError(f"--format: {form!r}, expected one of {', '.join(_FORMATS)}")
    limits = Rotation(size_bytes=rotate_mb * 1e6, age_s=rotate_hours * _HOUR_S, keep=keep)
    with feed.subscribe(topics) as subscriber:
        recorder = Recorder(folder=out, form=make(), limits=limits, clock=clock)
        return relay(subscriber, recorder, clock=clock)


def mqtt(
    feed: Feed,
    *,
    broker: str,
    password_file: str,
    ca: Path | None,
    prefix: str,
    discovery_prefix: str,
    samples: bool,
) -> int:
    """Bridge events to MQTT until SIGTERM; see ``streamer bridge mqtt``.

    Raises:
        StreamerError: if an option makes no sense or the broker refuses the user.
    """
    clock = _start()
    try:
        from streamer.bridge.broker import (  # noqa: PLC0415 an optional library
            Broker,
            BrokerOptions,
            check_prefix,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"mqtt: {error.name} is not installed; run: pip install 'emotion-streamer[mqtt]'"
        ) from None
    from streamer.bridge.mqtt import SAMPLES, TOPICS, MqttBridge, status_topic  # noqa: PLC0415

    password = read_secret(password_file, "--password-file") if password_file else ""
    if discovery_prefix:
        check_prefix(discovery_prefix, option="discovery")
    options = BrokerOptions(url=broker, password=password, ca=ca, prefix=prefix)
    with feed.subscribe((*TOPICS, SAMPLES) if samples else TOPICS) as subscriber:
        bridge = MqttBridge(
            broker=Broker(options, will=(status_topic(prefix), "offline"), clock=clock),
            prefix=prefix,
            discovery_prefix=discovery_prefix,
            fetch=feed.fetch_snapshot,
            clock=clock,
        )
        return relay(subscriber, bridge, clock=clock)


def _start() -> SystemClock:
    """Block the signals, before any thread starts, and set up the log."""
    block_signals()
    clock = SystemClock()
    logs.configure("info", clock=clock)
    return clock
