"""The fleet process: builds its parts, and runs the loop that hears the nodes.

The loop's thread owns the link and the controller. Others hand it work and wait for the result.
"""

from __future__ import annotations

import contextlib
import platform
import queue
import socket
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import TYPE_CHECKING, Final

import structlog
import zmq
from prometheus_client import CollectorRegistry
from starlette.responses import Response
from starlette.routing import Route

from streamer import __version__, logs, systemd
from streamer.clock import SystemClock
from streamer.errors import StreamerError
from streamer.events import DaemonStarted, DaemonStopping, Event
from streamer.fleet import control, discovery
from streamer.fleet import settings as configuration
from streamer.fleet.agent import Place, lease_clock_s
from streamer.fleet.controller import Controller
from streamer.fleet.hand import Hand
from streamer.fleet.link import Post
from streamer.fleet.state import StateFile
from streamer.fleet.status import Status
from streamer.fleet.switchboard import Source, Switchboard
from streamer.fleet.telling import Telling
from streamer.metrics import Metrics
from streamer.settings import capture_options, publish_options, web_options
from streamer.supervisor import STUCK_S, block_signals, supervise
from streamer.threads import show_name
from streamer.web import About, LiveView, WebServer, WorkerHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from starlette.requests import Request

    from streamer.fleet.link import Beat, Orders
    from streamer.fleet.settings import FleetConfig
    from streamer.stages import Clock
    from streamer.web import CameraView
    from streamer.web.state import Series

__all__ = ["Service", "run"]

log = structlog.get_logger(__name__)
_ROUND_MS: Final = 200  # how soon the end of a lease is noticed
_PLAN_S: Final = 0.1
"""Between two decisions at least: 60 nodes beat 60 times a second, and each costs milliseconds."""
_SHOW_S: Final = 1.0  # between two looks at everything, for metrics and the service manager
_ASK_S: Final = 5.0  # for work that is handed to the loop
_ALL_HEARD_S: Final = 2.0  # every node beats within one


def run(path: Path, *, address: str = "") -> int:
    """Run the fleet with a configuration file; see ``streamer fleet run``.

    Raises:
        StreamerError: when it cannot start; nothing is left half-started.
    """
    config = configuration.load(path)
    clock = SystemClock()
    logs.configure(config.daemon.log.level, config.daemon.log.format, clock=clock)
    block_signals()
    service = Service(config, clock=clock, reread=lambda: configuration.load(path), address=address)
    return supervise(
        service,
        notifier=systemd.Notifier(clock),
        watchdog_s=systemd.watchdog_interval_s(),
        until=service.asked_to_stop,
    )


class Service:
    """The fleet: everything it consists of, and what others may ask about it.

    Args:
        config: what to run.
        clock: the time.
        reread: reads the configuration again, for a reload.
        address: of the cluster, where it is not the configured one.
    """

    def __init__(
        self, config: FleetConfig, *, clock: Clock, reread: Callable[[], FleetConfig], address: str
    ) -> None:
        fleet, daemon = config.fleet, config.daemon
        self._config = config
        self._clock = clock
        self._reread = reread
        self._address = address or fleet.address
        keys = configuration.link_keys(fleet)
        self._keys = keys
        self._metrics = Metrics(CollectorRegistry())
        self._telling = Telling(self._metrics)
        self._switchboard = Switchboard(
            publish_options(daemon),
            keys=None if keys is None else keys[0],
            observer=self._telling,
            clock=clock,
        )
        live = LiveView(clock=clock, metrics=self._metrics, pictures="omit")
        self._web = WebServer(
            options=web_options(daemon),
            state=self,
            live=live,
            metrics=self._metrics,
            clock=clock,
            more=[Route("/discovery", self._discovery)],
        )
        self._file = StateFile(fleet.place)
        self._control = control.Control(fleet.socket, self._handle)
        self._post: Post | None = None
        self._hand: Hand | None = None
        self._controller: Controller | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)  # noqa: FBT003 the library's
        self._ending = threading.Event()
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._progress_ns = clock.monotonic_ns()
        self._status: Status | None = None
        self._planned_s = self._shown_s = 0.0
        self._trouble = ""
        self._routes: tuple[dict[str, Source], dict[str, str], Sequence[str]] = ({}, {}, ())

    # Life

    def start(self) -> None:
        """Start everything; see ``streamer.supervisor.Daemon``."""
        self._controller = Controller(
            self._config, state=self._file.load(), save=self._file.save, now_s=lease_clock_s()
        )
        self._web.start()
        self._switchboard.start()
        self._post = Post(self._context, self._config.fleet.link, self._keys)
        self._hand = Hand(
            self._address,
            self._place(self._post.address),
            local=self._config.fleet.local,
            told=self._expect,
        )
        self._switchboard.emit(Event(data=self._started()))
        self._control.start()
        self._thread.start()
        self._hand.start()
        log.info(
            "fleet_started",
            events=self._switchboard.bind,
            snapshot=self._switchboard.snapshot,
            page=self._web.url,
            link=self._post.address,
            cameras=len(self._deciding.cameras),
        )

    def stop(self, reason: str, deadline_s: float) -> tuple[str, ...]:
        """Stop; see ``streamer.supervisor.Daemon``.

        After SIGTERM the nodes go on for a while, for the fleet that is going to be started anew;
        after Ctrl-C and ``streamer fleet stop`` everything ends.
        """
        end_s = time.monotonic() + deadline_s

        def left_s() -> float:
            return max(0.05, end_s - time.monotonic())

        log.info("fleet_stopping", reason=reason)
        whole = reason in {"SIGINT", "finished"}
        overrun = []
        if self._thread.ident is not None:
            self._last_orders(whole=whole, until_s=end_s - deadline_s / 3)
        self._switchboard.emit(Event(data=DaemonStopping(reason=reason)))
        self._ending.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(left_s())
            overrun += ["fleet"] * self._thread.is_alive()
        if self._hand is not None and not self._hand.stop(left_s(), end_agents=whole):
            overrun.append("hand")
        for name, stop in (("switchboard", self._switchboard.stop), ("web", self._web.stop)):
            if not stop(left_s()):
                overrun.append(name)
        if self._post is not None and not overrun:
            self._post.close()
            self._context.term()
        # Last: who typed `streamer fleet stop` takes the end of its socket for that of the fleet.
        if not self._control.stop(left_s()):
            overrun.append("control")
        return tuple(overrun)

    def reload(self) -> None:
        """Take cameras that were added, removed or changed; see ``streamer.supervisor.Daemon``."""
        config = self._reread()
        self._ask(lambda: self._deciding.reload(config))
        self._config = config

    def stuck(self) -> tuple[str, ...]:
        """Name the parts that make no progress."""
        return tuple(name for name, health in self.liveness().items() if health.stuck)

    def status(self) -> str:
        """Describe the state in one line."""
        status = self._status
        if status is None:
            return "no node yet"
        running = sum(camera.state == "running" for camera in status.cameras)
        return f"{running} of {len(status.cameras)} cameras on {len(status.nodes)} nodes"

    def pinged(self) -> None:
        """Count a sign of life sent to the service manager."""
        self._metrics.watchdog_pings.inc()

    def asked_to_stop(self) -> bool:
        """Whether ``streamer fleet stop`` was typed."""
        return self._stop_asked.is_set()

    # The loop

    @property
    def _deciding(self) -> Controller:
        if self._controller is None:
            raise RuntimeError("the fleet is not started")
        return self._controller

    def _run(self) -> None:
        show_name()
        post = self._post
        if post is None:
            raise RuntimeError("the loop runs before start()")
        poller = zmq.Poller()
        poller.register(post.socket, zmq.POLLIN)
        poller.register(self._wake_out, zmq.POLLIN)
        while not self._ending.is_set():
            poller.poll(_ROUND_MS)
            with contextlib.suppress(BlockingIOError):
                self._wake_out.recv(4096)
            self._round(post)
            self._progress_ns = self._clock.monotonic_ns()

    def _round(self, post: Post) -> None:
        controller = self._deciding
        heard: list[tuple[bytes, Beat]] = []
        while (got := post.receive()) is not None:
            controller.hear(*got, lease_clock_s())  # after it was sent, however long that took
            heard.append(got)
        asked = self._do_work()
        now_s = lease_clock_s()
        pushed: list[tuple[bytes, Orders]] = []
        if asked or now_s - self._planned_s >= _PLAN_S:
            self._planned_s = now_s
            pushed = self._plan(controller, now_s)
        for peer, beat in heard:
            post.send(peer, controller.answer(beat))
        for peer, orders in pushed:
            post.send(peer, orders)
        if asked or now_s - self._shown_s >= _SHOW_S:
            self._shown_s = now_s
            self._status = self._told(controller, now_s)
            self._telling.show(controller)
        for done in asked:
            done.set_result(None)

    def _do_work(self) -> list[Future[None]]:
        """Do what was handed over; return whom to tell when it is in the status."""
        done: list[Future[None]] = []
        while True:
            try:
                work, future = self._work.get_nowait()
            except queue.Empty:
                return done
            try:
                work()
            except StreamerError as error:
                future.set_exception(error)
            else:
                done.append(future)

    def _plan(self, controller: Controller, now_s: float) -> list[tuple[bytes, Orders]]:
        """Decide anew, and see to it that events find their way before orders go out."""
        pushed: list[tuple[bytes, Orders]] = []
        try:
            pushed = controller.plan(now_s)
        except StreamerError as error:
            if str(error) != self._trouble:
                log.error("fleet_cannot_decide", error=str(error))  # noqa: TRY400 - no bug
            self._trouble = str(error)
        else:
            self._trouble = ""
        lost = controller.take_lost()
        routes = (self._sources(controller), controller.owners, controller.cameras)
        if routes != self._routes:
            self._routes = routes
            self._switchboard.route(*routes)
        self._switchboard.lost(lost)
        return pushed

    def _sources(self, controller: Controller) -> dict[str, Source]:
        return {
            node: Source(
                run=about.run,
                events=about.events,
                snapshot=about.snapshot,
                key=about.key.encode() or None,
            )
            for node, about in controller.places.items()
        }

    def _last_orders(self, *, whole: bool, until_s: float) -> None:
        """Tell every node what is to be while the fleet is away, and wait until it knows."""
        controller = self._deciding
        if whole:
            self._later(controller.stop_all)
            while time.monotonic() < until_s and not (controller.stopping and controller.idle):
                time.sleep(0.05)
            kept = self._later(lambda: None)  # a round more: it is kept that nothing runs
            with contextlib.suppress(Late):
                kept.result(max(0.0, until_s - time.monotonic()))
            return
        granted = self._later(controller.hand_over)
        time.sleep(max(0.0, min(_ALL_HEARD_S, until_s - time.monotonic())))
        if granted.done() and (error := granted.exception()) is not None:
            log.error("fleet_cannot_hand_over", error=str(error))

    def _expect(self, nodes: int) -> None:
        self._later(lambda: self._deciding.expect(nodes))

    def _later(self, work: Callable[[], None]) -> Future[None]:
        """Have the loop do something; the future is done when the status shows it."""
        done: Future[None] = Future()
        self._work.put((work, done))
        self._wake()
        return done

    def _ask(self, work: Callable[[], None]) -> None:
        """Have the loop do something, and wait; its StreamerError comes back."""
        if self._ending.is_set():
            raise StreamerError("the fleet is ending")
        try:
            self._later(work).result(_ASK_S)
        except Late:
            raise StreamerError("the fleet is busy; try again") from None

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.send(b"\0")

    # What people ask

    def _handle(self, request: control.Request) -> control.Answer:
        controller, said = self._deciding, ""
        if isinstance(request, control.Add):
            self._add(request)
            said = f"{request.name} is added"
        elif isinstance(request, control.Remove):
            self._ask(lambda: controller.remove(request.name))
            said = f"{request.name} is removed"
        elif isinstance(request, control.Drain):
            changed: list[bool] = []
            self._ask(lambda: changed.append(controller.drain(request.node, back=request.back)))
            said = _drained(request, changed=changed[0])
        elif isinstance(request, control.Stop):
            self._stop_asked.set()
        if not self._ending.is_set():
            self._ask(lambda: None)  # for a new status
        return control.Answer(status=self._status, said=said)

    def _add(self, request: control.Add) -> None:
        camera, controller, fleet = request.camera, self._deciding, self._config.fleet
        if camera is None:
            self._ask(lambda: controller.restore(request.name))
            return
        configuration.check_camera(camera, fleet, place=f"{camera.name}: its address")
        if fleet.local:
            capture_options(camera)  # what is not here is nowhere
        self._ask(lambda: controller.add(camera, request.need))

    def _told(self, controller: Controller, now_s: float) -> Status:
        return Status(
            name=self._config.fleet.name,
            cluster="" if self._hand is None else self._hand.words,
            events=self._switchboard.bind,
            snapshot=self._switchboard.snapshot,
            page=self._web.url,
            moves=controller.counts.moves,
            losses=controller.counts.losses,
            nodes=controller.nodes(now_s),
            cameras=controller.camera_states(),
        )

    # What the web server asks

    async def _discovery(self, request: Request) -> Response:
        """``/discovery``: what Prometheus is to scrape."""
        status = self._status
        nodes = [] if status is None else status.nodes
        targets = [
            discovery.Target(node=node.name, address=node.http, labels=node.labels)
            for node in nodes
            if node.daemon in {"running", "starting"}
        ]
        own = request.url.netloc  # where it was asked: it may be bound to 0.0.0.0
        return Response(
            discovery.body(targets, fleet=own), headers={"content-type": discovery.CONTENT_TYPE}
        )

    def about(self) -> About:
        """Tell what runs."""
        purpose = self._config.daemon.purpose.declared
        return About(version=__version__, bundle="", engines={}, classes=(), purpose=purpose)

    def liveness(self) -> Mapping[str, WorkerHealth]:
        """Tell every part's progress."""
        now_ns = self._clock.monotonic_ns()
        parts = {"web": self._web.last_progress_ns}
        if self._thread.ident is not None:
            parts["fleet"] = self._progress_ns
            parts["switchboard"] = self._switchboard.last_progress_ns
        return {
            name: WorkerHealth(age_s=max(0.0, (now_ns - last_ns) / 1e9), limit_s=STUCK_S)
            for name, last_ns in parts.items()
        }

    def readiness(self) -> Mapping[str, bool]:
        """Tell what the fleet needs to be ready, and whether it has it."""
        status = self._status
        return {"nodes": status is not None and bool(status.nodes)}

    def cameras(self) -> Sequence[CameraView]:
        """Tell about no camera: each is on its node's own page."""
        return ()

    def series(self) -> Series:
        """Return every metric."""
        return self._metrics.registry

    async def renew(self) -> None:
        """Nothing is known elsewhere."""

    def _started(self) -> DaemonStarted:
        return DaemonStarted(
            versions={"streamer": __version__, "python": platform.python_version()},
            bundle="",
            engine="a fleet",
            cameras=tuple(self._deciding.cameras),
            purpose=self._config.daemon.purpose.declared,
        )

    def _place(self, link: str) -> Place:
        fleet = self._config.fleet
        return Place(
            fleet=fleet.name,
            link=link,
            server_key="" if self._keys is None else self._keys[0].public.decode(),
            secret_key=fleet.secret_key,
            authorized_keys=fleet.authorized_keys,
            port=fleet.node_port,
            http_open=bool(self._config.daemon.http.token) and not fleet.local,
            measured=fleet.measured,
        )


def _drained(request: control.Drain, *, changed: bool) -> str:
    """Say what became of a node that was to be drained or taken back."""
    node = request.node
    if request.back:
        return f"{node} gets its share again" if changed else f"{node} was not being drained"
    if changed:
        return f"{node} is being drained; take it back with: streamer fleet drain {node} --back"
    return f"{node} was being drained already"
