"""Making sure that what was deleted from a SQLite file is in none of its bytes.

`secure_delete` overwrites what is deleted. But where SQLite split or merged pages earlier, copies of rows
stay behind in the free space of pages that are in use: in some hundredth of all erasures, measured. So the
file's bytes are searched, and whatever still holds a trace is built anew: an index by itself, else the file.
"""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from backend.profiles.erasure import Traces
from backend.storage.database import SqliteFile
from backend.storage.session import StorageError

log = structlog.get_logger()

BLOCK: Final = 1 << 20
_WINDOW: Final = 8  # bytes looked at together; telling names have as many, but for the shortest addresses
_BITS: Final = 20
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
ROUNDS: Final = 4
REST_S: Final = 0.004  # after each block, which takes as long: other threads have the same interpreter
CHECKPOINT_TRIES: Final = 200
CHECKPOINT_PAUSE_S: Final = 0.05


class SqliteWiper:
    """Wipes one file. Where it `may_rebuild` nothing, it only looks: the journal must not wait."""

    def __init__(self, file: SqliteFile, *, may_rebuild: bool) -> None:
        self._file = file
        self._may_rebuild = may_rebuild

    async def wipe(self, traces: Traces) -> int:
        """Empties the log, and builds anew what still holds a trace; how many pages do at the end."""
        left: set[int] = set()
        for _ in range(ROUNDS):
            await self.truncate_log()
            left = await asyncio.to_thread(pages_with, self._file, traces)
            if not left or not self._may_rebuild:
                break
            await self._rebuild(left)
        return len(left)

    async def truncate_log(self) -> None:
        """Moves the write-ahead log into the file and leaves it empty. Raises StorageError.

        Most of it is moved beside the writer; the writer itself waits for the last few pages only.
        """
        for _ in range(CHECKPOINT_TRIES):
            await asyncio.to_thread(_checkpoint_beside, self._file.path)
            if await self._file.alone(_truncate):
                return
            await asyncio.sleep(CHECKPOINT_PAUSE_S)  # somebody reads what is still only in the log
        raise StorageError(f"{self._file.path}: a reader kept the write-ahead log from being emptied")

    async def _rebuild(self, pages: set[int]) -> None:
        owners = await asyncio.to_thread(owners_of, self._file.path, pages)
        indexes = [name for name, kind in owners.items() if kind == "index"]
        log.info("rebuilding", file=self._file.path.name, pages=len(pages), of=sorted(owners))
        for name in indexes:
            await self._file.alone(partial(_reindex, name=name))
        if len(indexes) < len(owners) or not owners:
            await self._file.alone(lambda connection: connection.execute("vacuum"))


def _checkpoint_beside(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        connection.execute("pragma synchronous = full")
        connection.execute("pragma wal_checkpoint(passive)").fetchone()


def _truncate(connection: sqlite3.Connection) -> bool:
    """Whether the log is empty now; waits for nobody."""
    before = connection.execute("pragma busy_timeout").fetchone()[0]
    connection.execute("pragma busy_timeout = 0")
    try:
        busy, *_ = connection.execute("pragma wal_checkpoint(truncate)").fetchone()
    finally:
        connection.execute(f"pragma busy_timeout = {before}")
    return bool(busy == 0)


def _reindex(connection: sqlite3.Connection, *, name: str) -> None:
    connection.execute('reindex "{}"'.format(name.replace('"', '""')))


def owners_of(path: Path, pages: set[int]) -> dict[str, str]:
    """The tables and indexes that some pages belong to, with their kind. Pages of none are left out."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma query_only = on")
        walked = connection.execute("select name, pageno from dbstat")
        names = {name for name, page in walked if page in pages}
        kinds = dict(connection.execute("select name, type from sqlite_schema").fetchall())
    return {name: kinds.get(name, "table") for name in names}


def pages_with(file: SqliteFile, traces: Traces) -> set[int]:
    """The pages of a file in which any telling name stands; what is shared by two counts for the first."""
    size = int.from_bytes(file.raw(2, 16), "big")
    page = 65536 if size == 1 else size or 4096
    finder = _Finder(traces)
    return {offset // page + 1 for offset in finder.offsets(file)}


class _Finder:
    """Finds many names at once: every eight bytes are looked up in a table of the names' beginnings."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._names = [name for name in traces.written if len(name) >= _WINDOW]
        self._short = [name for name in traces.written if len(name) < _WINDOW]
        starts = np.array([int.from_bytes(name[:_WINDOW], "little") for name in self._names], np.uint64)
        self._table = np.zeros(1 << _BITS, bool)
        self._table[_slot(starts)] = True
        self._by_start: dict[bytes, list[bytes]] = {}
        for name in self._names:
            self._by_start.setdefault(name[:_WINDOW], []).append(name)

    def offsets(self, file: SqliteFile) -> Iterator[int]:
        """Where in the file a name begins."""
        overlap = max(self._traces.longest, _WINDOW)
        start, kept = 0, b""
        while block := file.raw(BLOCK, start):
            whole = (kept + block).lower()
            yield from (start - len(kept) + found for found in self._in(whole))
            time.sleep(REST_S)
            start += len(block)
            kept = whole[-overlap:]

    def _in(self, block: bytes) -> Iterator[int]:
        for name in self._short:
            if (found := block.find(name)) >= 0:
                yield found
        if not self._names:
            return
        for shift in range(_WINDOW):
            windows = np.frombuffer(block, "<u8", (len(block) - shift) // _WINDOW, shift)
            for index in np.flatnonzero(self._table[_slot(windows)]).tolist():
                at = index * _WINDOW + shift
                names = self._by_start.get(block[at : at + _WINDOW], ())
                if any(block.startswith(name, at) for name in names):
                    yield at


def _slot(windows: NDArray[Any]) -> NDArray[Any]:
    return (windows.astype(np.uint64) * _SPREAD) >> np.uint64(64 - _BITS)
