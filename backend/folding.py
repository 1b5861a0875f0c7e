"""What journal entries cause, inside one transaction: sightings, zones, people, decisions, pushes.

Runs on the state's writer thread. The live state (tracks, timers, who owns which tag) belongs to that
thread; all of it can be read afresh from the database.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from backend.campaigns.eligibility import Decision, decide
from backend.campaigns.offers import OfferUnrenderable, render
from backend.ids import uuid7
from backend.listening import Gateway, Listening, without_strangers
from backend.profiles.service import ProfileService
from backend.proximity.zones import Place, Transition, ZoneEngine, ZoneSettings
from backend.push.model import NewPush, PushContent
from backend.storage import campaigns as campaign_rows
from backend.storage import fleet, floor, profiles, pushes, registry
from backend.storage.campaigns import Candidate, DwellTimer, VersionedCampaign
from backend.storage.database import Session
from backend.storage.floor import Numbers, Sighting
from backend.storage.journal import EVENTS_AN_ENTRY, Entry, message_hash
from sdk_bridge.wire import codec
from sdk_bridge.wire.app_events import AppEvent, decode_events
from sdk_bridge.wire.messages import Batch, Heartbeat, Skip

EXPIRE_EVERY_MS = 250  # looking at every track with every batch would cost more than the batches


@dataclass(slots=True)
class LiveState:
    """What the fold keeps in memory; all of it can be read afresh from the database."""

    engine: ZoneEngine
    gateways: dict[str, Gateway]
    places: frozenset[str]
    people: dict[str, str]
    campaigns: dict[str, VersionedCampaign]
    timers: dict[str, dict[str, DwellTimer]]
    stores: dict[str, dict[str, Any]]
    zone_names: dict[Place, str]
    numbers: Numbers = field(default_factory=Numbers)
    expired_at: int = 0

    @classmethod
    def read(cls, session: Session, settings: ZoneSettings) -> "LiveState":
        known = registry.gateways(session)
        zone_of = {name: Place(gateway.store_id, gateway.zone_id) for name, gateway in known.items()}
        positions = {name: gateway.position for name, gateway in known.items() if gateway.position}
        gains = floor.gateway_gains(session, zone_of, positions)
        engine = ZoneEngine(zone_of, settings, positions=positions, gains=gains)
        floor.restore_tracks(session, engine)
        timers: dict[str, dict[str, DwellTimer]] = {}
        for timer in campaign_rows.timers(session):
            timers.setdefault(timer.beacon_key, {})[timer.campaign_id] = timer
        return cls(
            engine=engine,
            gateways=known,
            places=registry.place_beacons(session),
            people=profiles.consented_beacons(session),
            campaigns=campaign_rows.campaigns(session),
            timers=timers,
            stores={row["store_id"]: dict(row) for row in session.rows("stores")},
            zone_names={Place(row["store_id"], row["zone_id"]): row["name"] for row in session.rows("zones")},
        )

    def may_keep(self, beacon_key: str) -> bool:
        return beacon_key in self.people or beacon_key in self.places

    @property
    def listening(self) -> Listening:
        return Listening(dict(self.gateways), self.places, dict(self.people))


@dataclass(slots=True)
class Folded:
    """What one transaction caused, for those who wait for it."""

    position: int
    pushes: int = 0
    entered: int = 0
    listening: Listening | None = None


class Transaction:
    """One run over some entries, on the writer's thread, inside one transaction."""

    def __init__(self, session: Session, live: LiveState, people: ProfileService, now: int) -> None:
        self._session = session
        self._live = live
        self._profiles = people
        self._profile_rows = profiles.ProfileRows(session)
        self._now = now
        self._result = Folded(0)
        self._people_changed = False

    def fold(self, entries: Sequence[Entry], position: int) -> Folded:
        for entry in entries:
            self._expire(entry.received_at)
            if entry.kind == "app":
                self._app(entry)
            else:
                self._gateway(entry)
            position = entry.position
        if not entries:
            self._expire(self._now)
        if self._people_changed:
            self._result.listening = self._live.listening
        self._save_tracks()
        if entries:
            floor.move_to(self._session, position)
        self._result.position = position
        return self._result

    def _expire(self, now: int) -> None:
        """Who has gone by the entries' own clock: while we catch up, nobody leaves because we are late."""
        tick = now - now % EXPIRE_EVERY_MS
        if tick > self._live.expired_at:
            self._live.expired_at = tick
            self._transitions(self._live.engine.expire(tick))

    # Gateways -----------------------------------------------------------------------------------------

    def _gateway(self, entry: Entry) -> None:
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
            self._batch(entry, heard)

    def _batch(self, entry: Entry, whole: Batch) -> None:
        """Someone may have withdrawn since the ingest let it pass: then it is forgotten here."""
        batch, forgotten = without_strangers(whole, self._live.may_keep)
        if forgotten:
            floor.count_forgotten(self._session, entry.source, forgotten)
        if batch is None:
            return
        if entry.boot_offset is None:
            sightings = _sightings(entry, batch, 0)
            floor.add_sightings_without_time(self._session, self._live.numbers, batch.boot_id, sightings)
            return
        sightings = _sightings(entry, batch, entry.boot_offset)
        floor.add_sightings(self._session, self._live.numbers, sightings)
        for report in batch.health:
            at = batch.base_ms + report.after_ms + entry.boot_offset
            floor.save_beacon_health(self._session, batch.keys[report.beacon], entry.source, at, report)
        if entry.lane == "live":
            self._locate(entry, batch, entry.boot_offset)

    def _locate(self, entry: Entry, batch: Batch, offset: int) -> None:
        """Live readings move the zones; a completed dwell makes a candidate.

        Nothing is heard later than it arrived: a clock that runs ahead must not keep anybody in a zone.
        """
        rows, engine = batch.readings, self._live.engine
        for index in sorted(range(len(rows.beacon)), key=rows.second.__getitem__):
            beacon_key = batch.keys[rows.beacon[index]]
            profile_id = self._live.people.get(beacon_key)
            if profile_id is None:
                continue
            at = min(batch.base_ms + rows.second[index] * 1000 + 500 + offset, entry.received_at)
            self._transitions(
                engine.hear(beacon_key, entry.source, at, -float(rows.loss[index]), rows.count[index])
            )
            self._complete(beacon_key, profile_id, entry.received_at)

    def _transitions(self, transitions: Iterable[Transition]) -> None:
        for transition in transitions:
            profile_id = self._live.people.get(transition.beacon_key)
            floor.apply_transition(self._session, transition, profile_id)
            if transition.kind == "entered":
                self._result.entered += 1
                self._start_timers(transition)
            else:
                self._stop_timers(transition.beacon_key)

    def _save_tracks(self) -> None:
        engine = self._live.engine
        owners = ((key, self._live.people.get(key)) for key in engine.changed)
        floor.save_tracks(self._session, engine, owners)
        engine.changed.clear()

    # Campaigns ----------------------------------------------------------------------------------------

    def _start_timers(self, entered: Transition) -> None:
        for campaign_id, chosen in self._live.campaigns.items():
            trigger = chosen.campaign.trigger
            if chosen.campaign.state != "live" or entered.place != Place(trigger.store_id, trigger.zone_id):
                continue
            due_at = entered.entered_at + int(trigger.dwell_s * 1000)
            timer = DwellTimer(campaign_id, entered.beacon_key, entered.entered_at, due_at)
            self._live.timers.setdefault(entered.beacon_key, {})[campaign_id] = timer
            campaign_rows.start_timer(self._session, timer)

    def _stop_timers(self, beacon_key: str) -> None:
        for timer in self._live.timers.pop(beacon_key, {}).values():
            campaign_rows.stop_timer(self._session, timer)

    def _complete(self, beacon_key: str, profile_id: str, received_at: int) -> None:
        """Only evidence from at or after the due time completes a dwell: no offer to someone who left.

        Nor does evidence that was long under way, after an outage say: whoever is still there is soon heard.
        """
        running = self._live.timers.get(beacon_key)
        engine = self._live.engine
        track = engine.tracks.get(beacon_key)
        if not running or track is None or received_at - track.seen_at > engine.settings.absent_ms:
            return
        due = [timer for timer in running.values() if timer.due_at <= track.seen_at]
        for timer in due:
            del running[timer.campaign_id]
            campaign_rows.stop_timer(self._session, timer)
            self._decide(Candidate(profile_id, timer, received_at))

    def _decide(self, candidate: Candidate) -> None:
        chosen = self._live.campaigns.get(candidate.timer.campaign_id)
        if chosen is None:
            return
        store = self._live.stores.get(chosen.campaign.trigger.store_id, {})
        facts = campaign_rows.person_facts(
            self._session, candidate.profile_id, chosen.campaign, self._now, store.get("timezone")
        )
        decision = decide(chosen.campaign, facts, self._now, candidate.timer.due_at)
        content = None
        if decision.sends:
            try:
                content = self._content(chosen, candidate)
            except OfferUnrenderable as error:
                decision = Decision("suppressed", f"offer cannot be rendered: {error}"[:300])
        decision_id = campaign_rows.record_decision(self._session, candidate, chosen, decision, self._now)
        if decision_id is not None and content is not None:
            self._queue_pushes(decision_id, candidate, content)

    def _queue_pushes(self, decision_id: int, candidate: Candidate, content: PushContent) -> None:
        """One push per address the person has now."""
        queued = [
            NewPush(
                push_id=uuid7(self._now),
                decision_id=decision_id,
                profile_id=candidate.profile_id,
                address_kind=address.kind,
                address_value=address.value,
                platform=address.platform,
                content=content,
                created_at=self._now,
                due_at=candidate.timer.due_at,
                completed_at=candidate.completed_at,
                not_before=self._now,
            )
            for address in profiles.push_addresses_of(self._session, candidate.profile_id)
        ]
        self._result.pushes += pushes.insert_pushes(self._session, queued)

    def _content(self, chosen: VersionedCampaign, candidate: Candidate) -> PushContent:
        campaign = chosen.campaign
        place = Place(campaign.trigger.store_id, campaign.trigger.zone_id)
        title, body = render(
            campaign.offer,
            {
                "profile": profiles.traits_of(self._session, candidate.profile_id),
                "zone": {"id": place.zone_id, "name": self._live.zone_names.get(place, place.zone_id)},
                "store": self._live.stores.get(place.store_id, {}),
                "campaign": {"id": campaign.campaign_id, "name": campaign.name},
            },
        )
        return PushContent(
            title=title,
            body=body,
            image=campaign.offer.image,
            deeplink=campaign.offer.deeplink,
            campaign_id=campaign.campaign_id,
            expires_at=candidate.timer.due_at + campaign.offer.life_s * 1000,
            resend_allowed=campaign.guardrails.resend_when_unknown,
        )

    # Apps and sites -----------------------------------------------------------------------------------

    def _app(self, entry: Entry) -> None:
        for index, event in enumerate(decode_events(entry.payload)):
            self._event(entry.position * EVENTS_AN_ENTRY + index, event)

    def _event(self, event_id: int, event: AppEvent) -> None:
        event_hash = message_hash(event.source, event.message_id)
        applied = self._profiles.apply(
            self._profile_rows, event, event_id, event_hash, lambda: uuid7(self._now)
        )
        carried = {key for person in applied.bearers for key in profiles.beacons_of(self._session, person)}
        if applied.beacons_changed and event.beacon_key is not None:
            carried.add(event.beacon_key)
        for beacon_key in sorted(carried):
            self._ask_for_bearer(beacon_key, event.received_at)
        if event.receipt is not None and event.push_id is not None:
            pushes.record_receipt(self._session, event.push_id, event.receipt, event.occurred_at)
        self._session.run(
            "add_event",
            event_id=event_id,
            event_hash=event_hash,
            profile_id=applied.profile_id,
            kind=event.kind,
            name=event.name,
            source=event.source,
            message_id=event.message_id,
            occurred_at=event.occurred_at,
            received_at=event.received_at,
            body=msgspec.msgpack.encode(event),
        )

    def _ask_for_bearer(self, beacon_key: str, at: int) -> None:
        """Who agreed may have changed; whoever withdrew leaves the floor at once."""
        live = self._live
        before, bearer = live.people.get(beacon_key), None
        if beacon_key not in live.places:
            bearer = profiles.bearer_of(self._session, beacon_key)
        if bearer == before:
            return
        self._people_changed = True
        if bearer is None:
            del live.people[beacon_key]
        else:
            live.people[beacon_key] = bearer
        if before is not None and bearer != profiles.resolve(self._session, "profile_id", before):
            self._transitions(live.engine.forget(beacon_key, at))
        elif beacon_key in live.engine.tracks:
            live.engine.changed.add(beacon_key)  # merged: the presence is stored again, under the person


def _sightings(entry: Entry, batch: Batch, offset: int) -> Iterator[Sighting]:
    rows = batch.readings
    base = batch.base_ms + offset
    for row, beacon in enumerate(rows.beacon):
        yield Sighting(
            beacon_key=batch.keys[beacon],
            gateway=entry.source,
            second=(base + rows.second[row] * 1000) // 1000,
            adverts=rows.count[row],
            loss=rows.loss[row],
            best=rows.best[row],
        )
