"""A replica's beat: shows that it lives, keeps its share of the partitions, reads what others changed."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol, TypeVar

import structlog

from backend.storage.ownership import Holding
from backend.storage.postgres.line import Line
from backend.storage.postgres.ownership import Beat
from backend.storage.session import Session, StorageError

log = structlog.get_logger()
T = TypeVar("T")

BEAT_S = 1.0
NEWS_KEPT_MS = 600_000  # a replica that was silent for longer has lost its partitions, and reads all anew
TRIM_EVERY = 600  # beats


class State(Protocol):
    """What a beat needs of the database: the connection that holds the locks."""

    async def beside(self, work: Callable[[Line], T]) -> T: ...
    async def write(self, work: Callable[[Session], T]) -> T: ...


class Ownership(Protocol):
    """The share of the partitions."""

    @property
    def holding(self) -> Holding: ...
    def beat(self, line: Line) -> Beat: ...
    def leave(self, line: Line) -> None: ...


class Replica:
    """`run` lives as long as the process; `leave` gives everything back."""

    def __init__(self, state: State, ownership: Ownership, now_ms: Callable[[], int]) -> None:
        self._state = state
        self._ownership = ownership
        self._now_ms = now_ms
        self._beats = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when other partitions are ours, or other replicas changed what is kept in memory."""
        self.on_audit: Callable[[], None] = lambda: None
        """Called when operators changed something anywhere."""
        self.on_lead: Callable[[], None] = lambda: None
        """Called when partitions have changed hands and this process leads: others may have left work."""

    async def run(self) -> None:
        """A beat each second, until cancelled."""
        held = Holding({})
        while True:
            try:
                held = await self._beat(held)
            except StorageError as error:  # the fold has lost its partitions, and waits as we do
                log.warning("beat_failed", error=str(error))
            await asyncio.sleep(BEAT_S)

    async def _beat(self, held: Holding) -> Holding:
        beat = await self._state.beside(self._ownership.beat)
        if beat.holding != held or beat.news:
            self.on_change()
        if beat.audited:
            self.on_audit()
        if beat.holding != held:
            log.info("partitions_held", partitions=len(beat.holding.partitions or ()))
            if beat.holding.leads:
                self.on_lead()
        self._beats += 1
        if self._beats % TRIM_EVERY == 0 and beat.holding.leads:
            before = self._now_ms() - NEWS_KEPT_MS
            await self._state.write(lambda session: session.run("forget_replica_news", before=before))
        return beat.holding

    async def leave(self) -> None:
        """At shutdown: the others take over at once."""
        with suppress(StorageError):  # then the server finds out by itself
            await self._state.beside(self._ownership.leave)


async def while_leading(leads: Callable[[], bool], part: Callable[[], Awaitable[None]]) -> None:
    """Runs what is one process's to do for all, as long as that is this one."""
    running: asyncio.Future[None] | None = None
    try:
        while True:
            if leads() and running is None:
                running = asyncio.ensure_future(part())
            elif not leads() and running is not None:
                running.cancel()
                await asyncio.wait({running})
                running = None
            if running is not None and running.done():
                running.result()  # raises what ended it
                raise RuntimeError("a part ended by itself")
            await asyncio.sleep(BEAT_S)
    finally:
        if running is not None:
            running.cancel()
