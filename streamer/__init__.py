"""Watch camera feeds, follow faces and publish how their expressions change."""

import os
from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

# onnxruntime (since 1.29) keeps an identifier of the machine and reports its use to its vendor,
# unless this is set before it is loaded. We talk to nobody who was not named.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

try:
    __version__ = version("emotion-streamer")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
