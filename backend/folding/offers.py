"""Campaigns in the fold: waits that begin and end, candidates, decisions, and the pushes they queue.

Candidates of one transaction are decided at its end, so that those who compete for the same moment of a
person are seen together, whatever came first.
"""

from collections.abc import Sequence
from dataclasses import replace

from backend.campaigns.eligibility import (
    SAME_MOMENT_MS,
    Decision,
    Moment,
    PersonFacts,
    decide,
    send_time,
    unrenderable,
)
from backend.campaigns.model import Offer
from backend.campaigns.offers import OfferUnrenderable, Rendered, content_of
from backend.campaigns.triggers import GONE, STAYED, wait_for
from backend.catalog.shelves import ZoneRef
from backend.folding.live import LiveState
from backend.ids import uuid7
from backend.occurrences import Confidence, Occurrence
from backend.profiles.behaviour import View
from backend.proximity.places import Place
from backend.push.model import NewPush, PushContent
from backend.storage import campaigns as campaign_rows
from backend.storage import offers as offer_rows
from backend.storage import profiles, pushes
from backend.storage.campaigns import Candidate, VersionedCampaign, Waiting
from backend.storage.offers import Scene
from backend.storage.session import Session
from sdk_bridge.wire.topics import partition_of

WAITS_AT_ONCE = 200  # of those that the clock completes; gateways and phones must not wait behind them all
WAITS_EVERY_MS = 250  # how late the clock may complete a wait


class OfferPart:
    """What campaigns make of the occurrences of one transaction; `pushes` counts what they queued."""

    def __init__(self, session: Session, live: LiveState, now: int) -> None:
        self._session = session
        self._live = live
        self._now = now
        self._candidates: list[Candidate] = []
        self.pushes = 0

    def happened(self, occurrence: Occurrence) -> None:
        """Begins and ends waits; a stay that was long enough makes a candidate."""
        if occurrence.kind in STAYED:
            self._complete(occurrence)
            return
        if occurrence.kind in GONE:
            self._end_stays(occurrence)
        for campaign_id in self._live.campaigns_by_kind.get(occurrence.kind, ()):
            self._begin(self._live.campaigns[campaign_id], occurrence)

    def _begin(self, chosen: VersionedCampaign, occurrence: Occurrence) -> None:
        campaign = chosen.campaign
        if not campaign.is_live(self._now):
            return
        place = Place(occurrence.store_id or "", occurrence.zone_id or "")
        wait = wait_for(campaign, occurrence, self._live.zone_categories.get(place, ()))
        if wait is None:
            return
        happened_at = min(occurrence.at, occurrence.received_at)  # an app's clock may run years ahead
        begun_at = occurrence.entered_at if wait.stays else happened_at
        waiting = Waiting(
            campaign_id=campaign.campaign_id,
            subject=occurrence.subject,
            begun_at=begun_at,
            profile_id=occurrence.profile_id,
            due_at=begun_at + wait.for_ms,
            stays=wait.stays,
            holds=wait.holds,
            store_id=occurrence.store_id,
            zone_id=occurrence.zone_id,
            fence_id=occurrence.fence_id,
            confidence=occurrence.confidence,
            partition=partition_of(occurrence.profile_id),
        )
        if not wait.stays and wait.for_ms == 0:
            self._candidates.append(Candidate(waiting, occurrence.received_at))
            return
        if campaign_rows.start_wait(self._session, waiting) and wait.stays:
            self._live.stays.setdefault(occurrence.subject, []).append(waiting)

    def _end_stays(self, gone: Occurrence) -> None:
        """Whoever left a zone may still be in its store."""
        running = self._live.stays.pop(gone.subject, [])
        for waiting in running:
            if _is_over(waiting, gone):
                campaign_rows.end_wait(self._session, waiting)
            else:
                self._live.stays.setdefault(gone.subject, []).append(waiting)

    def _complete(self, stayed: Occurrence) -> None:
        """Only evidence from at or after the due time completes a stay: no offer to someone who left."""
        for waiting in list(self._live.stays.get(stayed.subject, ())):
            if waiting.due_at <= stayed.at and _is_there(waiting, stayed):
                self._live.stays[stayed.subject].remove(waiting)
                campaign_rows.end_wait(self._session, waiting)
                sure = replace(waiting, confidence=_sureness(waiting, stayed))
                self._candidates.append(Candidate(sure, stayed.received_at))

    def tick(self, now: int) -> None:
        """Waits that the clock has completed. `now`: everything until then is folded."""
        if 0 <= now - self._live.waits_looked_at < WAITS_EVERY_MS:  # the clock may have been set back
            return
        due = campaign_rows.waits_due(self._session, now, WAITS_AT_ONCE, self._live.holding.partitions)
        if len(due) < WAITS_AT_ONCE:
            self._live.waits_looked_at = now
        for waiting in due:
            campaign_rows.end_wait(self._session, waiting)
            self._candidates.append(Candidate(waiting, max(waiting.due_at, waiting.begun_at)))

    # Deciding -----------------------------------------------------------------------------------------

    def decide_all(self) -> None:
        """The candidates of the transaction: of those who compete, the highest priority comes first."""
        candidates, self._candidates = [self._of_person(one) for one in self._candidates], []
        winners: dict[str, list[tuple[int, str]]] = {}
        for candidate in sorted(candidates, key=self._rank):
            chosen = self._live.campaigns.get(candidate.waiting.campaign_id)
            if chosen is None:
                continue
            won = winners.setdefault(candidate.waiting.profile_id, [])
            winner = next(
                (name for at, name in won if abs(at - candidate.waiting.due_at) <= SAME_MOMENT_MS), None
            )
            if self._decide(chosen, candidate, winner):
                won.append((candidate.waiting.due_at, candidate.waiting.campaign_id))

    def _of_person(self, candidate: Candidate) -> Candidate:
        """Who waited may have become somebody else's profile meanwhile: limits and goals are the person's."""
        waiting = candidate.waiting
        person = profiles.resolve(self._session, "profile_id", waiting.profile_id)
        if person is None or person == waiting.profile_id:
            return candidate
        return replace(candidate, waiting=replace(waiting, profile_id=person))

    def _rank(self, candidate: Candidate) -> tuple[int, int, str]:
        chosen = self._live.campaigns.get(candidate.waiting.campaign_id)
        priority = chosen.campaign.guardrails.priority if chosen else 0
        return -priority, candidate.waiting.due_at, candidate.waiting.campaign_id

    def _decide(self, chosen: VersionedCampaign, candidate: Candidate, winner: str | None) -> bool:
        """Records what becomes of a candidate; whether a push was queued."""
        waiting, campaign = candidate.waiting, chosen.campaign
        zone = offer_rows.zone_of_person(self._session, waiting.profile_id, waiting.store_id)
        send_at = send_time(campaign, self._now, zone)
        facts = offer_rows.person_facts(self._session, campaign, waiting, send_at, zone, self._now)
        offer = offer_rows.offer_of(campaign, waiting.profile_id)
        products = self._products(offer, waiting)
        if offer.products != "none":
            facts = replace(facts, has_products=bool(products))
        decision, content = self._verdict(chosen, candidate, facts, winner), None
        if decision.verdict != "suppressed":  # the held out pass the same rules, else nothing can be compared
            try:
                content = self._content(chosen, waiting, offer, products)
            except OfferUnrenderable as error:
                decision = replace(decision, verdict="suppressed", reason=unrenderable(error))
        decision_id = campaign_rows.record_decision(self._session, candidate, chosen, decision, self._now)
        if decision_id is None or content is None or not decision.sends:
            return False
        if offer.code_pool is not None:
            campaign_rows.give_code(self._session, offer.code_pool, decision_id, self._now)
        self._queue_pushes(decision_id, candidate, content, decision)
        return True

    def _verdict(
        self, chosen: VersionedCampaign, candidate: Candidate, facts: PersonFacts, winner: str | None
    ) -> Decision:
        moment = Moment(candidate.waiting.due_at, candidate.waiting.confidence)
        decision = decide(chosen.campaign, facts, self._now, moment)
        if decision.verdict != "suppressed" and winner is not None:
            return replace(decision, verdict="suppressed", reason=f"priority: {winner}")
        return decision

    def _queue_pushes(
        self, decision_id: int, candidate: Candidate, content: PushContent, decision: Decision
    ) -> None:
        """One push per address the person has now."""
        waiting = candidate.waiting
        queued = [
            NewPush(
                push_id=uuid7(self._now),
                decision_id=decision_id,
                profile_id=waiting.profile_id,
                address_kind=address.kind,
                address_value=address.value,
                platform=address.platform,
                content=content,
                created_at=self._now,
                due_at=waiting.due_at,
                completed_at=candidate.completed_at,
                not_before=max(decision.send_at, self._now),
            )
            for address in offer_rows.fresh_addresses(self._session, waiting.profile_id, self._now)
        ]
        self.pushes += pushes.insert_pushes(self._session, queued)

    def _content(
        self, chosen: VersionedCampaign, waiting: Waiting, offer: Offer, products: Sequence[View]
    ) -> PushContent:
        """The message. Raises OfferUnrenderable."""
        rendered = self._rendered(chosen, waiting, offer, products)
        return content_of(chosen.campaign, offer, rendered, waiting.due_at)

    def _products(self, offer: Offer, waiting: Waiting) -> list[View]:
        """What the offer speaks of."""
        zone = ZoneRef(waiting.store_id or "", waiting.zone_id) if waiting.zone_id else None
        return offer_rows.offer_products(
            self._session, waiting.profile_id, offer, zone, self._live.shelves, self._now
        )

    def _rendered(
        self, chosen: VersionedCampaign, waiting: Waiting, offer: Offer, products: Sequence[View]
    ) -> Rendered:
        place = Place(waiting.store_id or "", waiting.zone_id or "")
        zone_name = self._live.zone_names.get(place, place.zone_id)
        scene = Scene(zone_name, self._live.stores.get(place.store_id, {}), products)
        return offer_rows.rendered_for(self._session, chosen.campaign, offer, waiting, scene)


def _sureness(waiting: Waiting, stayed: Occurrence) -> Confidence:
    """How sure the stay is when it completes. Who may be in this zone or the next is in the store surely."""
    return waiting.confidence if waiting.holds == "store" else stayed.confidence


def _is_over(waiting: Waiting, gone: Occurrence) -> bool:
    """Whether leaving this place ends the wait."""
    if waiting.holds != GONE[gone.kind]:
        return False
    return _same_place(waiting, gone)


def _is_there(waiting: Waiting, stayed: Occurrence) -> bool:
    """Whether evidence of this place is evidence of the stay: who is in a zone is in its store."""
    if waiting.holds == "store":
        return stayed.kind == "zone_stayed" and waiting.store_id == stayed.store_id
    return waiting.holds == STAYED[stayed.kind] and _same_place(waiting, stayed)


def _same_place(waiting: Waiting, seen: Occurrence) -> bool:
    if waiting.holds == "fence":
        return waiting.fence_id == seen.fence_id
    if waiting.holds == "store":
        return waiting.store_id == seen.store_id
    return (waiting.store_id, waiting.zone_id) == (seen.store_id, seen.zone_id)
