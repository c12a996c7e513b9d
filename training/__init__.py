"""Audit data, train, measure, explain and export the models that the streamer runs."""

import streamer  # noqa: F401 (before onnxruntime is loaded: it keeps that from reporting its use)
