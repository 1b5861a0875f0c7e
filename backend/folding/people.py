"""Apps' and sites' events: identities, consent, receipts, and who carries which beacon."""

from collections.abc import Iterator

import msgspec

from backend.folding.floor import FloorPart
from backend.folding.live import LiveState
from backend.ids import uuid7
from backend.occurrences import Occurrence
from backend.profiles.service import ProfileService
from backend.storage import profiles, pushes
from backend.storage.database import Session
from backend.storage.entries import Entry, event_id
from backend.storage.journal import message_hash
from sdk_bridge.wire.app_events import AppEvent, decode_events


class PeoplePart:
    """What the app events of one transaction cause.

    `bearers_changed`: who is listened for is no longer as it was.
    """

    def __init__(
        self, session: Session, live: LiveState, service: ProfileService, floor: FloorPart, now: int
    ) -> None:
        self._session = session
        self._live = live
        self._service = service
        self._floor = floor
        self._rows = profiles.ProfileRows(session)
        self._now = now
        self.bearers_changed = False

    def fold(self, entry: Entry) -> Iterator[Occurrence]:
        """One entry's events in their order."""
        for index, event in enumerate(decode_events(entry.payload)):
            yield from self._event(event_id(entry, index), event)

    def _event(self, event_id: int, event: AppEvent) -> Iterator[Occurrence]:
        event_hash = message_hash(event.source, event.message_id)
        applied = self._service.apply(self._rows, event, event_id, event_hash, lambda: uuid7(self._now))
        carried = {key for person in applied.bearers for key in profiles.beacons_of(self._session, person)}
        if applied.beacons_changed and event.beacon_key is not None:
            carried.add(event.beacon_key)
        for beacon_key in sorted(carried):
            yield from self._ask_for_bearer(beacon_key, event.received_at)
        if event.receipt is not None and event.push_id is not None:
            pushes.record_receipt(self._session, event.push_id, event.receipt, event.occurred_at)
        self._keep(event_id, event_hash, applied.profile_id, event)
        if applied.person_id is not None:
            yield Occurrence(
                kind="event",
                profile_id=applied.person_id,
                subject=event.message_id,
                at=event.occurred_at,
                received_at=event.received_at,
                event=event,
                event_id=event_id,
            )

    def _keep(self, event_id: int, event_hash: int, profile_id: str | None, event: AppEvent) -> None:
        """The properties as JSON, for audiences to ask for; the rest as it came."""
        body = msgspec.structs.replace(event, properties={})
        self._session.run(
            "add_event",
            event_id=event_id,
            event_hash=event_hash,
            profile_id=profile_id,
            kind=event.kind,
            name=event.name,
            source=event.source,
            message_id=event.message_id,
            occurred_at=event.occurred_at,
            received_at=event.received_at,
            body=msgspec.msgpack.encode(body),
            properties=msgspec.json.encode(event.properties).decode() if event.properties else None,
        )

    def _ask_for_bearer(self, beacon_key: str, at: int) -> Iterator[Occurrence]:
        """Who agreed may have changed; whoever withdrew leaves the floor at once."""
        live = self._live
        before, bearer = live.people.get(beacon_key), None
        if beacon_key not in live.places:
            bearer = profiles.bearer_of(self._session, beacon_key)
        if bearer == before:
            return
        self.bearers_changed = True
        if bearer is None:
            del live.people[beacon_key]
        else:
            live.people[beacon_key] = bearer
        if before is not None and bearer != profiles.resolve(self._session, "profile_id", before):
            yield from self._floor.forget(beacon_key, at)
        elif beacon_key in live.engine.tracks:
            live.engine.changed.add(beacon_key)  # merged: the presence is stored again, under the person
