"""What an address names, and whether it is there: all that can be told before FFmpeg is asked.

FFmpeg looks names up without a deadline and reports every failure of it as "I/O error", and takes
``concat:`` or ``pipe:`` for an address; so names and paths are looked at here first.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import ipaddress
import os
import select
import socket
import stat
import struct
import threading
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from streamer.errors import SourceError, SourceReason
from streamer.faults import fault_of
from streamer.logs import redact

if TYPE_CHECKING:
    from streamer.source import CaptureOptions

__all__ = [
    "Kind",
    "await_readable",
    "descriptor_of",
    "ffmpeg_address",
    "ffmpeg_options",
    "find",
    "path_of",
    "scheme_of",
    "unfit",
]

QUERYCAP: Final = 0x80685600
"""VIDIOC_QUERYCAP and, below, its answer (linux/videodev2.h)."""
_CAPABILITY: Final = struct.Struct("=16s 32s 32s I I I 12x")
_CAPTURES: Final = 0x1 | 0x1000
"""V4L2_CAP_VIDEO_CAPTURE and its kind for several planes."""
_OF_THE_NODE: Final = 0x80000000
"""V4L2_CAP_DEVICE_CAPS: the last field tells of this node, the one before of the whole device."""
NETWORK_SCHEMES: Final = frozenset({"rtsp", "rtsps", "http", "https"})


class Kind(Enum):
    """What stands behind an address."""

    NETWORK = auto()
    DEVICE = auto()
    FILE = auto()


def scheme_of(url: str) -> str:
    """Return the scheme of an address in lower case, empty for a path."""
    head, found, _ = url.partition("://")
    return head.lower() if found else ""


def path_of(url: str) -> Path:
    """Return the path that a ``file://`` address or a bare path names."""
    return Path(url[len("file://") :] if scheme_of(url) == "file" else url)


def find(url: str, *, timeout_s: float) -> Kind:
    """Return what an address names, once it is known to be there.

    Args:
        url: the address, with its credentials.
        timeout_s: deadline for looking up the host's name.

    Raises:
        SourceError: when there is no such file, device or host, when it may not be opened, or when
            the scheme is none of ours.
    """
    scheme = scheme_of(url)
    if not url.isprintable():
        raise SourceError(SourceReason.NOT_FOUND, "the address has control characters in it")
    if scheme in NETWORK_SCHEMES:
        _find_host(url, scheme, timeout_s)
        return Kind.NETWORK
    if scheme not in {"", "file"}:
        known = ", ".join(f"{name}://" for name in sorted(NETWORK_SCHEMES))
        raise SourceError(
            SourceReason.NOT_FOUND, f"{redact(url)}: expected {known}, a device or a file"
        )
    return _find_path(path_of(url), redact(url))


def _find_path(path: Path, place: str) -> Kind:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reason, words = fault_of(error.errno or 0, scheme="", elapsed_s=0.0, deadline_s=0.0)
        raise SourceError(reason, f"{place}: {words}") from None
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
        raise SourceError(SourceReason.NOT_FOUND, f"{place}: neither a video file nor a device")
    if not os.access(path, os.R_OK):
        raise SourceError(SourceReason.PERMISSION_DENIED, f"{place}: {_who_may(path)}")
    return Kind.FILE if stat.S_ISREG(mode) else Kind.DEVICE


def _who_may(path: Path) -> str:
    try:
        number = path.stat().st_gid
    except OSError:  # gone meanwhile
        return "this user may not read it"
    try:
        group = grp.getgrgid(number).gr_name
    except KeyError:
        group = str(number)
    return f"this user may not read it; let it join the group {group!r}"


def _find_host(url: str, scheme: str, timeout_s: float) -> None:
    place = redact(url)
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        raise SourceError(SourceReason.NOT_FOUND, f"{place}: not a valid address") from None
    if scheme in {"http", "https"} and scheme in getproxies_environment():
        return  # the proxy looks the name up
    if _is_number(host):
        return
    failed: list[str | None] = []

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failed.append(getattr(error, "strerror", None) or "not a host name")
        else:
            failed.append(None)

    # The system's resolver has no deadline; a thread that outlives ours ends with the resolver's
    # own, some 10 to 40 s later.
    thread = threading.Thread(target=look_up, name="look-up", daemon=True)
    thread.start()
    thread.join(timeout_s)
    why = failed[0] if failed else f"no answer from the name server within {timeout_s:g} s"
    if why is not None:
        raise SourceError(
            SourceReason.NAME_RESOLUTION, f"{place}: the host's name is not known: {why}"
        )


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def ffmpeg_address(url: str, kind: Kind) -> str:
    """Return the address as FFmpeg wants it: no part of a path is taken for a protocol."""
    return {Kind.NETWORK: url, Kind.DEVICE: str(path_of(url))}.get(kind, f"file:{path_of(url)}")


def ffmpeg_options(options: CaptureOptions, kind: Kind) -> dict[str, str]:
    """Return options for FFmpeg; the allowed protocols keep a playlist from reaching elsewhere."""
    if kind is Kind.FILE:
        return {"protocol_whitelist": "file,crypto,data"}
    if kind is Kind.DEVICE:
        return {}
    # without fpsprobesize=0 FFmpeg holds the first second back to guess a frame rate: a stream then
    # opens in 0.6 s and not in 1.7 s (measured, 25 fps)
    found = {"fpsprobesize": "0", "tls_verify": str(int(options.tls_verify))}
    if options.ca_file:
        found["ca_file"] = options.ca_file
    if scheme_of(options.url).startswith("rtsp"):
        found["rtsp_transport"] = options.transport
        found["allowed_media_types"] = "video"  # sound is not even sent
        found["protocol_whitelist"] = "rtsp,rtsps,rtp,udp,tcp,tls"
    else:
        found["protocol_whitelist"] = "http,https,tcp,tls,httpproxy,crypto,data"
    return found


def descriptor_of(device: Path) -> int | None:
    """Return this process's open descriptor of a device, None when there is none."""
    wanted = device.stat().st_rdev
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found = os.stat(entry)  # noqa: PTH116 -- follows the link to what is open
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            continue  # closed meanwhile, as the listing's own is
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == wanted:
            return int(entry.name)
    return None


def unfit(device: Path) -> tuple[SourceReason, str]:
    """Say why FFmpeg found nothing to read in a device, in words for a person.

    A camera has several nodes, and its first need not be the one with pictures.
    """
    answer = bytearray(_CAPABILITY.size)
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, QUERYCAP, answer)
        finally:
            os.close(descriptor)
    except OSError:
        return SourceReason.NOT_FOUND, "not a video device"
    *_, whole, node = _CAPABILITY.unpack(answer)
    if (node if whole & _OF_THE_NODE else whole) & _CAPTURES:
        return SourceReason.CODEC_UNSUPPORTED, "its pictures have a format that FFmpeg cannot read"
    return SourceReason.NOT_FOUND, "no pictures come from it: try the device's other /dev/video*"


def await_readable(descriptor: int, *, timeout_s: float, interrupt: threading.Event) -> bool:
    """Wait until a descriptor has data; False when the deadline passed or the interrupt was set."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    slice_s = 0.2  # how late an interrupt is noticed
    for _ in range(max(1, round(timeout_s / slice_s))):
        if interrupt.is_set():
            return False
        if poll.poll(int(slice_s * 1000)):
            return True
    return False
