"""Where the web server listens and whom it answers; checked before anything is bound."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Address", "Pictures", "WebOptions"]

Pictures = Literal["show", "blur", "omit"]
"""What the live page may show: the picture, one blurred beyond recognition, or boxes only."""

_TOKEN: Final = re.compile(r"[\x21-\x7e]{16,512}")
"""What fits a header as it is; 16 characters of a random token are about 96 bit."""
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A checked address to listen on.

    Attributes:
        host: an IP address in numbers.
        port: 0 lets the system choose.
    """

    host: str
    port: int

    @staticmethod
    def parse(text: str) -> Address:
        """Read ``host:port``; the host is an IP address, in brackets for IPv6, or localhost.

        Raises:
            ConfigError: if it is something else; names are not resolved, because what they stand
                for may change to an address beyond this machine.
        """
        host, colon, port = text.rpartition(":")
        host = "127.0.0.1" if host == "localhost" else host
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            ip = ipaddress.ip_address(bare)
        except ValueError:
            ip = None
        bracketed = bare is not host
        if ip is None or not colon or bracketed != (ip.version == 6):  # noqa: PLR2004 - IPv6
            raise ConfigError(
                f"http.bind: {text!r}, expected an IP address and a port such as "
                "'127.0.0.1:9108' or '[::1]:9108'"
            )
        if not (port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT):
            raise ConfigError(f"http.bind: port {port!r} in {text!r}, expected 0 to {_MAX_PORT}")
        return Address(host=str(ip), port=int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """What ``[http]`` of the configuration says, with its secrets read.

    Attributes:
        bind: ``host:port`` to listen on.
        allow_remote: may be reached from beyond this machine; wants a token.
        token: secret that every request but the health checks must carry; empty: none.
        tls_cert: PEM file of the certificate chain; None: plain HTTP.
        tls_key: PEM file of its key.
        pictures: what the live page may show.
        idle_s: a connection without a complete request is closed after this; longer than
            Prometheus' usual 15 s between scrapes, so that it keeps its connection.

    Raises:
        ConfigError: if they contradict one another; the line names the key.
    """

    bind: str = "127.0.0.1:9108"
    allow_remote: bool = False
    token: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    pictures: Pictures = "show"
    idle_s: float = 20.0

    def __post_init__(self) -> None:
        address = self.address
        if self.token and not _TOKEN.fullmatch(self.token):
            raise ConfigError(
                "http.token: expected 16 to 512 ASCII characters without spaces; make one with "
                "`openssl rand -hex 16`"
            )
        if not address.loopback and not self.allow_remote:
            raise ConfigError(
                f"http.bind: {address} can be reached from other machines; bind to 127.0.0.1, or "
                "set http.allow_remote and http.token"
            )
        if not address.loopback and not self.token:
            raise ConfigError(
                f"http.token: is needed because http.bind {address} can be reached from other "
                "machines; name a file that holds it"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("http.tls_certificate and http.tls_key are needed together")

    @property
    def address(self) -> Address:
        """The address of ``bind``."""
        return Address.parse(self.bind)
