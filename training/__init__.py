"""Audit data, train, measure, explain and export the models that the streamer runs."""
