"""What runs on a node: keeps its daemon as the fleet wants it, and only while the fleet answers.

The lease: the fleet grants each beat some seconds, which are counted here from when the beat was
sent and there from when it was answered, so that they end here first, whatever the clocks say. When
they end, the daemon is stopped before, and killed when they are over: no camera is then read here,
and the fleet may have it read elsewhere. The daemon also ends with this process and with this
thread, see ``streamer.fleet.leash``.
"""

from __future__ import annotations

import math
import random
import socket
import threading
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
import zmq

from streamer import __version__
from streamer.backoff import Backoff
from streamer.errors import ConfigError, StreamerError
from streamer.fleet.burrow import burrow
from streamer.fleet.daemon import Daemon
from streamer.fleet.link import About, Beat, NodeLink, unpacked
from streamer.keys import load_pair
from streamer.settings import capture_options

if TYPE_CHECKING:
    from streamer.config import Config
    from streamer.fleet.link import Orders, Share

__all__ = ["Agent", "Place", "lease_clock_s"]

log = structlog.get_logger(__name__)
_BEAT_S: Final = 1.0
_LOOK_S: Final = 0.1  # how soon an end of the daemon or of the lease is noticed
_FENCE_S: Final = 1.5
"""Before the end of a lease the daemon is asked to stop: it takes about a second."""
_REMEMBERED: Final = 32
"""Beats that an answer may still come for; a lease is shorter than as many seconds."""
_AGAIN_S: Final = 30.0  # a camera that could not be opened is looked at again so often


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an agent runs and whom it reports to; what the cluster tells it.

    Attributes:
        fleet: name of the fleet.
        link: where the fleet listens.
        server_key: the fleet's public key; empty without keys.
        secret_key: file of this machine's key.
        authorized_keys: folder of the public keys of the fleet's machines.
        node: the cluster's own name of this node.
        name: the name for people.
        host: of the machine.
        address: IP address on which the other machines reach it.
        labels: of the node.
        gpu: whether the cluster gives it a GPU.
        port: first of its daemon's three ports; 0: whichever are free.
        http_open: whether its web server may be reached from the other machines: it has a token.
        measured: where this machine may have a report of ``streamer bench --json``.
    """

    fleet: str
    link: str
    server_key: str = ""
    secret_key: str = ""
    authorized_keys: str = ""
    node: str = ""
    name: str = ""
    host: str = ""
    address: str = "127.0.0.1"
    labels: dict[str, str] = {}
    gpu: bool = False
    port: int = 0
    http_open: bool = False
    measured: str = ""


def lease_clock_s() -> float:
    """Return seconds on the clock of leases, which goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Agent:
    """The agent of one node.

    Args:
        place: where it is.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)
        self._stopping = threading.Event()
        self._failed = ""

    def start(self) -> None:
        """Start the thread that does everything."""
        self._thread.start()

    def failed(self) -> str:
        """Say why it has ended; empty while it runs."""
        return "" if self._thread.is_alive() else self._failed or "the agent's thread has ended"

    def stop(self, timeout_s: float = 8.0) -> bool:
        """Stop the daemon and the thread; False if time ran out first."""
        self._stopping.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with burrow(self._place.fleet, self._place.node, self._stopping) as (folder, lock):
                _Loop(self._place, folder, lock).run(self._stopping)
        except StreamerError as error:
            self._failed = str(error)
            log.error("agent_failed", error=str(error))  # noqa: TRY400 - one line says it all


class _Loop:
    """All that the thread owns."""

    def __init__(self, place: Place, folder: Path, lock: int) -> None:
        keys = load_pair(Path(place.secret_key)) if place.secret_key else None
        self._place = place
        self._about = _about(place, "" if keys is None else keys.public.decode())
        self._daemon = Daemon(folder, lock=lock)
        self._context = zmq.Context()
        self._link = NodeLink(
            self._context,
            place.link,
            run=self._about.run,
            server_key=place.server_key.encode() or None,
            keys=keys,
        )
        self._number = 0
        self._answered = 0
        self._told = (0, 0)
        self._sent: dict[int, float] = {}
        self._beaten_s = 0.0
        self._said: tuple[object, ...] = ()
        self._lease_end_s = 0.0
        self._share: Share | None = None
        self._applied = 0
        self._refused: dict[str, str] = {}
        self._refused_s = 0.0
        self._failures = 0
        self._error = ""
        self._backoff = Backoff(random.random)
        self._started_s = 0.0
        self._again_s = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Go round until asked to stop."""
        log.info("agent_started", node=self._place.name, fleet=self._place.link)
        try:
            while not stopping.is_set():
                self._wait()
                while (orders := self._link.receive()) is not None:
                    self._obey(orders)
                self._keep_lease()
                self._tend()
                self._beat()
            self._share = None
            self._daemon.stop()
            while self._daemon.state != "none":
                self._wait()
                self._daemon.step()
            self._beat()
        finally:
            self._daemon.close()
            self._link.close()
            self._context.term()

    def _wait(self) -> None:
        poller = zmq.Poller()
        poller.register(self._link.socket, zmq.POLLIN)
        poller.register(self._daemon.notices, zmq.POLLIN)
        if self._daemon.output is not None:
            poller.register(self._daemon.output, zmq.POLLIN)
        poller.poll(round(_LOOK_S * 1e3))

    def _obey(self, orders: Orders) -> None:
        told = (orders.heard, orders.version)
        if told < self._told:
            return  # of an earlier connection; what was told since has undone it
        self._told = told
        sent_s = self._sent.pop(orders.number, None)
        if sent_s is not None:
            self._answered = orders.number
            self._lease_end_s = sent_s + orders.lease_s
        if orders.share is None or not self._leased:
            return
        try:
            share = unpacked(orders.share)
        except ValueError as error:
            self._error = f"orders of another version of streamer: {error}"
            return
        if self._share is None or share.version != self._share.version:
            self._share = share
            self._again_s = 0.0

    @property
    def _leased(self) -> bool:
        return lease_clock_s() < self._lease_end_s - _FENCE_S

    def _keep_lease(self) -> None:
        """Stop the daemon in time when the fleet does not answer any more."""
        if self._leased:
            return
        if self._share is not None:
            log.warning("lease_lost", node=self._place.name)
        self._share = None  # what it was is not what it will be
        self._applied = 0
        if lease_clock_s() >= self._lease_end_s - _LOOK_S:
            self._daemon.kill()
        else:
            self._daemon.stop()

    def _tend(self) -> None:
        """Bring the daemon nearer to what it is to be."""
        ended = self._daemon.step()
        if ended:
            self._failures += 1
            self._error = ended
            wait_s = self._backoff.next_s(time.monotonic() - self._started_s)
            self._again_s = time.monotonic() + wait_s
            log.error("daemon_ended", why=ended, again_in_s=round(wait_s, 1))
        if self._daemon.state == "running" and time.monotonic() - self._started_s > _AGAIN_S:
            self._failures, self._error = 0, ""
        share = self._share
        if share is None or not self._daemon.settled or time.monotonic() < self._again_s:
            return
        if self._applied == share.version and not self._overdue(share):
            return
        wanted = self._wanted(share)
        if wanted == self._daemon.config:
            self._applied = share.version
        elif wanted is None:
            self._daemon.stop()
        elif self._daemon.config is None:
            self._started_s = time.monotonic()
            self._daemon.start(wanted)
        elif _alike(wanted, self._daemon.config):
            self._daemon.reload(wanted)
        else:
            self._daemon.stop()

    def _overdue(self, share: Share) -> bool:
        """Whether the daemon is gone, or a camera that was refused should be tried again."""
        if self._refused and time.monotonic() - self._refused_s > _AGAIN_S:
            return True
        good = any(camera.name not in self._refused for camera in share.cameras)
        return good and self._daemon.config is None

    def _wanted(self, share: Share) -> Config | None:
        """Return what the daemon is to run: the share, but for cameras that it would refuse."""
        self._refused, self._refused_s = {}, time.monotonic()
        good = []
        for camera in share.cameras:
            try:
                capture_options(camera)
            except ConfigError as error:
                self._refused[camera.name] = str(error)
            else:
                good.append(camera)
        if share.config is None or not good:
            return None
        config = share.config
        about, place = self._about, self._place
        return msgspec.structs.replace(
            config,
            cameras=tuple(good),
            publish=msgspec.structs.replace(
                config.publish,
                bind=about.events,
                snapshot=about.snapshot,
                server_secret_key=place.secret_key,
                authorized_keys=place.authorized_keys,
                allow_remote=False,
            ),
            http=msgspec.structs.replace(
                config.http, bind=about.http, allow_remote=place.http_open
            ),
            log=msgspec.structs.replace(config.log, format="json"),
        )

    def _beat(self) -> None:
        """Report once a second, and at once when there is something to say."""
        daemon = self._daemon
        said = (daemon.state, self._applied, sorted(daemon.holding), self._refused, self._failures)
        now_s = lease_clock_s()
        if said == self._said and now_s - self._beaten_s < _BEAT_S:
            return
        self._number += 1
        sent = self._link.send(
            Beat(
                about=self._about,
                number=self._number,
                answered=self._answered,
                daemon=daemon.state,
                version=self._applied,
                holding=sorted(daemon.holding),
                refused=self._refused,
                failures=self._failures,
                error=self._error,
            )
        )
        self._beaten_s = now_s
        if sent:
            self._said = said
            self._sent[self._number] = now_s
            self._sent.pop(self._number - _REMEMBERED, None)


def _alike(one: Config, other: Config) -> bool:
    """Whether two configurations differ in their cameras alone, which a reload can change."""
    return msgspec.structs.replace(one, cameras=other.cameras) == other


def _about(place: Place, key: str) -> About:
    host = f"[{place.address}]" if ":" in place.address else place.address
    ports = [place.port + n for n in range(3)] if place.port else _free_ports(place.address)
    return About(
        node=place.node,
        run=uuid.uuid4().hex,
        name=place.name,
        host=place.host,
        version=__version__,
        labels=place.labels,
        gpu=place.gpu,
        capacity=_capacity(place),
        events=f"tcp://{host}:{ports[0]}",
        snapshot=f"tcp://{host}:{ports[1]}",
        http=f"{host if place.http_open else '127.0.0.1'}:{ports[2]}",
        key=key,
    )


def _free_ports(host: str) -> list[int]:
    """Return three ports that nothing listens on now; all are held until the last is found."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket(family, socket.SOCK_STREAM)) for _ in range(3)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]


def _counted(given: str | float) -> float:
    """Return a number of cameras; raise ValueError if it is none."""
    number = float(given)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{number} is no number of cameras")
    return number


def _capacity(place: Place) -> float | None:
    """Return what the node's label says it carries, else what was measured on this machine."""
    label = place.labels.get("capacity")
    if label is not None:
        try:
            return _counted(label)
        except ValueError:
            log.warning("label_not_understood", label="capacity", expected="a number of cameras")
    if not place.measured:
        return None
    try:
        report = msgspec.json.decode(Path(place.measured).read_bytes(), type=dict[str, Any])
        return _counted(report["capacity"]["cameras"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("no_report", file=place.measured, error=str(error))
        return None
