"""Answers in the forms that all routes share: JSON, errors, the files of the live page."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["STATIC", "error_answer", "file_answer", "json_answer", "login_answer"]

STATIC: Final = {
    "index.html": "text/html; charset=utf-8",
    "login.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "tile.js": "text/javascript; charset=utf-8",
    "face.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "stream.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Every file of the page with its type; nothing else is ever read for a request."""


def json_answer(content: Any, status: int = 200) -> Response:
    """Answer with JSON; msgspec writes structs, times and mappings alike."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def error_answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer that something is wrong, as JSON with the code and what to do."""
    body = msgspec.json.encode({"error": {"code": status, "message": message}})
    return Response(body, status, headers, media_type="application/json")


def file_answer(name: str, status: int = 200) -> Response:
    """Answer with one of the page's files; the name is a key of ``STATIC``.

    Caches ask again each time: the files change only with the program, and are small.
    """
    headers = {"cache-control": "no-cache"}
    return Response(_content(name), status, headers, media_type=STATIC[name])


def login_answer(status: int) -> Response:
    """Answer with the page that asks for the token."""
    return file_answer("login.html", status)


@cache
def _content(name: str) -> bytes:
    return files("streamer.web").joinpath("static", name).read_bytes()
