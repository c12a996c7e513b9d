"""CURVE key files: made private, never overwritten, read with care."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
import zmq

from streamer.errors import ConfigError
from streamer.keys import generate, load_clients, load_pair, load_public

if TYPE_CHECKING:
    from pathlib import Path


def test_a_pair_is_written_and_read_back(tmp_path: Path) -> None:
    """The public half belongs to the secret one, as libzmq computes it, and modes are right."""
    public, secret = generate(tmp_path / "keys", "daemon")

    pair = load_pair(secret)

    assert zmq.curve_public(pair.secret) == pair.public
    assert load_public(public) == pair.public == load_public(secret)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {
        "daemon.key",
        "daemon.key_secret",
    }
    assert pair.secret.decode() not in repr(pair)
    assert pair.secret not in public.read_bytes()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """A second key of the same name is refused, and the first stays as it was."""
    public, secret = generate(tmp_path, "daemon")
    before = public.read_bytes(), secret.read_bytes()

    with pytest.raises(ConfigError, match="exists"):
        generate(tmp_path, "daemon")
    secret.unlink()
    with pytest.raises(ConfigError, match="exists"):
        generate(tmp_path, "daemon")

    assert public.read_bytes() == before[0]
    assert not secret.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", ".hidden"])
def test_a_name_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    """A name that would lead elsewhere is refused before anything is written."""
    with pytest.raises(ConfigError, match="cannot name a key"):
        generate(tmp_path / "keys", name)

    assert not (tmp_path / "keys").exists()


def test_a_secret_that_everybody_reads_is_refused(tmp_path: Path) -> None:
    """The mode of the secret file is looked at, and the remedy is named."""
    _, secret = generate(tmp_path, "daemon")
    secret.chmod(0o644)

    with pytest.raises(ConfigError, match="chmod"):
        load_pair(secret)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"\xff\x00\xfe",
        b'curve\n    public-key = "short"\n',
        b'curve\n    public-key = "' + b"~" * 40 + b'"\n',
    ],
)
def test_a_file_that_is_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    """Whatever the file holds, the error is one line with its path."""
    path = tmp_path / "client.key"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"client\.key: "):
        load_public(path)
    with pytest.raises(ConfigError, match=r"client\.key: "):
        load_clients(tmp_path)


def test_clients_are_the_public_keys_of_a_directory(tmp_path: Path) -> None:
    """Every .key file counts and secret ones do not; a missing directory is an error."""
    made = {load_public(generate(tmp_path, name)[0]) for name in ("alice", "bob")}

    assert load_clients(tmp_path) == made
    with pytest.raises(ConfigError, match="no such directory"):
        load_clients(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot read"):
        load_pair(tmp_path / "none")
    with pytest.raises(ConfigError, match="no secret"):
        load_pair(tmp_path / "alice.key")
