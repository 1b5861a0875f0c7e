"""Whether one person belongs to an audience now, and when time alone may change that; pure."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from backend.segments.facts import EventFact, Facts, VisitFact
from backend.segments.model import (
    Agreed,
    AllOf,
    AnyOf,
    Between,
    Condition,
    Did,
    Dwelt,
    Filter,
    HasIdentifier,
    HasRfm,
    HasTrait,
    InSegment,
    IsIn,
    IsNear,
    Not,
    parts_of,
)
from backend.segments.values import changes_on, passes_filter, passes_path, today_of


class Verdict(NamedTuple):
    """The answer; before `changes_at` (unix milliseconds) only news can change it. None: ever."""

    holds: bool
    changes_at: int | None = None


def evaluate(condition: Condition, facts: Facts, now: int) -> Verdict:
    """Asks the tree, and no more of it than decides."""
    return _RULES[type(condition)](condition, facts, now)


def _all(node: AllOf, facts: Facts, now: int) -> Verdict:
    """Where one fails, nothing can change before that one does."""
    changes: list[int] = []
    for child in node.of:
        verdict = evaluate(child, facts, now)
        if not verdict.holds:
            return verdict
        _add(changes, verdict)
    return Verdict(True, min(changes, default=None))


def _any(node: AnyOf, facts: Facts, now: int) -> Verdict:
    """Where one holds, nothing can change before that one does."""
    changes: list[int] = []
    for child in node.of:
        verdict = evaluate(child, facts, now)
        if verdict.holds:
            return verdict
        _add(changes, verdict)
    return Verdict(False, min(changes, default=None))


def _add(changes: list[int], verdict: Verdict) -> None:
    if verdict.changes_at is not None:
        changes.append(verdict.changes_at)


def _not(node: Not, facts: Facts, now: int) -> Verdict:
    holds, changes_at = evaluate(node.of, facts, now)
    return Verdict(not holds, changes_at)


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


def _event(node: Did, facts: Facts, now: int) -> Verdict:
    """A count can only fall by time: at the moment when its newest so-manyth event leaves the window."""
    since = node.since(now)
    enough = node.least if node.at_most is None else node.at_most + 1
    times = _newest_matching(node, facts, since, max(enough, 1))
    count = len(times)
    if count < node.least:
        return Verdict(False)
    too_many = node.at_most is not None and count > node.at_most
    decides = enough if too_many else node.least
    if node.within_s is None or decides == 0:
        return Verdict(not too_many)
    return Verdict(not too_many, times[decides - 1] + node.within_s * 1000)


def _newest_matching(node: Did, facts: Facts, since: int | None, most: int) -> list[int]:
    """When the newest events that match happened, newest first, `most` of them."""
    events: Iterable[EventFact] = facts.events(node.kinds, node.name, since)
    for asked in node.where:
        events = filter(partial(_passes, asked), events)
    return [event.at for event in islice(events, most)]


def _passes(asked: Filter, event: EventFact) -> bool:
    return passes_filter(event.properties, asked)


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
    stays = [visit for visit in facts.visits(node.since(now)) if _counts(node, visit)]
    needed = node.at_least_s * 1000
    window = None if node.within_s is None else node.within_s * 1000
    holds = dwell(stays, now, window) >= needed
    return Verdict(holds, _dwell_turns(stays, now, window, needed, holds))


def _counts(node: Dwelt, visit: VisitFact) -> bool:
    if node.category is not None:
        return node.category in visit.categories
    return visit.store_id == node.store_id and node.zone_id in (None, visit.zone_id)


def dwell(stays: list[VisitFact], at: int, window: int | None) -> int:
    """How long the stays lasted together until a time, within the window before it; milliseconds."""
    since = None if window is None else at - window
    return sum(_overlap(stay, since, at) for stay in stays)


def _overlap(stay: VisitFact, since: int | None, until: int) -> int:
    start = stay.entered_at if since is None else max(stay.entered_at, since)
    end = until if stay.left_at is None else min(stay.left_at, until)
    return max(0, end - start)


def _dwell_turns(
    stays: list[VisitFact], now: int, window: int | None, needed: int, holds: bool
) -> int | None:
    """When the sum crosses what is needed, if whoever is there stays; between corners it is straight."""
    before, had = now, dwell(stays, now, window)
    for corner in _corners(stays, now, window):
        has = dwell(stays, corner, window)
        if (has >= needed) != holds:
            return before + _steps_to_cross(had, has, needed, corner - before)
        before, had = corner, has
    rising = sum(stay.left_at is None for stay in stays) if window is None else 0
    if holds or not rising:
        return None
    return before + -(-(needed - had) // rising)


def _corners(stays: list[VisitFact], now: int, window: int | None) -> Iterator[int]:
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
_RULES: dict[type, _Rule] = {
    AllOf: _all,
    AnyOf: _any,
    Not: _not,
    HasTrait: _trait,
    HasIdentifier: _identifier,
    Agreed: _consent,
    Did: _event,
    IsIn: _in,
    IsNear: _near,
    Dwelt: _dwelt,
    HasRfm: _rfm,
    InSegment: _segment,
}
