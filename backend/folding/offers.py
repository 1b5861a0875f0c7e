"""Campaigns: stays that are waited for, candidates, decisions, and the pushes they queue."""

from backend.campaigns.eligibility import Decision, decide
from backend.campaigns.offers import OfferUnrenderable, render
from backend.folding.live import LiveState
from backend.ids import uuid7
from backend.occurrences import Occurrence
from backend.proximity.zones import Place
from backend.push.model import NewPush, PushContent
from backend.storage import campaigns as campaign_rows
from backend.storage import profiles, pushes
from backend.storage.campaigns import Candidate, DwellTimer, VersionedCampaign
from backend.storage.database import Session

_GONE = frozenset({"zone_left", "zone_unknown"})


class OfferPart:
    """What campaigns make of the occurrences of one transaction; `pushes` counts what they queued."""

    def __init__(self, session: Session, live: LiveState, now: int) -> None:
        self._session = session
        self._live = live
        self._now = now
        self.pushes = 0

    def happened(self, occurrence: Occurrence) -> None:
        """Starts and stops waiting; decides where a stay was long enough."""
        if occurrence.kind == "zone_entered":
            self._start_timers(occurrence)
        elif occurrence.kind == "zone_stayed":
            self._complete(occurrence)
        elif occurrence.kind in _GONE:
            self._stop_timers(occurrence.subject)

    def _start_timers(self, entered: Occurrence) -> None:
        for campaign_id, chosen in self._live.campaigns.items():
            trigger = chosen.campaign.trigger
            there = (entered.store_id, entered.zone_id) == (trigger.store_id, trigger.zone_id)
            if chosen.campaign.state != "live" or not there:
                continue
            due_at = entered.entered_at + int(trigger.dwell_s * 1000)
            timer = DwellTimer(campaign_id, entered.subject, entered.entered_at, due_at)
            self._live.timers.setdefault(entered.subject, {})[campaign_id] = timer
            campaign_rows.start_timer(self._session, timer)

    def _stop_timers(self, subject: str) -> None:
        for timer in self._live.timers.pop(subject, {}).values():
            campaign_rows.stop_timer(self._session, timer)

    def _complete(self, stayed: Occurrence) -> None:
        """Only evidence from at or after the due time completes a dwell: no offer to someone who left."""
        running = self._live.timers.get(stayed.subject, {})
        due = [timer for timer in running.values() if timer.due_at <= stayed.at]
        for timer in due:
            del running[timer.campaign_id]
            campaign_rows.stop_timer(self._session, timer)
            self._decide(Candidate(stayed.profile_id, timer, stayed.received_at))

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
        self.pushes += pushes.insert_pushes(self._session, queued)

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
