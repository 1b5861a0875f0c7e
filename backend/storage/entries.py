"""What the journal holds, and how far a reader of it has got."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from backend.storage.session import Row
from sdk_bridge.wire.messages import Lane
from sdk_bridge.wire.topics import PARTITIONS

HOUR_MS = 3_600_000
EVENTS_AN_ENTRY = 4096  # an event's number holds its index in the entry
EVENTS_TOGETHER = 256  # in one entry: the fold takes entries whole, and others wait for it
BYTES_AN_EVENT = 1024  # an estimate: what an app event weighs while it waits, beside its own bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One journal row. `boot_offset` None: the time of what it holds is unknown.

    `position` counts the entries of one line, without a gap and in the order of their commits. With SQLite
    the whole journal is line 0; with PostgreSQL each partition is the line of its number.
    """

    position: int
    partition: int
    kind: str
    source: str
    lane: str | None
    boot_offset: int | None
    received_at: int
    payload: bytes
    line: int = 0


class LaneKey(NamedTuple):
    """Whose sequence: a gateway (`store/gateway`), one life of its outbox, one lane."""

    gateway: str
    epoch: str
    lane: Lane


class Parcel(Struct, frozen=True, gc=False):
    """App events that came together: where they are journalled, what tells each from others, their bytes.

    `place`: the partition and the source; `hour`: since 1970 by the client's own clock, 0 where it has none,
    for a later copy must find it; `received_at`: unix milliseconds.
    """

    place: tuple[int, str]
    hour: int
    received_at: int
    hashes: list[int]
    encoded: list[bytes]

    @property
    def weight(self) -> int:
        """About how many bytes it takes while it waits."""
        return BYTES_AN_EVENT * len(self.encoded) + sum(map(len, self.encoded))


def event_id(entry: Entry, index: int) -> int:
    """The number of one of an entry's events: its own over all partitions, and rising within each."""
    return (entry.position * PARTITIONS + entry.partition) * EVENTS_AN_ENTRY + index


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a reader has got: for each line that it follows, the position of the last entry it had."""

    positions: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Cursor":
        """From rows of (line, position)."""
        return cls({row["line"]: row["position"] for row in rows})

    def past(self, entry: Entry) -> "Cursor":
        """The cursor behind an entry."""
        return Cursor({**self.positions, entry.line: entry.position})

    def covers(self, other: "Cursor") -> bool:
        """Whether this one is as far as the other, in every line of the other's."""
        return self.behind(other) == 0

    def behind(self, head: "Cursor") -> int:
        """How many entries are still to come before a head, in every line of the head's."""
        return sum(
            max(0, position - self.positions.get(line, 0)) for line, position in head.positions.items()
        )

    def furthest(self, other: "Cursor") -> "Cursor":
        """As far as the further of the two, in every line."""
        lines = {**self.positions, **other.positions}
        return Cursor(
            {line: max(self.positions.get(line, 0), other.positions.get(line, 0)) for line in lines}
        )

    def moves(self, before: "Cursor") -> list[dict[str, Any]]:
        """What to change in a table of positions: line, its position before, and now."""
        return [
            {"line": line, "before": before.positions.get(line, 0), "position": position}
            for line, position in sorted(self.positions.items())
            if position != before.positions.get(line, 0)
        ]

    @property
    def encoded(self) -> str:
        """As a query's parameter: a JSON object of positions by line."""
        return msgspec.json.encode({str(line): at for line, at in self.positions.items()}).decode()


BEGINNING = Cursor(dict.fromkeys(range(PARTITIONS), 0))
"""Before every entry, whichever engine keeps them."""
