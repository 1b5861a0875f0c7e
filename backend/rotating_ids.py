"""Rotating ids in a batch become the beacons' own keys, and strangers' ids are left out: pure.

An id is looked up at the second it was heard, for played back later it names nobody. Two ids of one beacon
meet in a batch when it rotates: their readings of the same second are joined.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from msgspec.structs import replace

from backend.proximity.eid_roll import PREFIX
from sdk_bridge.wire.messages import Batch, Readings

ROTATING: Final = "eddystone-eid:"
_ID = re.compile(r"eddystone-eid:[0-9a-f]{16}")
_SILENT: Final = 127  # −RSSI where the controller told none: it counts as an advert, not as a level
_MOST_ADVERTS: Final = 65_535  # in a row of the wire

Moment: TypeAlias = tuple[int, int]
"""A key's index in its batch, and the second after the batch's base in which it was heard."""
_Row: TypeAlias = tuple[int, int, int, int, int]
"""Beacon, second, count, loss, best."""


class Resolver(Protocol):
    """Who sent a rotating id."""

    def resolve(
        self, eids: Sequence[bytes], at_s: Sequence[int], ready: Callable[[], None]
    ) -> list[str | None] | None:
        """The key of the beacon behind each id of 8 bytes, heard at its unix second; None for a stranger.

        None for all where that is not known yet: then `ready` is called once asking again makes sense.
        """
        ...


class NoResolver:
    """Where no rotating beacon is registered, all of them are strangers."""

    def resolve(
        self, eids: Sequence[bytes], _at_s: Sequence[int], _ready: Callable[[], None]
    ) -> list[str | None]:
        return [None] * len(eids)


def has_rotating(batch: Batch) -> bool:
    """Whether the batch needs `named` at all."""
    return any(key.startswith((ROTATING, PREFIX)) for key in batch.keys)


def named(
    batch: Batch, boot_offset: int | None, resolver: Resolver, ready: Callable[[], None]
) -> tuple[Batch, int] | None:
    """The batch under its beacons' own keys, and how many adverts of strangers were left out.

    Where the batch's time is unknown, so is every rotating id in it. None: not yet, see `Resolver`.
    """
    moments = list(dict.fromkeys(_moments(batch))) if boot_offset is not None else []
    start = (batch.base_ms + (boot_offset or 0)) // 1000
    names = resolver.resolve(
        [bytes.fromhex(batch.keys[beacon].removeprefix(ROTATING)) for beacon, _ in moments],
        [start + second for _, second in moments],
        ready,
    )
    if names is None:
        return None
    return with_names(batch, dict(zip(moments, names, strict=True)))


def with_names(batch: Batch, names: Mapping[Moment, str | None]) -> tuple[Batch, int]:
    """The batch with what is known of its rotating ids; the adverts of the others are counted.

    A key in the form of a registered beacon's is a forgery in a gateway's mouth, and is left out as well.
    Changes of range are not kept for rotating ids: one that falls silent has mostly just rotated.
    """
    draft = _Draft(batch, names)
    rows = batch.readings
    for row in zip(rows.beacon, rows.second, rows.count, rows.loss, rows.best, strict=True):
        draft.take(row)
    return draft.batch(), draft.left_out


def _moments(batch: Batch) -> Iterator[Moment]:
    rotating = [_ID.fullmatch(key) is not None for key in batch.keys]
    for beacon, second in zip(batch.readings.beacon, batch.readings.second, strict=True):
        if rotating[beacon]:
            yield beacon, second
    for report in batch.health:
        if rotating[report.beacon]:
            yield report.beacon, report.after_ms // 1000


class _Draft:
    """A batch being written anew: fixed keys keep their order, the resolved ones follow."""

    def __init__(self, batch: Batch, names: Mapping[Moment, str | None]) -> None:
        self._whole = batch
        self._names = names
        fixed = [n for n, key in enumerate(batch.keys) if not key.startswith((ROTATING, PREFIX))]
        self._fixed = {old: new for new, old in enumerate(fixed)}
        self._keys = [batch.keys[n] for n in fixed]
        self._own: dict[str, int] = {}
        self._rows: list[_Row] = []
        self._cells: dict[Moment, _Cell] = {}
        self.left_out = 0

    def take(self, row: _Row) -> None:
        beacon, second, count, loss, best = row
        fixed = self._fixed.get(beacon)
        if fixed is not None:
            self._rows.append((fixed, second, count, loss, best))
            return
        own = self._number(beacon, second)
        if own is None:
            self.left_out += count
        else:
            self._cells.setdefault((own, second), _Cell()).add(count, loss, best)

    def batch(self) -> Batch:
        whole, health = self._whole, []
        for report in whole.health:
            number = self._fixed.get(report.beacon)
            if number is None:
                number = self._number(report.beacon, report.after_ms // 1000)
            if number is not None:
                health.append(replace(report, beacon=number))
        ranges = [
            replace(change, beacon=self._fixed[change.beacon])
            for change in whole.ranges
            if change.beacon in self._fixed
        ]
        rows = [*self._rows, *(row for at, cell in self._cells.items() for row in cell.rows(at))]
        columns = [list(column) for column in zip(*rows, strict=True)]
        keys = [*self._keys, *self._own]
        return Batch(whole.boot_id, whole.base_ms, keys, Readings(*columns), ranges, health)

    def _number(self, beacon: int, second: int) -> int | None:
        """The new index of the beacon that had a rotating key at that second."""
        name = self._names.get((beacon, second))
        if name is None:
            return None
        return self._own.setdefault(name, len(self._keys) + len(self._own))


@dataclass(slots=True)
class _Cell:
    """One beacon in one second, from the rows of one id or of two."""

    count: int = 0
    measured: int = 0
    loss_sum: int = 0
    best: int = _SILENT

    def add(self, count: int, loss: int, best: int) -> None:
        self.count += count
        self.best = min(self.best, best)
        if loss < _SILENT:
            self.measured += count
            self.loss_sum += loss * count

    def rows(self, at: Moment) -> Iterator[_Row]:
        """One row; more only for a beacon beyond any radio's speed."""
        loss = (self.loss_sum + self.measured // 2) // self.measured if self.measured else _SILENT
        for before in range(0, self.count, _MOST_ADVERTS):
            yield *at, min(self.count - before, _MOST_ADVERTS), loss, self.best
