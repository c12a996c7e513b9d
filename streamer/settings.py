"""From the configuration to each part's own options, with the secrets read; nothing is started.

A message never quotes a value in which somebody may have typed a password.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from streamer import config as configuration
from streamer import reach
from streamer.errors import ConfigError
from streamer.publish import PublishOptions
from streamer.source import CaptureOptions
from streamer.web import WebOptions

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.config import Camera, Config

__all__ = ["capture_options", "check_scheme", "publish_options", "web_options"]


def check_scheme(url: str, *, key: str) -> str:
    """Return the scheme of a camera's address; empty for a file or device.

    Raises:
        ConfigError: if it is none of ours; ``key`` begins the line.
    """
    scheme = reach.scheme_of(url)
    if scheme not in {*reach.NETWORK_SCHEMES, "", "file"}:
        known = ", ".join(f"{name}://" for name in sorted(reach.NETWORK_SCHEMES))
        raise ConfigError(f"{key}: {scheme}:// is not known; expected {known}, a device or a file")
    return scheme


def capture_options(camera: Camera) -> CaptureOptions:
    """Check what can be known of a camera without opening it.

    Raises:
        ConfigError: for a scheme that is none of ours and a missing file, which are mistakes in the
            configuration, where a device or a host may come later; and for credentials and trusted
            certificates that cannot be read.
    """
    key = f"cameras.{camera.name}.url"
    url = configuration.camera_url(camera)
    scheme = check_scheme(url, key=key)
    path = reach.path_of(url)
    if scheme not in reach.NETWORK_SCHEMES and not path.is_relative_to("/dev"):
        if "@" in url:
            raise ConfigError(f"{key}: no such file; an address of a camera begins with rtsp://")
        if not path.is_file():
            raise ConfigError(f"{key}: there is no file {path}")
    if camera.tls_ca:
        _check_authorities(camera.tls_ca, f"cameras.{camera.name}.tls_ca")
    return CaptureOptions(
        camera=camera.name,
        url=url,
        realtime=camera.realtime,
        loop=camera.loop,
        transport=camera.transport,
        open_timeout_s=camera.open_timeout_s,
        read_timeout_s=camera.read_timeout_s,
        tls_verify=camera.tls_verify,
        ca_file=camera.tls_ca,
    )


def _check_authorities(path: str, key: str) -> None:
    """Refuse certificates that FFmpeg could not read, which it would tell as a broken camera."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"{key}: {path} has no certificate in it; expected a PEM file") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a file's name"
        raise ConfigError(f"{key}: {path} cannot be read: {why}") from None


def publish_options(config: Config) -> PublishOptions:
    """Return where and to whom events go."""
    publish = config.publish
    return PublishOptions(
        bind=publish.bind,
        snapshot=publish.snapshot,
        allow_remote=publish.allow_remote,
        server_secret_key=_optional(publish.server_secret_key),
        authorized_keys=_optional(publish.authorized_keys),
        high_water_mark=publish.high_water_mark,
    )


def web_options(config: Config) -> WebOptions:
    """Return where the web server listens and whom it answers.

    Raises:
        ConfigError: if the address, the token or the TLS files cannot be right.
    """
    http = config.http
    return WebOptions(
        bind=http.bind,
        allow_remote=http.allow_remote,
        token=configuration.read_secret(http.token, "http.token") if http.token else "",
        tls_cert=_optional(http.tls_certificate),
        tls_key=_optional(http.tls_key),
        pictures=http.pictures,
    )


def _optional(name: str) -> Path | None:
    return configuration.secret_path(name) if name else None
