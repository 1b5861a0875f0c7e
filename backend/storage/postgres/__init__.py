"""PostgreSQL as the storage: what SQLite's files say, in its dialect, and a connection that threads share."""
