"""When someone came to a store and when they left it, from the zones they were in. Pure.

Between two zones, or out of every gateway's sight for a moment, a shopper is still in the store. Where nobody
listens, nobody has left: a shop that loses its network does not empty. Times are unix milliseconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from backend.occurrences import Confidence
from backend.proximity.places import Place
from backend.proximity.zones import Transition

AWAY_MS = 120_000  # a fitting room hides a tag for a minute; more is a visit of its own
DEAF_MS = 6 * 3_600_000  # a gateway that is dead for longer does not keep a shop full overnight


@dataclass(slots=True)
class Visit:
    """Someone is in a store. `idle_since`: in none of its zones since then; None while in one.

    `lost_in`: the zone that they were in when nobody listened there any more, so that they may not have left.
    """

    subject: str
    store_id: str
    entered_at: int
    idle_since: int | None = None
    lost_in: str | None = None


@dataclass(frozen=True, slots=True)
class StoreTransition:
    """A store was entered or left; `paused`, `resumed`: the visit goes on, in no zone or in one again.

    `confidence`: `low` where nobody knows when they left, `none` where nobody knows whether they did.
    """

    kind: Literal["entered", "left", "paused", "resumed"]
    visit: Visit
    at: int
    confidence: Confidence = "high"


def _always(_place: Place) -> int | None:
    return 0


@dataclass(slots=True)
class Visits:
    """Everybody's open visit, by subject."""

    open: dict[str, Visit] = field(default_factory=dict)

    def go_on(self, before: "Visits") -> None:
        """Takes over what was known of the same visits where they were only read anew, not out of sight."""
        for subject, visit in self.open.items():
            known = before.open.get(subject)
            if known is not None and (known.store_id, known.idle_since) == (visit.store_id, visit.idle_since):
                visit.lost_in = known.lost_in

    def moved(self, transition: Transition) -> Iterator[StoreTransition]:
        """What a zone's transition means for the store."""
        visit = self.open.get(transition.beacon_key)
        store_id = transition.place.store_id
        if transition.kind != "entered":
            if visit is not None and visit.store_id == store_id:
                visit.idle_since = transition.at
                visit.lost_in = transition.place.zone_id if transition.kind == "unknown" else None
                yield StoreTransition("paused", visit, transition.at)
            return
        if visit is not None and visit.store_id == store_id:
            visit.idle_since = visit.lost_in = None
            yield StoreTransition("resumed", visit, transition.at)
            return
        if visit is not None:
            yield self._end(visit, visit.idle_since or transition.at)
        begun = self.open[transition.beacon_key] = Visit(transition.beacon_key, store_id, transition.at)
        yield StoreTransition("entered", begun, transition.at)

    def expire(
        self, now: int, listened_since: Callable[[Place], int | None] = _always
    ) -> Iterator[StoreTransition]:
        """Visits of those who have been in no zone for long; they left when they were last in one.

        `listened_since` says since when a zone is listened to without a gap; None: it is not now.
        """
        known: dict[Place, int | None] = {}
        for visit in list(self.open.values()):
            idle_since = visit.idle_since
            if idle_since is None or now - idle_since <= AWAY_MS:
                continue
            if visit.lost_in is None:
                yield self._end(visit, idle_since)
                continue
            place = Place(visit.store_id, visit.lost_in)
            if place not in known:
                known[place] = listened_since(place)
            since = known[place]
            if since is not None and now - since > AWAY_MS:
                yield self._end(visit, idle_since, "low")
            elif now - idle_since > DEAF_MS:
                yield self._end(visit, idle_since, "none")

    def forget(self, subject: str, at: int) -> Iterator[StoreTransition]:
        """They withdrew: the visit ends here and now."""
        visit = self.open.get(subject)
        if visit is not None:
            yield self._end(visit, at)

    def _end(self, visit: Visit, at: int, confidence: Confidence = "high") -> StoreTransition:
        del self.open[visit.subject]
        return StoreTransition("left", visit, max(at, visit.entered_at), confidence)
