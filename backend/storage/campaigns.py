"""Campaigns, their dwell timers and decisions in the database."""

from dataclasses import dataclass

import msgspec

from backend.campaigns.eligibility import Decision, PersonFacts, SendFacts, day_bounds, recheck, time_zone
from backend.campaigns.model import Campaign
from backend.push.model import Claimed
from backend.storage import profiles
from backend.storage.database import Database, Row, Session


@dataclass(frozen=True, slots=True)
class VersionedCampaign:
    """A definition and the version it had when it was read."""

    campaign: Campaign
    version: int


@dataclass(frozen=True, slots=True)
class DwellTimer:
    """Someone is in a campaign's zone; the dwell is complete at `due_at`. Unix milliseconds."""

    campaign_id: str
    beacon_key: str
    entered_at: int
    due_at: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A completed dwell of a person; `completed_at` is the arrival of the batch that completed it."""

    profile_id: str
    timer: DwellTimer
    completed_at: int


def save_campaign(session: Session, campaign: Campaign, now: int) -> int:
    """Stores a definition; its version."""
    session.run(
        "save_campaign",
        campaign_id=campaign.campaign_id,
        state=campaign.state,
        definition=msgspec.json.encode(campaign),
        changed_at=now,
    )
    row = session.row("campaign", campaign_id=campaign.campaign_id)
    return int(row["version"]) if row else 0


def campaigns(session: Session) -> dict[str, VersionedCampaign]:
    """Every campaign by id."""
    return {row["campaign_id"]: _versioned(row) for row in session.rows("campaigns")}


def campaign(session: Session, campaign_id: str) -> VersionedCampaign | None:
    """One campaign as it is now."""
    row = session.row("campaign", campaign_id=campaign_id)
    return None if row is None else _versioned(row)


def _versioned(row: Row) -> VersionedCampaign:
    return VersionedCampaign(msgspec.json.decode(row["definition"], type=Campaign), row["version"])


def start_timer(session: Session, timer: DwellTimer) -> None:
    """Makes the timer a row, so that it outlives the process."""
    session.run("start_dwell", **_row(timer))


def stop_timer(session: Session, timer: DwellTimer) -> None:
    """Decided, or the person has left."""
    session.run("stop_dwell", campaign_id=timer.campaign_id, beacon_key=timer.beacon_key)


def timers(session: Session) -> list[DwellTimer]:
    """Every running timer; read at start."""
    return [DwellTimer(**dict(row)) for row in session.rows("dwell_timers")]


def person_facts(
    session: Session, profile_id: str, campaign: Campaign, now: int, store_zone: str | None
) -> PersonFacts:
    """What the eligibility rules ask about a person at `now`; the day is that of their time zone."""
    theirs = profiles.traits_of(session, profile_id).get("timezone")
    start, end = day_bounds(now, time_zone(theirs, store_zone))
    sent = session.rows("sent_by_campaign", profile_id=profile_id, campaign_id=campaign.campaign_id)
    today = session.row("sent_between", profile_id=profile_id, start=start, end=end)
    return PersonFacts(
        consents={
            purpose: profiles.consent_of(session, profile_id, purpose)
            for purpose in campaign.guardrails.purposes
        },
        addresses=len(profiles.push_addresses_of(session, profile_id)),
        sent_by_campaign=[row["at"] for row in sent],
        sent_today=int(today[0]) if today else 0,
    )


def record_decision(
    session: Session, candidate: Candidate, chosen: VersionedCampaign, decision: Decision, now: int
) -> int | None:
    """Stores how a candidate ended; its id, or None where this entering was decided before."""
    trigger, timer = chosen.campaign.trigger, candidate.timer
    values = {
        "campaign_id": chosen.campaign.campaign_id,
        "campaign_version": chosen.version,
        "profile_id": candidate.profile_id,
        "store_id": trigger.store_id,
        "zone_id": trigger.zone_id,
        "entered_at": timer.entered_at,
        "due_at": timer.due_at,
        "completed_at": candidate.completed_at,
        "decided_at": now,
        "verdict": decision.verdict,
        "reason": decision.reason,
    }
    row = session.row("record_decision", **values)
    return None if row is None else int(row["decision_id"])


def _row(timer: DwellTimer) -> dict[str, str | int]:
    return {
        "campaign_id": timer.campaign_id,
        "beacon_key": timer.beacon_key,
        "entered_at": timer.entered_at,
        "due_at": timer.due_at,
    }


class SendChecks:
    """Asks the database, right before a push leaves, whether it still may."""

    def __init__(self, state: Database) -> None:
        self._state = state

    async def may_send(self, claimed: Claimed, now: int) -> str | None:
        """The reason to suppress, or None to go. Sees the last commit of the fold."""
        del now  # expiry is the sender's own check
        return await self._state.read(lambda session: _objection(session, claimed))


def _objection(session: Session, claimed: Claimed) -> str | None:
    chosen = campaign(session, claimed.campaign_id)
    if chosen is None:
        return recheck(None, SendFacts({}, False, False))
    trigger = chosen.campaign.trigger
    present = session.row(
        "is_in_zone", profile_id=claimed.profile_id, store_id=trigger.store_id, zone_id=trigger.zone_id
    )
    facts = SendFacts(
        consents={
            purpose: profiles.consent_of(session, claimed.profile_id, purpose)
            for purpose in chosen.campaign.guardrails.purposes
        },
        owns_address=any(
            (address.kind, address.value) == (claimed.address_kind, claimed.address_value)
            for address in profiles.push_addresses_of(session, claimed.profile_id)
        ),
        in_zone=bool(present and present[0]),
    )
    return recheck(chosen.campaign, facts)
