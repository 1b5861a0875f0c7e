"""The journal: everything accepted, durable before its sender hears so; one commit serves many senders."""

import asyncio
import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeAlias

import structlog
from msgspec import Struct

from backend.profiles.model import TRUST
from backend.storage.entries import HOUR_MS, Cursor, Entry, LaneKey, Parcel
from backend.storage.group import Group, Values, head
from backend.storage.letters import Letter, NewLetter, bury, of_batch, settle
from backend.storage.message_ids import RecentFirst, TableOfIds
from backend.storage.session import Database, Session, StorageConflict, StorageError
from sdk_bridge.server.ports import DeadLetter, JournalBusy
from sdk_bridge.wire.app_events import AppEvent, encode_each
from sdk_bridge.wire.topics import partition_of

log = structlog.get_logger()

Write: TypeAlias = Callable[[Group], int]
"""Says what one sender wants in a commit; the sender's answer."""

Place: TypeAlias = tuple[int, str]
"""A partition, and the source."""

TOO_LATE = -1  # no number of events
MAX_WAITING = 2_000  # works waiting for a commit; beyond it a slow disk must show as back-pressure
WORKS_PER_COMMIT = 256  # bounds one transaction, so that nobody waits long behind it
MESSAGE_DAYS = 7  # how long a client may send an event again without it counting twice
FOLDED_BYTES = 64 * 1024  # of app events at once, some 300: pushes and the dashboard wait for that file too
DELETED_BYTES = 2 * 1024 * 1024  # at once: what goes is overwritten, and nobody appends meanwhile
MAX_WAITING_BYTES = 64 * 1024 * 1024  # a stalled disk must not become our memory either


class GatewayAppend(Struct, frozen=True, gc=False):
    """What one accepted message of a gateway leaves behind, all in one transaction.

    `payload` None: nothing of it may be kept, but its sequence is consumed all the same. `buried`: it
    could not be understood and goes to the dead letters.
    """

    lane: LaneKey
    first: int
    upto: int
    received_at: int
    partition: int
    boot_offset: int | None = None
    payload: bytes | None = None
    forgotten: dict[str, int] = {}
    buried: NewLetter | None = None


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """What a dead letter turned out to hold, read once more, and what of it is still not understood.

    `entry`: the letter itself goes to the fold again. `gateway`: a message, whose sequence was consumed then.
    """

    events: Sequence[AppEvent] = ()
    entry: Letter | None = None
    gateway: GatewayAppend | None = None
    rest: Sequence[NewLetter] = ()


class Journal:
    """Appends in group commits and hands the fold what is next. Start `run` in the process's task group."""

    def __init__(self, file: Database, now_ms: Callable[[], int]) -> None:
        self._file = file
        self._now_ms = now_ms
        self._ids = RecentFirst() if file.one_writer else TableOfIds()
        self._place_of = _with_source if file.one_writer else _with_person
        self._waiting: asyncio.Queue[_Work] = asyncio.Queue(MAX_WAITING)
        self._waiting_bytes = 0
        self.appended = asyncio.Event()
        """Set after each commit; the fold clears it."""
        self.head = Cursor()
        """The last position ever given in each line, as far as this process knows."""

    async def load(self) -> dict[LaneKey, int]:
        """Reads how far every sender has got, and the head. Call once before `run`."""
        rows, self.head = await self._file.read(lambda s: (s.rows("lane_positions"), head(s)))
        return {LaneKey(row["gateway"], row["epoch"], row["lane"]): row["upto"] for row in rows}

    async def lanes(self) -> dict[LaneKey, int]:
        """How far every sender has got, whoever took it in."""
        rows = await self._file.read(lambda session: session.rows("lane_positions"))
        return {LaneKey(row["gateway"], row["epoch"], row["lane"]): row["upto"] for row in rows}

    async def newest(self) -> Cursor:
        """The last position that anybody has given; wakes the fold if it was not ours."""
        known = self.head
        await self.look()
        if self.head != known:
            self.appended.set()
        return self.head

    async def look(self) -> None:
        """Learns what other processes have appended; they tell nobody."""
        self._learn(await self._file.read(head))

    async def run(self) -> None:
        """Commits whatever is waiting, as long as the process lives."""
        while True:
            works = [await self._waiting.get()]
            while len(works) < WORKS_PER_COMMIT and not self._waiting.empty():
                works.append(self._waiting.get_nowait())
            await self._commit(works)
            self._waiting_bytes -= sum(work.size for work in works)
            await self._settle_ids()

    async def append_gateway(self, append: GatewayAppend) -> int:
        """Commits a gateway's message and its sequence; how far its lane is committed after that.

        Nothing is kept where its sequence is not the lane's next: then an earlier one failed to commit, or
        this one is committed already. Raises JournalBusy.
        """
        return (await self.append_gateways([append]))[0]

    async def append_gateways(self, appends: Sequence[GatewayAppend]) -> list[int]:
        """The same for several that came together: they are committed all, or none. Raises JournalBusy."""
        reached: list[int] = []

        def write(group: Group) -> int:
            reached[:] = [_write_gateway(group, append) for append in appends]
            return len(reached)

        await self._submit(write, sum(map(_bytes_of, appends)), [append.lane for append in appends])
        return reached

    async def append_events(
        self,
        events: Sequence[AppEvent],
        encoded: Sequence[bytes] | None = None,
        *,
        still: Callable[[], bool] = lambda: True,
    ) -> int:
        """Commits app events, each message id once within seven days; how many were new.

        `encoded`: their bytes, where the caller has them. `still`: asked in the transaction, whether they may
        still be kept. Raises JournalBusy, WireError.
        """
        sent = self._parcels(events, encode_each(events) if encoded is None else encoded)
        del events, encoded  # only bytes wait for the commit

        def write(group: Group) -> int:
            return sum(map(group.take, sent)) if still() else TOO_LATE

        new = await self._submit(write, _weight(sent), sent=sent)
        if new == TOO_LATE:
            raise JournalBusy("it waited too long for its commit; send again")
        return new

    async def bury(self, letter: DeadLetter | NewLetter) -> None:
        """Keeps what could not be understood, with its reason; the oldest make room."""
        kept = letter if isinstance(letter, NewLetter) else of_batch(letter)

        def write(group: Group) -> int:
            bury(group.session, kept)
            return 0

        await self._submit(write, len(kept.payload))

    async def read_again(self, letter: Letter, again: "ReadAgain") -> bool:
        """Appends what a dead letter turned out to hold and settles the letter, in one transaction.

        False, and nothing is appended, where somebody else was faster. Raises JournalBusy, WireError.
        """
        now, sent = self._now_ms(), self._parcels(again.events, encode_each(again.events))

        def write(group: Group) -> int:
            if not settle(group.session, letter, again.rest, now):
                return 0
            for parcel in sent:
                group.take(parcel)
            if again.entry is not None:
                group.append(_entry_of_letter(again.entry))
            if again.gateway is not None:
                _write_observations(group, again.gateway)
            return 1

        size = len(letter.payload) + _weight(sent)
        return bool(await self._submit(write, size, sent=sent))

    async def after(self, cursor: Cursor, limit: int) -> list[Entry]:
        """The next entries behind a cursor: each line's in order, the lines merged by time of arrival.

        At most `limit`, and not many more bytes of app events than one transaction of the fold should take.
        """
        asked = {"cursor": cursor.encoded, "limit": limit, "bytes": FOLDED_BYTES}
        rows, upto = await self._file.read(lambda s: (s.rows("entries_after", **asked), head(s)))
        self._learn(upto)
        return [Entry(*row) for row in rows]

    async def delete_folded(self, cursor: Cursor) -> None:
        """Deletes what the state has committed, in the lines of the cursor."""
        asked = {"cursor": cursor.encoded, "bytes": DELETED_BYTES}
        while await self._file.write(lambda session: session.run("delete_folded", **asked)):
            pass

    async def forget_old_messages(self) -> int:
        """Drops the ids of messages received over seven days ago, whatever their own clock said; how many."""
        whole = True
        while await self._file.write(partial(self._ids.settle, whole=whole)):
            whole = False
        before = self._now_ms() // HOUR_MS - MESSAGE_DAYS * 24 - 1
        return await self._file.write(lambda s: s.run("forget_messages", before_hour=before))

    async def _submit(
        self, write: Write, size: int, lanes: Sequence[LaneKey] = (), sent: Sequence[Parcel] = ()
    ) -> int:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self._waiting_bytes + size > MAX_WAITING_BYTES or self._waiting.full():
            raise JournalBusy("the journal's disk cannot keep up; send again in a moment")
        self._waiting.put_nowait(_Work(write, size, lanes, sent, done))
        self._waiting_bytes += size
        return await done

    async def _commit(self, works: Sequence["_Work"]) -> None:
        """One transaction for all; where one work is at fault, each gets its own, and only that one fails."""
        try:
            results, upto = await self._file.write(lambda session: self._write(session, works))
        except Exception as error:  # noqa: BLE001 - each waiting sender gets it, and none is acknowledged
            if len(works) > 1 and not _is_disks_fault(error):
                for work in works:
                    await self._commit([work])
            else:
                for work in works:
                    work.fail(error)
            return
        self._learn(upto)
        for result, work in zip(results, works, strict=True):
            if not work.done.done():
                work.done.set_result(result)
        self.appended.set()

    def _learn(self, upto: Cursor) -> None:
        """A look that began before a commit may end after it."""
        self.head = self.head.furthest(upto)

    def _write(self, session: Session, works: Sequence["_Work"]) -> tuple[list[int], Cursor]:
        """Every work's result, and the head after them."""
        lanes = (lane for work in works for lane in work.lanes)
        group = Group(session, self._ids, lanes, (parcel for work in works for parcel in work.sent))
        results = [work.write(group) for work in works]
        return results, group.write()

    async def _settle_ids(self) -> None:
        """Puts ids in order, a portion at a time, while nobody waits or it must be."""
        portions = 0
        while self._ids.due and (self._waiting.empty() or portions < self._ids.pressing):
            portions += 1
            try:
                await self._file.write(self._ids.settle)
            except StorageError as error:  # the ids stay where they are, and are known
                log.warning("message_ids_not_settled", error=str(error))
                return

    def _parcels(self, events: Sequence[AppEvent], encoded: Sequence[bytes]) -> list[Parcel]:
        """The events in their order, those in a row together that have place and hour in common."""
        hashes = message_hashes(events)
        keys = [(self._place_of(event), event.original_at // HOUR_MS, event.received_at) for event in events]
        if keys and keys.count(keys[0]) == len(keys):
            return [Parcel(*keys[0], hashes, list(encoded))]
        found: list[Parcel] = []
        last = None
        for key, number, data in zip(keys, hashes, encoded, strict=True):
            if key != last:
                last = key
                found.append(Parcel(*key, [], []))
            found[-1].hashes.append(number)
            found[-1].encoded.append(data)
        return found


@dataclass(frozen=True, slots=True)
class _Work:
    """Something to write, its bytes, the lanes and the events it asks about, and who waits for it.

    A sender that went away has cancelled `done`.
    """

    write: Write
    size: int
    lanes: Sequence[LaneKey]
    sent: Sequence[Parcel]
    done: asyncio.Future[int]

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            busy = JournalBusy(f"the journal could not commit: {error}")
            self.done.set_exception(busy if _is_disks_fault(error) else error)


def _is_disks_fault(error: Exception) -> bool:
    return isinstance(error, StorageError) and not isinstance(error, StorageConflict)


def may_have_more(entries: Sequence[Entry], limit: int) -> bool:
    """Whether `Journal.after`, asked for so many, gave as much as it gives at once."""
    app_bytes = sum(len(entry.payload) for entry in entries if entry.kind == "app")
    return len(entries) >= limit or app_bytes >= FOLDED_BYTES


def message_hash(source: str, message_id: str) -> int:
    """64-bit identity of an app event: the source and the client's `messageId`. Signed, as SQLite stores."""
    return int.from_bytes(_digest(_hash_begun(source).copy(), message_id), "big", signed=True)


def message_hashes(events: Sequence[AppEvent]) -> list[int]:
    """The `message_hash` of each."""
    digests = [_digest(_hash_begun(event.source).copy(), event.message_id) for event in events]
    return list(struct.unpack(f">{len(digests)}q", b"".join(digests)))


def _digest(begun: hashlib.blake2b, message_id: str) -> bytes:
    begun.update(message_id.encode("utf-8", "surrogatepass"))
    return begun.digest()


@lru_cache(256)
def _hash_begun(source: str) -> hashlib.blake2b:
    return hashlib.blake2b(f"{source}\0".encode("utf-8", "surrogatepass"), digest_size=8)


def partition_of_event(event: AppEvent) -> int:
    """Where an app's or a site's event is journalled, and folded.

    By the first of what it names somebody by, so that one person's come together as far as they can be told
    to be one person's; whoever waits for a person's events asks in the same places (partitions_of_person).
    """
    name = event.user_id or event.anonymous_id or event.device_id
    if name is None and event.external_ids:
        name = min(event.external_ids, key=lambda one: (TRUST[one.type], one.id)).id
    return partition_of(name or event.source)


def _with_person(event: AppEvent) -> Place:
    return partition_of_event(event), event.source


def _with_source(event: AppEvent) -> Place:
    """Where one process folds everything, a request need not be taken apart."""
    return _place_of_source(event.source)


@lru_cache(256)
def _place_of_source(source: str) -> Place:
    return partition_of(source), source


def _bytes_of(append: GatewayAppend) -> int:
    return len(append.payload or b"") + len(append.buried.payload if append.buried else b"")


def _write_gateway(group: Group, append: GatewayAppend) -> int:
    upto = group.upto(append.lane)
    if upto != append.first - 1:
        return upto
    group.advance(append.lane, append.upto, append.received_at)
    if append.buried is not None:
        bury(group.session, append.buried)
    _write_observations(group, append)
    return append.upto


def _write_observations(group: Group, append: GatewayAppend) -> None:
    """What of a gateway's message may be kept, and how much of it may not."""
    for reason, adverts in append.forgotten.items():
        group.forget(append.lane.gateway, reason, adverts)
    if append.payload is None:
        return
    group.append(
        {
            "partition": append.partition,
            "kind": "gateway",
            "source": append.lane.gateway,
            "lane": append.lane.lane,
            "boot_offset": append.boot_offset,
            "received_at": append.received_at,
            "payload": append.payload,
        }
    )


def _weight(sent: Sequence[Parcel]) -> int:
    return sum(parcel.weight for parcel in sent)


def _entry_of_letter(letter: Letter) -> Values:
    return {
        "partition": letter.partition,
        "kind": "gateway" if letter.source is None else "app",
        "source": letter.source or letter.origin,
        "lane": None if letter.lane is None else "backlog",  # history by now
        "boot_offset": letter.boot_offset,
        "received_at": letter.received_at,
        "payload": letter.payload,
    }
