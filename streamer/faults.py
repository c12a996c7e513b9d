"""What the numbers of FFmpeg and of the system say about a source: a table, and one deadline.

FFmpeg reports the same trouble under several numbers (measured with FFmpeg 8.1): a silent RTSP
server ends as "invalid data" when its deadline has passed, a silent TLS server as "I/O error".
Hence a failure is judged by its number, by what was being opened, and by how long it took.
"""

from __future__ import annotations

import errno
from typing import Final

from streamer.errors import SourceReason

__all__ = ["fault_of", "tag"]


def tag(name: bytes) -> int:
    """Return the number of one of FFmpeg's own errors (MKTAG of libavutil/error.h, positive)."""
    return int.from_bytes(name, "little")


EXIT: Final = tag(b"EXIT")
INVALID: Final = tag(b"INDA")
_LATE: Final = frozenset({EXIT, INVALID, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN})
"""What a deadline that has passed looks like, over all protocols."""

_REASONS: Final[dict[int, tuple[SourceReason, str]]] = {
    errno.ECONNREFUSED: (
        SourceReason.CONNECTION_REFUSED,
        "nothing listens there: is the camera on, is the port right?",
    ),
    errno.ETIMEDOUT: (SourceReason.TIMEOUT, "no answer within the deadline"),
    EXIT: (SourceReason.TIMEOUT, "no answer within the deadline"),
    tag(b"\xf8401"): (SourceReason.AUTH_FAILED, "the user or password was refused (401)"),
    tag(b"\xf8403"): (SourceReason.AUTH_FAILED, "this user may not see the stream (403)"),
    tag(b"\xf8404"): (SourceReason.NOT_FOUND, "no such stream there (404): check the path"),
    tag(b"\xf8400"): (SourceReason.IO_ERROR, "the server refused the request (400)"),
    tag(b"\xf8429"): (SourceReason.BUSY, "the server has had too many requests (429)"),
    tag(b"\xf84XX"): (
        SourceReason.BUSY,
        "the server refused (4xx): perhaps too many viewers, or try the other transport",
    ),
    tag(b"\xf85XX"): (SourceReason.IO_ERROR, "the server failed (5xx)"),
    errno.ENOENT: (SourceReason.NOT_FOUND, "no such file or device"),
    errno.ENODEV: (SourceReason.NOT_FOUND, "the device is gone: was it unplugged?"),
    errno.ENXIO: (SourceReason.NOT_FOUND, "the device is gone: was it unplugged?"),
    errno.EISDIR: (SourceReason.NOT_FOUND, "a folder, expected a video file"),
    errno.ENOTDIR: (SourceReason.NOT_FOUND, "no such file: a part of its path is no folder"),
    errno.ENOTTY: (SourceReason.NOT_FOUND, "not a video device"),
    errno.EACCES: (SourceReason.PERMISSION_DENIED, "this user may not open it"),
    errno.EPERM: (SourceReason.PERMISSION_DENIED, "this user may not open it"),
    errno.EBUSY: (SourceReason.BUSY, "another program uses the device"),
    errno.EHOSTUNREACH: (SourceReason.UNREACHABLE, "no route to the host"),
    errno.ENETUNREACH: (SourceReason.UNREACHABLE, "the network cannot be reached"),
    errno.EHOSTDOWN: (SourceReason.UNREACHABLE, "the host is down"),
    errno.ENETDOWN: (SourceReason.UNREACHABLE, "the network is down"),
    errno.ECONNRESET: (SourceReason.IO_ERROR, "the other side broke the connection"),
    errno.ECONNABORTED: (SourceReason.IO_ERROR, "the other side broke the connection"),
    errno.EPIPE: (SourceReason.IO_ERROR, "the other side broke the connection"),
    INVALID: (SourceReason.DECODE_ERROR, "what came is no video that can be read"),
    errno.EINVAL: (SourceReason.DECODE_ERROR, "what came is no video that can be read"),
    errno.ENOMEM: (SourceReason.DECODE_ERROR, "a picture too large for the memory"),
    tag(b"EOF "): (SourceReason.ENDED, "the stream ended"),
    tag(b"PAWE"): (SourceReason.CODEC_UNSUPPORTED, "FFmpeg cannot decode this kind of stream"),
    errno.ENOSYS: (SourceReason.CODEC_UNSUPPORTED, "FFmpeg cannot decode this kind of stream"),
    tag(b"\xf8DEC"): (SourceReason.CODEC_UNSUPPORTED, "FFmpeg has no decoder for this codec"),
    tag(b"\xf8DEM"): (SourceReason.CODEC_UNSUPPORTED, "FFmpeg does not know this container"),
    tag(b"\xf8PRO"): (SourceReason.CODEC_UNSUPPORTED, "FFmpeg does not speak this protocol"),
}
_OTHER: Final = (SourceReason.IO_ERROR, "the connection or the device failed")
_TLS: Final = (SourceReason.TLS, "no TLS connection: check the port and the certificate")


def fault_of(
    number: int, *, scheme: str, elapsed_s: float, deadline_s: float
) -> tuple[SourceReason, str]:
    """Judge a failed open or read.

    Args:
        number: errno, or FFmpeg's own number; positive.
        scheme: of the address, in lower case; empty for a file or a device.
        elapsed_s: how long the call took, seconds.
        deadline_s: how long it was allowed to take, seconds.

    Returns:
        reason: one of the closed set.
        words: what it means, for a person; free of addresses.
    """
    if number in _LATE and scheme and elapsed_s >= deadline_s:
        return SourceReason.TIMEOUT, f"no answer within {deadline_s:g} s"
    if number == errno.EIO and scheme in {"https", "rtsps"}:
        return _TLS
    return _REASONS.get(number, _OTHER)
