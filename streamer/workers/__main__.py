"""A worker process; started by its parent, never by hand."""

from streamer.memory import keep_freed, share_arenas

share_arenas()  # before libraries are imported that start threads
keep_freed()
from streamer.workers.child import main  # noqa: E402

main()
