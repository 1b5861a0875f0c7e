"""The tables of rotating ids at hand: for now and what comes next, and for the hours that backlogs tell of.

A table serves one rotation exponent for a stretch of time. What no table covers is wanted: whoever keeps the
shelf makes that table and puts it in. Tables for other times than now are made on demand, stay for a while
so that whoever asked can use them, and make room for each other within `spare_bytes`. Times are unix seconds.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backend.proximity.eid_table import AMBIGUOUS, UNKNOWN, Beacons, EidTable, Ids, Times

SPARE_BYTES: Final = 48 * 1024 * 1024  # of tables that are not for now
STAYS_S: Final = 3.0  # a spare table at the least: a gateway needs a moment to send again what waited for it
SPARE_TABLES: Final = 64  # small ones weigh little, but every look-up walks past them
SLACK_SHARE: Final = 3  # a clock is learned to an eighth (2^-3) of a rotation, and
SLACK_S: Final = 2  # never finer than readings are timed: whole seconds, and the way over the network


@dataclass(frozen=True, slots=True)
class Want:
    """A table of the ids of one exponent that covers a time."""

    exponent: int
    at_s: int


@dataclass(frozen=True, slots=True)
class ClockSeen:
    """A beacon's counter minus unix time was somewhere from `least_s` to `most_s`, by the id it sent."""

    number: int
    assumed_s: int
    least_s: int
    most_s: int


@dataclass(slots=True, eq=False)
class _Standing:
    """A table on the shelf; `ahead_s` is what it was made with, by beacon number."""

    exponent: int
    table: EidTable
    ahead_s: NDArray[np.int64]
    used_at: float

    @property
    def size_bytes(self) -> int:
        return self.table.size_bytes + self.ahead_s.nbytes

    def covers(self, at_s: Times) -> NDArray[np.bool_]:
        return (at_s >= self.table.valid_from_s) & (at_s < self.table.valid_until_s)

    def covers_time(self, at_s: float) -> bool:
        return self.table.valid_from_s <= at_s < self.table.valid_until_s

    def clocks(self, found: Beacons, slots: Times, at_s: Times) -> Iterator[ClockSeen]:
        """Of the beacons found, those whose clock is not what the table assumed."""
        rotation = 1 << self.exponent
        assumed = self.ahead_s[found]
        begun = (slots * rotation + rotation // 2 + assumed) // rotation * rotation
        slack = max(SLACK_S, rotation >> SLACK_SHARE)
        least, most = begun - at_s - slack, begun + rotation - 1 - at_s + slack
        for row in np.flatnonzero((assumed < least) | (assumed > most)):
            yield ClockSeen(int(found[row]), int(assumed[row]), int(least[row]), int(most[row]))


class EidShelf:
    """Looks ids up in the tables it holds. Made anew whenever the registered beacons change."""

    def __init__(self, exponents: Collection[int], spare_bytes: int = SPARE_BYTES) -> None:
        self._tables: dict[int, list[_Standing]] = {exponent: [] for exponent in sorted(exponents)}
        self._spare_bytes = spare_bytes

    @property
    def exponents(self) -> list[int]:
        return list(self._tables)

    @property
    def size_bytes(self) -> int:
        """What all tables take."""
        return sum(standing.size_bytes for tables in self._tables.values() for standing in tables)

    def wants(self, at_s: Times) -> list[Want]:
        """The tables without which ids heard at these times cannot all be looked up; one an exponent."""
        wanted = []
        for exponent, tables in self._tables.items():
            left = at_s
            for standing in tables:
                left = left[~standing.covers(left)]
            if len(left):
                wanted.append(Want(exponent, int(left.min())))
        return wanted

    def covered_until(self, exponent: int, at_s: float) -> int | None:
        """Until when tables without a gap cover a time and what follows; None where none covers it."""
        until = None
        for standing in sorted(self._tables[exponent], key=lambda item: item.table.valid_from_s):
            if standing.covers_time(at_s if until is None else until):
                until = standing.table.valid_until_s
        return until

    def find(self, ids: Ids, at_s: Times, now_s: float) -> tuple[Beacons, list[ClockSeen]]:
        """Numbers, UNKNOWN or AMBIGUOUS; and whose clock turned out not to be what we took it for."""
        found = np.full(len(ids), UNKNOWN, np.int64)
        clocks: list[ClockSeen] = []
        for tables in self._tables.values():
            left = np.ones(len(ids), np.bool_)
            for standing in tables:
                rows = np.flatnonzero(left & standing.covers(at_s))
                if not len(rows):
                    continue
                left[rows] = False
                standing.used_at = now_s
                numbers, slots = standing.table.find(ids[rows], at_s[rows])
                hit = np.flatnonzero(numbers >= 0)
                clocks += standing.clocks(numbers[hit], slots[hit], at_s[rows][hit])
                found[rows] = _joined(found[rows], numbers)
        return found, clocks

    def has_room(self, now_s: float) -> bool:
        """Whether one more spare table may be made, if need be in place of one that was used enough."""
        spare = self._spare(now_s)
        return not self._too_much(spare) or _has_stayed(spare[0][1], now_s)

    def put(self, want: Want, table: EidTable, ahead_s: NDArray[np.int64], now_s: float) -> None:
        """Adds a table, `ahead_s` being the clocks it was made with; spare ones used longest ago go."""
        self._tables[want.exponent].append(_Standing(want.exponent, table, ahead_s, now_s))
        spare = self._spare(now_s)
        while self._too_much(spare) and _has_stayed(spare[0][1], now_s):
            exponent, standing = spare.pop(0)
            self._tables[exponent].remove(standing)

    def _spare(self, now_s: float) -> list[tuple[int, _Standing]]:
        """The tables of times gone by, the one used longest ago first."""
        gone = [
            (exponent, standing)
            for exponent, tables in self._tables.items()
            for standing in tables
            if standing.table.valid_until_s <= now_s
        ]
        return sorted(gone, key=lambda item: item[1].used_at)

    def _too_much(self, spare: list[tuple[int, _Standing]]) -> bool:
        taken = sum(standing.size_bytes for _, standing in spare)
        return len(spare) > SPARE_TABLES or (len(spare) > 1 and taken > self._spare_bytes)


def _has_stayed(standing: _Standing, now_s: float) -> bool:
    return abs(now_s - standing.used_at) >= STAYS_S  # also after the clock was put back


def _joined(one: Beacons, other: Beacons) -> Beacons:
    """What two tables say of the same ids; two different beacons are none."""
    either = np.where(one == UNKNOWN, other, one)
    return np.where((one != UNKNOWN) & (other != UNKNOWN) & (one != other), AMBIGUOUS, either)
