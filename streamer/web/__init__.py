"""Metrics, health checks, the JSON interface and the live page, over HTTP."""

from __future__ import annotations

from streamer.web.live import LiveView
from streamer.web.options import WebOptions
from streamer.web.server import WebServer
from streamer.web.state import About, CameraState, CameraView, WebState, WorkerHealth
from streamer.web.tls import tls_context

__all__ = [
    "About",
    "CameraState",
    "CameraView",
    "LiveView",
    "WebOptions",
    "WebServer",
    "WebState",
    "WorkerHealth",
    "tls_context",
]
