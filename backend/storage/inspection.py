"""A look into a data folder for people: tables, sizes, rows; read-only, with sqlite-utils."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlite_utils

from backend.storage.database import StorageError

SECRET_COLUMNS = frozenset({"token_hash", "key_hash", "proof_secret", "secret_hash", "wrapped_key"})
HIDDEN = "…"
FILES = ("state", "journal")


@dataclass(frozen=True, slots=True)
class TableSize:
    """One table of one file and how many rows it has."""

    file: str
    table: str
    rows: int


class UnknownTable(StorageError):
    """No file of the data folder has a table of this name; the text lists those there are."""


def tables(folder: Path) -> list[TableSize]:
    """Every table of a data folder. Raises StorageError."""
    return [
        TableSize(name, table, database[table].count)
        for name, database in _databases(folder)
        for table in sorted(database.table_names())
    ]


def newest_rows(folder: Path, table: str, limit: int) -> list[dict[str, Any]]:
    """A table's newest rows by row id, or its last by key where it has none.

    Secrets are hidden, blobs shown as their size. Raises StorageError.
    """
    for _, database in _databases(folder):
        if table in database.table_names():
            rows = database[table].rows_where(order_by=_last_first(database, table), limit=limit)
            return [{name: _shown(name, value) for name, value in row.items()} for row in rows]
    known = ", ".join(size.table for size in tables(folder))
    raise UnknownTable(f"there is no table {table}; there are {known}")


def _last_first(database: sqlite_utils.Database, table: str) -> str:
    keys = database.query(
        "select i.name from pragma_table_list(:table) t join pragma_table_info(:table) i"
        " where t.wr and i.pk order by i.pk",
        {"table": table},
    )
    return ", ".join(f'"{key["name"]}" desc' for key in keys) or "rowid desc"


def _databases(folder: Path) -> Iterator[tuple[str, sqlite_utils.Database]]:
    for name in FILES:
        path = folder / f"{name}.db"
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        except sqlite3.OperationalError as error:
            raise StorageError(f"{path}: {error}; is this the backend's data_dir?") from error
        database = sqlite_utils.Database(connection)
        try:
            yield name, database
        finally:
            database.close()


def _shown(name: str, value: Any) -> Any:
    if name in SECRET_COLUMNS:
        return HIDDEN
    return f"{len(value)} bytes" if isinstance(value, bytes) else value
