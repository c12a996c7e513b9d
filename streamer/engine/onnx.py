"""A network of a model bundle on onnxruntime."""

from __future__ import annotations

from pathlib import Path

from streamer.errors import BundleError, EngineError
from streamer.session import Session

__all__ = ["OnnxEngine"]


class OnnxEngine(Session):
    """One ONNX file in one session on the CPU.

    Args:
        network: a file, or its content.
        threads: compute threads of one call.
        label: what errors call it; empty: the file's name.

    Raises:
        BundleError: when onnxruntime cannot read the file.
    """

    def __init__(self, network: Path | bytes, *, threads: int, label: str = "") -> None:
        path = Path(label or "network") if isinstance(network, bytes) else network
        try:
            content = network if isinstance(network, bytes) else network.read_bytes()
            super().__init__(content, threads=threads, label=label or path.name)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
        except EngineError as error:
            raise BundleError(f"{path}: {error}") from None
