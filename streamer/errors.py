"""The errors a caller can act on; everything else is a bug and stops the process."""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "BundleError",
    "ConfigError",
    "EngineError",
    "FrameError",
    "SourceError",
    "SourceReason",
    "StreamerError",
]


class StreamerError(Exception):
    """Base of every expected error; its text is one line that says what to do."""

    exit_code = 1


class ConfigError(StreamerError):
    """A configuration, an asset or an option is wrong; restarting cannot help."""

    exit_code = 78  # EX_CONFIG of sysexits.h; systemd is told not to restart on it


class BundleError(StreamerError):
    """A model bundle is missing, damaged, or does not compute what its manifest promises."""

    exit_code = 78


class EngineError(StreamerError):
    """A network runtime cannot be loaded or failed while running."""


class FrameError(StreamerError):
    """A picture does not have the shape or type that a stage needs."""


class SourceReason(StrEnum):
    """Why a camera is not delivering; the value of ``reason`` in events and metrics."""

    CONNECTION_REFUSED = "connection_refused"
    TIMEOUT = "timeout"
    AUTH_FAILED = "auth_failed"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"
    NAME_RESOLUTION = "name_resolution"
    TLS = "tls"
    CODEC_UNSUPPORTED = "codec_unsupported"
    DECODE_ERROR = "decode_error"
    NO_VIDEO = "no_video"
    ENDED = "ended"
    PERMISSION_DENIED = "permission_denied"
    BUSY = "busy"
    IO_ERROR = "io_error"
    STOPPED = "stopped"
    WORKER_DIED = "worker_died"
    NODE_LOST = "node_lost"


class SourceError(StreamerError):
    """A camera or file failed; carries the typed reason and never a credential.

    Args:
        reason: what went wrong, one of a closed set, fit for a metric label.
        detail: one line for a person, already free of credentials.
    """

    def __init__(self, reason: SourceReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
