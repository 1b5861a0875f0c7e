"""Apps' and sites' events: identities, consent, receipts, and who carries which beacon."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from backend.campaigns.hours import is_time_zone
from backend.folding.fences import FencePart
from backend.folding.floor import FloorPart
from backend.folding.live import PHONE_TRACK, LiveState
from backend.ids import uuid7
from backend.occurrences import Occurrence
from backend.profiles.arrivals import Arrival, Known, arrivals
from backend.profiles.model import OBSERVED, Applied
from backend.profiles.orders import ORDER_EVENTS
from backend.profiles.placing import person_of
from backend.profiles.service import Numbered, ProfileService, whose
from backend.segments.memory import Memory
from backend.storage import profiles, pushes, segments
from backend.storage.database import Session
from backend.storage.entries import HOUR_MS, Entry, event_id
from backend.storage.journal import message_hashes
from backend.storage.orders import Told, keep_orders
from backend.storage.profile_rows import ProfileRows
from backend.storage.session import Rows
from sdk_bridge.wire.app_events import AppEvent, decode_events


@dataclass(frozen=True, slots=True)
class Observers:
    """What becomes of where somebody is."""

    floor: FloorPart
    fences: FencePart


EVENT = (
    "event_id", "event_hash", "profile_id", "kind", "name", "source", "message_id", "occurred_at",
    "received_at", "body", "properties",
)  # fmt: skip
_packed, _json = msgspec.msgpack.Encoder().encode, msgspec.json.Encoder().encode


class PeoplePart:
    """What the app events of one transaction cause.

    `bearers_changed`: who is listened for is no longer as it was. `disturbed` are profiles that are of
    another person than before, or may say something else about themselves than events do; but for `arrivals`.
    """

    def __init__(
        self, session: Session, live: LiveState, service: ProfileService, observers: Observers, now: int
    ) -> None:
        self._session = session
        self._live = live
        self._service = service
        self._floor, self._fences = observers.floor, observers.fences
        self._rows = _identities(session, live)
        self._left_out_before = self._rows.traits_left_out
        self._now = now
        self.bearers_changed = False
        self.disturbed: set[str] = set()
        self._begun: set[str] = set()
        self._joined: list[frozenset[str]] = []
        self._forgotten: list[tuple[Numbered, Applied]] = []

    def arrivals(self) -> list[Arrival]:
        """Who is new, or met nobody but who is new; whoever of them cannot be told so simply is disturbed."""
        found, others = arrivals(self._begun, self._joined, self.known)
        self.disturbed |= others
        simple: list[Arrival] = []
        for one in found:
            if self.disturbed.isdisjoint(one.profiles):
                simple.append(one)
            else:
                self.disturbed.update(one.profiles)
        return simple

    @property
    def known(self) -> Known:
        """Profiles that need not be read."""
        return self._rows.profiles.get

    @property
    def memory(self) -> Memory:
        """What was read of people before, remembered as long as nobody else writes."""
        return self._rows.memory

    @property
    def traits_left_out(self) -> int:
        """How many traits no profile took, or keeps no more."""
        return self._rows.traits_left_out - self._left_out_before

    def end(self) -> None:
        """The transaction writes nothing more."""
        self._rows.end()

    def fold(self, entries: Sequence[Entry]) -> Iterator[Occurrence]:
        """Entries' events in their order: who they are of first, for all of them, then what comes of each."""
        batch = list(self._numbered(entries))
        kept = [one for stretch in _stretches(batch) for one in self._kept(stretch)]
        self._session.many("add_event", Rows(EVENT, [_event_row(one, did.profile_id) for one, did in kept]))
        self._session.many("put_device_clock", _clock_rows(kept))
        keep_orders(self._session, _told_of_orders(kept))
        forgotten, self._forgotten = self._forgotten, []
        carried = self._beacons_of_moved(did for _, did in (*forgotten, *kept))
        yield from self._forget_moved_phones([*forgotten, *kept])
        for one, did in forgotten:
            if did.placed or did.moved:
                yield from self._moved(one.event, did, carried)
        for one, did in kept:
            if did.placed or did.moved or did.beacons_changed:
                yield from self._moved(one.event, did, carried)
            if one.event.receipt is not None or one.event.consent or one.event.kind in OBSERVED:
                yield from self._said_besides(one.event, did)
            if did.profile_id is not None:
                yield self._event(one, did.profile_id)

    def _numbered(self, entries: Sequence[Entry]) -> Iterator[Numbered]:
        """Entries' events, without what they say of erased people."""
        admitted = self._live.tombstones.admitted
        for entry in entries:
            sent = decode_events(entry.payload)
            numbers = itertools.count(event_id(entry, 0))
            for one, number, digest in zip(sent, numbers, message_hashes(sent), strict=False):
                event = admitted(one)
                if event is not None:
                    yield Numbered(event, number, digest)

    def _kept(self, stretch: Sequence[Numbered]) -> list[tuple[Numbered, Applied]]:
        """What is kept of a stretch, each with what it did.

        Where somebody is belongs to them: without their agreement it is forgotten here. Who is who it may
        have told all the same: `_forgotten`.
        """
        applied = self._service.apply_all(self._rows, stretch, self._new_profile)
        self._rows.flush()
        told = [(one, did) for one, did in zip(stretch, applied, strict=True) if not did.refused]
        seen = {one.event_id: self._seen(did) for one, did in told if one.event.kind in OBSERVED}
        if not seen:
            return told
        people = {person for person in seen.values() if person is not None}
        agreed = self._rows.agreeing(people, profiles.PROXIMITY)
        kept = [(one, did) for one, did in told if one.event_id not in seen or seen[one.event_id] in agreed]
        if len(kept) < len(told):
            stays = {one.event_id for one, _ in kept}
            self._forgotten += [(one, did) for one, did in told if one.event_id not in stays]
        return kept

    def _seen(self, did: Applied) -> str | None:
        """Whose word counts; None where nobody knows who it is."""
        return None if did.profile_id is None else person_of(self._rows, did.profile_id)

    def _new_profile(self) -> str:
        profile_id = uuid7(self._now)
        self._begun.add(profile_id)
        return profile_id

    def _beacons_of_moved(self, applied: Iterable[Applied]) -> dict[str, list[str]]:
        """What people carry who may agree no longer, or anew, or be another person now."""
        moved = {person_of(self._rows, profile_id) for did in applied for profile_id in did.moved}
        return profiles.beacons_of_people(self._session, moved) if moved else {}

    def _said_besides(self, event: AppEvent, did: Applied) -> Iterator[Occurrence]:
        """What an event says of a push, or of where somebody is."""
        if event.receipt is not None and event.push_id is not None:
            pushes.record_receipt(self._session, event.push_id, event.receipt, event.occurred_at)
        if did.profile_id is not None and (event.consent or event.kind in OBSERVED):
            yield from self._seen_by_phone(whose(self._rows, did.profile_id, event.occurred_at), event)

    def _event(self, one: Numbered, profile_id: str) -> Occurrence:
        event = one.event
        return Occurrence(
            kind="event",
            profile_id=whose(self._rows, profile_id, event.occurred_at),
            subject=event.message_id,
            at=event.occurred_at,
            received_at=event.received_at,
            event=event,
            event_id=one.event_id,
        )

    def _moved(self, event: AppEvent, did: Applied, carried: dict[str, list[str]]) -> Iterator[Occurrence]:
        """Identifiers belong to others than before; each person's beacons are asked about once."""
        if did.moved or did.beacons_changed:
            self.disturbed |= did.moved | did.placed
        else:
            self._joined.append(did.placed)
        concerned: set[str] = set()
        if did.beacons_changed and event.beacon_key is not None:
            self.disturbed.update(segments.bearers_of(self._session, [event.beacon_key]))
            concerned = {event.beacon_key}
        if carried:
            for person_id in {person_of(self._rows, profile_id) for profile_id in did.moved}:
                concerned.update(carried.pop(person_id, ()))
        for beacon_key in sorted(concerned):
            yield from self._ask_for_bearer(beacon_key, event.received_at)

    def _seen_by_phone(self, person_id: str, event: AppEvent) -> Iterator[Occurrence]:
        """Only of someone who agreed; whoever withdraws is forgotten on every phone of theirs."""
        if event.consent.get(profiles.PROXIMITY) is False:
            yield from self._forget_phones(person_id, event.received_at)
            return
        if event.kind not in OBSERVED or event.device_id is None:
            return
        if not self._agrees(person_id):
            return  # they became a person who does not, in this very transaction
        track = PHONE_TRACK + event.device_id
        anothers = self._anothers(person_id, track)
        if anothers and event.occurred_at < self._followed_until(track):
            return  # it was theirs before the other's
        for part in anothers:  # whoever held the phone until now does not go where it goes with somebody else
            yield from part.forget(track, event.received_at)
        if event.sighting is not None:
            yield from self._floor.heard_by_phone(person_id, event)
        else:
            yield from self._fences.observed(person_id, event)

    def _anothers(self, person_id: str, track: str) -> list[FloorPart | FencePart]:
        """Where a phone is followed as somebody else's."""
        live = self._live
        held = (live.phones.get(track), self._floor), (live.fence_owners.get(track), self._fences)
        return [
            part
            for owner, part in held
            if owner and owner != person_id and person_of(self._rows, owner) != person_id
        ]

    def _followed_until(self, track: str) -> int:
        """When a phone was last known to be anywhere, unix milliseconds."""
        live = self._live
        heard, visit = live.engine.tracks.get(track), live.visits.open.get(track)
        return max(
            live.fence_tracks.last_at(track),
            heard.heard_at if heard is not None else 0,
            (visit.idle_since or visit.entered_at) if visit is not None else 0,
        )

    def _agrees(self, person_id: str) -> bool:
        """Whether somebody agrees to be seen, once all that the transaction says of them is told."""
        person = person_of(self._rows, person_id)
        return person in self._rows.agreeing({person}, profiles.PROXIMITY)

    def _forget_moved_phones(self, told: Sequence[tuple[Numbered, Applied]]) -> Iterator[Occurrence]:
        """Whoever turned out to be a person who does not agree leaves the floor and the fences at once."""
        live = self._live
        moved = {profile_id for _, did in told for profile_id in did.moved}
        if not moved:
            return
        at = max(one.event.received_at for one, _ in told)
        for owners, part in ((live.phones, self._floor), (live.fence_owners, self._fences)):
            for track in [track for track, owner in owners.items() if owner in moved]:
                if not self._agrees(owners[track]):
                    yield from part.forget(track, at)

    def _forget_phones(self, person_id: str, at: int) -> Iterator[Occurrence]:
        live, theirs = self._live, set(profiles.profiles_of_person(self._session, person_id))
        for track in [track for track, owner in live.phones.items() if owner in theirs]:
            yield from self._floor.forget(track, at)
        for track in [track for track, owner in live.fence_owners.items() if owner in theirs]:
            yield from self._fences.forget(track, at)

    def _ask_for_bearer(self, beacon_key: str, at: int) -> Iterator[Occurrence]:
        """Who agreed may have changed; whoever withdrew leaves the floor at once."""
        live = self._live
        before, bearer = live.people.get(beacon_key), None
        if beacon_key not in live.places:
            bearer = profiles.bearer_of(self._session, beacon_key)
        if bearer == before:
            return
        self.bearers_changed = True
        self.disturbed |= {person for person in (before, bearer) if person is not None}
        live.people.pop(beacon_key, None)
        if before is not None and bearer != profiles.resolve(self._session, "profile_id", before):
            yield from self._floor.forget(beacon_key, at)  # it is not the new bearer who leaves here
        elif beacon_key in live.engine.tracks:
            live.engine.changed.add(beacon_key)  # merged: the presence is stored again, under the person
        if bearer is not None:
            live.people[beacon_key] = bearer


def _identities(session: Session, live: LiveState) -> ProfileRows:
    if live.identities is None:
        live.identities = ProfileRows(session, events_follow=True)
    else:
        live.identities.begin(session)
    return live.identities


def _stretches(batch: Sequence[Numbered]) -> Iterator[Sequence[Numbered]]:
    """Parts of a batch, each of which says all that it says of consent before anything observed.

    So everybody of a part can be asked at once, and what they say counts for what comes after it alone.
    """
    begun, observed = 0, False
    for index, (event, *_) in enumerate(batch):
        if observed and event.consent:
            yield batch[begun:index]
            begun, observed = index, False
        observed = observed or event.kind in OBSERVED
    if batch:
        yield batch[begun:]


def _clock_rows(kept: Iterable[tuple[Numbered, Applied]]) -> list[dict[str, Any]]:
    """The time zones that devices are in. By the hour, or each event would write what is known already."""
    told = {
        (
            did.profile_id,
            event.source,
            event.occurred_at - event.occurred_at % HOUR_MS,
            event.context["timezone"],
        )
        for (event, *_), did in kept
        if event.context and did.profile_id is not None and is_time_zone(event.context.get("timezone"))
    }
    names = ("profile_id", "source", "hour", "timezone")
    return [dict(zip(names, one, strict=True)) for one in sorted(told)]


def _told_of_orders(kept: Iterable[tuple[Numbered, Applied]]) -> Iterator[Told]:
    for one, did in kept:
        if one.event.name in ORDER_EVENTS and did.profile_id is not None:
            yield Told(did.profile_id, *one)


def _event_row(one: Numbered, profile_id: str | None) -> tuple[Any, ...]:
    """The properties as JSON, for audiences to ask for; the rest as it came."""
    event = one.event
    body = msgspec.structs.replace(event, properties={}) if event.properties else event
    return (
        one.event_id,
        one.event_hash,
        profile_id,
        event.kind,
        event.name,
        event.source,
        event.message_id,
        event.occurred_at,
        event.received_at,
        _packed(body),
        _json(event.properties).decode() if event.properties else None,
    )
