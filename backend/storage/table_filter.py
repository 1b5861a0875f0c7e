"""Which ids a table cannot have, told from memory: one bit for many, set once one of them is there."""

from array import array
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

SLOTS: Final = 1 << 24  # bits, so 2 MB; with a million ids an hour one answer in sixteen is a false alarm
FULL: Final = SLOTS // 4  # ids; beyond it another hour begins anew, or every answer would be an alarm
HOURS: Final = 256  # a client's clock names any; a week has 168. Beyond it the one with the fewest ids goes
_BITS: Final = (1 << np.arange(8)).astype(np.uint8)


class TableFilter:
    """Knows of the ids of those hours that the table had none of when it was first asked about them."""

    def __init__(self) -> None:
        self._hours: dict[int, int] = {}
        """How many ids each may have."""
        self._there = np.zeros(0, np.uint8)

    def __contains__(self, hour: int) -> bool:
        return hour in self._hours

    def begin(self, hour: int) -> None:
        """An hour of which the table has none; from now on it is told of each that may get there."""
        if not self._hours or sum(self._hours.values()) >= FULL:
            self.clear()
            self._there = np.zeros(SLOTS // 8, np.uint8)
        if len(self._hours) >= HOURS:
            del self._hours[min(self._hours, key=self._hours.__getitem__)]
        self._hours[hour] = 0

    def add(self, hour: int, hashes: "array[int]") -> None:
        """The table may have these."""
        if hour in self._hours:
            places, bits = _slots(hashes)
            np.bitwise_or.at(self._there, places, bits)
            self._hours[hour] += len(places)

    def possible(self, hashes: Sequence[int]) -> list[int]:
        """Those of the hashes that the table may have; of an hour that is known here."""
        asked = array("q", hashes)
        places, bits = _slots(asked)
        found = np.flatnonzero(self._there[places] & bits)
        return [asked[at] for at in found.tolist()]

    def clear(self) -> None:
        """Nothing is known any more."""
        self._hours.clear()
        self._there = np.zeros(0, np.uint8)


def _slots(hashes: "array[int]") -> "tuple[NDArray[np.int64], NDArray[np.uint8]]":
    """The byte of each, and its bit there, by the last bits of the hashes, which are spread evenly."""
    slots = np.frombuffer(hashes, np.int64) & (SLOTS - 1)
    return slots >> 3, _BITS[slots & 7]
