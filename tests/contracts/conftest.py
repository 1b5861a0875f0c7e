"""Both engines for the same tests: SQLite files, and databases of a real PostgreSQL."""

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import pytest

from backend.storage.database import Database, SqliteFile, SqliteSession
from backend.storage.journal import Journal
from backend.storage.postgres.engine import PostgresDatabase
from backend.storage.postgres.line import Address
from backend.storage.postgres.migrations import migrate
from backend.storage.session import Area, Session
from simulators.postgres import drop_database, make_database, running_postgres, tell

NOON = 1_750_075_200_000
_numbers = itertools.count(1)
Open: TypeAlias = Callable[[Area], SqliteFile | PostgresDatabase]


MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of random name is made there
ENOUGH = 1 << 30  # bytes; a server holds some 100 MB, and PostgreSQL itself shares memory through there


def in_memory() -> Path | None:
    """Where files cost no disk, if there is room: a database is made in 30 ms there, else in up to 900."""
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH
    return MEMORY if usable else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A server's URL. It does not wait for its disk: what a power cut does is no question of these tests."""
    with running_postgres(in_memory()) as url:
        tell(url, "alter system set fsync = off")
        tell(url, "alter system set max_wal_size = '128MB'")  # where it lies in memory, it shall stay small
        tell(url, "select pg_reload_conf()")
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """The name of a database that has every table and nobody's rows."""
    url = make_database(postgres_server, "footfall_template")
    for area in ("journal", "state"):
        migrate(Address(url, area))
    return "footfall_template"


@pytest.fixture
def empty_url(postgres_server: str) -> Iterator[str]:
    """A database in which nothing was migrated."""
    name = f"empty_{next(_numbers)}"
    yield make_database(postgres_server, name)
    drop_database(postgres_server, name)


@pytest.fixture
def database_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A database of the test's own."""
    name = f"test_{next(_numbers)}"
    yield make_database(postgres_server, name, postgres_template)
    drop_database(postgres_server, name)


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_area(request: pytest.FixtureRequest, engine: str) -> Open:
    """Opens an area of the test's own database; a second time as another process would."""
    if engine == "sqlite":
        new_file = request.getfixturevalue("new_file")
        return lambda area: SqliteFile(new_file(area), area)
    url = request.getfixturevalue("database_url")
    return lambda area: PostgresDatabase(url, area)


@pytest.fixture
async def state(open_area: Open) -> AsyncIterator[Database]:
    async with open_area("state") as database:
        yield database


@pytest.fixture
async def journal_file(open_area: Open) -> AsyncIterator[Database]:
    async with open_area("journal") as database:
        yield database


@pytest.fixture
async def journal(journal_file: Database) -> AsyncIterator[Journal]:
    journal = Journal(journal_file, lambda: NOON)
    await journal.load()
    task = asyncio.create_task(journal.run())
    yield journal
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _raw(session: Session, sql: str) -> list[tuple]:
    if isinstance(session, SqliteSession):
        return [tuple(row) for row in session._connection.execute(sql)]
    return [tuple(row) for row in session.line.ask(sql)]


@pytest.fixture
def raw() -> Callable[[Session, str], list[tuple]]:
    """The rows of a statement that only a test asks."""
    return _raw
