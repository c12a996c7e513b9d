"""An ONNX network on the CPU: onnxruntime as the detector and the emotion path both run it.

Legend: the first letter of a shape is the batch, N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from streamer.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.types import F32

__all__ = ["Session"]

_RUNTIME_ERRORS: tuple[type[Exception], ...] = (  # they share no base class but Exception
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NotImplemented,
    runtime.RuntimeException,
    ValueError,  # an input that is missing or has a wrong type
)
_FATAL_ONLY = 3  # onnxruntime's log severity; its errors reach us as exceptions


class Session:
    """One network; ``run`` may be called from several threads.

    Args:
        network: the content of an ONNX file.
        threads: compute threads of one call. They sleep between calls: onnxruntime's default is to
            spin, which burns a core a session while nothing is computed.
        label: what the errors of ``run`` call it.

    Raises:
        EngineError: when onnxruntime cannot read the network; the text does not name it.
    """

    def __init__(self, network: bytes, *, threads: int, label: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        # Its own arena doubles whenever a batch, a shape or the calls at once are the most so far,
        # and keeps it all: 31 MB of 52, in steps throughout the first hour. Malloc is as fast.
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session: Any = ort.InferenceSession(
                network, options, providers=["CPUExecutionProvider"]
            )
        except _RUNTIME_ERRORS as error:
            raise EngineError(f"onnxruntime refuses it: {_first_line(error)}") from None
        self._label = label
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def name(self) -> str:
        """Runtime, its version and the device."""
        return f"onnxruntime {ort.__version__} cpu"

    def run(self, inputs: Mapping[str, F32]) -> dict[str, F32]:
        """Compute all outputs for one batch.

        Raises:
            EngineError: when an input is missing or has the wrong shape, or the runtime fails.
        """
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except _RUNTIME_ERRORS as error:
            raise EngineError(f"{self._label}: {_first_line(error)}") from None
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Drop the session; its memory goes with the last reference."""
        self._session = None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
