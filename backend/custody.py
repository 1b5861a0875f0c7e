"""The receiving half of go-back-N: which sequence of which sender comes next."""

from collections.abc import Mapping
from enum import Enum

from backend.storage.journal import LaneKey


class Verdict(Enum):
    """What to do with a message, by its sequence."""

    ACCEPT = "accept"
    DUPLICATE = "duplicate"
    GAP = "gap"


class Custody:
    """Per sender the sequence taken in (`taken`), and the one committed, which is what may be acknowledged.

    Between the two lies what waits for a commit: further messages are judged by `taken`, senders are told
    only of `committed`.
    """

    def __init__(self, committed: Mapping[LaneKey, int]) -> None:
        self._committed = dict(committed)
        self._taken = dict(committed)

    def judge(self, lane: LaneKey, seq: int) -> Verdict:
        """Whether `seq` is the next of its lane. The first of an epoch is 1."""
        expected = self._taken.get(lane, 0) + 1
        if seq == expected:
            return Verdict.ACCEPT
        return Verdict.DUPLICATE if seq < expected else Verdict.GAP

    def take(self, lane: LaneKey, upto: int) -> None:
        """The lane's messages up to and with `upto` are on their way to the disk."""
        self._taken[lane] = upto

    def commit(self, lane: LaneKey, upto: int) -> None:
        """They have arrived there."""
        self._committed[lane] = max(upto, self._committed.get(lane, 0))

    def abandon(self, lane: LaneKey) -> None:
        """A commit failed: whatever was taken beyond the committed will be sent again."""
        self._taken[lane] = self._committed.get(lane, 0)

    def committed(self, lane: LaneKey) -> int:
        """The sequence that may be acknowledged; 0 where nothing was ever committed."""
        return self._committed.get(lane, 0)

    def lanes_of(self, gateway: str) -> list[LaneKey]:
        """The lanes in which a gateway has committed anything."""
        return [lane for lane in self._committed if lane.gateway == gateway]
