"""Adverts to batches: readings per beacon and second in columns, range changes and telemetry beside them.

Custody starts here, so the books balance: an advert is either in exactly one reading or in `dropped`.
Milliseconds are those of CLOCK_BOOTTIME, which runs on through suspend and never jumps.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, TypeAlias

from gateway.beacons import EddystoneTlm
from sdk_bridge.wire.messages import MAX_KEYS, MAX_ROWS, Batch, BeaconHealth, RangeChange, Readings

MAX_BYTES: Final = 8 * 1024  # of an encoded batch; a bigger one holds up the acknowledgement of a slow uplink
MAX_BEACONS: Final = 2048  # in a second; a stranger inventing identities may cost no more memory than these
MAX_SECONDS: Final = 30  # held open when nobody closes them; beyond, the oldest is dropped
MAX_NOTES: Final = 4096  # range changes, and likewise beacons with telemetry, that wait for the next close
_FRAME_BYTES: Final = 84  # tag, boot id, base and the headers of all arrays, each at its largest
_HEALTH_BYTES: Final = 27  # array, battery, temperature, adverts and uptime, each at its largest
_MAX_COUNT: Final = 65535  # adverts in a row of the wire
_MAX_OFFSET_MS: Final = 65535 * 1000  # from a batch's base to its last row
_SILENT: Final = 127  # −RSSI where the controller told none

_Cell: TypeAlias = list[int]
"""A beacon in one second: adverts, those with an RSSI, the sum and the least of their attenuations in dB."""
_Reading: TypeAlias = tuple[int, int, int]
"""Count, mean attenuation, least attenuation."""
_Item: TypeAlias = tuple[int, str, _Reading | bool | EddystoneTlm]
"""When, which beacon, and its reading, its coming into range or its telemetry."""


class Aggregator:
    """Collects what was heard until `close` takes it out.

    `adverts` counts every add, `dropped` the adverts for which there was no room and `dropped_notes` the
    range changes and reports, all since the start.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, max_beacons: int = MAX_BEACONS) -> None:
        if not 512 <= max_bytes <= 64 * 1024:
            raise ValueError(f"max_bytes {max_bytes} must be 512 (the longest key and its row) to 65536")
        self._max_bytes = max_bytes
        self._max_beacons = max_beacons
        self._seconds: dict[int, dict[str, _Cell]] = {}
        self._second = -1
        self._cells: dict[str, _Cell] = {}
        self._ranges: list[_Item] = []
        self._health: dict[str, _Item] = {}
        self._closed_adverts = 0
        self.dropped = 0
        self.dropped_notes = 0

    @property
    def adverts(self) -> int:
        return self._closed_adverts + self.dropped + self.open_adverts

    @property
    def open_adverts(self) -> int:
        """Adverts in seconds that are not closed yet."""
        return sum(cell[0] for cells in self._seconds.values() for cell in cells.values())

    def add(self, key: str, at_ms: int, rssi: int) -> None:
        """An advert of the beacon was heard. `rssi` is in dBm; −127 means that the controller told none."""
        second = at_ms // 1000
        if second != self._second:
            self._turn_to(second)
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) >= self._max_beacons:
                self.dropped += 1
                return
            cell = self._cells[key] = [0, 0, 0, _SILENT]
        cell[0] += 1
        if rssi > -_SILENT:
            loss = -rssi if rssi < 0 else 0
            cell[1] += 1
            cell[2] += loss
            cell[3] = loss if loss < cell[3] else cell[3]

    def note_range(self, key: str, at_ms: int, near: bool) -> None:
        """The beacon came into range, or went out of it."""
        if len(self._ranges) >= MAX_NOTES:
            self.dropped_notes += 1
        else:
            self._ranges.append((at_ms, key, near))

    def note_health(self, key: str, at_ms: int, report: EddystoneTlm) -> None:
        """The beacon's telemetry; a newer report replaces one that still waits, for it is a state."""
        if key not in self._health and len(self._health) >= MAX_NOTES:
            self.dropped_notes += 1
        else:
            self._health[key] = (at_ms, key, report)

    def close(self, now_ms: int, boot_id: str, *, flush: bool = False) -> list[Batch]:
        """Takes out the whole seconds before `now_ms` (with `flush` every second) and all notes.

        As few batches as fit `max_bytes`, in order of time; none if there is nothing to tell.
        """
        items = [*self._take_seconds(now_ms // 1000, flush), *self._ranges, *self._health.values()]
        self._ranges, self._health = [], {}
        items.sort(key=itemgetter(0))
        return [draft.batch(boot_id) for draft in _drafts(items, self._max_bytes)]

    def _turn_to(self, second: int) -> None:
        if second not in self._seconds and len(self._seconds) >= MAX_SECONDS:
            lost = self._seconds.pop(min(self._seconds))
            self.dropped += sum(cell[0] for cell in lost.values())
        self._second = second
        self._cells = self._seconds.setdefault(second, {})

    def _take_seconds(self, until: int, everything: bool) -> Iterator[_Item]:
        for second in sorted(self._seconds):
            if everything or second < until:
                cells = self._seconds.pop(second)
                for key, cell in cells.items():
                    self._closed_adverts += cell[0]
                    for reading in _readings(cell):
                        yield second * 1000, key, reading
        self._second = -1  # the next add looks its second up, for its cells may just have been taken


def _readings(cell: _Cell) -> Iterator[_Reading]:
    count, measured, total, best = cell
    loss = min((total + measured // 2) // measured, _SILENT) if measured else _SILENT
    while count > 0:  # more than one row only for a beacon beyond any radio's speed
        yield min(count, _MAX_COUNT), loss, best
        count -= _MAX_COUNT


@dataclass(slots=True)
class _Draft:
    """A batch being filled. `size` is never less than its encoded bytes, and in the rows exact."""

    base_ms: int
    size: int = _FRAME_BYTES
    keys: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    ranges: list[RangeChange] = field(default_factory=list)
    health: list[BeaconHealth] = field(default_factory=list)

    def take(self, item: _Item, max_bytes: int) -> bool:
        """Whether the item had room in the batch; a batch's first always has."""
        at_ms, key, what = item
        index = self.keys.get(key, len(self.keys))
        new_key = 2 + len(key.encode()) if index == len(self.keys) else 0
        size = self.size + new_key + _int_bytes(index) + _body_bytes(at_ms - self.base_ms, what)
        if self.keys and (size > max_bytes or self._full(at_ms)):
            return False
        self.size = size
        self.keys[key] = index
        self._put(index, at_ms - self.base_ms, what)
        return True

    def batch(self, boot_id: str) -> Batch:
        columns = [list(column) for column in zip(*self.rows, strict=True)]
        return Batch(boot_id, self.base_ms, list(self.keys), Readings(*columns), self.ranges, self.health)

    def _full(self, at_ms: int) -> bool:
        return (
            at_ms - self.base_ms > _MAX_OFFSET_MS
            or len(self.keys) >= MAX_KEYS
            or max(len(self.rows), len(self.ranges)) >= MAX_ROWS
        )

    def _put(self, index: int, after_ms: int, what: _Reading | bool | EddystoneTlm) -> None:
        if isinstance(what, tuple):
            self.rows.append((index, after_ms // 1000, *what))
        elif isinstance(what, bool):
            self.ranges.append(RangeChange(index, after_ms, what))
        else:
            self.health.append(
                BeaconHealth(
                    index, after_ms, what.battery_mv, what.temperature_c, what.adverts, what.uptime_s
                )
            )


def _drafts(items: Iterable[_Item], max_bytes: int) -> Iterator[_Draft]:
    draft: _Draft | None = None
    for item in items:
        if draft is None or not draft.take(item, max_bytes):
            if draft is not None:
                yield draft
            draft = _Draft(base_ms=item[0] // 1000 * 1000)
            draft.take(item, max_bytes)
    if draft is not None:
        yield draft


def _body_bytes(after_ms: int, what: _Reading | bool | EddystoneTlm) -> int:
    if isinstance(what, tuple):
        return _int_bytes(after_ms // 1000) + _int_bytes(what[0]) + 2
    return _int_bytes(after_ms) + (2 if isinstance(what, bool) else _HEALTH_BYTES)


def _int_bytes(value: int) -> int:
    """What MessagePack takes for a whole number from zero up."""
    if value < 0x80:
        return 1
    if value < 0x100:
        return 2
    return 3 if value < 0x10000 else 5 if value < 0x1_0000_0000 else 9
