"""Names rotating ids for the ingest: keeps tables at hand, made off the event loop, and learns clocks.

What cannot be looked up yet, because its table is still to be made, is answered `None`: the ingest leaves the
message with its gateway, and is told when to have it sent again. So nothing waits in our memory.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeAlias, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from backend.proximity.eid import EidError, KeyWrap
from backend.proximity.eid_roll import PREFIX, Roll, SealedBeacon
from backend.proximity.eid_shelf import ClockSeen, EidShelf, Want
from backend.proximity.eid_table import MAX_BYTES, EidBeacon, EidTable
from backend.storage.database import StorageError

log = structlog.get_logger()
T = TypeVar("T")

OLDEST_S: Final = 31 * 86_400  # heard before that, an id stays unknown: each such hour would cost a table
SPAN_S: Final = 600  # of one batch; honest ones span a minute, and each table covers a minute at the least
AHEAD_S: Final = 60  # of our clock; nothing is heard later than it arrives
LEAD_S: Final = 60  # before a table ends, the next one is made
LOOK_AGAIN_S: Final = 60.0  # at the latest: clocks are put right, machines sleep
REST: Final = 9  # times as long as reading everything took, before it is read again: a tenth of one core
LEAST_REST_S: Final = 0.2  # beacons are registered one by one, and by the thousand
SAVE_EVERY_S: Final = 600.0  # what was learned of clocks; lost with a crash, it is learned again
MOST_ASKED: Final = 4_096  # who wait for a table: the lanes of a big chain after an outage
MOST_LEARNED: Final = 65_536  # clocks that wait to be saved
RETRY_S: Final = 1.0


class EidRows(Protocol):
    """The registered beacons. `roll` and `sealed` block, so they are called in threads."""

    def roll(self) -> Roll:
        """Every beacon's number and name. Raises StorageError."""
        ...

    def sealed(self, exponent: int, use: Callable[[Iterator[SealedBeacon]], T]) -> T:
        """What `use` makes of the beacons of one exponent. Raises StorageError."""
        ...

    async def save_clocks(self, ahead_s: Mapping[int, int], now: int) -> None:
        """Keeps what was learned of clocks, by number. Raises StorageError."""
        ...


_Made: TypeAlias = tuple[EidTable, NDArray[np.int64], int]
"""A table, the clocks it was made with by number, and how many keys could not be opened."""


class EidDesk:
    """Call `load` once; `run` lives as long as the process; `close` saves what was learned."""

    def __init__(self, rows: EidRows, wrap: KeyWrap, now_ms: Callable[[], int]) -> None:
        self._rows = rows
        self._wrap = wrap
        self._now_ms = now_ms
        self._roll = Roll()
        self._shelf = EidShelf(())
        self._asked: list[tuple[list[Want], Callable[[], None]]] = []
        self._wake = asyncio.Event()
        self._stale, self._anew_at, self._save_at = False, 0.0, 0.0
        self._learned: dict[int, int] = {}
        self._unsaved: set[int] = set()
        self.unreadable = 0
        """Beacons whose key does not open with our secret."""
        self.counts: Counter[str] = Counter()

    @property
    def beacons(self) -> int:
        """How many are registered."""
        return sum(self._roll.counts.values())

    @property
    def size_bytes(self) -> int:
        """What the tables take."""
        return self._shelf.size_bytes

    async def load(self) -> None:
        """Learns who is registered; the tables are made by `run`. Raises StorageError."""
        self._roll = await asyncio.to_thread(self._rows.roll)
        self._shelf = EidShelf(self._roll.counts)
        self._save_at = time.monotonic() + SAVE_EVERY_S

    def changed(self) -> None:
        """Beacons were registered, or their clocks told anew."""
        self._stale = True
        self._wake.set()

    def removed(self, beacon_key: str) -> None:
        """A beacon is registered no more, and is nobody from this moment on."""
        self._roll.strike(beacon_key)
        self.changed()

    def all_removed(self, beacon_keys: Sequence[str]) -> None:
        """Whoever carried them was erased; those that are none of ours change nothing."""
        for beacon_key in beacon_keys:
            if beacon_key.startswith(PREFIX):
                self.removed(beacon_key)

    def resolve(
        self, eids: Sequence[bytes], at_s: Sequence[int], ready: Callable[[], None]
    ) -> list[str | None] | None:
        """The key of the beacon behind each id of 8 bytes, heard at its unix second; None for a stranger.

        None for all where a table has to be made first: then `ready` is called once asking again makes sense.
        """
        names: list[str | None] = [None] * len(eids)
        at, now_s = np.array(at_s, np.int64), self._now_s()
        rows = _sensible(at, now_s)
        if not self._shelf.exponents or not len(rows):
            return names
        wants = self._shelf.wants(at[rows])
        if wants:
            self._ask(wants, ready)
            return None
        ids = np.frombuffer(b"".join(eids), ">u8").astype(np.uint64)
        found, clocks = self._shelf.find(ids[rows], at[rows], now_s)
        self._learn(clocks)
        for row, number in zip(rows.tolist(), found.tolist(), strict=True):
            names[row] = self._roll.name(number) if number >= 0 else None
        return names

    async def run(self) -> None:
        """Makes the tables that are wanted, the next ones in time, and all anew after a change."""
        while True:
            try:
                await self._turn()
            except StorageError as error:
                log.error("eid_tables_wait_for_disk", error=str(error))  # noqa: TRY400 - no traceback in a full disk
                self._release()
                await asyncio.sleep(RETRY_S)
            else:
                await self._pause()

    async def close(self) -> None:
        """Saves what was learned of clocks."""
        try:
            await self._save_clocks()
        except StorageError as error:  # it will be learned again
            log.warning("eid_clocks_not_saved", error=str(error))

    def _ask(self, wants: list[Want], ready: Callable[[], None]) -> None:
        if len(self._asked) < MOST_ASKED:
            self._asked.append((wants, ready))
            self._wake.set()
        else:
            self.counts["asked too much"] += 1
            asyncio.get_running_loop().call_later(RETRY_S, ready)

    async def _turn(self) -> None:
        self._wake.clear()
        if self._stale and time.monotonic() >= self._anew_at:
            await self._read_anew()
        for want in self._wanted_now(self._shelf):
            await self._make(self._shelf, self._roll, want)
        await self._make_asked()
        if time.monotonic() >= self._save_at:
            await self._save_clocks()

    async def _pause(self) -> None:
        """Until somebody calls, or the next thing is due."""
        due = [LOOK_AGAIN_S, *(self._ends_in(self._shelf, exponent) for exponent in self._shelf.exponents)]
        if self._stale:
            due.append(self._anew_at - time.monotonic())
        if self._asked:
            due.append(RETRY_S)  # there was no room for one more table
        try:
            async with asyncio.timeout(max(min(due), 0.02)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _read_anew(self) -> None:
        """The present tables stay in use until their successors are made."""
        began, self._stale = time.monotonic(), False
        try:
            await self._save_clocks()
            roll = await asyncio.to_thread(self._rows.roll)
            shelf, self.unreadable = EidShelf(roll.counts), 0
            for want in self._wanted_now(shelf):
                await self._make(shelf, roll, want)
        except StorageError:
            self._stale = True
            raise
        self._roll, self._shelf = roll, shelf
        self._learned = {number: self._learned[number] for number in self._unsaved}
        ended = time.monotonic()
        self._anew_at = ended + max(LEAST_REST_S, REST * (ended - began))

    def _wanted_now(self, shelf: EidShelf) -> list[Want]:
        """Tables for now, and for what comes next where that is near."""
        now_s, wants = self._now_s(), []
        for exponent in shelf.exponents:
            until = shelf.covered_until(exponent, now_s)
            if until is None:
                wants.append(Want(exponent, int(now_s)))
            elif self._ends_in(shelf, exponent) <= 0:
                wants.append(Want(exponent, until))
        return wants

    def _ends_in(self, shelf: EidShelf, exponent: int) -> float:
        """Seconds until the next table of an exponent has to be made."""
        until = shelf.covered_until(exponent, self._now_s())
        return 0.0 if until is None else until - min(LEAD_S, 1 << exponent) - self._now_s()

    async def _make_asked(self) -> None:
        """Who asked stays in the list until it can be told; without room for a table, it waits at the end."""
        for _ in range(len(self._asked)):
            served = await self._serve(self._asked[0][0])
            wants, ready = self._asked.pop(0)
            if served:
                ready()
            else:
                self._asked.append((wants, ready))

    async def _serve(self, wants: Sequence[Want]) -> bool:
        """Whether each table is there now; the one made for somebody else may do."""
        for want in wants:
            if want.exponent not in self._shelf.exponents:
                continue
            if self._shelf.covered_until(want.exponent, want.at_s) is not None:
                continue
            if not self._shelf.has_room(self._now_s()):
                return False
            await self._make(self._shelf, self._roll, want)
        return True

    async def _make(self, shelf: EidShelf, roll: Roll, want: Want) -> None:
        count = roll.counts[want.exponent]
        max_bytes = MAX_BYTES * count // max(sum(roll.counts.values()), 1)
        make = partial(_table, self._wrap, want, count, roll.size, max_bytes)
        table, ahead_s, unreadable = await asyncio.to_thread(self._rows.sealed, want.exponent, make)
        shelf.put(want, table, ahead_s, self._now_s())
        self.counts["tables"] += 1
        if unreadable:
            self.unreadable = max(unreadable, self.unreadable)
            log.error("eid_keys_do_not_open", beacons=unreadable, hint="is eid.key_file the right one?")

    def _learn(self, clocks: Sequence[ClockSeen]) -> None:
        for seen in clocks:
            known = self._learned.get(seen.number, seen.assumed_s)
            clock = min(max(known, seen.least_s), seen.most_s)
            if clock == known:
                continue
            if len(self._learned) >= MOST_LEARNED and seen.number not in self._learned:
                self.counts["clocks not learned"] += 1
                continue
            self._learned[seen.number] = clock
            self._unsaved.add(seen.number)

    async def _save_clocks(self) -> None:
        self._save_at = time.monotonic() + SAVE_EVERY_S
        unsaved, self._unsaved = self._unsaved, set()
        clocks = {number: self._learned[number] for number in unsaved}
        try:
            if clocks:
                await self._rows.save_clocks(clocks, self._now_ms())
        except StorageError:
            self._unsaved |= unsaved
            raise
        if len(self._learned) >= MOST_LEARNED:
            self._learned = {number: self._learned[number] for number in self._unsaved}

    def _release(self) -> None:
        """Those who asked may ask again."""
        asked, self._asked = self._asked, []
        for _, ready in asked:
            ready()

    def _now_s(self) -> float:
        return self._now_ms() / 1000


def _sensible(at: NDArray[np.int64], now_s: float) -> NDArray[np.intp]:
    """The rows whose time we make tables for."""
    rows = np.flatnonzero((at >= now_s - OLDEST_S) & (at <= now_s + AHEAD_S))
    return rows[at[rows] <= at[rows].min() + SPAN_S] if len(rows) else rows


def _table(
    wrap: KeyWrap, want: Want, count: int, size: int, max_bytes: int, sealed: Iterator[SealedBeacon]
) -> _Made:
    """Opens the keys and makes the table from them, in a thread; the keys go no further."""
    ahead_s, unreadable = np.zeros(size, np.int64), 0

    def opened() -> Iterator[EidBeacon]:
        nonlocal unreadable
        for beacon in sealed:
            if beacon.number >= size:
                continue  # registered after the roll was read, which is read again for it
            try:
                key = wrap.unwrap(beacon.wrapped_key, beacon.beacon_key)
            except EidError:
                unreadable += 1  # counted here, told by the desk
                continue
            ahead_s[beacon.number] = beacon.clock_ahead_s
            yield EidBeacon(beacon.number, key, want.exponent, beacon.clock_ahead_s)

    return EidTable.make(opened(), count, want.at_s, max_bytes), ahead_s, unreadable
