"""Who would have got it: a campaign played over moments that have passed. Pure.

Consent, addresses and audience are those of today, for nobody keeps what they were at every second; caps and
cooldowns count what other campaigns had really sent by then and what the rehearsal itself would have sent.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import msgspec

from backend.campaigns.eligibility import Decision, Moment, PersonFacts, decide
from backend.campaigns.hours import day_bounds, week_bounds
from backend.campaigns.model import Campaign
from backend.occurrences import Confidence


@dataclass(frozen=True, slots=True)
class PastMoment:
    """A moment that would have made a candidate: of whom, when it was complete and had begun, and where."""

    profile_id: str
    due_at: int
    place: tuple[str, str, str]
    confidence: Confidence = "high"
    begun_at: int | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """What would have become of a moment."""

    moment: PastMoment
    decision: Decision


@dataclass(slots=True)
class _Sent:
    """What the rehearsal has sent to a person so far."""

    at: list[int] = field(default_factory=list)
    here: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)


def rehearse(
    campaign: Campaign, moments: Iterable[PastMoment], facts_of: Callable[[PastMoment], PersonFacts]
) -> list[Played]:
    """Each moment's decision, in the order of time; as if the campaign had been live."""
    running = as_if_live(campaign)
    sent: dict[str, _Sent] = {}
    played: list[Played] = []
    for moment in sorted(moments, key=lambda one: (one.due_at, one.profile_id)):
        known = facts_of(moment)
        mine = sent.setdefault(known.profile_id, _Sent())
        decision = decide(
            running, _with(known, mine, moment), moment.due_at, Moment(moment.due_at, moment.confidence)
        )
        if decision.verdict != "suppressed":
            mine.at.append(decision.send_at)
            mine.here.setdefault(moment.place, []).append(decision.send_at)
        played.append(Played(moment, decision))
    return played


def as_if_live(campaign: Campaign) -> Campaign:
    """The campaign as if it were live, whenever."""
    return msgspec.structs.replace(campaign, state="live", starts_at=None, ends_at=None)


def _with(known: PersonFacts, mine: _Sent, moment: PastMoment) -> PersonFacts:
    day, week = day_bounds(moment.due_at, known.zone), week_bounds(moment.due_at, known.zone)
    return replace(
        known,
        offered=[at for at in (*known.offered, *mine.at) if at <= moment.due_at],
        offered_here=[
            at for at in (*known.offered_here, *mine.here.get(moment.place, ())) if at <= moment.due_at
        ],
        active=False,
        sent_today=known.sent_today + sum(day[0] <= at < day[1] for at in mine.at),
        sent_this_week=known.sent_this_week + sum(week[0] <= at < week[1] for at in mine.at),
    )
