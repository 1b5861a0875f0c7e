"""One connection with an event loop of its own, for one thread at a time: asyncpg made synchronous."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import asyncpg

from backend.storage.postgres.dialect import BoundQuery, translated_query
from backend.storage.postgres.errors import as_ours, not_reached
from backend.storage.postgres.queries import bound_queries
from backend.storage.session import Area, Row, Session, StorageError

T = TypeVar("T")
Values: TypeAlias = Mapping[str, Any]

CONNECT_S = 10.0
ANSWER_S = 30.0  # a server that went away without a word must not hold its thread for ever
IDLE_MS = 5_000  # a stopped process lets go of its locks after this; a living one pings each second
SCHEMAS: dict[Area, str] = {"journal": "footfall_journal", "state": "footfall_state"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a line leads, and as what. `url` may hold a password, so it is never shown.

    `watched`: the server ends the session, and with it frees its locks, once it was idle for `IDLE_MS`.
    `patient`: a statement may take as long as it takes; a migration writes whole tables anew.
    """

    url: str
    area: Area
    watched: bool = False
    patient: bool = False

    def __str__(self) -> str:
        try:
            parts = urlsplit(self.url)
        except ValueError:  # no address at all, as connecting will tell
            return f"postgresql, {self.area}"
        return f"{parts.hostname or 'postgresql'}/{parts.path.strip('/')}, {self.area}"

    @property
    def settings(self) -> dict[str, str]:
        settings = {
            "application_name": f"footfall {self.area}",
            "search_path": SCHEMAS[self.area],
            "synchronous_commit": "on",  # whatever the role's default: a commit is acknowledged to senders
            "jit": "off",  # compiling a query that takes a millisecond takes a hundred
        }
        if self.watched:
            settings["idle_session_timeout"] = str(IDLE_MS)
            settings["idle_in_transaction_session_timeout"] = str(IDLE_MS)
        return settings


@dataclass(slots=True)
class _Statement:
    """A prepared statement and the names of its parameters, in their order."""

    prepared: Any
    parameters: tuple[str, ...]

    def arguments(self, values: Values) -> list[Any]:
        return [values[name] for name in self.parameters]


class Line:
    """Opens by itself when it is used, and again when it was lost.

    `on_open` is called with each new connection, to take locks say; where it raises, there is no connection.
    """

    def __init__(self, address: Address, on_open: "Callable[[Line], None] | None" = None) -> None:
        self._address = address
        self._on_open = on_open
        self._queries = bound_queries(address.area)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        self._statements: dict[str, _Statement] = {}

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    def transaction(self, begin: str, work: Callable[[Session], T]) -> T:
        """Runs `work` between `begin` and commit; any exception rolls it back.

        Raises StorageConflict, StorageRetry, StorageError, and whatever `work` raises.
        """
        with self._in_our_words(self._undo):
            self.open()
            self.tell(begin)
            result = work(_LineSession(self))
            self._commit()
        return result

    def beside(self, work: "Callable[[Line], T]") -> T:
        """Runs `work` outside of any transaction. Raises StorageError, and whatever `work` raises."""
        with self._in_our_words(self._undo):
            self.open()
            return work(self)

    @contextmanager
    def _in_our_words(self, undo: Callable[[], None]) -> Iterator[None]:
        """Whatever is raised within is undone; what the server or the connection raised becomes our error."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, TimeoutError):
                self.drop()  # asyncpg waits, without end, for what it asked the server to cancel
            undo()
            ours = as_ours(error, str(self._address))
            if ours is None:
                raise
            raise ours from error

    def _commit(self) -> None:
        """The server answers a commit with ROLLBACK, and no error, where `work` went on after a failure."""
        if self.tell("commit") != "COMMIT":
            raise StorageError(f"{self._address}: rolled back, as a statement in it had failed")

    def open(self) -> None:
        """Connects, if it is not connected. Raises StorageError, and what the server says of us."""
        if self.is_open:
            return
        self._statements.clear()
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()  # uvloop's own start-up costs more than it saves here
        self._connection = self._wait(self._connected())
        try:
            self._wait(_speak_as_sqlite(self._connection))
            if self._on_open is not None:
                self._on_open(self)
        except BaseException:
            self.drop()
            raise

    async def _connected(self) -> Any:
        try:
            return await asyncpg.connect(
                self._address.url,
                timeout=CONNECT_S,
                command_timeout=None if self._address.patient else ANSWER_S,
                server_settings=self._address.settings,
            )
        except (OSError, TimeoutError, OverflowError, ValueError) as error:
            raise not_reached(error, str(self._address)) from error

    def tell(self, sql: str) -> str:
        """Executes a statement without parameters; what the server says of it."""
        return str(self._wait(self._connection.execute(sql)))

    def ask(self, sql: str, *values: Any) -> list[Row]:
        """The rows of a statement that has no name."""
        rows: list[Row] = self._wait(self._connection.fetch(sql, *values))
        return rows

    def ping(self) -> None:
        """Shows the server that we live. Raises StorageError where the connection is lost."""
        with self._in_our_words(self.drop):
            if self.is_open:
                self.tell("select 1")

    def drop(self) -> None:
        """Forgets the connection, so that the next use makes another."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def close(self) -> None:
        """Ends the connection and its loop."""
        if self.is_open:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):  # it ends either way
                self._wait(self._connection.close(timeout=CONNECT_S))
        self.drop()
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def statement(self, query: str) -> _Statement:
        """A named query, prepared once for this connection."""
        known = self._statements.get(query)
        if known is None:
            known = self._statements[query] = self._prepared(self._queries[query])
        return known

    def numbered(self, query: str) -> _Statement:
        """The same, returning the number given as its last parameter for each row that it changed."""
        name = f"{query} numbered"
        known = self._statements.get(name)
        if known is None:
            bound = self._queries[query]
            number = len(bound.parameters) + 1
            returning = BoundQuery(f"{bound.sql} returning ${number}::bigint", bound.parameters)
            known = self._statements[name] = self._prepared(returning)
        return known

    def wait(self, asked: Awaitable[T]) -> T:
        """What the server answers."""
        return self._wait(asked)

    def _prepared(self, bound: BoundQuery) -> _Statement:
        return _Statement(self._wait(self._connection.prepare(bound.sql)), bound.parameters)

    def _wait(self, asked: Awaitable[T]) -> T:
        if self._loop is None:
            raise StorageError(f"{self._address} is not open")
        return self._loop.run_until_complete(asked)

    def _undo(self) -> None:
        """Rolls back; a connection that cannot even do that is lost, and its transaction with it."""
        try:
            if self.is_open and self._connection.is_in_transaction():
                self.tell("rollback")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            self.drop()
        if not self.is_open:
            self.drop()


@dataclass(slots=True)
class _LineSession:
    """One transaction on one line."""

    line: Line = field(repr=False)

    def run(self, query: str, **values: Any) -> int:
        statement = self.line.statement(query)
        self.line.wait(statement.prepared.fetch(*statement.arguments(values)))
        return int(statement.prepared.get_statusmsg().rpartition(" ")[2])

    def many(self, query: str, rows: Iterable[Values], *, together: bool = False) -> None:
        del together  # one message to the server holds all of them
        statement = self.line.statement(query)
        given = [statement.arguments(values) for values in rows]
        if given:
            self.line.wait(statement.prepared.executemany(given))

    def changed(self, query: str, rows: Iterable[Values]) -> list[bool]:
        statement = self.line.numbered(query)
        given = [[*statement.arguments(values), number] for number, values in enumerate(rows)]
        found = {row[0] for row in self.line.wait(statement.prepared.fetchmany(given))} if given else set()
        return [number in found for number in range(len(given))]

    def rows(self, query: str, **values: Any) -> list[Row]:
        statement = self.line.statement(query)
        rows: list[Row] = self.line.wait(statement.prepared.fetch(*statement.arguments(values)))
        return rows

    def row(self, query: str, **values: Any) -> Row | None:
        statement = self.line.statement(query)
        row: Row | None = self.line.wait(statement.prepared.fetchrow(*statement.arguments(values)))
        return row

    def written(self) -> None:
        """Other replicas write as well."""

    def found(self, sql: str, values: Values) -> list[Row]:
        bound = translated_query(sql)
        return self.line.ask(bound.sql, *(values[name] for name in bound.parameters))


async def _speak_as_sqlite(connection: Any) -> None:
    """Booleans are read as 0 and 1, sums of integers as integers, averages as floats, as SQLite has them."""
    await connection.set_type_codec(
        "bool", schema="pg_catalog", format="binary", encoder=_bool_bytes, decoder=_bool_number
    )
    await connection.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number)


def _bool_bytes(value: object) -> bytes:
    return b"\1" if value else b"\0"


def _bool_number(data: bytes) -> int:
    return data[0]


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)
