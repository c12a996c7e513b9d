"""A worker process; started by its parent, never by hand."""

from streamer.memory import share_arenas

share_arenas()  # before libraries are imported that start threads
from streamer.workers.child import main  # noqa: E402

main()
