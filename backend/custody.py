"""The receiving half of go-back-N: which sequence of which sender comes next."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from backend.storage.entries import LaneKey
from backend.storage.group import LANES_A_GATEWAY


class Verdict(Enum):
    """What to do with a message, by its sequence."""

    ACCEPT = "accept"
    DUPLICATE = "duplicate"
    GAP = "gap"


@dataclass(slots=True)
class _Reach:
    """How far a lane has got; `taken` is never behind `committed`."""

    committed: int = 0
    taken: int = 0


class Custody:
    """Per sender the sequence taken in (`taken`), and the one committed, which is what may be acknowledged.

    Between the two lies what waits for a commit: further messages are judged by `taken`, senders are told
    only of `committed`.
    """

    def __init__(self, committed: Mapping[LaneKey, int]) -> None:
        self._gateways: dict[str, dict[LaneKey, _Reach]] = {}
        for lane, upto in committed.items():
            self.commit(lane, upto)

    def reload(self, committed: Mapping[LaneKey, int], ours: Callable[[str], bool]) -> None:
        """Forgets what was known of some gateways, for another process has taken in theirs meanwhile."""
        for gateway in [gateway for gateway in self._gateways if ours(gateway)]:
            del self._gateways[gateway]
        for lane, upto in committed.items():
            if ours(lane.gateway):
                self.commit(lane, upto)

    def judge(self, lane: LaneKey, seq: int) -> Verdict:
        """Whether `seq` is the next of its lane. The first of an epoch is 1."""
        reach = self._known(lane)
        expected = (reach.taken if reach else 0) + 1
        if seq == expected:
            return Verdict.ACCEPT
        return Verdict.DUPLICATE if seq < expected else Verdict.GAP

    def take(self, lane: LaneKey, upto: int) -> None:
        """The lane's messages up to and with `upto` are on their way to the disk."""
        self._reach(lane).taken = upto

    def commit(self, lane: LaneKey, upto: int) -> None:
        """They have arrived there; so have all before them, whatever was abandoned meanwhile."""
        reach = self._reach(lane)
        reach.committed = max(upto, reach.committed)
        reach.taken = max(reach.committed, reach.taken)

    def abandon(self, lane: LaneKey) -> None:
        """A commit failed: whatever was taken beyond the committed will be sent again."""
        reach = self._reach(lane)
        reach.taken = reach.committed

    def committed(self, lane: LaneKey) -> int:
        """The sequence that may be acknowledged; 0 where nothing was ever committed."""
        reach = self._known(lane)
        return reach.committed if reach else 0

    def lanes_of(self, gateway: str) -> list[LaneKey]:
        """The lanes in which a gateway has committed anything."""
        return [lane for lane, reach in self._gateways.get(gateway, {}).items() if reach.committed]

    def _known(self, lane: LaneKey) -> _Reach | None:
        return self._gateways.get(lane.gateway, {}).get(lane)

    def _reach(self, lane: LaneKey) -> _Reach:
        """The lane's own; a new one pushes out the gateway's longest unused, as the journal does."""
        lanes = self._gateways.setdefault(lane.gateway, {})
        reach = lanes.pop(lane, None) or _Reach()
        lanes[lane] = reach
        if len(lanes) > LANES_A_GATEWAY:
            del lanes[next(iter(lanes))]
        return reach
