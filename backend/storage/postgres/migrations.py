"""The schema of a PostgreSQL database: SQLite's numbered migrations, translated, each once."""

from dataclasses import replace

import asyncpg

from backend.storage.migrations import MigrationFile, migration_files
from backend.storage.postgres.dialect import UntranslatableSql, translated_migration
from backend.storage.postgres.errors import as_ours
from backend.storage.postgres.line import SCHEMAS, Address, Line
from backend.storage.postgres.locks import LOCKS, MIGRATION_LOCK
from backend.storage.postgres.queries import POSTGRES_FOLDER
from backend.storage.session import Area, StorageError

_BYTEWISE = frozenset({"C", "POSIX", "C.UTF-8", "C.UTF8", "C.utf8"})


def migrate(address: Address) -> None:
    """Applies the migrations that the area has not had yet, each in its own transaction. Blocks.

    Processes that start together wait for each other. Raises StorageError.
    """
    line = Line(replace(address, patient=True))
    try:
        line.open()
        line.tell(f"select pg_advisory_lock({LOCKS}, {MIGRATION_LOCK})")
        _check_order(line, address)
        _apply_all(line, address.area)
    except (UntranslatableSql, asyncpg.PostgresError) as error:
        raise StorageError(f"{address}: {error}") from error
    except BaseException as error:
        ours = as_ours(error, str(address))
        if ours is None:
            raise
        raise ours from error
    finally:
        line.close()


def migration_statements(area: Area, file: MigrationFile) -> list[str]:
    """What a migration says, in PostgreSQL's words."""
    by_hand = POSTGRES_FOLDER / area / file.name
    return translated_migration(file.text, by_hand.read_text("utf-8") if by_hand.exists() else "")


def _apply_all(line: Line, area: Area) -> None:
    files = migration_files(area)
    for statement in (
        f"create schema if not exists {SCHEMAS[area]}",
        "create table if not exists schema_version (number bigint primary key, name text not null)",
        (POSTGRES_FOLDER / "sqlite_words.sql").read_text("utf-8"),
    ):
        line.tell(statement)
    have = int(line.ask("select coalesce(max(number), 0) from schema_version")[0][0])
    if have > files[-1].number:
        raise StorageError(
            f"{area}: the database has schema {have}, this program knows {files[-1].number}; upgrade it"
        )
    for file in files:
        if file.number > have:
            _apply(line, area, file)


def _apply(line: Line, area: Area, file: MigrationFile) -> None:
    line.tell("begin")
    for statement in migration_statements(area, file):
        line.tell(statement)
    line.ask("insert into schema_version values ($1, $2)", file.number, file.name)
    line.tell("commit")


def _check_order(line: Line, address: Address) -> None:
    """Text is sorted byte by byte, as SQLite does, and no upgrade of the system turns indexes wrong."""
    row = line.ask(
        "select datcollate, datlocprovider::text, pg_encoding_to_char(encoding) from pg_database"
        " where datname = current_database()"
    )[0]
    if row[2] != "UTF8" or not (row[1] == "b" or (row[1] == "c" and row[0] in _BYTEWISE)):
        raise StorageError(
            f"{address}: the database sorts text by {row[0]} in {row[2]}; it may be one made by"
            " create database … template template0 encoding 'UTF8' locale 'C'"
        )
