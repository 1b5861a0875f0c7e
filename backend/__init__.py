"""The server: ingest, journal, fold, and what is decided from them."""
