"""What a campaign brought, and what it would have brought: decisions and moments out of the database."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from backend.campaigns.eligibility import PersonFacts, send_time
from backend.campaigns.hours import day_bounds, week_bounds
from backend.campaigns.model import (
    Campaign,
    CategoryDwelt,
    EventHappened,
    FenceDwelt,
    FenceEntered,
    FenceLeft,
    SegmentEntered,
    StoreDwelt,
    StoreEntered,
    StoreLeft,
    ZoneDwelt,
    ZoneEntered,
    ZoneLeft,
)
from backend.campaigns.rehearsal import PastMoment, Played, rehearse
from backend.campaigns.results import Fate, Outcome
from backend.campaigns.triggers import wait_for
from backend.catalog.shelves import Shelves
from backend.occurrences import Occurrence, OccurrenceKind
from backend.proximity.visits import AWAY_MS
from backend.storage import fences, profiles
from backend.storage.behaviour import zone_categories
from backend.storage.campaigns import Waiting
from backend.storage.catalog import load_shelves
from backend.storage.offers import ahead_of, offers_around, person_facts, with_text, zone_of_person
from backend.storage.segment_facts import as_json
from backend.storage.segments import trees
from backend.storage.session import Row, Session
from sdk_bridge.wire.app_events import AppEvent

PAGE = 500  # decisions read at once; one read of all would keep other readers waiting
_FATES: tuple[Fate, ...] = ("accepted", "on_the_way", "unknown", "rejected")
MOST_MOMENTS = 20_000  # of a rehearsal; a marketer wants the picture, not a day of the reader's time
DAY_MS = 86_400_000


@dataclass(slots=True)
class _After:
    """What people did after a time, by person."""

    goals: dict[str, list[int]] = field(default_factory=dict)
    visits: dict[str, list[int]] = field(default_factory=dict)
    orders: dict[str, dict[str, Row]] = field(default_factory=dict)


def outcomes_page(session: Session, campaign: Campaign, since: int, after: int) -> tuple[list[Outcome], int]:
    """The next decisions behind one of them with what followed, and the last one's id; 0 when all is told."""
    rows = session.rows(
        "decisions_page", campaign_id=campaign.campaign_id, since=since, after=after, limit=PAGE
    )
    if not rows:
        return [], 0
    person_of = _people(session, (row["profile_id"] for row in rows))
    told = [row for row in rows if row["verdict"] != "suppressed"]
    followed = _followed(session, campaign, told, person_of)
    outcomes = [_outcome(campaign, row, person_of, followed) for row in rows]
    return outcomes, int(rows[-1]["decision_id"])


def _people(session: Session, profile_ids: Iterable[str]) -> dict[str, str]:
    """The person behind each profile, all profiles of theirs included."""
    found = trees(session, sorted(set(profile_ids)))
    return {profile: person for person, tree in found.items() for profile in tree}


def _followed(
    session: Session, campaign: Campaign, rows: Sequence[Row], person_of: Mapping[str, str]
) -> _After:
    after = _After()
    if not rows:
        return after
    people = {person_of.get(row["profile_id"]) for row in rows}
    theirs = as_json(sorted(profile for profile, person in person_of.items() if person in people))
    since = min(row["decided_at"] for row in rows)
    for row in session.rows("goal_events_of", profiles=theirs, name=campaign.goal.event, since=since):
        after.goals.setdefault(person_of[row["profile_id"]], []).append(row["at"])
    for row in session.rows("visits_of", profiles=theirs, since=since):
        after.visits.setdefault(person_of[row["profile_id"]], []).append(row["at"])
    for row in session.rows("orders_since", profiles=theirs, since=since):
        after.orders.setdefault(person_of[row["profile_id"]], {})[row["order_id"]] = row
    for times in (*after.goals.values(), *after.visits.values()):
        times.sort()
    return after


def _outcome(campaign: Campaign, row: Row, person_of: Mapping[str, str], after: _After) -> Outcome:
    person = person_of.get(row["profile_id"], row["profile_id"])
    start = row["decided_at"]  # also of what quiet hours held back: one window for both groups
    end = start + campaign.goal.within_s * 1000
    orders = [one for one in after.orders.get(person, {}).values() if start < one["at"] <= end]
    revenue: Counter[str] = Counter()
    for one in orders:
        revenue[one["currency"] or ""] += (one["total"] or 0) - one["refunded"]
    return Outcome(
        person_id=person,
        verdict=row["verdict"],
        reason=row["reason"],
        decided_at=row["decided_at"],
        variant=row["variant"],
        store_id=row["store_id"],
        zone_id=row["zone_id"],
        fence_id=row["fence_id"],
        fate=next((fate for fate in _FATES if row[fate] > 0), "stopped"),
        opened=row["opened"] > 0,
        stopped=row["stopped"],
        reached=_any_within(after.goals.get(person, []), start, end),
        visited=_any_within(after.visits.get(person, []), start, end),
        orders=len(orders),
        revenue=revenue,
    )


def _any_within(times: Sequence[int], start: int, end: int) -> bool:
    """Whether any of the sorted times lies in (start, end]."""
    found = bisect_right(times, start)
    return found < len(times) and times[found] <= end


# What would have been --------------------------------------------------------------------------------------


class NoPast(ValueError):
    """Moments of this kind are not kept, so nobody can say what would have been."""


def _fence_moments(session: Session, campaign: Campaign, since: int, until: int) -> "_Seen":
    trigger = campaign.trigger
    if not isinstance(trigger, FenceEntered | FenceDwelt | FenceLeft):
        return
    kind: OccurrenceKind = "fence_left" if isinstance(trigger, FenceLeft) else "fence_entered"
    rows = session.rows(
        "past_fence_visits", fence_id=trigger.fence_id, since=since - DAY_MS, until=until, limit=MOST_MOMENTS
    )
    around = fences.fence(session, trigger.fence_id)
    for row in rows:
        at = row["left_at"] if kind == "fence_left" else row["entered_at"]
        if at is not None:
            seen = Occurrence(
                kind,
                row["profile_id"],
                row["subject"],
                at,
                at,
                store_id=around.store_id if around else None,
                fence_id=row["fence_id"],
                confidence=row["confidence"],
            )
            yield seen, row["left_at"]


def rehearsed(session: Session, campaign: Campaign, since: int, now: int) -> list[Played]:
    """What the campaign would have decided from `since` until `now`. Raises NoPast."""
    moments, shelves = past_moments(session, campaign, since, now), load_shelves(session)
    return rehearse(
        campaign, moments, lambda moment: _facts_then(session, campaign, moment, shelves, (since, now))
    )


def past_moments(session: Session, campaign: Campaign, since: int, until: int) -> list[PastMoment]:
    """When the trigger would have made candidates within a span of time. Raises NoPast."""
    reader = _READERS.get(type(campaign.trigger))
    if reader is None:
        raise NoPast("who approached a geofence is not kept; only a live campaign sees it")
    categories = {(*place,): held for place, held in zone_categories(session).items()}
    moments = []
    for seen, left_at in reader(session, campaign, since, until):
        wait = wait_for(campaign, seen, categories.get((seen.store_id or "", seen.zone_id or ""), ()))
        if wait is None:
            continue
        due_at = seen.at + wait.for_ms
        if wait.stays and left_at is not None and left_at < due_at:
            continue
        place = (seen.store_id or "", seen.zone_id or "", seen.fence_id or "")
        known_at = seen.received_at
        moments.append(PastMoment(seen.profile_id, due_at, place, seen.confidence, seen.at, known_at))
    return [moment for moment in moments if since <= moment.due_at < until]


_Seen = Iterator[tuple[Occurrence, int | None]]


def _zone_moments(session: Session, campaign: Campaign, since: int, until: int) -> _Seen:
    kind: OccurrenceKind = "zone_left" if isinstance(campaign.trigger, ZoneLeft) else "zone_entered"
    for row in session.rows("past_zone_visits", since=since - DAY_MS, until=until, limit=MOST_MOMENTS):
        at = row["left_at"] if kind == "zone_left" else row["entered_at"]
        if at is not None:
            yield _seen(kind, row, at, zone_id=row["zone_id"], confidence=row["confidence"]), row["left_at"]


def _store_moments(session: Session, campaign: Campaign, since: int, until: int) -> _Seen:
    kind: OccurrenceKind = "store_left" if isinstance(campaign.trigger, StoreLeft) else "store_entered"
    known_after_ms = AWAY_MS if kind == "store_left" else 0
    for row in session.rows("past_visits", since=since - DAY_MS, until=until, limit=MOST_MOMENTS):
        at = row["left_at"] if kind == "store_left" else row["entered_at"]
        if at is not None:
            seen = _seen(kind, row, at)
            yield msgspec.structs.replace(seen, received_at=at + known_after_ms), row["left_at"]


def _event_moments(session: Session, campaign: Campaign, since: int, until: int) -> _Seen:
    trigger = campaign.trigger
    if not isinstance(trigger, EventHappened):
        return
    rows = session.rows(
        "past_events",
        name=trigger.name,
        kind=trigger.kind,
        since=since - trigger.wait_s * 1000,
        until=until,
        limit=MOST_MOMENTS,
    )
    for row in rows:
        properties = msgspec.json.decode(row["properties"]) if row["properties"] else {}
        at, known_at = row["occurred_at"], row["received_at"]
        event = AppEvent(trigger.kind, "past", "past", at, known_at, name=trigger.name, properties=properties)
        yield Occurrence("event", row["profile_id"], "past", at, known_at, event=event), None


def _segment_moments(session: Session, campaign: Campaign, since: int, until: int) -> _Seen:
    trigger = campaign.trigger
    if not isinstance(trigger, SegmentEntered):
        return
    since -= trigger.wait_s * 1000
    rows = session.rows(
        "past_segment_entries", segment_id=trigger.segment_id, since=since, until=until, limit=MOST_MOMENTS
    )
    for row in rows:
        seen = Occurrence(
            "segment_entered",
            row["profile_id"],
            "past",
            row["at"],
            row["at"],
            segment_id=trigger.segment_id,
        )
        yield seen, None


def _seen(kind: OccurrenceKind, row: Row, at: int, **more: Any) -> Occurrence:
    return Occurrence(kind, row["profile_id"], row["subject"], at, at, store_id=row["store_id"], **more)


_READERS = {
    ZoneEntered: _zone_moments,
    ZoneDwelt: _zone_moments,
    ZoneLeft: _zone_moments,
    CategoryDwelt: _zone_moments,
    StoreEntered: _store_moments,
    StoreDwelt: _store_moments,
    StoreLeft: _store_moments,
    FenceEntered: _fence_moments,
    FenceDwelt: _fence_moments,
    FenceLeft: _fence_moments,
    EventHappened: _event_moments,
    SegmentEntered: _segment_moments,
}


def _facts_then(
    session: Session, campaign: Campaign, moment: PastMoment, shelves: Shelves, played: tuple[int, int]
) -> PersonFacts:
    """What the rules would have asked about a person at a moment; see the rehearsal for what is of today.

    What the campaign offered within the time that is `played` (from, until) is left out: it is played anew.
    """
    since, now = played
    person = profiles.resolve(session, "profile_id", moment.profile_id) or moment.profile_id
    zone = zone_of_person(session, person, moment.place[0] or None)
    store, zone_id, fence = moment.place
    waiting = Waiting(
        campaign_id=campaign.campaign_id,
        subject="past",
        begun_at=moment.due_at if moment.begun_at is None else moment.begun_at,
        profile_id=person,
        due_at=moment.due_at,
        stays=False,
        holds="nothing",
        store_id=store or None,
        zone_id=zone_id or None,
        fence_id=fence or None,
    )
    send_at = send_time(campaign, moment.decided_at, zone)
    facts = person_facts(session, campaign, waiting, send_at, zone, now)
    reached_at = facts.goal_reached_at
    known_at = moment.decided_at - 1  # of what is decided with it, only what comes before it counts
    today, this_week = offers_around(
        session, person, send_at, zone, known_at=known_at, but=campaign.campaign_id, since=since
    )
    ahead = ahead_of(session, campaign, waiting, send_at, moment.decided_at)
    beside = [one.send_at for one in ahead if one.decided_at > known_at]
    day, week = day_bounds(send_at, zone), week_bounds(send_at, zone)
    facts = replace(
        facts,
        # What somebody bought after the moment, or what was told of later, could not have stopped the offer.
        goal_reached_at=None if reached_at is None or reached_at > moment.decided_at else reached_at,
        offered=[at for at in facts.offered if at < since],
        offered_here=[at for at in facts.offered_here if at < since],
        sent_today=today + sum(day[0] <= at < day[1] for at in beside),
        sent_this_week=this_week + sum(week[0] <= at < week[1] for at in beside),
        rivals=[one.rival for one in ahead],
    )
    return with_text(session, campaign, facts, waiting, shelves, moment.decided_at)
