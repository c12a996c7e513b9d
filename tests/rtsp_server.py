"""A real RTSP server for tests: GStreamer's, in a process of its own, which can be killed.

Run by the system's Python as a script it is the server; imported it is ``RtspServer``, which starts
that script. The clip of a mount is parsed once into access units and sent for ever, with time
stamps that go on across the seam, so that a client sees an endless camera.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

__all__ = ["Mount", "RtspServer", "rtsp_missing"]

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's own interpreter: the one that sees the bindings of GStreamer (python3-gi)."""

START_S = 60.0
"""A start takes 0.3 s when idle; the rest is for a machine busy with other tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One stream of the server.

    Attributes:
        path: an H.264, H.265 or MJPEG clip in MP4, MOV, MKV or AVI.
        loop: send it for ever; else the stream ends with the clip.
        shared: clients join the one running stream, in mid-GOP; else each gets it from its start.
    """

    path: str
    loop: bool = True
    shared: bool = True


@cache
def rtsp_missing() -> str:
    """Say what lacks for a server here, in words fit for a skip; empty when nothing does."""
    probe = "import gi; gi.require_version('GstRtspServer', '1.0')"
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False)
    except FileNotFoundError:
        return f"no {SYSTEM_PYTHON}"
    if done.returncode != 0:
        return "no GStreamer RTSP server: apt install python3-gi gir1.2-gst-rtsp-server-1.0"
    return ""


class RtspServer:
    """The server as a context manager.

    Args:
        mounts: name of the mount, such as ``"cam"``, to its clip, or to a ``Mount``.
        port: where to listen; None: the system chooses, and ``restart`` keeps it.
        user: basic or digest authentication is asked for when given.
        password: of that user.
        digest: digest authentication in place of basic.
        tls: (certificate, key) PEM files; the URLs are then rtsps.
    """

    def __init__(
        self,
        mounts: Mapping[str, Path | str | Mount],
        *,
        port: int | None = None,
        user: str = "",
        password: str = "",
        digest: bool = False,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self._mounts = {
            name: mount if isinstance(mount, Mount) else Mount(path=str(mount))
            for name, mount in mounts.items()
        }
        self.port = port or 0
        self._user = user
        self._password = password
        self._digest = digest
        self._tls = tls
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Process number of the running server."""
        return self._running().pid

    def url(self, mount: str, *, credentials: bool = True) -> str:
        """Return the address of a mount, with the user and password where there are any."""
        scheme = "rtsps" if self._tls else "rtsp"
        login = f"{self._user}:{self._password}@" if self._user and credentials else ""
        return f"{scheme}://{login}127.0.0.1:{self.port}/{mount}"

    def start(self) -> None:
        """Start the process and wait until it listens.

        Raises:
            RuntimeError: when it does not; the text is what the server said.
        """
        job = {
            "port": self.port,
            "user": self._user,
            "password": self._password,
            "digest": self._digest,
            "tls": [str(path) for path in self._tls or ()],
            "mounts": {name: asdict(mount) for name, mount in self._mounts.items()},
        }
        process = subprocess.Popen(
            [SYSTEM_PYTHON, __file__, json.dumps(job)],
            stdin=subprocess.PIPE,  # its end, also by our death, ends the server
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        too_long = threading.Timer(START_S, process.kill)
        too_long.start()
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("port "):
                self.port = int(line.split()[1])
                break
        too_long.cancel()
        self._process = process
        if not said or not said[-1].startswith("port "):
            self.kill()
            raise RuntimeError(f"the RTSP server did not start: {''.join(said) or 'timeout'}")

    def kill(self) -> None:
        """End it at once, as a power cut does; may be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def restart(self) -> None:
        """Start again at the same port; kills it first where it runs."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop it without closing its connections: clients see a stall."""
        os.kill(self._running().pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        os.kill(self._running().pid, signal.SIGCONT)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the RTSP server is not running: call start()")
        return self._process


# From here on: the server process, under the system's Python.

PARSERS = {"video/x-h264": "h264", "video/x-h265": "h265", "image/jpeg": "jpeg"}


class _Clip:
    """A clip as access units in memory: (bytes, PTS, DTS, duration), the times in nanoseconds."""

    def __init__(self, gst: Any, path: str) -> None:
        self.units: list[tuple[bytes, int, int, int]] = []
        self.caps = ""
        pipeline = gst.parse_launch(f'filesrc location="{path}" ! parsebin name=parse')
        pipeline.get_by_name("parse").connect("pad-added", self._link, gst, pipeline)
        pipeline.set_state(gst.State.PLAYING)
        message = pipeline.get_bus().timed_pop_filtered(
            10 * gst.SECOND, gst.MessageType.EOS | gst.MessageType.ERROR
        )
        pipeline.set_state(gst.State.NULL)
        if message is None or message.type == gst.MessageType.ERROR or not self.units:
            why = message.parse_error().gerror.message if message else "timeout"
            raise SystemExit(f"cannot read {path}: {why}")
        self.length = len(self.units) * (self.units[-1][1] - self.units[0][1])
        self.length //= max(len(self.units) - 1, 1)  # one mean distance more than first to last

    def _link(self, _parse: object, pad: Any, gst: Any, pipeline: Any) -> None:
        name = pad.query_caps(None).get_structure(0).get_name()
        sink = gst.ElementFactory.make("appsink" if name in PARSERS else "fakesink", None)
        sink.props.sync = False
        sink.set_property("async", False)  # noqa: FBT003 -- else a first stream waits for a second
        if name in PARSERS:
            self.codec = PARSERS[name]
            sink.props.emit_signals = True
            sink.connect("new-sample", self._take, gst)
        pipeline.add(sink)
        sink.sync_state_with_parent()
        pad.link(sink.get_static_pad("sink"))

    def _take(self, sink: Any, gst: Any) -> Any:
        sample = sink.emit("pull-sample")
        buffer = sample.get_buffer()
        self.caps = sample.get_caps().to_string()
        dts = buffer.pts if buffer.dts == gst.CLOCK_TIME_NONE else buffer.dts
        data = buffer.extract_dup(0, buffer.get_size())
        self.units.append((data, buffer.pts, dts, buffer.duration))
        return gst.FlowReturn.OK


class _Feeder:
    """Pushes a clip's access units into one appsrc, as it asks for them."""

    def __init__(self, gst: Any, clip: _Clip, mount: dict[str, Any]) -> None:
        self._gst = gst
        self._clip = clip
        self._loop = bool(mount["loop"])
        self._next = 0
        self._shift = 0

    def need(self, source: Any, _length: int) -> None:
        """Answer appsrc's need-data with the next access unit, or with the end."""
        units = self._clip.units
        if self._next == len(units):
            if not self._loop:
                source.emit("end-of-stream")
                return
            self._next = 0
            self._shift += self._clip.length
        data, pts, dts, duration = units[self._next]
        self._next += 1
        buffer = self._gst.Buffer.new_wrapped(data)
        buffer.pts, buffer.dts, buffer.duration = pts + self._shift, dts + self._shift, duration
        source.emit("push-buffer", buffer)


def _authentication(gst_rtsp: Any, server_api: Any, gio: Any, job: dict[str, Any]) -> Any:
    auth = server_api.RTSPAuth()
    if job["tls"]:
        auth.set_tls_certificate(gio.TlsCertificate.new_from_files(*job["tls"]))
    token = server_api.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if not job["user"]:
        auth.set_default_token(token)
    elif job["digest"]:
        auth.set_supported_methods(gst_rtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(job["user"], job["password"], token)
    else:
        basic = server_api.RTSPAuth.make_basic(job["user"], job["password"])
        auth.add_basic(basic, token)
    return auth


def _serve(job: dict[str, Any]) -> None:
    import gi  # noqa: PLC0415 -- only the system's interpreter has it

    for name in ("Gst", "GstRtsp", "GstRtspServer"):
        gi.require_version(name, "1.0")
    from gi.repository import (  # noqa: PLC0415
        Gio,
        GLib,
        Gst,
        GstRtsp,
        GstRtspServer,
    )

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(job["port"]))
    guarded = bool(job["user"] or job["tls"])
    if guarded:
        server.set_auth(_authentication(GstRtsp, GstRtspServer, Gio, job))
    for name, mount in job["mounts"].items():
        clip = _Clip(Gst, mount["path"])
        factory = GstRtspServer.RTSPMediaFactory()
        pay = "" if clip.codec == "jpeg" else f"{clip.codec}parse ! "
        pay += f"rtp{clip.codec}pay name=pay0 pt={26 if clip.codec == 'jpeg' else 96}"
        pay += "" if clip.codec == "jpeg" else " config-interval=-1"  # parameters at each keyframe
        factory.set_launch(f'( appsrc name=source format=time caps="{clip.caps}" ! {pay} )')
        factory.set_shared(mount["shared"])
        if guarded:
            factory.add_role_from_structure(_viewer(Gst))

        def configure(_factory: object, media: Any, clip: Any = clip, mount: Any = mount) -> None:
            source = media.get_element().get_by_name_recurse_up("source")
            source.connect("need-data", _Feeder(Gst, clip, mount).need)

        factory.connect("media-configure", configure)
        server.get_mount_points().add_factory(f"/{name}", factory)
    if server.attach(None) == 0:
        raise SystemExit(f"port {job['port']} is taken")
    sys.stdout.write(f"port {server.get_bound_port()}\n")
    sys.stdout.flush()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    GLib.MainLoop().run()


def _viewer(gst: Any) -> Any:
    role = gst.Structure.new_empty("viewer")
    for right in ("media.factory.access", "media.factory.construct"):
        role.set_value(right, True)  # noqa: FBT003 -- the binding's signature
    return role


def _die_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
