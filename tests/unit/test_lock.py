"""The lock files: hashes for every library that pyproject.toml leads to, and for no other."""

from __future__ import annotations

import re
import tomllib
from collections import deque
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
TORCH = {  # its build is the machine's business, but not what it asks for
    canonicalize_name(table["name"]): table["requires-dist"]
    for table in PYPROJECT["tool"]["uv"]["dependency-metadata"]
}
LOCKS = {
    "development": tuple(
        re.findall(r"(?m)^EXTRAS := (.+)$", (ROOT / "Makefile").read_text())[0].split(",")
    ),
    "service": ("record", "mqtt"),
}
PIN = re.compile(r"([\w.-]+)==(\S+)(?: ; (.+?))?((?: --hash=sha256:[0-9a-f]{64})+)")
AGAIN = "run `make lock`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One library of a lock file; several of a name are for different versions of Python."""

    name: str
    version: Version
    here: bool
    hashes: tuple[str, ...]


def pins(lock: str) -> list[Pin]:
    """Read a lock file; a line that is no pin, hash or comment fails."""
    text = (ROOT / "deploy" / "lock" / f"{lock}.txt").read_text()
    found = []
    for entry in re.sub(r"\s*\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines():
        parts = re.fullmatch(
            r"([\w.-]+)==(\S+)(?: ; (.+?))?((?: --hash=sha256:[0-9a-f]{64})+)", entry
        )
        assert parts is not None, entry
        found.append(
            Pin(
                name=canonicalize_name(parts[1]),
                version=Version(parts[2]),
                here=parts[3] is None or Marker(parts[3]).evaluate(),
                hashes=tuple(parts[4].split()),
            )
        )
    return found


def wanted(lock: str) -> list[Requirement]:
    """Return what pyproject.toml asks for with the extras of a lock file."""
    extras = [PROJECT["optional-dependencies"][extra] for extra in LOCKS[lock]]
    return [Requirement(text) for part in (PROJECT["dependencies"], *extras) for text in part]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_what_the_project_asks_for(lock: str) -> None:
    """Each requirement is met by the pin of its name, for every version of Python."""
    found = pins(lock)
    for requirement in wanted(lock):
        name = canonicalize_name(requirement.name)
        versions = [pin.version for pin in found if pin.name == name]
        assert versions or name in TORCH, f"{lock}: no {name}; {AGAIN}"
        assert all(version in requirement.specifier for version in versions), (
            f"{lock}: {name} {versions} is not {requirement.specifier}; {AGAIN}"
        )


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_closed_and_has_no_strangers(lock: str) -> None:
    """What the libraries ask for is in it, too, or pip would refuse; and nothing else is."""
    versions = {pin.name: pin.version for pin in pins(lock) if pin.here}
    todo, seen = deque(wanted(lock)), set()
    while todo:
        requirement = todo.popleft()
        name = canonicalize_name(requirement.name)
        extras = ("", *sorted(requirement.extras))
        marker = requirement.marker
        if (name, extras) in seen or (marker is not None and not marker.evaluate()):
            continue
        seen.add((name, extras))
        if name in TORCH:
            todo.extend(Requirement(text) for text in TORCH[name])
            continue
        assert versions.get(name) is not None, f"{lock}: {name} is missing; {AGAIN}"
        assert versions[name] in requirement.specifier, f"{lock}: {requirement}; {AGAIN}"
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed: `make setup`")
        if Version(installed.version) != versions[name]:
            pytest.skip(f"{name} {installed.version} here is not the lock's: `make setup`")
        for text in installed.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                needed.marker = None
                todo.append(needed)
    assert versions.keys() - {name for name, _ in seen} == set(), AGAIN


def test_the_service_runs_what_was_tested() -> None:
    """What is shipped has the versions and hashes of what the tests run with."""
    tested = {(pin.name, pin.version): set(pin.hashes) for pin in pins("development")}
    for pin in pins("service"):
        if pin.here:
            assert set(pin.hashes) <= tested[pin.name, pin.version], pin.name


def test_a_lock_names_no_index() -> None:
    """It is as good on a mirror as on the public index: hashes say what is right, not addresses."""
    for lock in LOCKS:
        text = (ROOT / "deploy" / "lock" / f"{lock}.txt").read_text()
        assert not re.search(r"://|--(extra-)?index|--find-links|--trusted", text)
