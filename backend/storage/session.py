"""What services know of a database: named queries inside one transaction, whichever engine is below."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
Area: TypeAlias = Literal["journal", "state"]
READERS = 2  # threads of a database: a long question of the dashboard's must not hold up the sender's


class StorageError(RuntimeError):
    """The database cannot be used; the text says which and why."""


class StorageConflict(StorageError):
    """What was to be written contradicts what is there already: a key taken, a reference to nothing."""


class StorageRetry(StorageError):
    """Another transaction came in between: nothing was written, and the same work may succeed at once."""


class Row(Protocol):
    """One row, by column name and by position; `dict(row)` works."""

    def keys(self) -> Iterable[str]: ...
    def __getitem__(self, column: Any, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows for `Session.many` by position; `columns` names what each holds.

    Where the statement asks for them in this order they are bound as they are: making a mapping of each row,
    and taking it apart again, takes a fifth as long as writing it.
    """

    columns: tuple[str, ...]
    values: Sequence[tuple[Any, ...]]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (dict(zip(self.columns, one, strict=True)) for one in self.values)


class Session(Protocol):
    """One transaction. Queries go by the names they have in the .sql files."""

    def run(self, query: str, **values: Any) -> int:
        """Executes one statement; the number of rows it changed."""
        ...

    def many(self, query: str, rows: Iterable[Mapping[str, Any]], *, together: bool = False) -> None:
        """Executes one statement for every row, in their order; `together`: or one for several of them, where
        the engine gains by it."""
        ...

    def changed(self, query: str, rows: Iterable[Mapping[str, Any]]) -> list[bool]:
        """Executes one statement for every row, in their order; for each whether it changed anything."""
        ...

    def rows(self, query: str, **values: Any) -> list[Row]:
        """Every row of a query."""
        ...

    def row(self, query: str, **values: Any) -> Row | None:
        """The first row of a query, or None."""
        ...

    def written(self) -> Hashable | None:
        """A mark that changes with every row that anybody writes; None where there is no such mark."""
        ...

    def found(self, sql: str, values: Mapping[str, Any]) -> list[Row]:
        """Every row of a query that was put together at run time (segment_sql.py), in SQLite's words."""
        ...


class Database(Protocol):
    """One area of the storage: the journal, or the state."""

    @property
    def one_writer(self) -> bool:
        """Whether transactions that write come one after the other, whichever process they are of."""
        ...

    async def write(self, work: Callable[[Session], T], *, again: bool = True) -> T:
        """One transaction, durable when this returns; an exception rolls it back.

        Where another transaction came in between, `work` runs once more from its beginning, a few times at
        most. Work that changes more than the session says `again=False` and gets StorageRetry.
        Raises StorageConflict, StorageRetry, StorageError, and whatever `work` raises.
        """
        ...

    async def read(self, work: Callable[[Session], T]) -> T:
        """One consistent view of the last commit, which never waits for a writer. Raises StorageError."""
        ...

    def view(self, work: Callable[[Session], T]) -> T:
        """The same on a connection of its own; blocks, so call it from a thread. Raises StorageError."""
        ...
