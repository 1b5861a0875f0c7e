"""Which ids a table cannot have, told from memory: one byte for many, set once one of them is there."""

from array import array
from collections.abc import Sequence
from typing import Final

import numpy as np

SLOTS: Final = 1 << 24  # bytes of memory; with a million ids an hour one answer in sixteen is a false alarm
FULL: Final = SLOTS // 4  # ids; beyond it another hour begins anew, or every answer would be an alarm
HOURS: Final = 256  # a client's clock names any; a week has 168. Beyond it the one with the fewest ids goes


class TableFilter:
    """Knows of the ids of those hours that the table had none of when it was first asked about them."""

    def __init__(self) -> None:
        self._hours: dict[int, int] = {}
        """How many ids each may have."""
        self._there = np.zeros(0, np.bool_)

    def __contains__(self, hour: int) -> bool:
        return hour in self._hours

    def begin(self, hour: int) -> None:
        """An hour of which the table has none; from now on it is told of each that may get there."""
        if not self._hours or sum(self._hours.values()) >= FULL:
            self.clear()
            self._there = np.zeros(SLOTS, np.bool_)
        if len(self._hours) >= HOURS:
            del self._hours[min(self._hours, key=self._hours.__getitem__)]
        self._hours[hour] = 0

    def add(self, hour: int, hashes: "array[int]") -> None:
        """The table may have these."""
        if hour in self._hours:
            slots = _slots(hashes)
            self._there[slots] = True
            self._hours[hour] += len(slots)

    def possible(self, hashes: Sequence[int]) -> list[int]:
        """Those of the hashes that the table may have; of an hour that is known here."""
        asked = array("q", hashes)
        found = np.flatnonzero(self._there[_slots(asked)])
        return [asked[at] for at in found.tolist()]

    def clear(self) -> None:
        """Nothing is known any more."""
        self._hours.clear()
        self._there = np.zeros(0, np.bool_)


def _slots(hashes: "array[int]") -> "np.typing.NDArray[np.int64]":
    """By the last bits: hashes are spread evenly."""
    return np.frombuffer(hashes, np.int64) & (SLOTS - 1)
