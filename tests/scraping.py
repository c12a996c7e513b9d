"""What the tests with a real Prometheus share: the program, and questions to it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


__all__ = ["ask", "prometheus_of", "within"]


@contextmanager
def prometheus_of(folder: Path) -> Iterator[str]:
    """Run a Prometheus with the ``prometheus.yml`` of a folder; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(20) == 0, (folder / "log").read_text()


def ask(prometheus: str, path: str, **parameters: str) -> Any:
    """Return the data of an answer; None while Prometheus is starting."""
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - our own address
            return json.load(reply)["data"]
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
            raise AssertionError(error.read()) from None
    except urllib.error.URLError:
        pass
    return None


def within(seconds: float, prometheus: str, query: str) -> list[dict[str, Any]]:
    """Ask until there is a result; the last answer is returned."""
    deadline = time.monotonic() + seconds
    while True:
        data = ask(prometheus, "query", query=query)
        if (data and data["result"]) or time.monotonic() > deadline:
            return data["result"] if data else []
        threading.Event().wait(0.2)
