"""One commit of the journal, which many senders share: asks and writes for all of them in few statements."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec

from backend.storage.entries import Cursor, LaneKey, MessageKey
from backend.storage.session import Session, StorageRetry

Values: TypeAlias = dict[str, Any]
LANES_A_GATEWAY = 32  # 16 lives of its outbox; one that began another every minute would never stop growing


class Group:
    """What the works of one commit say in turn; each sees what those before it said. `write` ends it.

    With PostgreSQL each statement is a round trip; and SQLite, too, is faster with one for many rows.
    """

    def __init__(
        self, session: Session, lanes: Iterable[LaneKey], messages: Iterable[MessageKey] = ()
    ) -> None:
        self.session = session
        self._sent = _sent_before(session, messages)
        self._new: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._upto = _positions(session, set(lanes))
        self._known = set(self._upto)
        self._moved: dict[LaneKey, Values] = {}
        self._forgotten: Counter[tuple[str, str]] = Counter()
        self._entries: list[Values] = []

    def upto(self, lane: LaneKey) -> int:
        """How far a lane has got; 0 for one that nobody knows. It has to be among the group's lanes."""
        return self._upto.get(lane, 0)

    def advance(self, lane: LaneKey, upto: int, at: int) -> None:
        """The lane has got further, at a time in unix ms."""
        self._upto[lane] = upto
        self._moved[lane] = {**_named(lane), "upto": upto, "updated_at": at}

    def forget(self, gateway: str, reason: str, adverts: int) -> None:
        """Counts adverts that are not kept."""
        self._forgotten[gateway, reason] += adverts

    def is_new(self, message: MessageKey) -> bool:
        """Whether nobody sent it before, which holds once. It has to be among the group's messages."""
        known = self._sent[message.hour]
        if message.hash in known:
            return False
        known.add(message.hash)
        self._new[message.hour, message.received_hour].append(message.hash)
        return True

    def append(self, entry: Values) -> None:
        """Keeps an entry."""
        self._entries.append(entry)

    def write(self) -> Cursor:
        """Writes all of it; the journal's head after that.

        The entries come last and by partition: where two processes append to the same partitions, neither
        holds one that the other needs while it waits for one that the other has.
        """
        self._remember()
        self.session.many("advance_lane", self._moved.values())
        for gateway in {lane.gateway for lane in self._moved if lane not in self._known}:
            self.session.run("bound_lanes", gateway=gateway, keep=LANES_A_GATEWAY)
        counted = [
            {"gateway": gateway, "reason": reason, "adverts": adverts}
            for (gateway, reason), adverts in sorted(self._forgotten.items())
        ]
        self.session.many("count_forgotten", counted)
        self._entries.sort(key=itemgetter("partition"))
        self.session.many("append_entry", self._entries, together=True)
        return head(self.session)

    def _remember(self) -> None:
        """In the table's order, so that two processes do not wait for each other. Raises StorageRetry."""
        for (hour, received_hour), hashes in sorted(self._new.items()):
            told = {"hour": hour, "received_hour": received_hour, "hashes": _listed(sorted(hashes))}
            if self.session.run("remember_messages", **told) != len(hashes):
                raise StorageRetry("another process took in one of these messages meanwhile")


def head(session: Session) -> Cursor:
    """The last position ever given in each line."""
    return Cursor.of(session.rows("heads"))


def _sent_before(session: Session, messages: Iterable[MessageKey]) -> defaultdict[int, set[int]]:
    """By hour, the hashes that are known."""
    asked: defaultdict[int, list[int]] = defaultdict(list)
    for message in messages:
        asked[message.hour].append(message.hash)
    known: defaultdict[int, set[int]] = defaultdict(set)
    for hour, hashes in asked.items():
        rows = session.rows("known_messages", hour=hour, hashes=_listed(hashes))
        known[hour].update(row["hash"] for row in rows)
    return known


def _listed(hashes: list[int]) -> str:
    return msgspec.json.encode(hashes).decode()


def _positions(session: Session, lanes: set[LaneKey]) -> dict[LaneKey, int]:
    if not lanes:
        return {}
    asked = msgspec.json.encode([[lane.gateway, lane.epoch, lane.lane] for lane in lanes]).decode()
    rows = session.rows("lane_positions_of", lanes=asked)
    return {LaneKey(row["gateway"], row["epoch"], row["lane"]): int(row["upto"]) for row in rows}


def _named(lane: LaneKey) -> Values:
    return {"gateway": lane.gateway, "epoch": lane.epoch, "lane": lane.lane}
