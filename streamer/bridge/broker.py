"""An MQTT broker: connects and reconnects in the background, and knows what it has acknowledged."""

from __future__ import annotations

import re
import ssl
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from streamer.errors import ConfigError, StreamerError
from streamer.logs import Repeated

if TYPE_CHECKING:
    from pathlib import Path

    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from streamer.stages import Clock

__all__ = ["Broker", "BrokerOptions", "check_prefix"]

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}  # registered with IANA
_NOT_LET_IN: Final = frozenset({134, 135})  # bad user name or password; not authorized
_QOS: Final = 1  # acknowledged: what was received here is delivered, perhaps twice
_MOST_QUEUED: Final = 20_000  # events kept for a broker that is away; some 15 MB
_ROOM: Final = 1_000  # for states beyond that: a queue full of events must not hide what is now
_MOST_IN_FLIGHT: Final = 200  # sent and not acknowledged; paho's 20 are one round trip's worth
_KEEPALIVE_S: Final = 15
_CONNECT_S: Final = 5.0
_RECONNECT_MAX_S: Final = 10
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """Which broker, and how it knows us.

    Attributes:
        url: ``mqtt://[user@]host[:port]``, or ``mqtts://`` for TLS.
        password: of the user; empty: none.
        ca: PEM file of who may vouch for the broker; None: the system's.
        prefix: of the topics.

    Raises:
        ConfigError: if the address or the prefix is none.
    """

    url: str
    password: str = field(default="", repr=False)
    ca: Path | None = None
    prefix: str = "streamer"

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, port, secret = parts.hostname, parts.port, parts.password
            (host or "").encode("idna")  # as a resolver will: labels that are empty or too long
        except ValueError:
            host = port = secret = None
        if not host or parts.scheme not in _PORTS or parts.path.strip("/") or port == 0:
            raise ConfigError(
                "broker: expected mqtt://HOST or mqtts://HOST, where needed with USER@ before the "
                "host and :PORT after it"
            )
        if secret is not None:
            raise ConfigError(
                "broker: every user of this host can read a password in a command line; put it "
                "into a file and name that with --password-file"
            )
        if self.password and not parts.username:
            raise ConfigError("broker: a password needs a user; write mqtt://USER@HOST")
        if not _encodes(parts.username or ""):
            raise ConfigError(
                f"broker: the user {parts.username!r} is not UTF-8; write it in UTF-8"
            )
        check_prefix(self.prefix, option="prefix")

    @property
    def place(self) -> str:
        """The address without the user."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS[parts.scheme]}"


def check_prefix(prefix: str, *, option: str) -> None:
    """Refuse what topics cannot begin with, or what would be a wildcard in them.

    Raises:
        ConfigError: if that is so.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(f"{option}: {prefix!r}, expected letters, digits, _ - and / between them")


def _encodes(text: str) -> bool:
    """Tell whether it is text: bytes of a command line that are no UTF-8 come as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Broker:
    """A connection that comes back by itself; its methods are for one thread.

    Args:
        options: which broker.
        will: topic and payload that the broker publishes, retained, when this process dies.
        clock: times the log.

    Raises:
        ConfigError: if the TLS certificates cannot be read.
    """

    def __init__(self, options: BrokerOptions, *, will: tuple[str, str], clock: Clock) -> None:
        self._place = options.place
        self._repeated = Repeated(clock)
        self._refusal: ReasonCode | None = None
        self._fresh = threading.Event()
        self._gone = threading.Event()
        self._ever_connected = False
        self._acknowledged: deque[int] = deque()  # filled by paho's thread, emptied by ours
        self._unacknowledged: dict[int, bool] = {}  # by message id: whether it is an event
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2)
        parts = urlsplit(options.url)
        if parts.username:
            client.username_pw_set(parts.username, options.password or None)
        if parts.scheme == "mqtts":
            try:
                client.tls_set(ca_certs=str(options.ca) if options.ca else None)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"{options.ca}: no certificates: {error}") from None
        client.will_set(*will, qos=_QOS, retain=True)
        client.max_queued_messages_set(0)  # no limit but ours
        client.max_inflight_messages_set(_MOST_IN_FLIGHT)
        client.reconnect_delay_set(1, _RECONNECT_MAX_S)
        client.connect_timeout = _CONNECT_S
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        port = parts.port or _PORTS[parts.scheme]
        client.connect_async(parts.hostname or "", port, keepalive=_KEEPALIVE_S)
        client.loop_start()
        self._thread = client._thread  # noqa: SLF001 - paho tells nobody when it has ended

    def fresh(self) -> bool:
        """Tell once after each connect that the broker may have forgotten what it was told.

        Raises:
            ConfigError: if it has never let this user in, and does not now.
            StreamerError: if nobody tries to connect any more, after an error that paho has not
                foreseen.
        """
        refusal, self._refusal = self._refusal, None
        if refusal is not None and not self._ever_connected:
            raise ConfigError(
                f"{self._place} refuses the connection: {refusal}; check the user and the password"
            )
        if self._thread is None or not self._thread.is_alive():
            raise StreamerError(
                f"{self._place}: what connects to the broker has ended by an error of its own, "
                "which is in the log; start the bridge again"
            )
        if self._fresh.is_set():
            self._fresh.clear()
            self._ever_connected = True
            return True
        return False

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send an event, or keep it until the broker is there; it counts in what ``close`` returns.

        Returns:
            False if too many messages wait: it is not sent.
        """
        return self._send(topic, payload, event=True, most=_MOST_QUEUED)

    def retain(self, topic: str, payload: bytes) -> bool:
        """Send what the broker keeps for those who subscribe later.

        Returns:
            False if the broker is not there or too many messages wait: it is not sent. Nothing is
            queued for a broker that is away, since only the last state of all counts.
        """
        return self._client.is_connected() and self._send(
            topic, payload, event=False, most=_MOST_QUEUED + _ROOM
        )

    def close(self, deadline_s: float) -> int:
        """Wait for what is under way and disconnect; return how many events were not delivered.

        Where something is left, the broker gets no goodbye: it then publishes the will as soon as
        this process is gone. paho's thread is not waited for: it may be in the middle of a connect,
        and ends with the process.
        """
        end_s = time.monotonic() + deadline_s
        self._settle()
        while self._unacknowledged and time.monotonic() < end_s:
            time.sleep(0.005)
            self._settle()
        if not self._unacknowledged:
            self._client.disconnect()
            self._gone.wait(max(0.0, end_s - time.monotonic()))
        return sum(self._unacknowledged.values())

    def _send(self, topic: str, payload: bytes, *, event: bool, most: int) -> bool:
        self._settle()
        if len(self._unacknowledged) >= most:
            return False
        sent = self._client.publish(topic, payload, qos=_QOS, retain=not event)
        self._unacknowledged[sent.mid] = event
        return True

    def _settle(self) -> None:
        while self._acknowledged:
            self._unacknowledged.pop(self._acknowledged.popleft(), None)

    def _on_connect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            log.error("broker_refused", broker=self._place, reason=str(reason))
            if reason.value in _NOT_LET_IN:
                self._refusal = reason
            return
        log.info("broker_connected", broker=self._place)
        self._gone.clear()
        self._fresh.set()

    def _on_connect_fail(self, _client: paho.Client, _userdata: object) -> None:
        if self._repeated.offer("unreachable") is not None:
            error = sys.exception()  # paho calls this while it handles what went wrong
            log.warning(
                "broker_unreachable",
                broker=self._place,
                error=str(error),
                do="is the address right and the broker running? Tried again until it is there",
            )

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        log.info("broker_disconnected", broker=self._place, reason=str(reason))
        self._gone.set()

    def _on_publish(
        self,
        _client: paho.Client,
        _userdata: object,
        message_id: int,
        _reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        self._acknowledged.append(message_id)  # no lock: paho calls this while it holds its own
