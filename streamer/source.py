"""The words of a source: what to open, what was found, what goes on from opening to opening."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from streamer.logs import redact

__all__ = ["CaptureOptions", "Continuity", "DiscardReason", "SourceInfo"]


class DiscardReason(StrEnum):
    """Why a picture was thrown away before it counted as captured."""

    BEFORE_KEYFRAME = "before_keyframe"
    CORRUPT = "corrupt"
    DECODE_ERROR = "decode_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions:
    """What to open and how.

    Attributes:
        camera: the camera's configured name.
        url: rtsp:// rtsps:// http(s):// a device or a file; credentials are in it, so it is in no
            repr; ``place`` is the same without them.
        realtime: files: pace by their time stamps; else as fast as they decode.
        loop: files: start again at the end.
        transport: what carries RTP; rtsps always uses TCP.
        open_timeout_s: deadline for each of: finding the host, connecting, and probing the stream.
        read_timeout_s: deadline for each further packet.
        decode_threads: 1 adds no delay; more help only with files that are read unpaced.
        tls_verify: refuse certificates that no authority in ``ca_file`` or the system's store
            vouches for. Off by default: nearly every camera signs its own.
        ca_file: PEM file of trusted certificates.
    """

    camera: str
    url: str = field(repr=False)
    realtime: bool = True
    loop: bool = False
    transport: Literal["tcp", "udp"] = "tcp"
    open_timeout_s: float = 5.0
    read_timeout_s: float = 4.0
    decode_threads: int = 1
    tls_verify: bool = False
    ca_file: str = ""

    @property
    def place(self) -> str:
        """The address without credentials, fit for a log."""
        return redact(self.url)


@dataclass(slots=True, kw_only=True)
class Continuity:
    """What goes on when a camera is opened again.

    Attributes:
        seq: number of the last frame.
        media_s: its media time, seconds.
    """

    seq: int = 0
    media_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What was found at an address.

    Attributes:
        codec: FFmpeg's name of it, such as ``h264``.
        width: pixels, as declared; a stream may change it.
        height: pixels, as declared.
        declared_fps: what the stream says of itself, None if nothing; cameras often lie.
        pixel_format: FFmpeg's name of it.
        container: FFmpeg's name of the container or protocol, such as ``rtsp``.
        live: a camera; else something with an end, which can be paced and looped.
        regular_file: a file on this machine.
        duration_s: how long it says it is; None where it does not say, and for cameras.
    """

    codec: str
    width: int
    height: int
    declared_fps: float | None
    pixel_format: str
    container: str
    live: bool
    regular_file: bool
    duration_s: float | None = None
