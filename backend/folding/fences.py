"""Phones' locations and their systems' own word on geofences: who enters, stays, leaves, approaches."""

from collections.abc import Iterable, Iterator

from backend.folding.handovers import HandoverPart
from backend.folding.live import PHONE_TRACK, LiveState
from backend.occurrences import Occurrence, OccurrenceKind
from backend.proximity.fence_tracks import FenceTransition, Fix
from backend.storage import fences
from backend.storage.journal import partition_of_event
from backend.storage.session import Session
from sdk_bridge.wire.app_events import AppEvent
from sdk_bridge.wire.topics import partition_of

EXPIRE_EVERY_MS = 60_000  # a phone is given up after hours
UNKNOWN_ACCURACY_M = 50.0  # of a phone that does not say; the median of fixes in towns
_KINDS: dict[str, OccurrenceKind] = {
    "entered": "fence_entered",
    "stayed": "fence_stayed",
    "left": "fence_left",
    "approached": "fence_approached",
}


class FencePart:
    """What phones say of where they are, in one transaction."""

    def __init__(self, session: Session, live: LiveState, handovers: HandoverPart) -> None:
        self._session = session
        self._live = live
        self._handovers = handovers
        self._stays: list[tuple[FenceTransition, str]] = []
        self._heard: set[str] = set()

    def observed(self, person_id: str, event: AppEvent) -> Iterator[Occurrence]:
        """A location, or a transition that the phone's system saw; of a person who agreed to be seen.

        What lies in our future happened now: a phone's clock may run ahead.
        """
        if event.device_id is None:
            return
        live, subject = self._live, PHONE_TRACK + event.device_id
        at = min(event.occurred_at, event.received_at)
        accuracy = UNKNOWN_ACCURACY_M if event.fence is None else 0.0  # systems watch with fixes of their own
        if event.location is not None and event.location.accuracy_m is not None:
            accuracy = event.location.accuracy_m
        known = live.fences.fences
        self._handovers.seen([subject], partition_of_event(event))
        live.fence_owners[subject] = person_id
        self._heard.add(subject)
        if event.fence is not None:
            geometry = known.by_id.get(event.fence.fence_id)
            if geometry is None:
                return
            seen = live.fence_tracks.report(
                subject, event.fence.fence_id, event.fence.what, Fix(at, accuracy), geometry.reach_m
            )
        elif event.location is not None:
            tracked = live.fence_tracks.tracks.get(subject, ())
            around = known.around(event.location.latitude, event.location.longitude, tracked)
            seen = live.fence_tracks.locate(subject, Fix(at, accuracy), around)
        else:
            return
        yield from self._moved(seen, event.received_at)

    def expire(self, now: int) -> Iterator[Occurrence]:
        """Phones that have been silent for hours."""
        tick = now - now % EXPIRE_EVERY_MS
        if tick > self._live.fences_expired_at:
            self._live.fences_expired_at = tick
            yield from self._moved(self._live.fence_tracks.expire(tick), now)

    def forget(self, subject: str, at: int) -> Iterator[Occurrence]:
        """They withdrew."""
        yield from self._moved(self._live.fence_tracks.forget(subject, at), at)

    def save(self) -> None:
        """Stores what changed."""
        fences.write_stays(self._session, self._stays)
        self._stays.clear()
        live, tracks = self._live, self._live.fence_tracks
        changed = [(key, tracks.track_of(key), self._partition_for(key[0])) for key in sorted(tracks.changed)]
        fences.save_tracks(self._session, changed, live.fence_owners)
        for subject in self._heard.union(key[0] for key in tracks.changed):
            if subject not in tracks.tracks:
                live.fence_owners.pop(subject, None)
        tracks.changed.clear()
        self._heard.clear()

    def _partition_for(self, subject: str) -> int:
        known = self._live.partitions.get(subject)
        return partition_of(subject) if known is None else known

    def _moved(self, transitions: Iterable[FenceTransition], received_at: int) -> Iterator[Occurrence]:
        """Out of a fence that is no more nobody has gone, as far as anybody knows."""
        live = self._live
        for transition in transitions:
            owner = live.fence_owners.get(transition.subject, "")
            self._stays.append((transition, owner))
            geometry = live.fences.fences.by_id.get(transition.fence_id)
            if transition.kind == "stayed" and not live.stays.get(transition.subject):
                continue
            yield Occurrence(
                kind=_KINDS[transition.kind],
                profile_id=owner,
                subject=transition.subject,
                at=transition.at,
                received_at=received_at,
                store_id=geometry.fence.store_id if geometry else None,
                fence_id=transition.fence_id,
                entered_at=transition.entered_at,
                confidence=transition.confidence if geometry else "none",
            )
