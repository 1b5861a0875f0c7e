"""Who would have got it: a campaign played over moments that have passed. Pure.

Consent, addresses and audience are those of today, for nobody keeps what they were at every second; caps and
cooldowns count what other campaigns had really sent by then and what the rehearsal itself would have sent.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import msgspec

from backend.campaigns.eligibility import Decision, Moment, PersonFacts, decide, send_time
from backend.campaigns.hours import day_bounds, week_bounds
from backend.campaigns.model import Campaign
from backend.occurrences import Confidence


@dataclass(frozen=True, slots=True)
class PastMoment:
    """A moment that would have made a candidate: of whom, when it was complete and had begun, and where.

    `known_at`: when word of it came; an app's may come days later.
    """

    profile_id: str
    due_at: int
    place: tuple[str, str, str]
    confidence: Confidence = "high"
    begun_at: int | None = None
    known_at: int = 0

    @property
    def decided_at(self) -> int:
        """When a live campaign would have decided about it."""
        return max(self.due_at, self.known_at)


@dataclass(frozen=True, slots=True)
class Played:
    """What would have become of a moment."""

    moment: PastMoment
    decision: Decision


@dataclass(slots=True)
class _Offered:
    """What the rehearsal has offered a person so far; `at`: also what was held out, `sent`: the rest."""

    at: list[int] = field(default_factory=list)
    here: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)


def rehearse(
    campaign: Campaign, moments: Iterable[PastMoment], facts_of: Callable[[PastMoment], PersonFacts]
) -> list[Played]:
    """Each moment's decision, in the order of time; as if the campaign had been live."""
    running = as_if_live(campaign)
    offered: dict[str, _Offered] = {}
    played: list[Played] = []
    for moment in sorted(moments, key=lambda one: (one.decided_at, one.profile_id)):
        known = facts_of(moment)
        mine = offered.setdefault(known.profile_id, _Offered())
        facts = _with(known, mine, moment, send_time(running, moment.decided_at, known.zone))
        decision = decide(running, facts, moment.decided_at, Moment(moment.due_at, moment.confidence))
        if decision.verdict != "suppressed":
            mine.at.append(decision.send_at)
            mine.here.setdefault(moment.place, []).append(decision.send_at)
        if decision.sends:
            mine.sent.append(decision.send_at)
        played.append(Played(moment, decision))
    return played


def as_if_live(campaign: Campaign) -> Campaign:
    """The campaign as if it were live, whenever."""
    return msgspec.structs.replace(campaign, state="live", starts_at=None, ends_at=None)


def _with(known: PersonFacts, mine: _Offered, moment: PastMoment, send_at: int) -> PersonFacts:
    """What is known of the person, and what the rehearsal has offered them before this moment."""
    day, week = day_bounds(send_at, known.zone), week_bounds(send_at, known.zone)
    return replace(
        known,
        offered=[*(at for at in known.offered if at <= moment.decided_at), *mine.at],
        offered_here=[
            *(at for at in known.offered_here if at <= moment.decided_at),
            *mine.here.get(moment.place, ()),
        ],
        active=any(at > moment.decided_at for at in mine.sent),
        sent_today=known.sent_today + sum(day[0] <= at < day[1] for at in mine.sent),
        sent_this_week=known.sent_this_week + sum(week[0] <= at < week[1] for at in mine.sent),
    )
