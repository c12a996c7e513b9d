"""``fleet.toml``: an ordinary configuration, and a table ``[fleet]`` with what the nodes need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from streamer import config as configuration
from streamer.address import check_address, is_loopback
from streamer.errors import ConfigError
from streamer.keys import load_clients, load_pair
from streamer.logs import redact
from streamer.settings import check_scheme

if TYPE_CHECKING:
    from streamer.config import Config
    from streamer.keys import KeyPair

__all__ = ["Fleet", "FleetConfig", "Need", "check_camera", "link_keys", "load"]

_Name = Annotated[str, Meta(pattern="^[a-z0-9_-]{1,64}$")]
_LONGEST_SOCKET = 100  # bytes; the kernel takes 107 of a socket's path, see unix(7)


class Need(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[fleet.cameras.NAME]``: what one camera asks of its node.

    Attributes:
        cost: in units of one 640x360 camera.
        needs: labels that the node must have.
        gpu: whether the node must have a GPU.
    """

    cost: Annotated[float, Meta(gt=0, le=10_000)] = 1.0
    needs: dict[str, str] = {}
    gpu: bool = False


class Fleet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[fleet]``.

    Attributes:
        name: of the fleet, where several share a cluster.
        address: of the Ray cluster; ``auto``: the one that this machine belongs to.
        folder: state and control socket; empty: one in the account's own state directory.
        link: where the nodes report; on the loopback the whole fleet is one machine.
        secret_key: CURVE certificate of each machine, at the same place on all of them …
        authorized_keys: … and the folder of the public ones of all machines of the fleet.
        node_port: first of the three ports of a node's daemon; 0: whichever are free.
        lease_s: how long a node goes on without hearing from the fleet.
        handover_s: how long it does so after the fleet was asked to stop by SIGTERM.
        capacity: cameras that a node carries where neither its label ``capacity`` nor a report of
            ``streamer bench --json`` says so.
        measured: where each node has that report; empty: nowhere.
        cameras: what single cameras ask for.
    """

    name: _Name = "fleet"
    address: str = "auto"
    folder: str = ""
    link: str = "tcp://127.0.0.1:5558"
    secret_key: str = ""
    authorized_keys: str = ""
    node_port: Annotated[int, Meta(ge=0, le=65_533)] = 0
    lease_s: Annotated[float, Meta(ge=3, le=60)] = 6.0
    handover_s: Annotated[float, Meta(ge=3, le=600)] = 30.0
    capacity: Annotated[float, Meta(gt=0, le=10_000)] = 16.0
    measured: str = ""
    cameras: dict[str, Need] = {}

    @property
    def local(self) -> bool:
        """Whether all of it is on this machine."""
        return is_loopback(self.link)

    @property
    def place(self) -> Path:
        """The folder of state and control socket."""
        if self.folder:
            return Path(self.folder)
        given = os.environ.get("STATE_DIRECTORY")  # systemd's
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
        return Path(given) if given else base / "streamer" / self.name

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.place / "control"


class FleetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
        daemon: what the nodes run; its addresses are the fleet's own.
        fleet: the table ``[fleet]``.
    """

    daemon: Config
    fleet: Fleet = Fleet()


def load(path: Path) -> FleetConfig:
    """Read and check a fleet's configuration.

    Raises:
        ConfigError: one line that names the file, the key, what was expected and what to do.
    """
    text, readable = configuration.read(path)
    place = str(path)
    tree = configuration.tree_of(text, place=place)
    table = tree.pop("fleet", {})
    daemon = configuration.checked(tree, place=place, readable=readable)
    fleet = _fleet(table, place)
    _check(daemon, fleet, place)
    return FleetConfig(daemon=daemon, fleet=fleet)


def link_keys(fleet: Fleet) -> tuple[KeyPair, frozenset[bytes]] | None:
    """Return this machine's keys and those of the others; None on one machine without keys.

    Raises:
        ConfigError: if they cannot be read.
    """
    if not fleet.secret_key:
        return None
    return load_pair(Path(fleet.secret_key)), load_clients(Path(fleet.authorized_keys))


def check_camera(camera: configuration.Camera, fleet: Fleet, *, place: str) -> None:
    """Refuse an address that no node could read, and one that it must not be told.

    Raises:
        ConfigError: for a scheme that is none of ours; and for a password in it without keys, since
            nobody knows then who calls himself a node and is told his cameras.
    """
    check_scheme(camera.url, key=place)
    if not fleet.secret_key and redact(camera.url) != camera.url:
        raise ConfigError(
            f"{place}: has a password in it, or a parameter that may be one, and without "
            "fleet.secret_key any account of this machine could be told it; put it into a file and "
            "name that in credentials, or make keys with: streamer keys"
        )


def _fleet(table: Any, place: str) -> Fleet:
    try:
        return msgspec.convert(table, Fleet)
    except msgspec.ValidationError as error:
        text = str(error).replace("`", "").replace("$.", "fleet.").replace("Object", "table")
        known = ", ".join(Fleet.__struct_fields__)
        hint = f"; known in [fleet]: {known}" if "unknown field" in text else ""
        raise ConfigError(f"{place}: [fleet]: {text[:1].lower()}{text[1:]}{hint}") from None


def _check(daemon: Config, fleet: Fleet, place: str) -> None:
    """Check what no single key can tell."""
    unknown = sorted(fleet.cameras.keys() - {camera.name for camera in daemon.cameras})
    if unknown:
        raise ConfigError(
            f"{place}: fleet.cameras.{unknown[0]}: there is no such camera; add a [[cameras]] "
            "table with this name"
        )
    check_address(fleet.link, key=f"{place}: fleet.link")
    if "//*:" in fleet.link or "//0.0.0.0:" in fleet.link or "//[::]:" in fleet.link:
        raise ConfigError(
            f"{place}: fleet.link: {fleet.link} is no address that nodes could report to; name the "
            "one of this machine"
        )
    if bool(fleet.secret_key) != bool(fleet.authorized_keys):
        raise ConfigError(
            f"{place}: fleet.secret_key and fleet.authorized_keys are needed together"
        )
    if not fleet.local and not fleet.secret_key:
        raise ConfigError(
            f"{place}: fleet.link: {fleet.link} is open to the network, without keys; set "
            "fleet.secret_key and fleet.authorized_keys (make keys with: streamer keys)"
        )
    for camera in daemon.cameras:
        check_camera(camera, fleet, place=f"{place}: cameras.{camera.name}.url")
    for key in ("secret_key", "authorized_keys", "measured", "folder"):
        name = getattr(fleet, key)
        if name and not Path(name).is_absolute():
            raise ConfigError(f"{place}: fleet.{key}: {name!r}: give the whole path, from /")
    if len(os.fsencode(fleet.socket)) > _LONGEST_SOCKET:
        raise ConfigError(
            f"{place}: fleet.folder: {fleet.place} is too long for a socket; choose a shorter one"
        )
