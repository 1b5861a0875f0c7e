"""Many small batches of an outage into few large ones: a batch a second repeats every beacon's key. Pure.

Only whole batches are joined, of one boot and in order, so each reading keeps its second and its neighbours;
what they say is the same, and the bytes are a seventh.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from sdk_bridge.wire.codec import WireError, decode_up, encode
from sdk_bridge.wire.messages import Batch, BeaconHealth, RangeChange, Readings

MAX_ROWS: Final = 256  # batches in one: four minutes of history, so that one loss costs no more
MAX_SPAN_MS: Final = 15 * 60_000  # where little happens a batch must not wait hours for its neighbours


class Row(NamedTuple):
    """A waiting record: its id, its boot, how many batches and readings it stands for, and its bytes.

    `sealed` rows (a skip to be) are never joined, and nothing is joined across them.
    """

    id: int
    boot_id: str
    at_ms: int
    batches: int
    readings: int
    sealed: bool
    payload: bytes


class Joined(NamedTuple):
    """One record in the place of several; it takes the first one's id."""

    ids: tuple[int, ...]
    at_ms: int
    batches: int
    readings: int
    payload: bytes


class Plan(NamedTuple):
    """What to join, and up to which id nothing needs to be looked at again."""

    joins: list[Joined]
    through: int


def plan(rows: Iterable[Row], through: int, max_bytes: int) -> Plan:
    """Groups rows, in order, as large as fits. The last group may still grow, so it is left for next time."""
    joins: list[Joined] = []
    group: _Group | None = None
    for row in rows:
        if group is not None and group.take(row, max_bytes):
            continue
        if group is not None:
            through = group.ids[-1]
            joins += group.joined()
        group = _Group.of(row)
        if group is None:
            through = row.id
    if group is not None and group.is_full:
        through = group.ids[-1]
        joins += group.joined()
    return Plan(joins, through)


class _Group:
    """Rows that are being joined, and what they say together."""

    def __init__(self, row: Row, batch: Batch) -> None:
        self.ids = [row.id]
        self._first = batch
        self._last = row
        self._batches = row.batches
        self._readings = row.readings
        self._payload = row.payload
        self._keys = {key: index for index, key in enumerate(batch.keys)}
        rows = batch.readings
        columns = (rows.beacon, rows.second, rows.count, rows.loss, rows.best)
        self._rows = Readings(*[list(column) for column in columns])
        self._ranges = list(batch.ranges)
        self._health = list(batch.health)

    @classmethod
    def of(cls, row: Row) -> "_Group | None":
        """Begins with the row; None where it cannot be joined with anything."""
        batch = None if row.sealed else _batch(row.payload)
        return None if batch is None else cls(row, batch)

    @property
    def is_full(self) -> bool:
        return self._batches >= MAX_ROWS

    def take(self, row: Row, max_bytes: int) -> bool:
        """Whether the row has joined; if not, the group stands as it was."""
        if row.sealed or row.boot_id != self._last.boot_id or self._batches + row.batches > MAX_ROWS:
            return False
        batch = _batch(row.payload)
        if batch is None or not 0 <= batch.base_ms - self._first.base_ms <= MAX_SPAN_MS:
            return False
        if batch.boot_id != self._first.boot_id or (batch.base_ms - self._first.base_ms) % 1000:
            return False
        return self._add(row, batch, max_bytes)

    def joined(self) -> Iterator[Joined]:
        """The record to be, unless the first row found no company."""
        if len(self.ids) > 1:
            yield Joined(tuple(self.ids), self._last.at_ms, self._batches, self._readings, self._payload)

    def _add(self, row: Row, batch: Batch, max_bytes: int) -> bool:
        after_ms = batch.base_ms - self._first.base_ms
        fresh = [key for key in batch.keys if key not in self._keys]
        at = self._keys | {key: len(self._keys) + offset for offset, key in enumerate(fresh)}
        index = [at[key] for key in batch.keys]
        rows = _rows(self._rows, batch.readings, index, after_ms // 1000)
        ranges = [
            *self._ranges,
            *[RangeChange(index[c.beacon], c.after_ms + after_ms, c.near) for c in batch.ranges],
        ]
        health = [*self._health, *[_later(report, index, after_ms) for report in batch.health]]
        payload = encode(Batch(self._first.boot_id, self._first.base_ms, list(at), rows, ranges, health))
        if len(payload) > max_bytes:
            return False
        self._keys, self._rows, self._ranges, self._health = at, rows, ranges, health
        self._payload, self._last = payload, row
        self.ids.append(row.id)
        self._batches += row.batches
        self._readings += row.readings
        return True


def _rows(before: Readings, more: Readings, index: list[int], seconds: int) -> Readings:
    return Readings(
        before.beacon + [index[beacon] for beacon in more.beacon],
        before.second + [second + seconds for second in more.second],
        before.count + more.count,
        before.loss + more.loss,
        before.best + more.best,
    )


def _later(report: BeaconHealth, index: list[int], after_ms: int) -> BeaconHealth:
    return BeaconHealth(
        index[report.beacon],
        report.after_ms + after_ms,
        report.battery_mv,
        report.temperature_c,
        report.adverts,
        report.uptime_s,
    )


def _batch(payload: bytes) -> Batch | None:
    """The row's batch; None for anything else, which then travels as it is."""
    try:
        message = decode_up(payload)
    except WireError:
        return None
    return message if isinstance(message, Batch) else None
