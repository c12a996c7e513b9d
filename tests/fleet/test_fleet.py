"""A fleet without a cluster: real agents and daemons, and what breaks between them and it."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import psutil
import pytest

from streamer import keys
from streamer.client import Subscriber
from streamer.fleet import control
from tests.daemon import wait_for
from tests.fleet.running import CAMERAS, Fleet
from tests.fleet.witness import overlaps, seen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AGENT = """
import sys, time
from streamer import logs
from streamer.clock import SystemClock
from streamer.fleet.agent import Agent, Place
name, fleet, link, server, secret, authorized = sys.argv[1:]
logs.configure("info", "json", clock=SystemClock())
agent = Agent(Place(fleet=fleet, link=link, node=name, name=name, server_key=server,
                    secret_key=secret, authorized_keys=authorized))
agent.start()
while not agent.failed():
    time.sleep(0.1)
"""


@dataclass
class Agents:
    """Agents as processes, started and ended one by one."""

    fleet: Fleet
    secrets: tuple[str, str, str] = ("", "", "")
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(10)

    def start(self, *names: str) -> None:
        """Start agents."""
        for name in names:
            with (self.fleet.folder / f"agent-{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [
                        *(sys.executable, "-c", AGENT, name, self.fleet.place.name),
                        *(self.fleet.link, *self.secrets),
                    ],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )

    def daemon(self, name: str) -> psutil.Process | None:
        """Return the daemon of an agent."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.processes[name].pid).children()
            return next((one for one in children if one.status() != "zombie"), None)
        return None


@pytest.fixture
def fleet(shared: Path, tmp_path: Path) -> Iterator[Fleet]:
    """Yield a fleet that has no cluster, which it says and goes on."""
    with Fleet(tmp_path, "127.0.0.1:1", shared / "models") as running:
        yield running


def check_snapshot(fleet: Fleet) -> None:
    """It has every camera, of daemons that were there before the fleet too, and fits the stream."""
    with Subscriber(connect=fleet.events, snapshot=fleet.snapshot) as subscriber:
        assert subscriber.wait_connected(10)

        def online() -> set[str]:
            return {one.camera for one in subscriber.snapshot().cameras if one.online}

        wait_for(lambda: online() == set(CAMERAS), 10, "every camera in the snapshot")
        assert subscriber.snapshot().tracks
        heard = set[str]()
        end_s = time.monotonic() + 60
        while heard != set(CAMERAS):
            assert time.monotonic() < end_s, heard
            event = subscriber.receive(1)
            if event is not None and event.type == "emotion.sample":
                assert event.gap is None
                heard.add(event.source.removeprefix("/cameras/"))


def test_a_fleet_and_its_agents_come_and_go(fleet: Fleet) -> None:
    """Killed, restarted, frozen, away: no reading of two daemons, no daemon without a lease."""
    with Agents(fleet) as agents:
        agents.start("a", "b")
        fleet.wait_running(a=6, b=6)
        fleet.wait_readings(time.time())

        # the fleet is stopped and is back before the long leases of a stop end: nobody notices
        daemons = {name: agents.daemon(name) for name in "ab"}
        fleet.stop()
        fleet.start()
        fleet.wait_running(a=6, b=6)
        assert {name: agents.daemon(name) for name in "ab"} == daemons
        check_snapshot(fleet)

        # an agent is killed: its daemon with it, and the next one gets its cameras at once
        old = daemons["b"]
        assert old is not None
        agents.processes["b"].kill()
        agents.processes["b"].wait(10)
        wait_for(lambda: not old.is_running(), 5, "the end of a daemon whose agent was killed")
        agents.start("b")
        wait_for(lambda: agents.daemon("b") is not None, 60, "another daemon")
        fleet.wait_running(a=6, b=6)

        # an agent is frozen: what its daemon sends reaches nobody once others have the cameras
        agents.processes["b"].send_signal(signal.SIGSTOP)
        fleet.wait_running(a=12)
        fleet.wait_readings(time.time())
        frozen = agents.daemon("b")
        assert frozen is not None, "it goes on sending"
        agents.processes["b"].send_signal(signal.SIGCONT)
        wait_for(lambda: not frozen.is_running(), 10, "the end of a daemon without a lease")
        fleet.wait_running(a=6, b=6)
        fleet.wait_readings(time.time())
        events = seen(fleet.seen)

        # the fleet is away: every daemon ends with its lease
        fleet.kill()
        wait_for(lambda: not any(map(agents.daemon, "ab")), 20, "the end of all daemons")
    assert overlaps(events) == []
    away = {event.camera for event in events if event.missing}
    assert away <= set(CAMERAS)  # what was sent while the fleet's process was away, and only that


def test_when_the_fleet_has_ended_its_addresses_are_free(fleet: Fleet) -> None:
    """The end of its socket is what `streamer fleet stop` waits for, and a start may follow it."""
    path = fleet.place / "control"
    control.ask(path, control.Stop())
    while path.exists():  # without a pause: the addresses must be free at once
        pass
    for port in fleet.ports:
        with socket.socket() as another:
            another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            another.bind(("127.0.0.1", port))
            another.listen()
    assert fleet.process is not None
    assert fleet.process.wait(15) == 0
    fleet.start()


def test_with_keys_only_machines_of_the_fleet_are_heard(shared: Path, tmp_path: Path) -> None:
    """The link and the daemons speak CURVE; who has no key gets no camera and no event."""
    folder, known = tmp_path / "keys", tmp_path / "known"
    known.mkdir()
    pairs = {name: keys.generate(folder, name) for name in ("machine", "stranger")}
    known.joinpath("machine.key").write_bytes(pairs["machine"][0].read_bytes())
    secrets = (
        keys.load_public(pairs["machine"][0]).decode(),
        str(pairs["machine"][1]),
        str(known),
    )
    extra = f'secret_key = "{secrets[1]}"\nauthorized_keys = "{secrets[2]}"\n'
    with Fleet(tmp_path, "127.0.0.1:1", shared / "models", extra=extra) as fleet:
        stranger = (secrets[0], str(pairs["stranger"][1]), secrets[2])
        with Agents(fleet, stranger) as strangers, Agents(fleet, secrets) as agents:
            strangers.start("s")
            agents.start("a")
            fleet.wait_running(a=12)
            fleet.wait_readings(time.time())
            assert [node["name"] for node in fleet.type("status")["nodes"]] == ["a"]
            events = fleet.type("status")["nodes"][0]["http"]
            assert events.startswith("127.0.0.1:")
