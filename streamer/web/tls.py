"""The certificate of the web server, opened and proved before anything listens."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from streamer.errors import ConfigError

if TYPE_CHECKING:
    from streamer.web.options import WebOptions

__all__ = ["tls_context"]


def tls_context(options: WebOptions) -> ssl.SSLContext | None:
    """Load certificate and key; None where the server is to speak plain HTTP.

    Raises:
        ConfigError: when one cannot be read, is no PEM file, wants a passphrase, or when they do
            not belong together.
    """
    if options.tls_cert is None or options.tls_key is None:
        return None
    for key, path in (("tls_certificate", options.tls_cert), ("tls_key", options.tls_key)):
        try:
            path.open("rb").close()
        except OSError as error:
            # Not the name: people put the secret itself there.
            raise ConfigError(
                f"http.{key}: names no readable file or systemd credential: {error.strerror}"
            ) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A passphrase would be asked for on the terminal, and a service has none.
        context.load_cert_chain(options.tls_cert, options.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or "cannot be read"
        raise ConfigError(
            f"http.tls_certificate {options.tls_cert}, http.tls_key {options.tls_key}: {reason}; "
            "expected PEM files that belong together, the key without a passphrase"
        ) from None
    return context
