"""Face sets: importers of the public formats, cache, splits, label targets, balance and audit."""
