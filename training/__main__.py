"""``python -m training`` is ``streamer-train``."""

from training.cli import main

main()
