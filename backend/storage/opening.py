"""Which engine keeps the data: files in the data folder, or the PostgreSQL that the settings name."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from backend.storage.database import SqliteFile
from backend.storage.session import Area, Database, Session

if TYPE_CHECKING:
    from backend.storage.postgres.engine import PostgresDatabase
    from backend.storage.postgres.ownership import ReplicaOwnership

T = TypeVar("T")


def open_area(
    url: str | None, file: Path, area: Area, *, owner: bool = False
) -> AbstractAsyncContextManager[Database]:
    """The database of an area, to be entered: `file`, or where there is a `url`, PostgreSQL.

    `owner`: as the one backend that owns it; PostgreSQL lets no second one write as such, nor a replica.
    """
    if url is None:
        return SqliteFile(file, area)
    from backend.storage.postgres.engine import PostgresDatabase  # noqa: PLC0415 - most shops have none
    from backend.storage.postgres.locks import own_alone  # noqa: PLC0415 - as above

    return PostgresDatabase(url, area, own_alone if owner else None)


def open_replica(url: str, ownership: "ReplicaOwnership") -> "PostgresDatabase":
    """The state as one of several that share it; the writer's connection holds its partitions' locks."""
    from backend.storage.postgres.engine import PostgresDatabase  # noqa: PLC0415 - most shops have none

    return PostgresDatabase(url, "state", ownership.opened)


def write_once(url: str | None, file: Path, work: Callable[[Session], T]) -> T:
    """One transaction on the state, for a command, also beside a running backend. Raises StorageError."""

    async def write() -> T:
        async with open_area(url, file, "state") as state:
            return await state.write(work)

    return asyncio.run(write())
