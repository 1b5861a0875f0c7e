"""Gateways' entries: sightings, health, and who is in which zone."""

from collections.abc import Iterable, Iterator

from backend.folding.handovers import HandoverPart
from backend.folding.live import PHONE_TRACK, LiveState
from backend.listening import without_strangers
from backend.occurrences import Confidence, Occurrence, OccurrenceKind
from backend.proximity.visits import StoreTransition
from backend.proximity.zones import Heard, Transition
from backend.storage import fleet, floor
from backend.storage.database import Session
from backend.storage.entries import Entry
from backend.storage.journal import partition_of_event
from sdk_bridge.wire import codec
from sdk_bridge.wire.app_events import AppEvent
from sdk_bridge.wire.messages import Batch, Heartbeat, Skip

EXPIRE_EVERY_MS = 250  # looking at every track with every batch would cost more than the batches
WEIGH_EVERY_MS = 50  # how late a second that everybody has told of is weighed
_REGION_DBM = -75.0  # a phone's system reports a region at some metres from its beacon
_STORE_KINDS: dict[str, OccurrenceKind] = {"entered": "store_entered", "left": "store_left"}
_KINDS: dict[str, OccurrenceKind] = {
    "entered": "zone_entered",
    "left": "zone_left",
    "unknown": "zone_unknown",
}


class FloorPart:
    """What the gateways' entries of one transaction cause on the shop floor."""

    def __init__(self, session: Session, live: LiveState, handovers: HandoverPart) -> None:
        self._session = session
        self._live = live
        self._handovers = handovers

    def expire(self, now: int) -> Iterator[Occurrence]:
        """Who has gone by the entries' own clock: while we catch up, nobody leaves because we are late."""
        tick = now - now % WEIGH_EVERY_MS
        if tick > self._live.weighed_at:
            self._live.weighed_at = tick
            yield from self._moved(self._live.engine.weigh(tick), now)
        tick = now - now % EXPIRE_EVERY_MS
        if tick > self._live.expired_at:
            self._live.expired_at = tick
            engine = self._live.engine
            yield from self._moved(engine.expire(tick), now)
            gone = self._live.visits.expire(tick, lambda place: engine.listened_since(place, tick))
            yield from self._in_store(gone, now)

    def fold(self, entry: Entry) -> Iterator[Occurrence]:
        """One message of a gateway."""
        heard = codec.decode_up(entry.payload)
        if entry.lane == "live":
            self._live.engine.gateway_alive(entry.source, entry.received_at)
        if isinstance(heard, Heartbeat):
            floor.save_heartbeat(self._session, entry.source, entry.received_at, heard)
            fleet.note_report(self._session, entry.source, entry.received_at, heard)
        elif isinstance(heard, Skip):
            detail = f"{heard.reason}: {heard.counts.batches} batches, {heard.counts.readings} readings"
            floor.raise_alert(self._session, entry.received_at, "observations skipped", entry.source, detail)
        else:
            yield from self._batch(entry, heard)

    def _batch(self, entry: Entry, whole: Batch) -> Iterator[Occurrence]:
        """Someone may have withdrawn since the ingest let it pass: then it is forgotten here."""
        batch, forgotten = without_strangers(whole, self._live.may_keep_since(_begins(entry, whole)))
        if forgotten:
            floor.count_forgotten(self._session, entry.source, forgotten)
        if batch is None:
            return
        if entry.boot_offset is None:
            sightings = _sightings(entry, batch, 0)
            floor.add_sightings_without_time(
                self._session, self._live.numbers, batch.boot_id, entry.received_at, sightings
            )
            return
        sightings = _sightings(entry, batch, entry.boot_offset)
        floor.add_sightings(self._session, self._live.numbers, sightings)
        for report in batch.health:
            at = batch.base_ms + report.after_ms + entry.boot_offset
            floor.save_beacon_health(self._session, batch.keys[report.beacon], entry.source, at, report)
        if entry.lane == "live":
            yield from self._locate(entry, batch, entry.boot_offset)

    def _locate(self, entry: Entry, batch: Batch, offset: int) -> Iterator[Occurrence]:
        """Live readings move the zones.

        Nothing is heard later than it arrived: a clock that runs ahead must not keep anybody in a zone. What
        arrives later than a silence may last is history: it would let people in who leave at once.
        """
        oldest = entry.received_at - self._live.engine.settings.absent_ms
        for second, heard in sorted(self._heard(batch).items()):
            at = min(batch.base_ms + second * 1000 + 500 + offset, entry.received_at)
            if at < oldest:
                continue
            self._handovers.seen(heard, entry.partition)
            loudness = {key: Heard(at, adverts, total) for key, (adverts, total) in heard.items()}
            yield from self._moved(self._live.engine.hear_all(entry.source, loudness), entry.received_at)
            for beacon_key in heard:
                if self._live.stays.get(beacon_key):  # few are waited for
                    yield from self._stayed(beacon_key, entry.received_at)

    def _heard(self, batch: Batch) -> dict[int, dict[str, tuple[int, float]]]:
        """People's readings by second and beacon: adverts, and dBm times adverts."""
        rows, people, keys = batch.readings, self._live.people, batch.keys
        seconds: dict[int, dict[str, tuple[int, float]]] = {}
        for beacon, second, count, loss in zip(rows.beacon, rows.second, rows.count, rows.loss, strict=True):
            beacon_key = keys[beacon]
            if beacon_key in people:
                heard = seconds.setdefault(second, {})
                adverts, total = heard.get(beacon_key, (0, 0.0))
                heard[beacon_key] = (adverts + count, total - float(loss) * count)
        return seconds

    def _moved(self, transitions: Iterable[Transition], received_at: int) -> Iterator[Occurrence]:
        for transition in transitions:
            profile_id = self._live.owner_of(transition.beacon_key)
            floor.apply_transition(self._session, transition, profile_id)
            yield Occurrence(
                kind=_KINDS[transition.kind],
                profile_id=profile_id or "",
                subject=transition.beacon_key,
                at=transition.at,
                received_at=received_at,
                store_id=transition.place.store_id,
                zone_id=transition.place.zone_id,
                entered_at=transition.entered_at,
                confidence=transition.confidence,
            )
            yield from self._in_store(self._live.visits.moved(transition), received_at, transition.confidence)

    def _in_store(
        self, transitions: Iterable[StoreTransition], received_at: int, confidence: Confidence | None = None
    ) -> Iterator[Occurrence]:
        for transition in transitions:
            visit = transition.visit
            profile_id = self._live.owner_of(visit.subject)
            partition = self._live.partition_for(visit.subject, visit.store_id)
            floor.apply_store_transition(self._session, transition, profile_id, partition)
            kind = _STORE_KINDS.get(transition.kind)
            if kind is not None:
                yield Occurrence(
                    kind=kind,
                    profile_id=profile_id or "",
                    subject=visit.subject,
                    at=transition.at,
                    received_at=received_at,
                    store_id=visit.store_id,
                    entered_at=visit.entered_at,
                    confidence=transition.confidence if confidence is None else confidence,
                )

    def _stayed(self, beacon_key: str, received_at: int) -> Iterator[Occurrence]:
        """Fresh evidence of a stay that was long enough for somebody who waits for it.

        What was long under way, after an outage say, is none: whoever is still there is soon heard.
        """
        engine = self._live.engine
        track, waits = engine.tracks.get(beacon_key), self._live.stays.get(beacon_key)
        if not waits or track is None or track.place is None:
            return
        if track.seen_at < min(wait.due_at for wait in waits):
            return
        if received_at - track.seen_at > engine.settings.absent_ms:
            return
        yield Occurrence(
            kind="zone_stayed",
            profile_id=self._live.owner_of(beacon_key) or "",
            subject=beacon_key,
            at=track.seen_at,
            received_at=received_at,
            store_id=track.store_id,
            zone_id=track.zone_id,
            entered_at=track.entered_at,
            confidence=track.confidence,
        )

    def save_tracks(self) -> None:
        """Stores the tracks that changed, each with its owner and the partition that tells of it."""
        live, engine = self._live, self._live.engine
        stores = ((key, track.store_id) for key in engine.changed if (track := engine.tracks.get(key)))
        partitions = {key: live.partition_for(key, store_id) for key, store_id in stores}
        owners = ((key, live.owner_of(key), partitions.get(key)) for key in engine.changed)
        floor.save_tracks(self._session, engine, owners)
        engine.changed.clear()

    def heard_by_phone(self, person_id: str, event: AppEvent) -> Iterator[Occurrence]:
        """A phone measured the fixed beacon of a zone; `person_id` agreed to be seen.

        What a phone's system tells of a region it entered is one advert of unknown strength.
        """
        sighting, engine = event.sighting, self._live.engine
        if sighting is None or sighting.key not in engine.zone_beacons or event.device_id is None:
            return
        if event.received_at - event.occurred_at > engine.settings.absent_ms:
            return
        track, at = PHONE_TRACK + event.device_id, min(event.occurred_at, event.received_at)
        entered = sighting.what == "enter"
        dbm = sighting.rssi or (_REGION_DBM if entered else None)
        if sighting.what == "leave":
            yield from self._moved(engine.left_by_phone(track, sighting.key, at), event.received_at)
        elif dbm is not None:
            self._handovers.seen([track], partition_of_event(event))
            self._live.phones[track] = person_id
            heard = engine.hear_by_phone(track, sighting.key, at, dbm, 1, settled=entered)
            yield from self._moved(heard, event.received_at)
            yield from self._stayed(track, event.received_at)

    def forget(self, subject: str, at: int) -> Iterator[Occurrence]:
        """Whoever carried it withdrew or gave it away: they leave the floor at once.

        Whom another replica knows leaves there, when it has read that.
        """
        if not self._live.holding.whole and not self._live.knows(subject):
            return
        yield from self._moved(self._live.engine.forget(subject, at), at)
        yield from self._in_store(self._live.visits.forget(subject, at), at)
        self._live.phones.pop(subject, None)


def _begins(entry: Entry, batch: Batch) -> int | None:
    return None if entry.boot_offset is None else batch.base_ms + entry.boot_offset


def _sightings(entry: Entry, batch: Batch, offset: int) -> list[tuple[str, str, int, int, int, int]]:
    """As `Sighting`."""
    rows, keys, gateway = batch.readings, batch.keys, entry.source
    base = batch.base_ms + offset
    return [
        (keys[beacon], gateway, (base + second * 1000) // 1000, adverts, loss, best)
        for beacon, second, adverts, loss, best in zip(
            rows.beacon, rows.second, rows.count, rows.loss, rows.best, strict=True
        )
    ]
