"""A worker process; started by its parent, never by hand."""

from streamer.workers.child import main

main()
