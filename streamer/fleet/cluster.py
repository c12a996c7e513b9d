"""The cluster: which machines there are, and an agent on each; all that is Ray's is here.

``main`` is run in a process of its own, see ``streamer.fleet.hand``, because a driver ends when
its machine's raylet does, as at the death of the head. The agents are detached actors, so they
outlive it, and their leases go past Ray, so a fleet whose cluster has lost its head goes on with
the machines that it has.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from streamer.fleet.agent import Agent, Place

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Start", "Stop", "View", "main"]

_NAMESPACE: Final = "streamer"
_LOOK_S: Final = 1.0
_AFRESH_S: Final = 30.0
_CALM_S: Final = 10.0
"""Before an agent that cannot run is started again: a process with Ray costs seconds of a core."""
_HIDDEN: Final = frozenset({"ray.io/node-id"})


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The first message to this process.

    Attributes:
        address: of the cluster.
        place: what is the same for every agent.
        local: whether all of the fleet is on this machine.
    """

    address: str
    place: Place
    local: bool


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """The last message: end the agents, and then this process."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What this process says: how many nodes can have an agent; or why it cannot say."""

    nodes: int = 0
    error: str = ""


def main() -> None:
    """Keep an agent on every node until the other end of the descriptor goes."""
    from streamer.supervisor import block_signals, leave  # noqa: PLC0415 - see below

    block_signals()  # before Ray starts threads
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    channel = socket.socket(fileno=int(sys.argv[1])).makefile("rwb", buffering=0)
    start = msgspec.json.decode(channel.readline(), type=Start)
    import ray  # noqa: PLC0415 - after the environment

    def say(view: View) -> None:
        channel.write(msgspec.json.encode(view) + b"\n")

    try:
        ray.init(
            address=start.address,
            namespace=_NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        lines = str(error).split("\n")
        say(View(error=f"no cluster at {start.address}: {lines[0]}"))
        leave(1)
    keepers = _Keepers(start)
    while True:
        say(View(nodes=keepers.tend()))
        if select.select([channel], [], [], _LOOK_S)[0]:
            if channel.readline().strip():
                keepers.end()
            leave(0)


class _Keepers:
    """The agents' actors, one on each node."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._actors: dict[str, Any] = {}
        self._looked_s = time.monotonic()
        template = msgspec.json.encode((start.place, start.local))
        self._prefix = f"agent/{start.place.fleet}/"
        self._kind = f"{self._prefix}{_digest(template)}/"
        self._end_others()

    def tend(self) -> int:
        """Start an agent on every node that has none; return how many nodes there are."""
        import ray  # noqa: PLC0415 - only in this process

        known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call] # Ray's own
        nodes = {node["NodeID"]: node for node in known if _usable(node)}
        if time.monotonic() - self._looked_s > _AFRESH_S:
            self._looked_s = time.monotonic()
            self._actors.clear()  # one that could not be made is made again, the others are found
        for gone in self._actors.keys() - nodes.keys():
            del self._actors[gone]
        for name, node in nodes.items():
            if name not in self._actors:
                self._actors[name] = self._actor(name, _place(self._start, node))
        return len(nodes)

    def _actor(self, node: str, place: Place) -> Any:
        """Return the agent's actor: the one of an earlier run, or a new one."""
        import ray  # noqa: PLC0415 - as above
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

        return (
            ray.remote(Keeper)
            .options(
                name=f"{self._kind}{node}",
                namespace=_NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(msgspec.json.encode(place))
        )

    def _end_others(self) -> None:
        """End the agents of this fleet that were started with other settings."""
        import ray  # noqa: PLC0415 - as above

        for one in ray.util.list_named_actors(all_namespaces=True):
            name = one["name"]
            if name.startswith(self._prefix) and not name.startswith(self._kind):
                ray.kill(ray.get_actor(name, namespace=one["namespace"]))

    def end(self) -> None:
        """End all agents."""
        import ray  # noqa: PLC0415 - as above

        for actor in self._actors.values():
            ray.kill(actor)
        time.sleep(_LOOK_S / 2)  # the calls go out in the background


class Keeper:
    """The actor: an agent for as long as its process lives.

    Args:
        place: a ``Place`` as JSON, so that nothing of ours has to be pickled.
    """

    def __init__(self, place: bytes) -> None:
        from streamer import logs  # noqa: PLC0415 - on the node
        from streamer.clock import SystemClock  # noqa: PLC0415

        logs.configure("info", "json", clock=SystemClock())
        self._agent = Agent(msgspec.json.decode(place, type=Place))
        self._agent.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        """End the process with its agent: Ray then starts another one."""
        while not self._agent.failed():
            time.sleep(_LOOK_S)
        time.sleep(_CALM_S)
        os._exit(1)


def _usable(node: Mapping[str, Any]) -> bool:
    """Whether cameras may run on a node: it is there, and has at least a part of a CPU to give."""
    return bool(node["Alive"]) and node["Resources"].get("CPU", 0) > 0


def _place(start: Start, node: Mapping[str, Any]) -> Place:
    labels = {str(key): str(value) for key, value in node["Labels"].items() if key not in _HIDDEN}
    host = node["NodeManagerHostname"]
    return msgspec.structs.replace(
        start.place,
        node=node["NodeID"],
        name=labels.get("name") or f"{host}-{node['NodeID'][:6]}",
        host=host,
        address="127.0.0.1" if start.local else node["NodeManagerAddress"],
        labels=labels,
        gpu=node["Resources"].get("GPU", 0) > 0,
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
