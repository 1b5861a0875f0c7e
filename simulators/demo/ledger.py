"""What the simulators know they sent: adverts per gateway, and what a killed one cannot have kept. Pure."""

from collections import Counter, deque
from dataclasses import dataclass, field

IN_HAND_MS = 1_600  # a gateway's unfinished second and its next write; SIGKILL may take these, nothing more
DYING_MS = 60_000  # from the kill until BlueZ knows of it; a busy machine takes its time


@dataclass(slots=True)
class Ledger:
    """Adverts that reached a scanning gateway. Times are milliseconds of any one clock."""

    sent: Counter[str] = field(default_factory=Counter)
    in_hand: Counter[str] = field(default_factory=Counter)
    _recent: dict[str, deque[int]] = field(default_factory=dict)

    def heard(self, gateway: str, at: int) -> None:
        """An advert of a listed beacon was delivered to a gateway that was scanning."""
        self.sent[gateway] += 1
        recent = self._recent.setdefault(gateway, deque())
        recent.append(at)
        while recent[0] < at - IN_HAND_MS - DYING_MS:
            recent.popleft()

    def killed(self, gateway: str, at: int) -> None:
        """The gateway was killed at a time: what it heard in its last moments had not reached its disk, and
        what seemed to reach it since, nobody heard."""
        recent = self._recent.get(gateway, deque())
        self.in_hand[gateway] += sum(1 for heard_at in recent if heard_at >= at - IN_HAND_MS)
        recent.clear()

    @property
    def total(self) -> int:
        return self.sent.total()


@dataclass(frozen=True, slots=True)
class Balance:
    """Observations sent and not held, and held more often than sent."""

    lost: int
    duplicates: int


def balance(ledger: Ledger, held: dict[str, int]) -> Balance:
    """Compares, gateway by gateway, with the adverts the database holds or has counted and forgotten."""
    lost = duplicates = 0
    for gateway in ledger.sent.keys() | held.keys():
        sent, kept = ledger.sent[gateway], held.get(gateway, 0)
        lost += max(0, sent - ledger.in_hand[gateway] - kept)
        duplicates += max(0, kept - sent)
    return Balance(lost, duplicates)
