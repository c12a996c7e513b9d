"""Cameras of one configuration, spread over the nodes of a Ray cluster."""
