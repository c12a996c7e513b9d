"""CURVE keys in pyzmq's certificate files: ``NAME.key`` is public, ``NAME.key_secret`` is not."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.auth

from streamer.errors import ConfigError

__all__ = ["KeyPair", "generate", "load_clients", "load_pair", "load_public"]

_KEY_LENGTH = 40  # Z85 of 32 bytes: ZeroMQ RFC 32


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A CURVE key pair in Z85; the secret half is never printed."""

    public: bytes
    secret: bytes = field(repr=False)


def generate(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a key pair and write it to two files; existing ones are never overwritten.

    Args:
        directory: made, readable by its owner alone, where it is missing.
        name: of the files, without a suffix.

    Returns:
        The public file (mode 0644) and the secret one (0600).

    Raises:
        ConfigError: if a file exists or cannot be written.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"{name!r} cannot name a key; use letters, digits and -")
    public, secret = directory / f"{name}.key", directory / f"{name}.key_secret"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # written inside a private directory and linked into place: at no moment can another user
        # read the secret, and a link does not replace a file that exists
        with tempfile.TemporaryDirectory(dir=directory) as private:
            made_public, made_secret = zmq.auth.create_certificates(private, name)
            Path(made_public).chmod(0o644)
            Path(made_secret).chmod(0o600)
            os.link(made_secret, secret)
            try:
                os.link(made_public, public)
            except OSError:
                secret.unlink()
                raise
    except FileExistsError:
        raise ConfigError(
            f"{directory}: a key named {name!r} exists; remove it first or choose another name"
        ) from None
    except OSError as error:
        raise ConfigError(f"{directory}: cannot write a key: {error.strerror}") from None
    return public, secret


def load_pair(path: Path) -> KeyPair:
    """Read a secret file.

    Raises:
        ConfigError: if it cannot be read, holds no secret, or every user of the host can read it.
    """
    public, secret = _load(path)
    if secret is None:
        raise ConfigError(f"{path}: holds no secret key; name the file that ends in .key_secret")
    if path.stat().st_mode & stat.S_IROTH:
        raise ConfigError(f"{path}: every user can read this secret key; run chmod 600 on it")
    return KeyPair(public=public, secret=secret)


def load_public(path: Path) -> bytes:
    """Read the public key of a public or secret file, in Z85.

    Raises:
        ConfigError: if it cannot be read or holds no key.
    """
    return _load(path)[0]


def load_clients(directory: Path) -> frozenset[bytes]:
    """Read the public keys of the clients that may connect: every ``*.key`` of a directory.

    Raises:
        ConfigError: if there is no such directory, or a file in it is no key.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such directory; put the clients' public .key files in")
    return frozenset(load_public(path) for path in sorted(directory.glob("*.key")))


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        place = "a key" if _is_key(str(path).encode()) else path  # typed where its file is named
        raise ConfigError(f"{place}: cannot read the key: {error.strerror or 'no file'}") from None
    except (ValueError, IndexError):  # pyzmq's own reader fails so on a line without "="
        raise ConfigError(f"{path}: not a key file; make one with: streamer keys") from None
    for key in (public, secret):
        if key is not None and not _is_key(key):
            raise ConfigError(f"{path}: damaged: a key has {_KEY_LENGTH} characters of Z85")
    return public, secret


def _is_key(key: bytes) -> bool:
    return len(key) == _KEY_LENGTH and key.isascii() and not set(key) - _Z85


_Z85 = frozenset(
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
