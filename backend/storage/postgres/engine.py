"""One area of a PostgreSQL database: a thread that writes, two that read, and a pulse for the server."""

import asyncio
import queue
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import structlog

from backend.storage.postgres.line import Address, Line
from backend.storage.postgres.migrations import migrate
from backend.storage.session import READERS, Area, Session, StorageError, StorageRetry

log = structlog.get_logger()

T = TypeVar("T")
PULSE_S = 1.0  # a fifth of what the server waits for
TRIES = 5  # more in a row is no coincidence: something holds what the work needs
PAUSE_S = 0.005  # before the second try; twice as long before each one after that

_READ = "begin isolation level repeatable read read only"
_WRITE: dict[Area, str] = {
    # Each statement of the journal is right by itself, and appends to one partition queue up for its head.
    "journal": "begin isolation level read committed",
    # Services read, think and write: what changed in between must make them start again, not be overwritten.
    "state": "begin isolation level repeatable read",
}


class PostgresDatabase:
    """Satisfies Database; use as `async with`. Opening it brings the schema up to date.

    All writes go over one connection, and `on_open` may take advisory locks on it: the server ends it, and
    frees them, five seconds after this process stopped. So whoever writes still has its locks.
    """

    one_writer = False

    def __init__(self, url: str, area: Area, on_open: Callable[[Line], None] | None = None) -> None:
        self._reading = Address(url, area)
        self._area = area
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"{area}-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix=f"{area}-reader")
        self._write_line = Line(Address(url, area, watched=True), on_open)
        self._read_lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._pulse: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "PostgresDatabase":
        """Raises StorageError."""
        await asyncio.to_thread(migrate, self._reading)
        for line in [Line(self._reading) for _ in range(READERS)]:
            self._read_lines.put(line)
        self._pulse = asyncio.create_task(self._keep_alive())
        return self

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        if self._pulse is not None:
            self._pulse.cancel()
            with suppress(asyncio.CancelledError):
                await self._pulse
        await loop.run_in_executor(self._writer, self._write_line.close)
        while not self._read_lines.empty():
            await loop.run_in_executor(self._readers, self._read_lines.get().close)
        self._writer.shutdown(wait=False)
        self._readers.shutdown(wait=False)

    async def write(self, work: Callable[[Session], T], *, again: bool = True) -> T:
        """One transaction on the writer's thread; durable when this returns."""
        run = self._persist if again else self._write
        return await asyncio.get_running_loop().run_in_executor(self._writer, run, work)

    async def beside(self, work: Callable[[Line], T]) -> T:
        """Statements on the writer's own connection, each durable by itself. Raises StorageError."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._write_line.beside, work)

    async def read(self, work: Callable[[Session], T]) -> T:
        """One consistent view on a reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def view(self, work: Callable[[Session], T]) -> T:
        """One consistent view on a connection of its own; blocks."""
        line = Line(self._reading)
        try:
            return line.transaction(_READ, work)
        finally:
            line.close()

    def _write(self, work: Callable[[Session], T]) -> T:
        return self._write_line.transaction(_WRITE[self._area], work)

    def _persist(self, work: Callable[[Session], T]) -> T:
        for attempt in range(1, TRIES):
            try:
                return self._write(work)
            except StorageRetry as error:
                log.info("transaction_again", area=self._area, attempt=attempt, error=str(error))
                time.sleep(PAUSE_S * 2**attempt * random.uniform(0.5, 1.0))
        return self._write(work)

    def _read(self, work: Callable[[Session], T]) -> T:
        """A view changes nothing, so one that a lost connection broke off is taken once more."""
        line = self._read_lines.get()
        try:
            return line.transaction(_READ, work)
        except StorageError:
            if line.is_open:
                raise
            return line.transaction(_READ, work)
        finally:
            self._read_lines.put(line)

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PULSE_S)
            try:
                await loop.run_in_executor(self._writer, self._write_line.ping)
            except StorageError as error:
                log.warning("database_lost", area=self._area, error=str(error))
