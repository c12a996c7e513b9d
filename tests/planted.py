"""A configuration with a secret in every place that takes one, and the search for them.

Each secret is unlike any other text, so that finding a part of one is proof of a leak. Those with
special characters are searched by their parts: an address that is cut at the wrong sign shows
only one of them.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from streamer.keys import generate
from tests.daemon import free_port

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RIGHT", "Planted"]

RIGHT = "op:QzRightPassword7Plant"
"""User and password of the camera that answers."""

_PARTS = re.compile(r"[A-Za-z0-9]{8,}")


@dataclass
class Planted:
    """Makes the files and keeps the secrets.

    Args:
        folder: where everything goes.
        shared: the folder of clips and models.
        camera: address of a stream that asks for user and password, without them.
    """

    folder: Path
    shared: Path
    camera: str
    secrets: dict[str, list[str]] = field(default_factory=dict)
    ports: tuple[int, int, int] = field(
        default_factory=lambda: (free_port(), free_port(), free_port())
    )

    def plant(self, name: str, secret: str = "") -> str:
        """Return a new secret, or the given one, and remember what to search for."""
        secret = secret or f"Qz{name}{len(self.secrets)}Plant7"
        self.secrets[name] = _PARTS.findall(secret)
        assert self.secrets[name], secret
        return secret

    def leaks(self, text: str | bytes) -> set[str]:
        """Return the names of the secrets that show in a text, as they are or in capitals."""
        lowered = (text if isinstance(text, str) else text.decode(errors="replace")).lower()
        return {
            name
            for name, parts in self.secrets.items()
            if any(part.lower() in lowered for part in parts)
        }

    def secret_file(self, name: str, content: str) -> Path:
        """Write a file that only its owner reads."""
        path = self.folder / name
        path.write_text(content)
        path.chmod(0o600)
        return path

    def write(self, *, form: str = "json", level: str = "debug", curve: bool = True) -> Path:
        """Write the configuration with everything planted; return its path."""
        events, snapshot, http = self.ports
        cameras = "".join(
            f'[[cameras]]\nname = "{name}"\nurl = "{url}"\n{more}'
            for name, (url, more) in self.cameras().items()
        )
        token = self.secret_file("token", self.plant("HttpToken"))
        keys = ""
        if curve:
            keys = (
                f'server_secret_key = "{self.curve("server", "server")}"\n'
                f'authorized_keys = "{self.folder / "clients"}"\n'
            )
            self.curve("clients", "client")
        return self.secret_file(
            "planted.toml",
            f'{cameras}[detector]\nmirror = "{self.shared / "models"}"\ninput_px = 320\n'
            f'[log]\nlevel = "{level}"\nformat = "{form}"\n'
            f'[publish]\nbind = "tcp://127.0.0.1:{events}"\n'
            f'snapshot = "tcp://127.0.0.1:{snapshot}"\n{keys}'
            f'[http]\nbind = "127.0.0.1:{http}"\ntoken = "{token}"\n'
            f'tls_certificate = "{self._certificate()}"\n'
            f'tls_key = "{self.folder / "tls.key"}"\n',
        )

    def cameras(self) -> dict[str, tuple[str, str]]:
        """Return one camera a way to carry a secret; the first one works."""
        host = self.camera.removeprefix("rtsp://")
        right = self.plant("Right", RIGHT)
        password = self.plant("File", "QzFile6Plant%@w0rd/QzTail8Plant")
        file = self.secret_file("camera", f"op:{password}")
        special = self.plant("Special", "QzFirst1Plant@QzSecond2Plant/QzThird3Plant")
        key = self.plant("Apikey")
        maker = self.plant("Maker", "QzMaker1Plant,QzMaker2Plant")
        nowhere = "127.0.0.1:9"
        query = f"token={self.plant('Query')}&pwd={self.plant('Pwd')}"
        short = "open_timeout_s = 1.0\n"
        return {
            "right": (f"rtsp://{right}@{host}", ""),
            "wrong": (f"rtsp://op:{self.plant('Wrong')}@{host}", ""),
            "file": (self.camera, f'credentials = "{file}"\n'),
            "encoded": (f"rtsp://op:{quote(special, safe='')}@{nowhere}/s", ""),
            "username": (f"rtsp://{self.plant('Username')}@{nowhere}/s", ""),
            "query": (f"rtsp://{nowhere}/s?channel=1&{query}", ""),
            "path": (f"rtsp://{nowhere}/user=a_password={self.plant('Path')}_stream=0.sdp", ""),
            "http": (
                f"http://op:{self.plant('Http')}@{nowhere}/v?api_key={key}&loginpas={maker}&rate=5",
                "",
            ),
            "tls": (f"rtsps://op:{self.plant('Tls')}@{host}", ""),
            "nameless": (f"rtsp://op:{self.plant('Nameless')}@nowhere.invalid/s", short),
        }

    def curve(self, folder: str, name: str) -> Path:
        """Make a key pair (once) and plant its secret half."""
        path = self.folder / folder / f"{name}.key_secret"
        if not path.exists():
            generate(self.folder / folder, name)
        secret = re.search(r'secret-key = "(.*)"', path.read_text())
        assert secret is not None
        self.secrets[f"Curve{name}"] = [secret[1]]
        return path

    def _certificate(self) -> Path:
        key, certificate = self.folder / "tls.key", self.folder / "tls.pem"
        if not key.exists():
            subprocess.run(
                [
                    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                    *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
                    *("-keyout", key, "-out", certificate),
                ],
                check=True,
                capture_output=True,
            )
            key.chmod(0o600)
        body = [line for line in key.read_text().splitlines() if not line.startswith("-")]
        self.secrets["TlsKey"] = body[1:-1]
        return certificate
