"""ZeroMQ addresses as people write them in a configuration: checked before a socket sees them.

libzmq takes ``tcp://127.0.0.1:99999`` and binds port 34463 without a word, so it is not asked.
"""

from __future__ import annotations

import ipaddress
import re

from streamer.errors import ConfigError

__all__ = ["check_address", "following", "is_ipv4", "is_loopback"]

_TCP = re.compile(r"tcp://(\[[^\[\]]+\]|[^:\[\]/]+):([0-9]{1,5}|\*)")
_IPC = re.compile(r"ipc://\S+")
_LAST_PORT = 65_535


def check_address(address: str, *, key: str) -> None:
    """Accept ``tcp://HOST:PORT`` and ``ipc://PATH``; a port of 0 or ``*`` lets the system choose.

    Args:
        address: what was configured.
        key: where, for the message, for instance ``publish.bind``.

    Raises:
        ConfigError: if it is anything else.
    """
    try:
        address.encode()
    except UnicodeEncodeError:  # bytes of a command line that are no UTF-8
        raise ConfigError(f"{key}: {address!r} is not UTF-8, which addresses are") from None
    match = _TCP.fullmatch(address)
    if match is None:
        if _IPC.fullmatch(address):
            return
        raise ConfigError(
            f"{key}: {address!r} is no address; write tcp://HOST:PORT, with an IPv6 host in "
            "brackets, or ipc:///PATH"
        )
    port = match[2]
    if port != "*" and int(port) > _LAST_PORT:
        raise ConfigError(f"{key}: {address!r} has port {port}; the last one is {_LAST_PORT}")


def following(address: str) -> str | None:
    """Return the address one port on, where the snapshot is by convention.

    None where there is no such port, or no port at all.

    >>> following("tcp://127.0.0.1:5556")
    'tcp://127.0.0.1:5557'
    """
    match = _TCP.fullmatch(address)
    if match is None or match[2] == "*" or not 0 < int(match[2]) < _LAST_PORT:
        return None
    return f"tcp://{match[1]}:{int(match[2]) + 1}"


def is_loopback(address: str) -> bool:
    """Tell whether only this host can reach an address that ``check_address`` accepts."""
    match = _TCP.fullmatch(address)
    if match is None:
        return address.startswith("ipc://")
    host = match[1].strip("[]")
    if host == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name or an interface may mean anything
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def is_ipv4(address: str) -> bool:
    """Tell whether an address needs no IPv6: an IPv4 host, ``*`` or ``localhost``, or no host."""
    match = _TCP.fullmatch(address)
    if match is None or match[1] in ("*", "localhost"):
        return True
    try:
        return ipaddress.ip_address(match[1].strip("[]")).version == 4  # noqa: PLR2004 its name
    except ValueError:
        return False
