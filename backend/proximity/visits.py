"""When someone came to a store and when they left it, from the zones they were in. Pure.

Between two zones, or out of every gateway's sight for a moment, a shopper is still in the store. Times are
unix milliseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from backend.proximity.zones import Transition

AWAY_MS = 120_000  # a fitting room hides a tag for a minute; more is a visit of its own


@dataclass(slots=True)
class Visit:
    """Someone is in a store. `idle_since`: in none of its zones since then; None while in one."""

    subject: str
    store_id: str
    entered_at: int
    idle_since: int | None = None


@dataclass(frozen=True, slots=True)
class StoreTransition:
    """A store was entered or left; `paused`, `resumed`: the visit goes on, in no zone or in one again."""

    kind: Literal["entered", "left", "paused", "resumed"]
    visit: Visit
    at: int


@dataclass(slots=True)
class Visits:
    """Everybody's open visit, by subject."""

    open: dict[str, Visit] = field(default_factory=dict)

    def moved(self, transition: Transition) -> Iterator[StoreTransition]:
        """What a zone's transition means for the store."""
        visit = self.open.get(transition.beacon_key)
        store_id = transition.place.store_id
        if transition.kind != "entered":
            if visit is not None and visit.store_id == store_id:
                visit.idle_since = transition.at
                yield StoreTransition("paused", visit, transition.at)
            return
        if visit is not None and visit.store_id == store_id:
            visit.idle_since = None
            yield StoreTransition("resumed", visit, transition.at)
            return
        if visit is not None:
            yield self._end(visit, visit.idle_since or transition.at)
        begun = self.open[transition.beacon_key] = Visit(transition.beacon_key, store_id, transition.at)
        yield StoreTransition("entered", begun, transition.at)

    def expire(self, now: int) -> Iterator[StoreTransition]:
        """Visits of those who have been in no zone for long; they left when they were last in one."""
        for visit in list(self.open.values()):
            if visit.idle_since is not None and now - visit.idle_since > AWAY_MS:
                yield self._end(visit, visit.idle_since)

    def forget(self, subject: str, at: int) -> Iterator[StoreTransition]:
        """They withdrew: the visit ends here and now."""
        visit = self.open.get(subject)
        if visit is not None:
            yield self._end(visit, at)

    def _end(self, visit: Visit, at: int) -> StoreTransition:
        del self.open[visit.subject]
        return StoreTransition("left", visit, max(at, visit.entered_at))
