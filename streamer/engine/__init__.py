"""Runtimes for the networks, all behind the Protocol ``streamer.stages.Engine``."""
