"""How many events a source may send: a token bucket each."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Events a second in the long run, and how many may come at once after a silence."""

    per_second: float = 5_000.0  # a public key must not be able to fill the journal by itself
    burst: float = 50_000.0  # twenty full batches: what phones bring when a shop's network comes back


LONGEST_WAIT_S = 300  # a source that is granted little must not silence its clients for a day


class Buckets:
    """One bucket per source; asked only for sources that exist, so there are no more of them than sources.

    A batch may take a bucket below zero, so that one larger than the burst still passes; the next waits
    longer.
    """

    def __init__(self) -> None:
        self._levels: dict[str, tuple[float, int]] = {}

    def wait_s(self, source_id: str, rate: Rate, now_ms: int) -> int:
        """Whole seconds until the source may send again; 0 for now."""
        level = self._level(source_id, rate, now_ms)
        return 0 if level >= 1 else min(LONGEST_WAIT_S, max(1, math.ceil((1 - level) / rate.per_second)))

    def take(self, source_id: str, rate: Rate, events: int, now_ms: int) -> None:
        """Counts what was sent."""
        self._levels[source_id] = (self._level(source_id, rate, now_ms) - events, now_ms)

    def _level(self, source_id: str, rate: Rate, now_ms: int) -> float:
        level, at = self._levels.get(source_id, (rate.burst, now_ms))
        if now_ms < at:  # the clock was set back; until it is where it was, nothing would be refilled
            self._levels[source_id] = level, now_ms
        return min(rate.burst, level + max(0, now_ms - at) / 1000 * rate.per_second)
