"""Takes batches of imports: people's rows through the journal, products to their tables, at a pace."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.catalog.model import Product
from backend.imports.people import SOURCE, Arrival, Prepared, contact, order
from backend.imports.rows import AHEAD_MS, ContactRow, Imported, OrderRow, RowError
from backend.storage import catalog as catalog_rows
from backend.storage import imports as import_rows
from backend.storage import registry
from backend.storage.catalog import Stamp
from backend.storage.session import Database, Session
from sdk_bridge.wire.app_events import AppEvent

PACE_S = 5.0  # the next batch waits for the fold, or an import would stand before everything live
WRITE_S = 0.02  # of one transaction: whoever else has to write waits no longer
MOST_VANISHED = 0.5  # of a feed; where more is missing the feed was cut off, and shelves would empty


class ImportRefused(RuntimeError):
    """What was asked contradicts what is there; the text says what and why."""


class Events(Protocol):
    """The journal. May raise JournalBusy."""

    async def append_events(self, events: Sequence[AppEvent]) -> int: ...


class CaughtUp(Protocol):
    """The fold."""

    async def caught_up(self, profile_id: str, within_s: float = ...) -> bool: ...


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an import, as the caller names it, and who the caller is."""

    actor: str
    import_id: str
    file: str


class ImportDesk:
    """Every row counts once, however often its batch comes: what was imported is remembered by its hash.

    Rows are prepared in a thread: 500 of them would hold up the loop, and with it live events, for 30 ms.
    """

    def __init__(self, state: Database, journal: Events, fold: CaughtUp, now_ms: Callable[[], int]) -> None:
        self._state = state
        self._journal = journal
        self._fold = fold
        self._now_ms = now_ms

    async def contacts(self, rows: Sequence[ContactRow], run: Run) -> Imported:
        """Journals contacts that are new or have changed. Raises ImportRefused, JournalBusy, StorageError."""
        arrival = await self._arrival(run)
        prepared = await asyncio.to_thread(lambda: [contact(row, arrival) for row in rows])
        return await self._people(prepared, [], run, "contacts imported")

    async def orders(self, rows: Sequence[OrderRow], run: Run) -> Imported:
        """Journals orders that are new or have changed. Raises as `contacts` does."""
        arrival = await self._arrival(run)
        latest = arrival.received_at + AHEAD_MS
        late = [
            RowError(row.line, "the order's date lies in the future")
            for row in rows
            if row.ordered_at > latest
        ]
        timely = [row for row in rows if row.ordered_at <= latest]
        prepared = await asyncio.to_thread(lambda: [order(row, arrival) for row in timely])
        return await self._people(prepared, late, run, "orders imported")

    async def products(
        self, rows: Sequence[Product], present: Sequence[str], feed: str, run: Run
    ) -> Imported:
        """Writes products; those of `present` are in the feed, though their rows could not be read."""
        stamp = Stamp(self._now_ms(), feed, run.import_id)
        left = list(rows)
        while left:
            done = await self._state.write(lambda s: catalog_rows.put_products(s, left, stamp, _deadline()))
            del left[:done]

        def finish(session: Session) -> None:
            catalog_rows.touch_products(session, present, stamp)
            self._note(session, run, "products imported", {"feed": feed, "rows": len(rows)})

        await self._state.write(finish)
        return Imported(len(rows), 0)

    async def complete(self, feed: str, run: Run, *, force: bool) -> int:
        """Marks the products that a whole feed no longer has; how many. Raises ImportRefused."""
        stamp = Stamp(self._now_ms(), feed, run.import_id)
        had, gone = await self._state.read(lambda session: catalog_rows.vanished(session, stamp))
        if gone > MOST_VANISHED * had and not force:
            raise ImportRefused(
                f"{gone} of the {had} products of the feed {feed} are missing: is the file whole? "
                "If it is, say so with force"
            )
        marked, after = 0, ""
        while True:
            step, after = await self._state.write(
                lambda s, behind=after: catalog_rows.mark_vanished(s, stamp, behind)  # type: ignore[misc]
            )
            if not step:
                break
            marked += step
        detail = {"feed": feed, "vanished": marked}
        await self._state.write(lambda s: self._note(s, run, "feed completed", detail))
        return marked

    async def _arrival(self, run: Run) -> Arrival:
        now = self._now_ms()
        source = await self._state.read(lambda s: import_rows.source(s, SOURCE))
        if source is None:
            fresh = registry.hash_secret(secrets.token_urlsafe(32)), secrets.token_urlsafe(32)
            source = await self._state.write(lambda s: import_rows.make_source(s, SOURCE, *fresh, now))
        if not source.is_ours:
            raise ImportRefused(f"a source called {SOURCE} exists that is no server: imports need this name")
        if source.is_revoked:
            raise ImportRefused(f"the source {SOURCE} was revoked: nothing is imported any more")
        return Arrival(now, run.import_id, source.secret)

    async def _people(
        self, prepared: Sequence[Prepared], errors: list[RowError], run: Run, action: str
    ) -> Imported:
        """The journal first, the memory after it: whoever dies in between appends again, which the journal
        knows by the message ids."""
        subjects = [row.subject_hash for row in prepared]
        known = await self._state.read(lambda session: import_rows.known(session, subjects))
        events, fresh = news(prepared, known)
        if events:
            await self._journal.append_events(events)
        counted = Imported(fresh, len(prepared) - fresh, errors)
        now = self._now_ms()

        def remember(session: Session) -> None:
            import_rows.remember(session, prepared, now)
            self._note(session, run, action, {"new": counted.new, "known": counted.known})

        await self._state.write(remember)
        if events:
            await self._fold.caught_up("", PACE_S)
        return counted

    def _note(self, session: Session, run: Run, action: str, detail: dict[str, object]) -> None:
        about = {**detail, "file": run.file}
        registry.note(session, self._now_ms(), run.actor, action, run.import_id, about)


def news(prepared: Sequence[Prepared], known: dict[int, int]) -> tuple[list[AppEvent], int]:
    """The events of rows that say something new, and how many such rows there are.

    `known` is what was last said of each subject; it may be said of twice in one batch.
    """
    events: list[AppEvent] = []
    fresh = 0
    said = dict(known)
    for row in prepared:
        before = said.get(row.subject_hash)
        if before == row.content_hash:
            continue
        events += row.first if before is None else row.changed
        said[row.subject_hash] = row.content_hash
        fresh += 1
    return events, fresh


def _deadline() -> Callable[[], bool]:
    until = time.monotonic() + WRITE_S
    return lambda: time.monotonic() >= until
