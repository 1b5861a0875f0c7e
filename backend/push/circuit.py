"""When to stop asking a service that refuses everybody, and when to try again with one message. Pure."""

from dataclasses import dataclass, replace

FIRST_PAUSE_MS = 5_000  # a key that was just rotated works again within seconds
LONGEST_PAUSE_MS = 300_000  # after a repair, offers flow again within five minutes without a restart
PROBE_LIFE_MS = 30_000  # a probe that never reported must not keep the circuit open for ever


@dataclass(frozen=True, slots=True)
class Circuit:
    """Closed until `failed`; then open until `probe_at`, when one message is admitted to probe.

    Times are unix ms. Answers to what was sent before the opening say nothing new and are ignored.
    """

    trips: int = 0
    opened_at: int = 0
    probe_at: int | None = None
    reason: str = ""

    @property
    def is_open(self) -> bool:
        return self.probe_at is not None

    def blocked_until(self, now: int) -> int | None:
        """When the next message may go, or None for now."""
        return self.probe_at if self.probe_at is not None and now < self.probe_at else None

    def admitted(self, now: int) -> "Circuit":
        """The circuit after it let one message through: while open, that was the probe."""
        return replace(self, probe_at=now + PROBE_LIFE_MS) if self.is_open else self

    def failed(self, sent_at: int, now: int, reason: str) -> "Circuit":
        """Open, or open for twice as long."""
        if self.is_open and sent_at <= self.opened_at:
            return self
        pause = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** min(self.trips, 16))
        return Circuit(self.trips + 1, now, now + pause, reason)

    def succeeded(self, sent_at: int) -> "Circuit":
        """Closed."""
        return CLOSED if sent_at > self.opened_at else self


CLOSED = Circuit()
