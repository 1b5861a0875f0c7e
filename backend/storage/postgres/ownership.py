"""A replica's share of the partitions: advisory locks on the writer's connection, and an epoch for each.

Whoever writes the state does it over the connection that holds the locks: where the server ended it, because
this process stood still or the network did, nothing more can be committed, and the locks are free. The epoch
in each position's update is the second fence.
"""
# ruff: noqa: S608 - put together from our own numbers; whatever comes from outside is bound

from dataclasses import dataclass
from typing import Final

from backend.storage.ownership import Holding
from backend.storage.postgres.line import Line
from backend.storage.postgres.locks import LOCKS, OWNER_LOCK
from backend.storage.session import StorageError
from sdk_bridge.wire.topics import PARTITIONS

PARTITION_LOCK: Final = 1_000
"""The second number of partition 0's lock; the others follow."""
LIVE_MS: Final = 3_000  # three beats: a busy replica must not lose its share for one that came late
FORGOTTEN_MS: Final = 3_600_000  # a replica that is gone for good
NEWS: Final = 64  # the newest changes that are compared: more than commit out of turn within a second

_NOW = "cast(extract(epoch from clock_timestamp()) * 1000 as bigint)"
_BEAT = (
    f"insert into replicas (replica_id, address, seen_at) values ($1, $2, {_NOW})"
    " on conflict (replica_id) do update set address = excluded.address, seen_at = excluded.seen_at"
)
_LIVE = f"select count(*) from replicas where seen_at > {_NOW} - {LIVE_MS}"
_FORGET = f"delete from replicas where seen_at < {_NOW} - {FORGOTTEN_MS}"
_TAKEN = (
    f"select cast(objid as bigint) - {PARTITION_LOCK} from pg_locks"
    f" where locktype = 'advisory' and classid = {LOCKS} and cast(objid as bigint) >= {PARTITION_LOCK}"
    " and database = (select oid from pg_database where datname = current_database())"
)
_TRY = f"select p, pg_try_advisory_lock({LOCKS}, {PARTITION_LOCK} + p) from unnest(cast($1 as integer[])) p"
_RELEASE = f"select pg_advisory_unlock({LOCKS}, {PARTITION_LOCK} + p) from unnest(cast($1 as integer[])) p"
_OWN = (
    "update fold set epoch = epoch + 1 where partition = any(cast($1 as bigint[])) returning partition, epoch"
)
_NEWS = (
    f"(select 'audit', audit_id from audit order by audit_id desc limit {NEWS}) union all"
    f" (select 'news', news_id from replica_news order by news_id desc limit {NEWS})"
)


@dataclass(frozen=True, slots=True)
class Beat:
    """What a beat found: what is ours, and whether anything changed that every replica has in memory.

    `audited`: operators changed something.
    """

    holding: Holding
    news: bool
    audited: bool


class ReplicaOwnership:
    """Satisfies Ownership. `opened` and `beat` run on the state's writer thread."""

    def __init__(self, replica_id: str, address: str) -> None:
        self.replica_id = replica_id
        self._address = address
        self._epochs: dict[int, int] = {}
        self._seen: frozenset[tuple[str, int]] | None = None
        self.holding = Holding({})

    def opened(self, line: Line) -> None:
        """A new connection: whatever the last one held is lost. Raises StorageError."""
        self._epochs, self.holding = {}, Holding({})
        if not line.ask(f"select pg_try_advisory_lock_shared({LOCKS}, {OWNER_LOCK})")[0][0]:
            raise StorageError(
                "database.replicas: a backend without this setting uses the database and owns everything"
            )

    def beat(self, line: Line) -> Beat:
        """Shows that we live, and gives or takes partitions until we have our share."""
        try:
            line.ask(_BEAT, self.replica_id, self._address)
            share = -(-PARTITIONS // max(1, int(line.ask(_LIVE)[0][0])))
            self._give(line, len(self._epochs) - share)
            self._take(line, share - len(self._epochs))
            news = self._news(line)
        except BaseException:
            line.drop()  # which locks it has now nobody knows; without the connection it has none
            raise
        if self._epochs != self.holding.epochs:
            self.holding = Holding(dict(self._epochs))
        return Beat(self.holding, bool(news), "audit" in news)

    def leave(self, line: Line) -> None:
        """Gives everything back at once, so that the others need not wait."""
        self._epochs, self.holding = {}, Holding({})
        line.ask("delete from replicas where replica_id = $1", self.replica_id)
        line.tell("select pg_advisory_unlock_all()")

    def _give(self, line: Line, surplus: int) -> None:
        """The last ones first, so that whoever leads goes on leading."""
        given = sorted(self._epochs)[-surplus:] if surplus > 0 else []
        if given:
            for partition in given:
                del self._epochs[partition]
            self.holding = Holding(dict(self._epochs))
            line.ask(_RELEASE, given)

    def _take(self, line: Line, room: int) -> None:
        """Partitions that nobody has. Ours only with their new epoch, which fences off who had them."""
        if room <= 0:
            return
        taken = {int(row[0]) for row in line.ask(_TAKEN)}
        free = [partition for partition in range(PARTITIONS) if partition not in taken]
        while free and room > 0:
            tried, free = free[:room], free[room:]
            got = [int(row[0]) for row in line.ask(_TRY, tried) if row[1]]
            if got:
                self._epochs |= {int(row[0]): int(row[1]) for row in line.ask(_OWN, got)}
                room -= len(got)
                line.ask(_FORGET)

    def _news(self, line: Line) -> set[str]:
        """By the ids themselves: a transaction that took an earlier id may commit later."""
        seen, before = frozenset((str(row[0]), int(row[1])) for row in line.ask(_NEWS)), self._seen
        self._seen = seen
        return set() if before is None else {table for table, _ in seen - before}
