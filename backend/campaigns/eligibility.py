"""May this person get this offer now? Pure: facts in, a decision with its reason out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from backend.campaigns.model import Campaign


@dataclass(frozen=True, slots=True)
class PersonFacts:
    """What is known of a person at the moment of decision. Times are unix milliseconds.

    `sent_by_campaign`: when this campaign sent to them; `sent_today`: how many of all campaigns' pushes fell
    on their present calendar day.
    """

    consents: Mapping[str, bool]
    addresses: int
    sent_by_campaign: Sequence[int] = ()
    sent_today: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a candidate, and why."""

    verdict: Literal["sent", "suppressed"]
    reason: str

    @property
    def sends(self) -> bool:
        return self.verdict == "sent"


SEND = Decision("sent", "eligible")


def decide(campaign: Campaign, person: PersonFacts, now: int, dwelt_at: int) -> Decision:
    """The first rule that forbids decides; `dwelt_at` is when the dwell was complete."""
    return next(
        (Decision("suppressed", reason) for reason in _objections(campaign, person, now, dwelt_at)), SEND
    )


def _objections(campaign: Campaign, person: PersonFacts, now: int, dwelt_at: int) -> list[str]:
    rules = campaign.guardrails
    last = max(person.sent_by_campaign, default=None)
    reasons = [
        (campaign.state != "live", f"campaign is {campaign.state}"),
        (now - dwelt_at > campaign.offer.life_s * 1000, "moment passed"),
        *((not person.consents.get(purpose, False), f"no consent: {purpose}") for purpose in rules.purposes),
        (person.addresses == 0, "no push address"),
        (len(person.sent_by_campaign) >= rules.max_total, "cap: total"),
        (person.sent_today >= rules.max_per_day, "cap: day"),
        (last is not None and now - last < rules.cooldown_s * 1000, "cooldown"),
    ]
    return [reason for applies, reason in reasons if applies]


def time_zone(*names: object) -> ZoneInfo:
    """The first of the names that is a time zone's, else UTC; people and apps write all sorts of things."""
    for name in names:
        try:
            if isinstance(name, str):
                return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return ZoneInfo("UTC")


def day_bounds(now: int, zone: ZoneInfo) -> tuple[int, int]:
    """The calendar day around `now` in a time zone, as unix milliseconds [start, end); DST days included."""
    moment = datetime.fromtimestamp(now / 1000, zone)
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    following = (start + timedelta(days=1)).replace(fold=0)
    return int(start.timestamp() * 1000), int(following.timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class SendFacts:
    """What has to hold still at the moment of sending, however long the push had to wait."""

    consents: Mapping[str, bool]
    owns_address: bool
    in_zone: bool


def recheck(campaign: Campaign | None, facts: SendFacts) -> str | None:
    """Why a queued push must not go out any more; None where it may."""
    if campaign is None or campaign.state != "live":
        return "campaign is no longer live"
    reasons = [
        *((not granted, f"no consent: {purpose}") for purpose, granted in facts.consents.items()),
        (not facts.owns_address, "address has another owner"),
        (not facts.in_zone, "left the zone"),
    ]
    return next((reason for applies, reason in reasons if applies), None)
