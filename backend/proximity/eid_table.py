"""Which beacon sent this Eddystone-EID? A table of the ids that all registered beacons send about now.

Time is cut into slots of 2^K seconds for each rotation exponent K in use. A slot is an array of ids, sorted,
and one of beacon numbers: 12 bytes a beacon, so 11.4 MiB for a million. A look-up at slot n searches n − 1 to
n + 1: a beacon's clock may be wrong by half a rotation at least (by a whole one if its rotations begin with
ours), and an id recorded and played back two slots later finds nobody.

The first slot costs 7 µs a beacon for two ciphers, each further one hardly anything. So a table is made for
as many slots ahead as fit `max_bytes`, up to 64 in all: a million beacons have three, to be made again every
2^K seconds; fifty thousand have 64, eighteen hours at K = 10. A table never changes: the next one is made
beside it and takes its place. Identity keys pass through and are not kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backend.proximity.eid import EID_BYTES, MAX_EXPONENT, EidError, rotations

MAX_BYTES: Final = 40 * 1024 * 1024
UNKNOWN: Final = -1
AMBIGUOUS: Final = -2  # two beacons send this id: nobody is named rather than the wrong one
_SLOT_BYTES: Final = 12
_NEAR: Final = 1  # slots before and after now that a beacon's clock may be in
_LEAST_SLOTS: Final = 2 * _NEAR + 1
_MOST_SLOTS: Final = 64
_PACKED: Final = 4096  # beacons whose ids are turned from bytes into an array at once

Ids: TypeAlias = NDArray[np.uint64]
Beacons: TypeAlias = NDArray[np.int64]
Times: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EidBeacon:
    """A registered beacon; `number` (0 to 2^32 − 1) is what look-ups answer with.

    `clock_ahead_s` is the beacon's counter of seconds minus unix time, as learned when it was registered.
    """

    number: int
    key: bytes
    exponent: int
    clock_ahead_s: int = 0


@dataclass(frozen=True, slots=True)
class _Slot:
    ids: Ids
    beacons: NDArray[np.uint32]

    def search(self, wanted: Ids, found: Beacons) -> Beacons:
        """`found`, and the beacons of this slot; `wanted` is sorted, which is ten times faster to search."""
        last = len(self.ids) - 1
        at = np.searchsorted(self.ids, wanted)
        np.minimum(at, last, out=at)
        hit = self.ids[at] == wanted
        beacon = self.beacons[at].astype(np.int64)
        twice = (self.ids[np.minimum(at + 1, last)] == wanted) & (at < last)
        other = (found != UNKNOWN) & (found != beacon)
        return np.where(hit, np.where(twice | other, AMBIGUOUS, beacon), found)


class EidTable:
    """Ids to beacon numbers from `valid_from_s` until before `valid_until_s` (unix seconds)."""

    def __init__(
        self, slots: dict[tuple[int, int], _Slot], valid_until_s: int, valid_from_s: int = 0
    ) -> None:
        self._slots = slots  # by exponent and number of the slot
        self._exponents = sorted({exponent for exponent, _ in slots})
        self.valid_from_s = valid_from_s
        self.valid_until_s = valid_until_s

    @classmethod
    def make(
        cls, beacons: Iterable[EidBeacon], count: int, now_s: int, max_bytes: int = MAX_BYTES
    ) -> "EidTable":
        """The table from now on for beacons of which there are `count`, or about so. Raises EidError."""
        slots = min(max(max_bytes // (_SLOT_BYTES * max(count, 1)), _LEAST_SLOTS), _MOST_SLOTS)
        piles: dict[int, _Pile] = {}
        for beacon in beacons:
            pile = piles.get(beacon.exponent)
            if pile is None:
                pile = piles[beacon.exponent] = _Pile(beacon.exponent, now_s, slots)
            pile.add(beacon)
        made = {key: slot for pile in piles.values() for key, slot in pile.sorted_slots()}
        ends = [pile.valid_until_s for pile in piles.values()]
        starts = [pile.valid_from_s for pile in piles.values()]
        return cls(made, min(ends, default=now_s + (_MOST_SLOTS << MAX_EXPONENT)), max(starts, default=now_s))

    @property
    def size_bytes(self) -> int:
        """What the table's arrays take."""
        return sum(slot.ids.nbytes + slot.beacons.nbytes for slot in self._slots.values())

    def resolve(self, eids: Sequence[bytes], now_s: int) -> list[int | None]:
        """The beacon's number for each id; None where it is unknown, ambiguous or no id."""
        whole = [eid if len(eid) == EID_BYTES else bytes(EID_BYTES) for eid in eids]
        found = self.resolve_packed(np.frombuffer(b"".join(whole), ">u8").astype(np.uint64), now_s)
        return [
            number if number >= 0 and len(eid) == EID_BYTES else None
            for number, eid in zip(found.tolist(), eids, strict=True)
        ]

    def resolve_packed(self, ids: Ids, now_s: int) -> Beacons:
        """Numbers, UNKNOWN or AMBIGUOUS for ids given as big-endian numbers."""
        return self.find(ids, np.full(len(ids), now_s, np.int64))[0]

    def find(self, ids: Ids, at_s: Times) -> tuple[Beacons, Times]:
        """For ids heard each at its own unix second: what `resolve_packed` gives, and the slot it was in."""
        order = np.argsort(ids)
        wanted, times = ids[order], at_s[order]
        found, where = np.full(len(ids), UNKNOWN, np.int64), np.zeros(len(ids), np.int64)
        for exponent in self._exponents:
            heard_in = times >> exponent
            for number in self._slots_near(exponent, heard_in):
                near = np.abs(heard_in - number) <= _NEAR
                before = found[near]
                after = self._slots[exponent, number].search(wanted[near], before)
                where[near] = np.where(after != before, number, where[near])
                found[near] = after
        numbers, slots = np.empty_like(found), np.empty_like(where)
        numbers[order], slots[order] = found, where
        return numbers, slots

    def _slots_near(self, exponent: int, heard_in: Times) -> list[int]:
        """The table's slots that an id may have been sent in; a stranger's wild times cost nothing."""
        if not len(heard_in):
            return []
        first, last = int(heard_in.min()) - _NEAR, int(heard_in.max()) + _NEAR
        return [number for key, number in self._slots if key == exponent and first <= number <= last]


class _Pile:
    """The ids of all beacons of one exponent while a table is being made."""

    def __init__(self, exponent: int, now_s: int, slots: int) -> None:
        if not 0 <= exponent <= MAX_EXPONENT:
            raise EidError(f"rotation exponent {exponent} must be 0 to {MAX_EXPONENT}")
        self._exponent = exponent
        self._first = (now_s >> exponent) - _NEAR
        self._middle_s = (self._first << exponent) + (1 << exponent >> 1)  # of the first slot
        self._raw: list[bytes] = []
        self._numbers: list[int] = []
        self._packed_numbers: list[NDArray[np.uint32]] = []
        self._packed_ids: list[list[Ids]] = [[] for _ in range(slots)]
        self.valid_from_s = (self._first + _NEAR) << exponent
        self.valid_until_s = (self._first + slots - _NEAR) << exponent

    def add(self, beacon: EidBeacon) -> None:
        time = self._middle_s + beacon.clock_ahead_s
        self._raw.append(rotations(beacon.key, self._exponent, time, len(self._packed_ids)))
        self._numbers.append(beacon.number)
        if len(self._raw) == _PACKED:
            self._pack()

    def sorted_slots(self) -> Iterable[tuple[tuple[int, int], _Slot]]:
        self._pack()
        numbers = np.concatenate(self._packed_numbers)
        for index, parts in enumerate(self._packed_ids):
            ids = np.concatenate(parts)
            parts.clear()
            beacons = numbers[np.argsort(ids)]
            ids.sort()
            yield (self._exponent, self._first + index), _Slot(ids, beacons)

    def _pack(self) -> None:
        blocks = np.frombuffer(b"".join(self._raw), ">u8").reshape(len(self._raw), -1, 2)
        for index, parts in enumerate(self._packed_ids):
            parts.append(blocks[:, index, 0].astype(np.uint64))
        self._packed_numbers.append(np.array(self._numbers, np.uint32))
        self._raw.clear()
        self._numbers.clear()
