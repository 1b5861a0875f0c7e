"""Go-back-N, the sender's half, for one lane: what to send now, and what an acknowledgement means. Pure.

The sequences themselves and what they carry lie in the outbox; a window only knows numbers and times
(milliseconds of one clock that never goes back).
"""

from enum import Enum, auto
from typing import Final

WINDOW: Final = 64  # records in flight; more would only wait in the broker's queue, which drops at 1,000
FIRST_RESEND_MS: Final = 1_000  # one fsync and two hops take far less, even on a loaded Pi
LAST_RESEND_MS: Final = 10_000  # longer, and a backend that came back without a word would wait for us
STALL_MS: Final = (
    5_000  # without an acknowledgement for this long, what is new waits: it may be backlog by then
)
REWIND_GUARD_MS: Final = 250  # a window of 64 behind a gap draws 63 complaints; only the first may rewind
FORGOT_MS: Final = 5_000  # a late complaint of a former owner passes; the present one repeats itself


class Word(Enum):
    """What an acknowledgement told us."""

    NOTHING = auto()
    PROGRESS = auto()
    GAP = auto()
    WE_FORGOT = auto()  # it covers what we never numbered: our disk lost commits, so the epoch is spent
    THEY_FORGOT = auto()  # it insists on what was acknowledged and deleted: the epoch is spent as well


class Window:
    """One lane of one epoch. `acked` and `last` come from the outbox; `last` is the last sequence given."""

    def __init__(self, acked: int, last: int) -> None:
        self.acked = acked
        self.last = last
        self._next = acked + 1
        self._open = False
        self._patience = FIRST_RESEND_MS
        self._deadline: int | None = None
        self._progress_at = 0
        self._rewound_at: int | None = None
        self._contradicted_at: int | None = None

    @property
    def outstanding(self) -> int:
        """Records numbered and not acknowledged."""
        return self.last - self.acked

    @property
    def deadline(self) -> int | None:
        """When to look again even if nothing happens; None while nothing is in flight."""
        return self._deadline if self._open else None

    def connected(self, now: int) -> None:
        """A new connection: everything unacknowledged is sent again, and at once."""
        self._open = True
        self._patience = FIRST_RESEND_MS
        self._progress_at = now
        self._rewind(now)
        self._deadline = None

    def disconnected(self) -> None:
        self._open = False
        self._deadline = None

    def room(self, now: int) -> int:
        """How many new records may be numbered: none while the other side is silent."""
        stalled = self.outstanding > 0 and now - self._progress_at >= STALL_MS
        return 0 if not self._open or stalled else max(0, WINDOW - self.outstanding)

    def given(self, last: int, now: int) -> None:
        """The outbox has numbered up to and with `last`."""
        if self.outstanding == 0:
            self._progress_at = now
        self.last = max(self.last, last)

    def due(self, now: int) -> range:
        """The sequences to send now. Asking after the deadline starts again at the first unacknowledged."""
        if not self._open:
            return range(0)
        if self._deadline is not None and now >= self._deadline:
            self._rewind(now)
            self._patience = min(2 * self._patience, LAST_RESEND_MS)
            self._deadline = now + self._patience
        return range(self._next, min(self.last, self.acked + WINDOW) + 1)

    def sent(self, through: int, now: int) -> None:
        """Handed to the connection, up to and with `through` (a skip covers several)."""
        self._next = max(self._next, through + 1)
        if self._deadline is None:
            self._deadline = now + self._patience

    def acknowledge(self, upto: int, gap: bool, now: int) -> Word:
        """Takes the other side's word; it is cumulative, and may come late, twice or out of order."""
        if upto > self.last:
            return Word.WE_FORGOT
        if upto < self.acked:
            return self._contradicted(gap, now)
        self._contradicted_at = None
        progress = upto > self.acked
        if progress:
            self._advance(upto, now)
        if gap and self._next > upto + 1 and self._may_rewind(now):
            self._rewind(now)
            return Word.GAP
        return Word.PROGRESS if progress else Word.NOTHING

    def _advance(self, upto: int, now: int) -> None:
        self.acked = upto
        self._next = max(self._next, upto + 1)
        self._patience = FIRST_RESEND_MS
        self._progress_at = now
        self._rewound_at = None  # a complaint after progress is about another gap
        in_flight = self._open and self._next > upto + 1
        self._deadline = now + self._patience if in_flight else None

    def _contradicted(self, gap: bool, now: int) -> Word:
        if not gap:
            return Word.NOTHING
        if self._contradicted_at is None:
            self._contradicted_at = now
        return Word.THEY_FORGOT if now - self._contradicted_at >= FORGOT_MS else Word.NOTHING

    def _may_rewind(self, now: int) -> bool:
        return self._rewound_at is None or now - self._rewound_at >= REWIND_GUARD_MS

    def _rewind(self, now: int) -> None:
        self._next = self.acked + 1
        self._rewound_at = now
