"""``[daemon] workers``: processes that share the cameras, behind one set of addresses.

The process that is started keeps the sockets and the web server, numbers all events and starts the
workers. Each worker runs a ``streamer.station.Station`` with its share of the cameras, and is
joined to its parent by one inherited socket that nobody else can reach.
"""
