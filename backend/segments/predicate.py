"""Who belongs to an audience now, and when time alone may change that; pure.

A condition is asked of many people at once: what nobody of them did costs nothing, and each question goes to
those alone whom it decides about.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple, TypeAlias

from backend.catalog.shelves import are_related
from backend.segments.dependencies import is_restless
from backend.segments.facts import Crowd, EventFact, Facts, VisitFact
from backend.segments.model import (
    Agreed,
    AllOf,
    AnyOf,
    Between,
    Condition,
    Did,
    Dwelt,
    HasIdentifier,
    HasRfm,
    HasTrait,
    InSegment,
    IsIn,
    IsNear,
    Not,
    nodes_of,
    parts_of,
)
from backend.segments.values import Passes, changes_on, passes_path, passing_all, today_of

_People: TypeAlias = AbstractSet[str]


class Verdict(NamedTuple):
    """The answer; before `changes_at` (unix milliseconds) only news can change it. None: ever."""

    holds: bool
    changes_at: int | None = None


class Answer(NamedTuple):
    """Of people who were asked: who is in; before `changes_at` only news can change somebody's answer."""

    holds: _People
    changes_at: Mapping[str, int]


def evaluate_all(condition: Condition, people: _People, crowd: Crowd, now: int) -> Answer:
    """Asks the tree of people, and of each no more than decides."""
    return _RULES[type(condition)](condition, people, crowd, now)


def evaluate(condition: Condition, facts: Facts, now: int) -> Verdict:
    """Asks one person."""
    holds, changes_at = evaluate_all(condition, {_SOMEBODY}, _Alone(facts), now)
    return Verdict(_SOMEBODY in holds, changes_at.get(_SOMEBODY))


_SOMEBODY = ""


@dataclass(frozen=True, slots=True)
class _Alone:
    """A crowd of one."""

    facts: Facts

    def of(self, _person_id: str) -> Facts:
        return self.facts

    def events(self, kinds: Sequence[str], name: str | None) -> Mapping[str, Sequence[EventFact]]:
        return {_SOMEBODY: list(self.facts.events(kinds, name, None))}


def _all(node: AllOf, people: _People, crowd: Crowd, now: int) -> Answer:
    """Where one fails, nothing can change before that one does."""
    failed, changes_at = set[str](), dict[str, int]()
    undecided, soonest = people, dict[str, int]()
    for child in _easiest_first(node):
        holds, turns = evaluate_all(child, undecided, crowd, now)
        decided = undecided - holds
        _weigh(turns, decided, changes_at, soonest)
        failed |= decided
        undecided = holds
        if not undecided:
            break
    changes_at.update((person, at) for person, at in soonest.items() if person in undecided)
    return Answer(undecided, changes_at)


def _any(node: AnyOf, people: _People, crowd: Crowd, now: int) -> Answer:
    """Where one holds, nothing can change before that one does."""
    members, changes_at = set[str](), dict[str, int]()
    undecided, soonest = people, dict[str, int]()
    for child in _easiest_first(node):
        decided, turns = evaluate_all(child, undecided, crowd, now)
        _weigh(turns, decided, changes_at, soonest)
        members |= decided
        undecided = undecided - decided
        if not undecided:
            break
    changes_at.update((person, at) for person, at in soonest.items() if person in undecided)
    return Answer(members, changes_at)


_COSTS: dict[type, int] = {
    Did: 1,
    HasIdentifier: 2,
    HasTrait: 3,
    HasRfm: 4,
    Agreed: 5,
    IsIn: 6,
    IsNear: 7,
    Dwelt: 8,
}


def _easiest_first(node: AllOf | AnyOf) -> Sequence[Condition]:
    """In the order of what it costs to know, and then what time cannot change: nobody waits for that.

    Events come first, for they are read anyhow: most people are asked because of one.
    """
    return sorted(node.of, key=_dearness)


def _dearness(condition: Condition) -> tuple[int, bool]:
    return max(_COSTS.get(type(one), 0) for one in nodes_of(condition)), is_restless(condition)


def _weigh(
    turns: Mapping[str, int], decided: _People, changes_at: dict[str, int], soonest: dict[str, int]
) -> None:
    """Whoever is decided waits for the part that decided; of the others the soonest turn counts."""
    for person, at in turns.items():
        if person in decided:
            changes_at[person] = at
        else:
            soonest[person] = min(at, soonest.get(person, at))


def _not(node: Not, people: _People, crowd: Crowd, now: int) -> Answer:
    holds, changes_at = evaluate_all(node.of, people, crowd, now)
    return Answer(people - holds, changes_at)


def _event(node: Did, people: _People, crowd: Crowd, now: int) -> Answer:
    """A count can only fall by time: at the moment when its newest so-manyth event leaves the window.

    Nobody needs to be asked who did nothing of the kind.
    """
    happened, span = crowd.events(node.kinds, node.name), (node.within_s or 0) * 1000
    since, passes = now - span if span else -inf, passing_all(node.where) if node.where else None
    least, limit = node.least, None if node.at_most is None else node.at_most + 1
    holds, changes_at = set(people) if least == 0 else set[str](), dict[str, int]()
    for person in people & happened.keys():
        events = happened[person]
        if passes is not None:
            events = _passing(events, passes, since, max(least, limit or 1))
        if limit is not None and len(events) >= limit and (at := events[limit - 1].at) > since:
            holds.discard(person)
        elif least > 0 and len(events) >= least and (at := events[least - 1].at) > since:
            holds.add(person)
        else:
            continue
        if span:
            changes_at[person] = at + span
    return Answer(holds, changes_at)


def _passing(events: Sequence[EventFact], passes: Passes, since: float, enough: int) -> Sequence[EventFact]:
    """The newest events that pass, `enough` of them."""
    found: list[EventFact] = []
    for event in events:
        if event.at <= since:
            break
        if passes(event.properties):
            found.append(event)
            if len(found) == enough:
                break
    return found


def _trait(node: HasTrait, facts: Facts, now: int) -> Verdict:
    value = facts.trait(parts_of(node.name)[0])
    if value is None:
        return Verdict(False)
    holds = passes_path(value, node.name, node.test, today_of(now))
    return Verdict(holds, changes_on(value, node.name, node.test, now))


def _identifier(node: HasIdentifier, facts: Facts, _now: int) -> Verdict:
    known = facts.identifiers(node.kind)
    return Verdict(any(value in known for value in node.one_of) if node.one_of else bool(known))


def _consent(node: Agreed, facts: Facts, _now: int) -> Verdict:
    return Verdict(facts.agrees(node.purpose))


def _in(node: IsIn, facts: Facts, _now: int) -> Verdict:
    if node.zone_id is not None:
        return Verdict((node.store_id, node.zone_id) in facts.zones())
    return Verdict(node.store_id in facts.stores())


def _near(node: IsNear, facts: Facts, _now: int) -> Verdict:
    if node.fence_id is not None:
        return Verdict(any(fence_id == node.fence_id for fence_id, _ in facts.fences()))
    around = any(store_id == node.store_id for _, store_id in facts.fences())
    return Verdict(around or node.store_id in facts.stores())


def _dwelt(node: Dwelt, facts: Facts, now: int) -> Verdict:
    stays = _apart(visit for visit in facts.visits(node.since(now)) if _counts(node, visit))
    needed = node.at_least_s * 1000
    window = None if node.within_s is None else node.within_s * 1000
    holds = _lasted(stays, now, window) >= needed
    return Verdict(holds, _dwell_turns(stays, now, window, needed, holds))


def _counts(node: Dwelt, visit: VisitFact) -> bool:
    if node.category is not None:
        return any(are_related(own, node.category) for own in visit.categories)
    return visit.store_id == node.store_id and node.zone_id in (None, visit.zone_id)


class _Stay(NamedTuple):
    """From when until when, unix milliseconds; `left_at` None while it lasts."""

    entered_at: int
    left_at: int | None


def dwell(visits: Iterable[VisitFact], at: int, window: int | None) -> int:
    """How much time the stays cover until a time, within the window before it; milliseconds."""
    return _lasted(_apart(visits), at, window)


def _apart(visits: Iterable[VisitFact]) -> list[_Stay]:
    """The same time without any of it twice: somebody's tag and phone are in the zone together."""
    stays: list[_Stay] = []
    for visit in sorted(visits, key=lambda visit: visit.entered_at):
        last = stays[-1] if stays else None
        if last is None or (last.left_at is not None and last.left_at < visit.entered_at):
            stays.append(_Stay(visit.entered_at, visit.left_at))
        elif last.left_at is not None:
            left_at = None if visit.left_at is None else max(last.left_at, visit.left_at)
            stays[-1] = _Stay(last.entered_at, left_at)
    return stays


def _lasted(stays: list[_Stay], at: int, window: int | None) -> int:
    since = None if window is None else at - window
    return sum(_overlap(stay, since, at) for stay in stays)


def _overlap(stay: _Stay, since: int | None, until: int) -> int:
    start = stay.entered_at if since is None else max(stay.entered_at, since)
    end = until if stay.left_at is None else min(stay.left_at, until)
    return max(0, end - start)


def _dwell_turns(stays: list[_Stay], now: int, window: int | None, needed: int, holds: bool) -> int | None:
    """When the sum crosses what is needed, if whoever is there stays; between corners it is straight."""
    before, had = now, _lasted(stays, now, window)
    for corner in _corners(stays, now, window):
        has = _lasted(stays, corner, window)
        if (has >= needed) != holds:
            return before + _steps_to_cross(had, has, needed, corner - before)
        before, had = corner, has
    rises = window is None and any(stay.left_at is None for stay in stays)
    return before + needed - had if rises and not holds else None


def _corners(stays: list[_Stay], now: int, window: int | None) -> Iterator[int]:
    """When stays begin or end, or pass out of the window."""
    ends = [end for stay in stays for end in (stay.entered_at, stay.left_at) if end is not None]
    corners = {*ends, *(end + window for end in ends)} if window is not None else set(ends)
    return iter(sorted(corner for corner in corners if corner > now))


def _steps_to_cross(had: int, has: int, needed: int, span: int) -> int:
    """After how many whole milliseconds of a straight line its value is on the other side."""
    if has > had:
        return -(-(needed - had) * span // (has - had))
    return (had - needed) * span // (had - has) + 1


def _rfm(node: HasRfm, facts: Facts, _now: int) -> Verdict:
    scores = facts.rfm()
    if scores is None:
        return Verdict(False)
    named = not node.names or scores.name in node.names
    return Verdict(
        named
        and _within(scores.recency, node.recency)
        and _within(scores.frequency, node.frequency)
        and _within(scores.monetary, node.monetary)
    )


def _within(score: int, wanted: Between) -> bool:
    return wanted.at_least <= score <= wanted.at_most


def _segment(node: InSegment, facts: Facts, _now: int) -> Verdict:
    return Verdict(facts.is_member(node.segment_id))


_Rule: TypeAlias = Callable[[Any, Facts, int], Verdict]
_RuleForAll: TypeAlias = Callable[[Any, _People, Crowd, int], Answer]


def _each(rule: _Rule) -> _RuleForAll:
    """Asks them one by one."""

    def ask(node: Condition, people: _People, crowd: Crowd, now: int) -> Answer:
        holds, changes_at = set[str](), dict[str, int]()
        for person in people:
            verdict = rule(node, crowd.of(person), now)
            if verdict.holds:
                holds.add(person)
            if verdict.changes_at is not None:
                changes_at[person] = verdict.changes_at
        return Answer(holds, changes_at)

    return ask


_RULES: dict[type, _RuleForAll] = {
    AllOf: _all,
    AnyOf: _any,
    Not: _not,
    Did: _event,
    HasTrait: _each(_trait),
    HasIdentifier: _each(_identifier),
    Agreed: _each(_consent),
    IsIn: _each(_in),
    IsNear: _each(_near),
    Dwelt: _each(_dwelt),
    HasRfm: _each(_rfm),
    InSegment: _each(_segment),
}
