"""One commit of the journal, which many senders share: asks and writes for all of them in few statements."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Set
from operator import itemgetter
from typing import Any, Final, TypeAlias

import msgspec

from backend.storage.entries import EVENTS_TOGETHER, HOUR_MS, Cursor, LaneKey, Parcel
from backend.storage.message_ids import MessageIds
from backend.storage.session import Session, StorageRetry
from sdk_bridge.wire.app_events import joined

Values: TypeAlias = dict[str, Any]
LANES_A_GATEWAY = 32  # 16 lives of its outbox; one that began another every minute would never stop growing
TOGETHER_MS: Final = 1_000  # events of one source that came closer share an entry and its time of arrival
Events: TypeAlias = dict[tuple[tuple[int, str], int], tuple[int, list[bytes]]]
"""By place and time: when the first of them came, unix milliseconds, and each as bytes."""


class Group:
    """What the works of one commit say in turn; each sees what those before it said. `write` ends it.

    With PostgreSQL each statement is a round trip; and SQLite, too, is faster with one for many rows.
    """

    def __init__(
        self, session: Session, ids: MessageIds, lanes: Iterable[LaneKey], parcels: Iterable[Parcel] = ()
    ) -> None:
        self.session = session
        self._ids = ids
        self._known = ids.known(session, _asked(parcels))
        self._new: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._upto = _positions(session, set(lanes))
        self._before = dict(self._upto)
        self._moved: dict[LaneKey, Values] = {}
        self._forgotten: Counter[tuple[str, str]] = Counter()
        self._entries: list[Values] = []
        self._events: Events = {}

    def upto(self, lane: LaneKey) -> int:
        """How far a lane has got; 0 for one that nobody knows. It has to be among the group's lanes."""
        return self._upto.get(lane, 0)

    def advance(self, lane: LaneKey, upto: int, at: int) -> None:
        """The lane has got further, at a time in unix ms."""
        self._upto[lane] = upto
        before = self._before.get(lane, 0)
        self._moved[lane] = {**_named(lane), "before": before, "upto": upto, "updated_at": at}

    def forget(self, gateway: str, reason: str, adverts: int) -> None:
        """Counts adverts that are not kept."""
        self._forgotten[gateway, reason] += adverts

    def take(self, parcel: Parcel) -> int:
        """Keeps what nobody sent before of a parcel, which has to be among the group's; how many events."""
        known = self._known[parcel.hour]
        hashes, encoded = _unknown(parcel, known)
        known.update(hashes)
        if hashes:
            at = parcel.received_at
            self._new[parcel.hour, at // HOUR_MS].extend(hashes)
            _, together = self._events.setdefault((parcel.place, at // TOGETHER_MS), (at, []))
            together.extend(encoded)
        return len(hashes)

    def append(self, entry: Values) -> None:
        """Keeps an entry."""
        self._entries.append(entry)

    def write(self) -> Cursor:
        """Writes all of it; the journal's head after that. Raises StorageRetry.

        The entries come last and by partition: where two processes append to the same partitions, neither
        holds one that the other needs while it waits for one that the other has.
        """
        if self._new:
            self._ids.remember(self.session, self._new)
        if self._moved:
            self._write_lanes()
        if self._forgotten:
            self._count_forgotten()
        self._entries.extend(_entries_of(self._events))
        self._entries.sort(key=itemgetter("partition"))
        self.session.many("append_entry", self._entries, together=True)
        return head(self.session)

    def _write_lanes(self) -> None:
        """In one order, so that two processes do not wait for each other. Raises StorageRetry."""
        moved = [self._moved[lane] for lane in sorted(self._moved)]
        if not all(self.session.changed("advance_lane", moved)):
            raise StorageRetry("another process took in one of these gateways' messages meanwhile")
        for gateway in {lane.gateway for lane in self._moved if lane not in self._before}:
            self.session.run("bound_lanes", gateway=gateway, keep=LANES_A_GATEWAY)

    def _count_forgotten(self) -> None:
        counted = [
            {"gateway": gateway, "reason": reason, "adverts": adverts}
            for (gateway, reason), adverts in sorted(self._forgotten.items())
        ]
        self.session.many("count_forgotten", counted)


def head(session: Session) -> Cursor:
    """The last position ever given in each line."""
    return Cursor.of(session.rows("heads"))


def _asked(parcels: Iterable[Parcel]) -> defaultdict[int, list[int]]:
    asked: defaultdict[int, list[int]] = defaultdict(list)
    for parcel in parcels:
        asked[parcel.hour].extend(parcel.hashes)
    return asked


def _unknown(parcel: Parcel, known: Set[int]) -> tuple[list[int], list[bytes]]:
    """The hashes and events that are new; mostly all of them are."""
    once = set(parcel.hashes)
    if len(once) == len(parcel.hashes) and once.isdisjoint(known):
        return parcel.hashes, parcel.encoded
    new: dict[int, bytes] = {}
    for number, event in zip(parcel.hashes, parcel.encoded, strict=True):
        if number not in known:
            new.setdefault(number, event)
    return list(new), list(new.values())


def _entries_of(events: Events) -> Iterator[Values]:
    """An entry for each place, or several where it would hold too many."""
    for ((partition, source), _), (received_at, encoded) in events.items():
        for start in range(0, len(encoded), EVENTS_TOGETHER):
            yield {
                "partition": partition,
                "kind": "app",
                "source": source,
                "lane": None,
                "boot_offset": None,
                "received_at": received_at,
                "payload": joined(encoded[start : start + EVENTS_TOGETHER]),
            }


def _positions(session: Session, lanes: set[LaneKey]) -> dict[LaneKey, int]:
    if not lanes:
        return {}
    asked = msgspec.json.encode([[lane.gateway, lane.epoch, lane.lane] for lane in lanes]).decode()
    rows = session.rows("lane_positions_of", lanes=asked)
    return {LaneKey(row["gateway"], row["epoch"], row["lane"]): int(row["upto"]) for row in rows}


def _named(lane: LaneKey) -> Values:
    return {"gateway": lane.gateway, "epoch": lane.epoch, "lane": lane.lane}
