"""A gateway's clock whose time a run turns itself: hours of a shop in minutes."""

from dataclasses import dataclass

BOOT_ID = "0f0e0d0c-0000-4000-8000-0000000000ed"
START_UNIX_MS = 1_700_000_000_000


@dataclass(slots=True)
class SimulatedClock:
    """Satisfies gateway.clock.Clock; `now` are boot milliseconds."""

    boot_id: str = BOOT_ID
    now: int = 1_000_000

    def boot_ms(self) -> int:
        return self.now

    def unix_ms(self) -> int:
        return START_UNIX_MS + self.now

    def synchronised(self) -> bool:
        return False
