"""What the fleet must still know when its process was restarted, in a file that is never half."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from streamer.config import Camera  # noqa: TC001 - msgspec resolves a struct's annotations
from streamer.errors import ConfigError, StreamerError
from streamer.fleet.link import About  # noqa: TC001 - as above
from streamer.fleet.settings import Need

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Added", "Held", "State", "StateFile"]

_NAME: Final = "state.json"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A node that may be reading cameras.

    Attributes:
        about: what it was when it was heard of last.
        cameras: every one that it may be reading.
    """

    about: About
    cameras: list[str]


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """A camera that was added while the fleet ran."""

    camera: Camera
    need: Need = Need()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        version: the last one given to a share.
        lease_s: the longest lease that may be out, seconds.
        homes: the node, by its name, of each camera.
        held: by the cluster's name of a node.
        added: cameras beside those of the configuration.
        removed: names of cameras of the configuration that are not to run.
        draining: names of the nodes that are to be emptied.
    """

    version: int = 0
    lease_s: float = 0.0
    homes: dict[str, str] = {}
    held: dict[str, Held] = {}
    added: list[Added] = []
    removed: list[str] = []
    draining: list[str] = []


class StateFile:
    """The file; it may hold a camera's address, so nobody else can read it.

    Args:
        folder: made, readable by its owner alone, where it is missing.

    Raises:
        ConfigError: if it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"fleet.folder: cannot make {folder}: {error.strerror}") from None
        self._path = folder / _NAME

    def load(self) -> State:
        """Return what was saved last; nothing where nothing was.

        Raises:
            ConfigError: if it cannot be read.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self._path}: cannot be read: {error}; if no node of this fleet runs any more, "
                "remove it"
            ) from None

    def save(self, state: State) -> None:
        """Write it; when this returns, it outlives a loss of power.

        Raises:
            StreamerError: if it cannot be written.
        """
        new = self._path.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(state))
                file.flush()
                os.fsync(descriptor)
            new.replace(self._path)
        except OSError as error:
            raise StreamerError(
                f"{self._path}: cannot be written: {error.strerror}; no camera is moved until it "
                "can: make room, or give the folder to this account"
            ) from None
