"""Watch camera feeds, follow faces and publish how their expressions change."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("emotion-streamer")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
