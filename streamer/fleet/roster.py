"""The cameras that are to run: those of the configuration, and what people added and removed."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import msgspec

from streamer.errors import ConfigError, StreamerError
from streamer.fleet.placement import Camera
from streamer.fleet.settings import Need
from streamer.fleet.state import Added

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamer import config as configuration
    from streamer.fleet.settings import FleetConfig

__all__ = ["Roster", "meant"]


class Roster:
    """The list; each change makes new values of its attributes, so that an old one can be kept.

    Args:
        config: the configuration.
        added: cameras beside those of it.
        removed: names of cameras of it that are not to run.

    Attributes:
        config: the configuration.
        added: as above.
        removed: as above, in order.
        cameras: all that are to run, by name.
        needs: what each asks of its node.
    """

    def __init__(
        self, config: FleetConfig, *, added: Iterable[Added], removed: Iterable[str]
    ) -> None:
        self.config = config
        self.added = list(added)
        self.removed = sorted(removed)
        self.cameras: dict[str, configuration.Camera] = {}
        self.needs: dict[str, Camera] = {}
        self._list()

    def reload(self, config: FleetConfig) -> None:
        """Take a configuration that was read again.

        Raises:
            ConfigError: if it changes what cannot change while the fleet runs.
        """
        old = self.config
        for table in ("publish", "http", "log"):
            if getattr(old.daemon, table) != getattr(config.daemon, table):
                raise ConfigError(f"[{table}] cannot change while running; restart the fleet")
        fixed = msgspec.structs.replace(
            config.fleet, cameras=old.fleet.cameras, capacity=old.fleet.capacity
        )
        if fixed != old.fleet:
            raise ConfigError(
                "[fleet]: only cameras and capacity can change while running; restart the fleet"
            )
        self.config = config
        self._list()

    def add(self, camera: configuration.Camera, need: Need) -> None:
        """Take one more camera.

        Raises:
            StreamerError: if there is one of that name, or a removed one of the configuration.
        """
        if camera.name in self.cameras:
            raise StreamerError(f"{camera.name}: there is a camera of that name; remove it first")
        if camera.name in self.removed:
            raise StreamerError(
                f"{camera.name}: is a camera of the configuration; add it without --url, or change "
                "the file"
            )
        self.added = [*self.added, Added(camera=camera, need=need)]
        self._list()

    def restore(self, name: str) -> None:
        """Run a camera of the configuration again that was removed.

        Raises:
            StreamerError: if there is none.
        """
        if name not in self.removed:
            hint = meant(name, self.removed) or "a new one needs its --url"
            raise StreamerError(f"{name}: no camera of that name was removed; {hint}")
        self.removed = [one for one in self.removed if one != name]
        self._list()

    def remove(self, name: str) -> None:
        """Run a camera no more.

        Raises:
            StreamerError: if there is none of that name.
        """
        if name not in self.cameras:
            if name in self.removed:
                raise StreamerError(f"{name}: was removed already")
            hint = meant(name, self.cameras) or "`streamer fleet status --json` lists them"
            raise StreamerError(f"{name}: there is no camera of that name; {hint}")
        if any(one.camera.name == name for one in self.added):
            self.added = [one for one in self.added if one.camera.name != name]
        else:
            self.removed = sorted({*self.removed, name})
        self._list()

    def _list(self) -> None:
        config, fleet = self.config.daemon, self.config.fleet
        configured = {camera.name: camera for camera in config.cameras}
        self.removed = [name for name in self.removed if name in configured]
        self.added = [one for one in self.added if one.camera.name not in configured]
        self.cameras = {
            **{name: one for name, one in configured.items() if name not in self.removed},
            **{one.camera.name: one.camera for one in self.added},
        }
        needs = {**fleet.cameras, **{one.camera.name: one.need for one in self.added}}
        self.needs = {name: _asking(name, needs.get(name, Need())) for name in self.cameras}


def meant(name: str, known: Iterable[str]) -> str:
    """Return a question about a name that was mistyped; empty where there is none like it."""
    close = get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _asking(name: str, need: Need) -> Camera:
    return Camera(name=name, cost=need.cost, needs=dict(need.needs), gpu=need.gpu)
