"""Advisory locks: who may change the schema, who owns the database."""

from backend.storage.postgres.line import Line
from backend.storage.session import StorageError

LOCKS = 0x466F6F74
"""The first of the two numbers of every advisory lock of ours."""
MIGRATION_LOCK = 0
OWNER_LOCK = 1


def own_alone(line: Line) -> None:
    """Takes the lock that only one backend has, for as long as the connection lives. Raises StorageError."""
    if not line.ask(f"select pg_try_advisory_lock({LOCKS}, {OWNER_LOCK})")[0][0]:
        raise StorageError("database.url: another backend uses this database; one owns everything")
