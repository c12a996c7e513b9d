"""Training on a Ray cluster: one command in several processes, wherever there is room.

Processes of ``tune`` are each their own: they share the trials by their folder, and one that is
lost is started again elsewhere. Those of ``fit`` are one: they meet as torchrun's do, begin when
there is room for all of them, and end together. All that is Ray's is here.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streamer.errors import ConfigError, StreamerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["COMMANDS", "Room", "run"]

COMMANDS: Final = ("fit", "tune")
"""What several processes can share."""
_AGAIN: Final = 3  # a process of a search whose machine was lost is started so often elsewhere
_NICE: Final = "15"  # cameras on the same machines come first
_ROOM_S: Final = 60.0
_REACH_S: Final = 5.0
_END_S: Final = 5.0
_ANYWHERE: Final[dict[str, Any]] = {"scheduling_strategy": "SPREAD"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where to run, and what for.

    Attributes:
        address: of the cluster; ``auto`` is the one of this machine.
        processes: how many.
        cpus: what each takes of its machine.
        gpus: likewise.
    """

    address: str = "auto"
    processes: int
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def needs(self) -> str:
        """Return in words what each process takes."""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


def run(command: Sequence[str], room: Room, say: Callable[[str], object]) -> None:
    """Run a command of ``streamer-train`` in every process until all have ended.

    Args:
        command: its words; its paths are those of the machines it runs on, in a folder of the same
            name as this one.
        room: where.
        say: takes each line that a process prints, with who printed it.

    Raises:
        ConfigError: without Ray or a cluster, or for a command that cannot be shared.
        StreamerError: if there is no room, or a process failed.
    """
    if not command or command[0] not in COMMANDS:
        raise ConfigError(f"expected {' or '.join(COMMANDS)} and its options after the cluster's")
    ray = _connected(room.address)
    started: list[Any] = []
    listeners: list[threading.Thread] = []
    try:
        together = command[0] == "fit" and room.processes > 1
        places = _together(room) if together else _apart(room, say)
        meeting = _met(places[0]) if together else {}
        wanted = {"num_cpus": room.cpus, "num_gpus": room.gpus, "num_returns": "streaming"}
        wanted["max_retries"] = 0 if together else _AGAIN
        for rank, place in enumerate(places):
            ranks = {"RANK": str(rank), "WORLD_SIZE": str(room.processes), "LOCAL_RANK": "0"}
            environment = {**meeting, **ranks} if together else {}
            process = ray.remote(_process).options(**wanted, **place)
            started.append(process.remote(list(command), environment, str(Path.cwd())))
        _follow(started, listeners, say)
    except KeyboardInterrupt:
        # A listener that asks Ray for more after its end would take this process along. What has
        # ended may not be cancelled: Ray aborts.
        running = [pair for pair in zip(started, listeners, strict=False) if pair[1].is_alive()]
        for process, _ in running:
            ray.cancel(process, force=True)
        for _, listener in running:
            listener.join(_END_S)
        raise
    finally:
        ray.shutdown()  # ends whatever still runs: it is this process' own


def _connected(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    try:
        import ray  # noqa: PLC0415 - after the environment
    except ImportError:
        raise ConfigError(
            "this needs Ray: pip install 'emotion-streamer[training,fleet]'"
        ) from None
    _reach(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"no cluster at {address}: {reason}; start one with: ray start --head"
        ) from None
    return ray


def _reach(address: str) -> None:
    """Refuse an address where nobody answers: Ray itself tries for minutes.

    Raises:
        ConfigError: as said.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:  # auto, or one that Ray knows to read
        return
    try:
        socket.create_connection((host, int(port)), _REACH_S).close()
    except OSError as error:
        raise ConfigError(
            f"no cluster at {address}: {error.strerror or error}; start one with: ray start --head"
        ) from None


def _together(room: Room) -> list[dict[str, Any]]:
    """Reserve room for all processes at once, and return where each is to run.

    Raises:
        StreamerError: if the cluster does not have it.
    """
    from ray.util.placement_group import placement_group  # noqa: PLC0415
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # noqa: PLC0415

    bundle = {"CPU": room.cpus} | ({"GPU": room.gpus} if room.gpus else {})
    group = placement_group([bundle] * room.processes, strategy="SPREAD")
    if not group.wait(_ROOM_S):
        raise StreamerError(
            f"no room for {room.processes} processes of {room.needs}: {_free()} are free; ask for "
            "less"
        )
    return [
        {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=index
            )
        }
        for index in range(room.processes)
    ]


def _apart(room: Room, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """Return where processes that need not begin together are to run: on any machine with room.

    What is busy becomes free, so such processes wait; for what no machine has they would for good.

    Raises:
        StreamerError: if no machine can hold even one.
    """
    import ray  # noqa: PLC0415 - as above

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call] # Ray's own
    fit = sum(_held(node["Resources"], room) for node in nodes if node["Alive"])
    if not fit:
        raise StreamerError(
            f"no room for a process of {room.needs} on any machine: {_free()} are free in all; ask "
            "for less"
        )
    if fit < room.processes:
        say(f"there is room for {fit} of {room.processes} processes; the others wait for it")
    return [_ANYWHERE] * room.processes


def _held(resources: Mapping[str, float], room: Room) -> int:
    """Return how many of the processes a machine with nothing else to do can hold."""
    holds = [resources.get("CPU", 0.0) / room.cpus]
    if room.gpus:
        holds.append(resources.get("GPU", 0.0) / room.gpus)
    return int(min(holds) + 1e-9)  # 0.3 / 0.1 is a little less than 3


def _free() -> str:
    import ray  # noqa: PLC0415 - as above

    free = ray.available_resources()  # type: ignore[no-untyped-call] # Ray's own
    return f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs"


def _met(place: dict[str, Any]) -> dict[str, str]:
    """Return where the processes of a run meet: where the first of them is going to be."""
    import ray  # noqa: PLC0415 - as above

    # It takes no CPU: by default it would want a whole one of the first process' share.
    asked = ray.remote(_meeting).options(num_cpus=0, **place).remote()
    meeting: dict[str, str] = ray.get(asked)
    return meeting


def _meeting() -> dict[str, str]:
    """Return where the processes meet; runs where the first of them is going to."""
    import ray  # noqa: PLC0415 - as above

    with socket.create_server(("", 0)) as free:  # theirs in a moment, as with torchrun
        port = free.getsockname()[1]
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call] # Ray's own
    return {"MASTER_ADDR": address, "MASTER_PORT": str(port)}


def _process(
    command: Sequence[str], environment: Mapping[str, str], folder: str
) -> Iterator[tuple[str, int | None]]:
    """Run one process on a machine of the cluster; yield what it prints, and how it ended."""
    host = socket.gethostname()
    program = [sys.executable, "-m", "training", *command]
    leash = [sys.executable, "-m", "streamer.fleet.leash", str(os.getpid()), _NICE]
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*leash, *program],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        yield f"{host}: {folder}: {error.strerror}; every machine needs the same folder", 1
        return
    with process:
        for line in process.stdout or ():
            yield f"{host}: {line.rstrip()}", None
    yield f"{host}: ended", process.returncode


def _follow(
    started: Sequence[Any], listeners: list[threading.Thread], say: Callable[[str], object]
) -> None:
    """Pass on what all processes print until they have ended.

    Args:
        started: the processes.
        listeners: takes the threads that hear them.
        say: takes each line.

    Raises:
        StreamerError: at the first that fails.
    """
    from ray.exceptions import RayError  # noqa: PLC0415 - as above

    told: queue.SimpleQueue[tuple[int, str, int | None]] = queue.SimpleQueue()

    def listen(number: int, lines: Any) -> None:
        import ray  # noqa: PLC0415 - as above

        try:
            for reference in lines:
                told.put((number, *ray.get(reference)))
        except RayError as error:
            reason = str(error).split("\n", 1)[0]
            told.put((number, f"its machine or process was lost: {reason}", 1))

    for number, lines in enumerate(started):
        listeners.append(threading.Thread(target=listen, args=(number, lines), daemon=True))
        listeners[-1].start()
    left = len(started)
    while left:
        number, line, code = told.get()
        if code is None:
            say(f"[{number}] {line}")
            continue
        left -= 1
        if code:
            raise StreamerError(
                f"process {number} failed ({line}); what is done is kept: go on "
                "with the same command, fit with --resume"
            )
