"""What was heard and not yet committed by the backend: an SQLite file that survives the plug being pulled.

A record waits until it is numbered: into the live lane while it is fresh, into the backlog lane once it is
thirty seconds old. A number is durable before it is sent, and what it stands for never changes; it only ever
gives way to a skip. Everything happens in one transaction a turn, on one thread. `synchronous=FULL`. What
waits for the backlog is joined into larger batches now and then, or days of outage would not fit the card.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, TypeVar, get_args

from gateway.aggregate import MAX_BYTES
from gateway.coalesce import Joined, Row, plan
from sdk_bridge.files import sync_folder
from sdk_bridge.wire.codec import encode
from sdk_bridge.wire.messages import Lane, Skip, SkipCounts

FRESH_MS: Final = 30_000  # older than this it would move live zones by what is no longer so
RECORD_OVERHEAD: Final = 128  # bytes of keys, indexes and page slack that a record costs beside its payload
BACKLOG_CHUNK_BYTES: Final = (
    32 * 1024
)  # with BACKLOG_WINDOW: a live record waits a second behind it on 0.5 Mbit/s
FRESH_ROWS: Final = 256  # thirty seconds hold some 60 records; bounds the look back from the newest
COALESCE_ROWS: Final = 256  # looked at in one go, and so many bytes: some 10 ms, and a tenth of a Pi's second
COALESCE_BYTES: Final = 512 * 1024
COALESCED_BYTES: Final = MAX_BYTES  # as large as any batch may be
NEARLY_FULL: Final = COALESCED_BYTES - 512  # what is fuller gains nothing by company
THIN_TO: Final = 0.95  # of the limit: dropping one record for each new one would cost a search each time
BUSY_SECONDS: Final = 5.0  # somebody inspecting the file with sqlite3 may hold it for a moment
KEPT_CORRUPT_FILES: Final = 2  # for whoever wants to look into it; more would fill the card
SCHEMA_VERSION: Final = 1
LANES: Final[tuple[Lane, ...]] = get_args(Lane)

_SCHEMA = """
CREATE TABLE life (
  one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT NOT NULL,
  live_acked INTEGER NOT NULL, live_last INTEGER NOT NULL,
  backlog_acked INTEGER NOT NULL, backlog_last INTEGER NOT NULL,
  records INTEGER NOT NULL, bytes INTEGER NOT NULL, waiting INTEGER NOT NULL);
CREATE TABLE record (
  id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, at_ms INTEGER NOT NULL,
  batches INTEGER NOT NULL, readings INTEGER NOT NULL,
  reason TEXT, -- set where the record is a skip
  payload BLOB NOT NULL);
CREATE TABLE waiting (id INTEGER PRIMARY KEY);
CREATE TABLE numbered (
  lane TEXT NOT NULL, seq INTEGER NOT NULL, last INTEGER NOT NULL, id INTEGER NOT NULL,
  PRIMARY KEY (lane, seq)) WITHOUT ROWID;
CREATE TABLE anchor (boot_id TEXT PRIMARY KEY, unix_ms INTEGER NOT NULL) WITHOUT ROWID;
"""
_LIFE = "epoch, live_acked, live_last, backlog_acked, backlog_last, records, bytes, waiting"
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


T = TypeVar("T")
_Row: TypeAlias = tuple[str, int, int, int, str | None, bytes]


class OutboxUnavailable(RuntimeError):
    """The outbox cannot be read or written at the moment, as on a full disk; trying again is safe."""


class OutboxTooNew(OutboxUnavailable):
    """The file was written by a newer gateway; nothing but that gateway will read it."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One encoded batch to keep: when it was closed (boot milliseconds) and how many readings it holds."""

    payload: bytes
    boot_id: str
    at_ms: int
    readings: int


class Loss(NamedTuple):
    """What could not even be stored."""

    batches: int = 0
    readings: int = 0


NO_LOSS: Final = Loss()


class Span(NamedTuple):
    """A lane's sequences: acknowledged up to and with `acked`, given up to and with `last`."""

    acked: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Stock:
    """The outbox as of the last commit; bytes include what a record costs beside its payload."""

    epoch: str
    lanes: Mapping[Lane, Span]
    records: int
    bytes: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One transaction's work. `room` is how many records each lane may number: 0 while not connected.

    `acked` counts only while `epoch` is still the outbox's.
    """

    epoch: str
    boot_id: str
    now_ms: int
    parcels: Sequence[Parcel] = ()
    heartbeat: bytes | None = None
    acked: Mapping[Lane, int] = field(default_factory=dict)
    room: Mapping[Lane, int] = field(default_factory=dict)
    lost: Loss = NO_LOSS


class Record(NamedTuple):
    """A numbered record as it goes out; it stands for the sequences `seq` to `last`."""

    seq: int
    last: int
    boot_id: str
    payload: bytes


@dataclass(slots=True)
class _Work:
    """A stock in the making; becomes the stock when its transaction commits."""

    epoch: str
    acked: dict[Lane, int]
    last: dict[Lane, int]
    records: int
    bytes: int
    waiting: int

    @classmethod
    def on(cls, stock: Stock) -> "_Work":
        acked = {lane: span.acked for lane, span in stock.lanes.items()}
        last = {lane: span.last for lane, span in stock.lanes.items()}
        return cls(stock.epoch, acked, last, stock.records, stock.bytes, stock.waiting)

    def stock(self) -> Stock:
        lanes = {lane: Span(self.acked[lane], self.last[lane]) for lane in LANES}
        return Stock(self.epoch, lanes, self.records, self.bytes, self.waiting)

    def row(self) -> tuple[str | int, ...]:
        ends = (self.acked["live"], self.last["live"], self.acked["backlog"], self.last["backlog"])
        return (self.epoch, *ends, self.records, self.bytes, self.waiting)

    def added(self, payload_bytes: int) -> None:
        self.records += 1
        self.bytes += payload_bytes + RECORD_OVERHEAD

    def removed(self, payload_bytes: int) -> None:
        self.records -= 1
        self.bytes -= payload_bytes + RECORD_OVERHEAD


class Outbox:
    """The outbox's file. Belongs to one thread at a time; only `stock` may be read from any.

    `new_epoch` names a new life of the outbox; `now_ms` (unix) only names a file that is moved aside.
    Every method raises OutboxUnavailable; a corrupt file is moved aside and begun anew with a new epoch.
    """

    def __init__(
        self, path: Path, *, max_bytes: int, new_epoch: Callable[[], str], now_ms: Callable[[], int]
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._new_epoch = new_epoch
        self._now_ms = now_ms
        self.moved_aside: list[Path] = []
        self._damaged = False  # and the backend does not know it yet
        self._joined_through = 0  # records up to this one are as large as they get
        self._database = self._open_or_replace()
        self.stock = self._read_stock()
        self.anchors = dict(self._database.execute("SELECT boot_id, unix_ms FROM anchor").fetchall())

    @property
    def writable(self) -> bool:
        """An outbox by itself knows no other place."""
        return True

    def close(self) -> None:
        self._database.close()

    def turn(self, turn: Turn) -> Stock:
        """Deletes what was acknowledged, keeps what is new, numbers what there is room for; one commit."""

        def work() -> None:
            with self._transaction() as work:
                self._forget_acknowledged(work, turn)
                self._mark_lost(work, turn)
                self._mark_damaged(work, turn)
                for parcel in turn.parcels:
                    self._keep(work, parcel)
                self._thin(work)
                self._number_fresh(work, turn)
                self._number_stale(work, turn)

        self._guarded(work)
        self._damaged = False
        return self.stock

    def load(self, lane: Lane, first: int, limit: int) -> list[Record]:
        """Numbered records from sequence `first` on, in order; a skip that covers `first` begins there."""

        def read() -> list[Record]:
            rows = self._database.execute(
                "SELECT seq, last, boot_id, payload FROM numbered JOIN record USING (id)"
                " WHERE lane = ? AND last >= ? ORDER BY seq LIMIT ?",
                (lane, first, limit),
            )
            return [Record(max(row[0], self.stock.lanes[lane].acked + 1), *row[1:]) for row in rows]

        return self._guarded(read)

    def oldest(self) -> tuple[str, int] | None:
        """The boot of the oldest record that has one, and its milliseconds; None where nothing is kept."""

        def read() -> tuple[str, int] | None:
            rows = self._database.execute(
                "SELECT boot_id, at_ms FROM record WHERE boot_id <> '' ORDER BY id LIMIT 1"
            )
            found: tuple[str, int] | None = rows.fetchone()
            return found

        return self._guarded(read)

    def skip(self, lane: Lane, first: int, last: int, reason: str) -> None:
        """Gives up numbered records for one skip over the same sequences."""

        def work() -> None:
            with self._transaction() as work:
                self._skip_numbered(work, lane, first, last, reason)

        self._guarded(work)

    def renew(self, reason: str, forgotten: int, at: tuple[str, int]) -> Stock:
        """Begins a new epoch: what was numbered waits again, and a skip for `forgotten` records joins it.

        `at` is the present boot and its milliseconds.
        """

        def work() -> None:
            with self._transaction() as work:
                self._delete_heartbeats(work)
                self._database.execute("INSERT INTO waiting SELECT id FROM numbered")
                work.waiting += self._database.execute("DELETE FROM numbered").rowcount
                self._joined_through = 0
                work.epoch = self._new_epoch()
                work.acked = dict.fromkeys(LANES, 0)
                work.last = dict.fromkeys(LANES, 0)
                if forgotten:
                    self._insert_marker(work, None, at, SkipCounts(forgotten, 0), reason)

        self._guarded(work)
        return self.stock

    def coalesce(self, boot_id: str, now_ms: int) -> bool:
        """Joins what waits for the backlog into fewer, larger batches of the same content, in one commit.

        What is fresh or numbered stays as it is. Whether there is more to be done at once.
        """

        def work() -> bool:
            rows, more = self._joinable(boot_id, now_ms - FRESH_MS)
            planned = plan(rows, self._joined_through, COALESCED_BYTES)
            if planned.joins:
                with self._transaction() as work:
                    for joined in planned.joins:
                        self._join(work, joined)
            self._joined_through = planned.through
            return more

        return self._guarded(work)

    def probe(self) -> None:
        """Writes, and changes nothing. Raises OutboxUnavailable where the disk takes no more."""

        def work() -> None:
            with self._transaction():
                self._database.execute("UPDATE life SET records = records")

        self._guarded(work)

    def copy_to(self, path: Path) -> None:
        """A durable copy of all of it, there whole or not at all."""
        part = path.with_name(f"{path.name}.part")

        def work() -> None:
            try:
                with closing(sqlite3.connect(part)) as target:
                    self._database.backup(target)
                part.replace(path)
                sync_folder(path.parent)
            finally:
                part.unlink(missing_ok=True)

        self._guarded(work)

    def learn_anchor(self, boot_id: str, unix_ms: int) -> None:
        """Remembers the unix time at which this boot's clock read zero; forgets boots that left nothing."""

        def work() -> None:
            with self._transaction():
                self._database.execute("INSERT OR REPLACE INTO anchor VALUES (?, ?)", (boot_id, unix_ms))
                self._database.execute(
                    "DELETE FROM anchor WHERE boot_id <> ? AND boot_id NOT IN (SELECT boot_id FROM record)",
                    (boot_id,),
                )

        self._guarded(work)
        self.anchors[boot_id] = unix_ms

    # One turn, step by step.

    def _forget_acknowledged(self, work: _Work, turn: Turn) -> None:
        for lane, upto in turn.acked.items() if turn.epoch == work.epoch else ():
            if upto > work.acked[lane]:
                self._delete_numbered(work, "lane = ? AND last <= ?", (lane, upto))
                work.acked[lane] = upto

    def _mark_lost(self, work: _Work, turn: Turn) -> None:
        if turn.lost.batches:
            counts = SkipCounts(turn.lost.batches, turn.lost.readings)
            self._insert_marker(work, None, (turn.boot_id, turn.now_ms), counts, "disk-full")

    def _mark_damaged(self, work: _Work, turn: Turn) -> None:
        """A skip of unknown size tells the backend, and so raises an alert, that a file was given up."""
        if self._damaged:
            self._insert_marker(work, None, (turn.boot_id, turn.now_ms), SkipCounts(0, 0), "outbox-corrupt")

    def _keep(self, work: _Work, parcel: Parcel) -> None:
        row = (parcel.boot_id, parcel.at_ms, 1, parcel.readings, None, parcel.payload)
        self._insert_waiting(work, self._insert(work, None, row))

    def _number_fresh(self, work: _Work, turn: Turn) -> None:
        """The live lane: what is fresh, in order; then the heartbeat, if nothing fresh stays behind."""
        room = turn.room.get("live", 0)
        if room <= 0:
            return
        fresh = self._fresh(turn) if work.waiting else []
        for row in fresh[:room]:
            self._number(work, "live", row)
        if turn.heartbeat is not None and len(fresh) < room:
            beat = (turn.boot_id, turn.now_ms, 0, 0, None, turn.heartbeat)
            self._give(work, "live", self._insert(work, None, beat))

    def _number_stale(self, work: _Work, turn: Turn) -> None:
        """The backlog lane: what waited too long, oldest first."""
        room = turn.room.get("backlog", 0)
        if room <= 0 or not work.waiting:
            return
        budget = BACKLOG_CHUNK_BYTES
        for row in self._oldest_waiting(room):
            if _is_fresh(row, turn) or budget <= 0:
                return
            self._number(work, "backlog", row)
            budget -= row.bytes

    def _number(self, work: _Work, lane: Lane, row: "_Waiting") -> None:
        if row.reason is not None:
            payload = encode(Skip(work.last[lane] + 1, row.reason, SkipCounts(row.batches, row.readings)))
            self._database.execute("UPDATE record SET payload = ? WHERE id = ?", (payload, row.id))
            work.bytes += len(payload) - row.bytes
        self._database.execute("DELETE FROM waiting WHERE id = ?", (row.id,))
        work.waiting -= 1
        self._give(work, lane, row.id)

    def _give(self, work: _Work, lane: Lane, record_id: int) -> None:
        work.last[lane] += 1
        seq = work.last[lane]
        self._database.execute("INSERT INTO numbered VALUES (?, ?, ?, ?)", (lane, seq, seq, record_id))

    def _fresh(self, turn: Turn) -> list["_Waiting"]:
        newest_first = self._waiting_rows("DESC", FRESH_ROWS)
        fresh: list[_Waiting] = []
        for row in newest_first:
            if not _is_fresh(row, turn):
                break
            fresh.append(row)
        return fresh[::-1]

    def _oldest_waiting(self, limit: int) -> list["_Waiting"]:
        return self._waiting_rows("ASC", limit)

    def _waiting_rows(self, order: str, limit: int) -> list["_Waiting"]:
        columns = "id, boot_id, at_ms, batches, readings, reason, length(payload)"
        rows = self._database.execute(
            f"SELECT {columns} FROM waiting JOIN record USING (id) ORDER BY id {order} LIMIT ?",  # noqa: S608 - ours
            (limit,),
        )
        return [_Waiting(*row) for row in rows]

    # Joining what waits.

    def _joinable(self, boot_id: str, stale_ms: int) -> tuple[list[Row], bool]:
        """The next stale records in line, as many as one go takes, and whether that was not all of them."""
        found = self._database.execute(
            "SELECT id, boot_id, at_ms, batches, readings, reason IS NOT NULL OR length(payload) > ?1,"
            " CASE WHEN reason IS NOT NULL OR length(payload) > ?1 THEN x'' ELSE payload END"
            " FROM waiting JOIN record USING (id) WHERE id > ?2 ORDER BY id LIMIT ?3",
            (NEARLY_FULL, self._joined_through, COALESCE_ROWS),
        )
        rows: list[Row] = []
        room = COALESCE_BYTES
        for row in map(Row._make, found):
            if row.boot_id == boot_id and row.at_ms > stale_ms:
                return rows, False
            rows.append(row)
            room -= len(row.payload)
            if room <= 0:
                break
        return rows, room <= 0 or len(rows) == COALESCE_ROWS

    def _join(self, work: _Work, joined: Joined) -> None:
        """The first record takes over what the others say.

        In this order: only a deletion makes SQLite join half-empty pages, and the other way round each record
        was seen to keep a page of its own, a third of the file.
        """
        first, *others = joined.ids
        [(before,)] = self._database.execute("SELECT length(payload) FROM record WHERE id = ?", (first,))
        self._database.execute(
            "UPDATE record SET (at_ms, batches, readings, payload) = (?, ?, ?, ?) WHERE id = ?",
            (joined.at_ms, joined.batches, joined.readings, joined.payload, first),
        )
        work.bytes += len(joined.payload) - before
        for record_id in others:
            self._database.execute("DELETE FROM waiting WHERE id = ?", (record_id,))
            delete = "DELETE FROM record WHERE id = ? RETURNING length(payload)"
            [(payload_bytes,)] = self._database.execute(delete, (record_id,)).fetchall()
            work.removed(payload_bytes)
            work.waiting -= 1

    # Giving up what there is no place for.

    def _thin(self, work: _Work) -> None:
        """Keeps within the limit: the oldest that waits goes first, and only then what is numbered."""
        if work.bytes <= self._max_bytes:
            return
        while work.bytes > self._max_bytes * THIN_TO and work.waiting > 1:
            self._merge_oldest(work, self._max_bytes * THIN_TO - RECORD_OVERHEAD)
        for lane in reversed(LANES):
            if work.bytes > self._max_bytes:
                self._skip_numbered(work, lane, work.acked[lane] + 1, work.last[lane], "outbox-full")

    def _merge_oldest(self, work: _Work, target: float) -> None:
        """Drops the oldest that wait; one marker in their place counts them and takes one sequence."""
        dropped: list[_Waiting] = []
        for row in self._oldest_waiting(FRESH_ROWS):
            if work.bytes <= target:
                break
            self._database.execute("DELETE FROM waiting WHERE id = ?", (row.id,))
            self._database.execute("DELETE FROM record WHERE id = ?", (row.id,))
            work.waiting -= 1
            work.removed(row.bytes)
            dropped.append(row)
        last = dropped[-1]
        counts = SkipCounts(sum(row.batches for row in dropped), sum(row.readings for row in dropped))
        self._insert_marker(work, last.id, (last.boot_id, last.at_ms), counts, "outbox-full")

    def _skip_numbered(self, work: _Work, lane: Lane, first: int, last: int, reason: str) -> None:
        lost = self._delete_numbered(work, "lane = ? AND last >= ? AND last <= ?", (lane, first, last))
        if lost is None:
            return
        payload = encode(Skip(last, reason, lost))
        record_id = self._insert(work, None, ("", 0, lost.batches, lost.readings, reason, payload))
        self._database.execute("INSERT INTO numbered VALUES (?, ?, ?, ?)", (lane, first, last, record_id))

    def _delete_numbered(self, work: _Work, where: str, values: tuple[str | int, ...]) -> SkipCounts | None:
        """Deletes numbered records; what they held, or None if there were none."""
        gone = self._database.execute(f"DELETE FROM numbered WHERE {where} RETURNING id", values).fetchall()  # noqa: S608 - ours
        counts = SkipCounts(0, 0)
        for record_id in gone:
            delete = "DELETE FROM record WHERE id = ? RETURNING batches, readings, length(payload)"
            [(batches, readings, payload_bytes)] = self._database.execute(delete, record_id).fetchall()
            counts = SkipCounts(counts.batches + batches, counts.readings + readings)
            work.removed(payload_bytes)
        return counts if gone else None

    def _delete_heartbeats(self, work: _Work) -> None:
        """A heartbeat says how things stood then; in another epoch it would only mislead."""
        where = "id IN (SELECT id FROM record WHERE batches = 0 AND reason IS NULL)"
        self._delete_numbered(work, where, ())

    def _insert(self, work: _Work, record_id: int | None, row: _Row) -> int:
        done = self._database.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?)", (record_id, *row))
        work.added(len(row[-1]))
        return int(done.lastrowid or 0)

    def _insert_waiting(self, work: _Work, record_id: int) -> None:
        self._database.execute("INSERT INTO waiting VALUES (?)", (record_id,))
        work.waiting += 1

    def _insert_marker(
        self, work: _Work, record_id: int | None, at: tuple[str, int], counts: SkipCounts, reason: str
    ) -> None:
        """A skip to be: it waits in line, and is encoded when it gets its sequence."""
        row = (*at, counts.batches, counts.readings, reason, b"")
        self._insert_waiting(work, self._insert(work, record_id, row))

    # The file.

    @contextmanager
    def _transaction(self) -> Iterator[_Work]:
        work = _Work.on(self.stock)
        before = work.row()
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield work
            if work.row() != before:  # a turn without work costs no write
                self._database.execute(
                    f"UPDATE life SET ({_LIFE}) = (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our columns
                    work.row(),
                )
            self._database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # where the failure itself rolled back there is nothing to do
                self._database.execute("ROLLBACK")
            raise
        self.stock = work.stock()
        if not work.waiting:  # the next record's id may be 1 again
            self._joined_through = 0

    def _guarded(self, call: Callable[[], T]) -> T:
        """Runs the call; over a corrupt file begins anew and runs it again. Raises OutboxUnavailable."""
        try:
            try:
                return call()
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
            self._database.close()
            self._move_aside()
            self._database = self._open()
            self.stock = self._read_stock()
            self._joined_through = 0
            return call()
        except (sqlite3.OperationalError, OSError) as error:
            raise OutboxUnavailable(f"{self._path}: {error}") from error

    def _open_or_replace(self) -> sqlite3.Connection:
        try:
            try:
                return self._open()
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
            self._move_aside()
            return self._open()
        except (sqlite3.OperationalError, OSError) as error:
            raise OutboxUnavailable(f"{self._path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA journal_size_limit = 4194304")  # an outage's WAL must not stay for ever
            _check(database)
            if self._prepare(database):
                sync_folder(self._path.parent)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> bool:
        """Creates the tables where the file is new; one transaction, so a file has all of them or none."""
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise OutboxTooNew(f"{self._path} was written by a newer gateway (version {version})")
        if version == SCHEMA_VERSION:
            return False
        database.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        database.execute(
            f"INSERT INTO life (one, {_LIFE}) VALUES (1, ?, 0, 0, 0, 0, 0, 0, 0)",  # noqa: S608 - our columns
            (self._new_epoch(),),
        )
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
        return True

    def _read_stock(self) -> Stock:
        row = self._database.execute(f"SELECT {_LIFE} FROM life").fetchone()  # noqa: S608 - our columns
        epoch, live_acked, live_last, backlog_acked, backlog_last, *rest = row
        lanes: dict[Lane, Span] = {
            "live": Span(live_acked, live_last),
            "backlog": Span(backlog_acked, backlog_last),
        }
        return Stock(epoch, lanes, *rest)

    def _move_aside(self) -> None:
        """Keeps the broken file for whoever wants to look into it, and the newest two of its kind."""
        aside = self._path.with_name(f"{self._path.name}.corrupt-{self._now_ms()}")
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):  # a log that belongs to the old file would be played into the new one
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self.moved_aside.append(aside)
        self._damaged = True
        older = sorted(self._path.parent.glob(f"{self._path.name}.corrupt-*"))[:-KEPT_CORRUPT_FILES]
        for path in older:
            path.unlink(missing_ok=True)


class MemoryOutbox(Outbox):
    """The same without a file. It dies with the process; `path` only names it in errors."""

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._prepare(database)
        return database


def examine(path: Path) -> int:
    """How many records a file holds, after checking its structure; changes nothing, also beside a gateway.

    Raises FileNotFoundError before the first start, OutboxUnavailable where it cannot be read or is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
        ) as database:
            _check(database)
            return int(database.execute("SELECT records FROM life").fetchone()[0])
    except sqlite3.Error as error:
        raise OutboxUnavailable(f"{path}: {error}") from error


class _Waiting(NamedTuple):
    id: int
    boot_id: str
    at_ms: int
    batches: int
    readings: int
    reason: str | None
    bytes: int


def _is_fresh(row: _Waiting, turn: Turn) -> bool:
    return row.boot_id == turn.boot_id and turn.now_ms - row.at_ms < FRESH_MS


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT  # the low byte; above it are the details


def _check(database: sqlite3.Connection) -> None:
    """Reads the whole structure once, at the start, rather than meet the damage amid an outage."""
    found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError(str(found))
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
