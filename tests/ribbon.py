"""A live camera whose stream changes while it runs: MPEG-TS over HTTP, part after part."""

from __future__ import annotations

import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

__all__ = ["PART_S", "Ribbon", "part"]

PART_S = 2.4
"""Length of one part: that of the clip they are made of."""
_PIECES = 24


def part(clip: Path, *, height: int, codec: str, offset_s: float) -> bytes:
    """Encode the clip anew: ten frames a second, time stamps from ``offset_s`` on."""
    small = ("-vf", f"scale=-2:{height},fps=10", "-an", "-t", str(PART_S))
    encode = ("-c:v", codec, "-preset", "ultrafast", "-g", "5", "-bf", "0", "-pix_fmt", "yuv420p")
    place = ("-muxdelay", "0", "-output_ts_offset", str(offset_s), "-f", "mpegts", "pipe:1")
    done = subprocess.run(
        ["ffmpeg", "-v", "quiet", "-i", clip, *small, *encode, *place],
        check=True,
        capture_output=True,
    )
    return done.stdout


class Ribbon:
    """Serves the parts at the speed at which they were filmed, the last one for ever.

    Args:
        parts: what is sent, in this order, to whoever connects; a second visitor goes on where the
            stream is, as with a camera.

    Attributes:
        sent: how many parts were sent so far.
        visits: how often somebody connected.
    """

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts
        self.sent = 0
        self.visits = 0
        ribbon = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                ribbon.visits += 1
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t")
                self.end_headers()
                ribbon._send(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/live"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="ribbon", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _send(self, handler: BaseHTTPRequestHandler) -> None:
        try:
            while True:
                content = self._parts[min(self.sent, len(self._parts) - 1)]
                step = -(-len(content) // _PIECES)
                for start in range(0, len(content), step):
                    handler.wfile.write(content[start : start + step])
                    time.sleep(PART_S / _PIECES)
                self.sent += 1
        except OSError:  # it left
            return
