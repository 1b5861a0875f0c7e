"""One SQLite file: numbered migrations, named queries; threads of its own to write, read and tidy."""

import asyncio
import os
import queue
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import structlog

from backend.storage.migrations import migration_files
from backend.storage.queries import ROWS_TOGETHER, named_queries, numbered
from backend.storage.session import (
    READERS,
    Area,
    Database,
    Row,
    Session,
    StorageConflict,
    StorageError,
    StorageRetry,
)
from backend.storage.turns import Turns

__all__ = [
    "Area",
    "Database",
    "Row",
    "Session",
    "SqliteFile",
    "StorageConflict",
    "StorageError",
    "StorageRetry",
    "migrate",
    "open_for_writing",
    "transaction",
    "view",
]

log = structlog.get_logger()

T = TypeVar("T")
WAL_RETRY_S = 0.01
CACHE_KIB = 32 * 1024  # of pages; with SQLite's own 2 MB most look-ups of the fold ask the system
LOG_PAGES: Mapping[Area, int] = {"journal": 4_000, "state": 8_000}
"""How long the log grows before it goes into the file, which a commit waits for: 64 ms with 8,000 pages. The
state's pages are written again and again, and with SQLite's 1,000 most of its commits waited."""
TIDIED_AFTER: Mapping[Area, int] = {"journal": 32}
"""Commits, after which the log is copied beside them: the journal's senders wait for its commits, and then
what is left for a commit to copy takes it a few milliseconds instead of thirty."""
BUSY_MS = 5_000  # a command such as `token create` may hold the file for a moment

sqlite3.register_adapter(bytes, bytes)  # what is no number and no text is asked whether it would be another,
sqlite3.register_adapter(type(None), lambda none: none)  # which takes eight times as long as this answer


class SqliteSession:
    """One transaction on one file."""

    def __init__(self, connection: sqlite3.Connection, queries: Mapping[str, str]) -> None:
        self._connection = connection
        self._queries = queries

    def run(self, query: str, **values: Any) -> int:
        return self._connection.execute(self._queries[query], values).rowcount

    def many(self, query: str, rows: Iterable[Mapping[str, Any]], *, together: bool = False) -> None:
        """By position: binding a row by names takes half as long again as writing it.

        Between two statements another thread may take its turn, and not give it back for milliseconds.
        """
        statement = numbered(self._queries[query])
        values = statement.bound(rows)
        alone = len(values) % ROWS_TOGETHER if together and statement.together else len(values)
        self._connection.executemany(statement.sql, values[:alone])
        for start in range(alone, len(values), ROWS_TOGETHER):
            at_once = tuple(chain.from_iterable(values[start : start + ROWS_TOGETHER]))
            self._connection.execute(statement.together or "", at_once)

    def changed(self, query: str, rows: Iterable[Mapping[str, Any]]) -> list[bool]:
        sql = self._queries[query]
        return [self._connection.execute(sql, values).rowcount > 0 for values in rows]

    def rows(self, query: str, **values: Any) -> list[Row]:
        return self._connection.execute(self._queries[query], values).fetchall()

    def row(self, query: str, **values: Any) -> Row | None:
        row: sqlite3.Row | None = self._connection.execute(self._queries[query], values).fetchone()
        return row

    def written(self) -> tuple[int, int]:
        """Rows that this connection changed, and commits of others."""
        others = self._connection.execute("pragma data_version").fetchone()[0]
        return self._connection.total_changes, others

    def found(self, sql: str, values: Mapping[str, Any]) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()


class SqliteFile:
    """A database file with a thread that writes, two that read and one that tidies; use as `async with`.

    `write` runs a function in one immediate transaction, committed with synchronous=FULL before it returns;
    an exception rolls it back. `read` sees the last commit and never waits for the writer (WAL).
    """

    one_writer = True

    def __init__(self, path: Path, area: Area) -> None:
        self.path = path
        self._area = area
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"{area}-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix=f"{area}-reader")
        self._tidier = ThreadPoolExecutor(1, thread_name_prefix=f"{area}-tidier")
        self._write_connection: sqlite3.Connection | None = None
        self._read_connections: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._is_open = False
        self._tidy_connection: sqlite3.Connection | None = None
        self._untidied = 0
        self._tidying: asyncio.Future[None] | None = None
        self._turns: Turns | None = None
        self._descriptor: int | None = None

    async def __aenter__(self) -> "SqliteFile":
        loop = asyncio.get_running_loop()
        self._write_connection = await loop.run_in_executor(self._writer, _open, self.path, self._area)
        for _ in range(READERS):
            self._read_connections.put(await loop.run_in_executor(self._readers, _open_reader, self.path))
        if self._area in TIDIED_AFTER:
            self._tidy_connection = await loop.run_in_executor(self._tidier, _open_beside, self.path)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._turns = Turns(self.path, self._descriptor)
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        self._is_open = False
        for _reader in range(READERS):  # each once it is not needed any more
            await loop.run_in_executor(self._readers, lambda: self._read_connections.get().close())
        self._readers.shutdown(wait=False)
        tidying, self._tidy_connection = self._tidy_connection, None  # a commit may end beside this
        for pool, connection in ((self._tidier, tidying), (self._writer, self._write_connection)):
            if connection is not None:
                await loop.run_in_executor(pool, connection.close)
            pool.shutdown(wait=False)
        if self._turns is not None:
            self._turns.close()
            self._turns = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def write(self, work: Callable[[Session], T], *, again: bool = True) -> T:
        """One transaction on the writer's thread; durable when this returns."""
        del again  # nobody writes in between: the file has one writer at a time
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._writer, self._transaction, work)
        self._untidied += 1
        beside = self._tidy_connection
        if beside and self._untidied >= TIDIED_AFTER[self._area] and not self._is_tidying():
            self._untidied = 0
            self._tidying = loop.run_in_executor(self._tidier, _tidy, beside, self.path.name)
        return result

    async def read(self, work: Callable[[Session], T]) -> T:
        """One consistent view on a reader's thread."""
        if not self._is_open:
            raise StorageError(f"{self.path} is not open")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._view, work)

    def view(self, work: Callable[[Session], T]) -> T:
        """One consistent view on a connection of its own; blocks."""
        try:
            return view(self.path, self._area, work)
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}") from error

    def raw(self, length: int, offset: int) -> bytes:
        """Bytes of the file as they lie on the disk, without the log; blocks. Raises StorageError.

        Nobody may open the file to read them: by closing any descriptor of a file a process loses every lock
        it has on it, SQLite's too. Whoever came and went next would take itself for the last and delete the
        log that we write to. So this one stays open as long as the connections.
        """
        if self._descriptor is None:
            raise StorageError(f"{self.path} is not open")
        return os.pread(self._descriptor, length, offset)

    def _is_tidying(self) -> bool:
        return self._tidying is not None and not self._tidying.done()

    async def alone(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` on the writer's thread outside of any transaction: checkpoints, and building anew."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._alone, work)

    def _alone(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._write_connection is None or self._turns is None:
            raise StorageError(f"{self.path} is not open")
        try:
            with self._turns.taken():
                return work(self._write_connection)
        except sqlite3.Error as error:
            _raise_as_ours(error, self._area)
            raise

    def _transaction(self, work: Callable[[Session], T]) -> T:
        if self._write_connection is None or self._turns is None:
            raise StorageError(f"{self.path} is not open")
        with self._turns.taken():
            return transaction(self._write_connection, self._area, work)

    def _view(self, work: Callable[[Session], T]) -> T:
        connection = self._read_connections.get()
        try:
            connection.execute("begin")
            return work(SqliteSession(connection, named_queries(self._area)))
        except sqlite3.Error as error:
            _raise_as_ours(error, self._area)
            raise
        finally:
            connection.rollback()
            self._read_connections.put(connection)


def transaction(connection: sqlite3.Connection, area: Area, work: Callable[[Session], T]) -> T:
    """Runs `work` in one immediate transaction and commits it; rolls back on any exception.

    Raises StorageConflict or StorageError for the database's own, anything else as it is.
    """
    try:
        connection.execute("begin immediate")
        result = work(SqliteSession(connection, named_queries(area)))
        connection.execute("commit")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("rollback")
        _raise_as_ours(error, area)
        raise
    return result


def _raise_as_ours(error: BaseException, area: Area) -> None:
    """Raises a contradiction, or the fault of the file; what was the caller's mistake stays as it is."""
    if isinstance(error, sqlite3.IntegrityError):
        raise StorageConflict(str(error)) from error
    if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
        # Disk full, locked, input/output; the bare class is that of a damaged file.
        raise StorageError(f"{area}: {error}") from error


def view(path: Path, area: Area, work: Callable[[Session], T]) -> T:
    """One consistent read of a file that another process may own."""
    connection = _open_reader(path)
    try:
        connection.execute("begin")
        return work(SqliteSession(connection, named_queries(area)))
    finally:
        connection.close()


def _open(path: Path, area: Area) -> sqlite3.Connection:
    """Opens for writing, and brings the schema up to date. Raises StorageError."""
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)  # who may read may also lock
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute(f"pragma busy_timeout = {BUSY_MS}")
        _use_wal(connection)
        connection.execute("pragma synchronous = full")
        connection.execute(f"pragma wal_autocheckpoint = {LOG_PAGES[area]}")
        connection.execute("pragma foreign_keys = on")
        connection.execute(f"pragma cache_size = -{CACHE_KIB}")
        connection.execute("pragma secure_delete = on")  # erased means erased, also in free pages
        migrate(connection, area)
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{path}: {error}") from error
    return connection


open_for_writing = _open


def _use_wal(connection: sqlite3.Connection) -> None:
    """Turns the log on. SQLite refuses at once, whatever the timeout, while another process does the same."""
    patience = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


def _tidy(connection: sqlite3.Connection, file: str) -> None:
    """Copies what it can of the log into the file, while others write and read."""
    try:
        connection.execute("pragma wal_checkpoint(passive)").fetchone()
    except sqlite3.Error as error:  # the writer will meet it, too, and its senders hear of it
        log.warning("log_not_tidied", file=file, error=str(error))


def _open_beside(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    connection.execute("pragma synchronous = full")
    return connection


def _open_reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute(f"pragma busy_timeout = {BUSY_MS}")
    connection.execute("pragma query_only = on")
    return connection


def migrate(connection: sqlite3.Connection, area: Area) -> None:
    """Applies the numbered files that the database has not had yet, each in its own transaction.

    Safe beside another process that does the same: the version is read again once the file is ours.
    """
    files = migration_files(area)
    have = _version(connection)
    if have > files[-1].number:
        raise StorageError(
            f"{area}: the file has schema {have}, this program knows {files[-1].number}; upgrade it"
        )
    for file in files:
        if file.number > have:
            _apply(connection, file.number, file.text)


def _apply(connection: sqlite3.Connection, number: int, script: str) -> None:
    connection.execute("begin immediate")
    try:
        if _version(connection) < number:
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"pragma user_version = {number}")
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """The script's statements one by one; `executescript` would commit the transaction around it."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
