"""``streamer analyse``: the daemon's analysis over recorded files, faster than real time."""
