"""Campaigns in the database: definitions with their versions, waits, decisions, codes."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from backend.campaigns.eligibility import Decision
from backend.campaigns.model import Campaign, named_by
from backend.campaigns.triggers import Holds
from backend.occurrences import Confidence
from backend.storage import segments
from backend.storage.session import Row, Session

MOST_AT_ONCE = 100  # an app's batch may date many events alike; each is told apart by a millisecond


@dataclass(frozen=True, slots=True)
class VersionedCampaign:
    """A definition and the version it had when it was read."""

    campaign: Campaign
    version: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A candidate in the making: a person's moment for one campaign. Unix milliseconds.

    `begun_at` is when the moment began (the entering, the leaving, the event); `due_at` when the candidate is
    complete: with `stays` by evidence that the person is still there, else by the clock.
    """

    campaign_id: str
    subject: str
    begun_at: int
    profile_id: str
    due_at: int
    stays: bool
    holds: Holds
    store_id: str | None = None
    zone_id: str | None = None
    fence_id: str | None = None
    confidence: Confidence = "high"
    partition: int = 0

    @property
    def place(self) -> tuple[str | None, str | None, str | None]:
        """Where it happened: store, zone, fence."""
        return self.store_id, self.zone_id, self.fence_id


@dataclass(frozen=True, slots=True)
class Candidate:
    """A completed moment; `completed_at` is the arrival of what completed it."""

    waiting: Waiting
    completed_at: int


def save_campaign(session: Session, campaign: Campaign, now: int, by: str = "") -> int:
    """Stores a definition, and keeps it as a version of its own; the version."""
    written = {
        "campaign_id": campaign.campaign_id,
        "state": campaign.state,
        "definition": msgspec.json.encode(campaign),
        "changed_at": now,
    }
    session.run("save_campaign", **written)
    row = session.row("campaign", campaign_id=campaign.campaign_id)
    version = int(row["version"]) if row else 0
    session.run("keep_campaign_version", **written, version=version, changed_by=by)
    return version


def missing_references(session: Session, campaign: Campaign, standing: Campaign | None = None) -> str | None:
    """What the campaign names and nobody has set up, in words; None where all is there.

    What a `standing` one named already may be gone since.
    """
    before = named_by(standing) if standing is not None else ()
    missing = segments.first_missing(session, named_by(campaign), before)
    if missing is not None:
        return missing
    for offer in (campaign.offer, *(variant.offer for variant in campaign.variants)):
        if offer.code_pool is not None and session.row("code_pool", pool_id=offer.code_pool) is None:
            return f"offer.code_pool: there is no pool {offer.code_pool}"
    return None


def campaigns(session: Session) -> dict[str, VersionedCampaign]:
    """Every campaign by id."""
    return {row["campaign_id"]: _versioned(row) for row in session.rows("campaigns")}


def campaign(session: Session, campaign_id: str) -> VersionedCampaign | None:
    """One campaign as it is now."""
    row = session.row("campaign", campaign_id=campaign_id)
    return None if row is None else _versioned(row)


def versions(session: Session, campaign_id: str, limit: int) -> list[dict[str, Any]]:
    """What a campaign was, the newest first, with who changed it."""
    return [
        {**dict(row), "definition": msgspec.json.decode(row["definition"])}
        for row in session.rows("campaign_versions", campaign_id=campaign_id, limit=limit)
    ]


def _versioned(row: Row) -> VersionedCampaign:
    return VersionedCampaign(msgspec.json.decode(row["definition"], type=Campaign), row["version"])


# Waits ----------------------------------------------------------------------------------------------------


def start_wait(session: Session, waiting: Waiting) -> bool:
    """Makes the wait a row, so that it outlives the process; False where it is one already."""
    return session.run("start_wait", **{**asdict(waiting), "stays": int(waiting.stays)}) > 0


def end_wait(session: Session, waiting: Waiting) -> None:
    """Decided, or the person has left."""
    session.run(
        "end_wait", campaign_id=waiting.campaign_id, subject=waiting.subject, begun_at=waiting.begun_at
    )


def stays(
    session: Session, present: Collection[str], elsewhere: Collection[str] = ()
) -> dict[str, list[Waiting]]:
    """Every stay that somebody waits for of those who are present, by subject; read at start.

    Ends those of subjects that are nowhere, nor elsewhere: their zone or fence was taken away, and nothing
    would ever end them.
    """
    found: dict[str, list[Waiting]] = {}
    for row in session.rows("stays_waited_for"):
        waiting = _waiting(row)
        if waiting.subject in present:
            found.setdefault(waiting.subject, []).append(waiting)
        elif waiting.subject not in elsewhere:
            end_wait(session, waiting)
    return found


def stays_of(session: Session, subject: str) -> list[Waiting]:
    """The stays of one subject that somebody waits for."""
    return [_waiting(row) for row in session.rows("stays_of", subject=subject)]


def waits_due(
    session: Session, now: int, limit: int, partitions: Collection[int] | None = None
) -> list[Waiting]:
    """What the clock has completed, the longest due first; of some partitions, or of all."""
    asked = None if partitions is None else msgspec.json.encode(sorted(partitions)).decode()
    return [_waiting(row) for row in session.rows("waits_due", now=now, limit=limit, partitions=asked)]


def _waiting(row: Row) -> Waiting:
    return Waiting(**{**dict(row), "stays": bool(row["stays"])})


# Decisions ------------------------------------------------------------------------------------------------


def record_decision(
    session: Session, candidate: Candidate, chosen: VersionedCampaign, decision: Decision, now: int
) -> int | None:
    """Stores how a candidate ended; its id, or None where this moment was decided before."""
    waiting = candidate.waiting
    written = {
        "campaign_id": chosen.campaign.campaign_id,
        "campaign_version": chosen.version,
        "profile_id": waiting.profile_id,
        "store_id": waiting.store_id or "",
        "zone_id": waiting.zone_id or "",
        "fence_id": waiting.fence_id,
        "due_at": waiting.due_at,
        "completed_at": candidate.completed_at,
        "decided_at": now,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "subject": waiting.subject,
        "holds": waiting.holds,
        "confidence": waiting.confidence,
        "variant": decision.variant,
        "send_at": decision.send_at if decision.verdict != "suppressed" else None,
        "active": int(decision.sends),
    }
    for entered_at in range(waiting.begun_at, waiting.begun_at + MOST_AT_ONCE):
        row = session.row("record_decision", **written, entered_at=entered_at)
        if row is not None:
            return int(row[0])
        known = session.row("decision_of_moment", **_moment(written, entered_at))
        if known is None or known["subject"] == waiting.subject:
            return None
    return None


def _moment(written: Mapping[str, Any], entered_at: int) -> dict[str, Any]:
    """What there is one decision of at the most."""
    return {
        "campaign_id": written["campaign_id"],
        "profile_id": written["profile_id"],
        "zone_id": written["zone_id"],
        "entered_at": entered_at,
    }


# Codes ----------------------------------------------------------------------------------------------------


def add_codes(session: Session, pool_id: str, codes: Iterable[str], now: int) -> int:
    """Adds codes to a pool; how many were new."""
    return sum(
        session.run("add_code", pool_id=pool_id, code=code, added_at=now) for code in dict.fromkeys(codes)
    )


def next_code(session: Session, pool_id: str) -> str | None:
    """The code that the next offer of a pool gets; None where none is left."""
    row = session.row("next_code", pool_id=pool_id)
    return None if row is None else row["code"]


def give_code(session: Session, pool_id: str, decision_id: int, now: int) -> str | None:
    """Gives the next code away."""
    row = session.row("give_code", pool_id=pool_id, decision_id=decision_id, given_at=now)
    return None if row is None else row["code"]
