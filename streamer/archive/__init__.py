"""Records events to files: SQLite to ask at once, Parquet to analyse later."""
