"""What an occurrence means for a campaign: a wait begins, a stay goes on, somebody is gone. Pure.

Two kinds of waiting: a stay needs the person to be still there when it is due, and evidence of that; a wait
by the clock needs nothing but time. Both are rows, so that they outlive the process.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from backend.campaigns.model import (
    Campaign,
    CategoryDwelt,
    EventHappened,
    FenceApproached,
    FenceDwelt,
    FenceEntered,
    FenceLeft,
    SegmentEntered,
    StoreDwelt,
    StoreEntered,
    StoreLeft,
    Trigger,
    ZoneDwelt,
    ZoneEntered,
    ZoneLeft,
)
from backend.catalog.shelves import are_related
from backend.occurrences import Occurrence, OccurrenceKind
from backend.segments.values import passes_filter

Holds: TypeAlias = Literal["zone", "store", "fence", "nothing"]
"""Where the person must still be when the push leaves."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A candidate in the making: due after `for_ms`; with `stays` only if the person stays until then."""

    for_ms: int
    stays: bool
    holds: Holds


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a trigger reads occurrences."""

    begins: OccurrenceKind
    holds: Holds
    matches: Callable[[Any, Occurrence, Collection[str]], bool]


GONE: Mapping[OccurrenceKind, Holds] = {
    "zone_left": "zone",
    "zone_unknown": "zone",
    "store_left": "store",
    "fence_left": "fence",
}
"""Occurrences that end stays, and of which kind of place."""

STAYED: Mapping[OccurrenceKind, Holds] = {"zone_stayed": "zone", "fence_stayed": "fence"}
"""Evidence of a stay. Whoever is in a zone is also in its store."""


def wait_for(campaign: Campaign, occurrence: Occurrence, categories: Collection[str]) -> Wait | None:
    """What an occurrence begins for a campaign; None if nothing. `categories` are those of its zone."""
    trigger = campaign.trigger
    rule = _RULES[type(trigger)]
    if occurrence.kind != rule.begins or not occurrence.profile_id:
        return None
    if not rule.matches(trigger, occurrence, categories):
        return None
    stay_s, wait_s = getattr(trigger, "dwell_s", None), getattr(trigger, "wait_s", 0)
    if stay_s is not None:
        return Wait(round(stay_s * 1000), stays=True, holds=rule.holds)
    return Wait(wait_s * 1000, stays=False, holds=rule.holds)


def begins_with(trigger: Trigger) -> OccurrenceKind:
    """The kind of occurrence that a trigger looks for, so that others need not be shown to it."""
    return _RULES[type(trigger)].begins


def holds_of(trigger: Trigger) -> Holds:
    """Where the person must still be when the push leaves."""
    return _RULES[type(trigger)].holds


def _in_zone(
    trigger: ZoneEntered | ZoneDwelt | ZoneLeft, seen: Occurrence, _categories: Collection[str]
) -> bool:
    return (seen.store_id, seen.zone_id) == (trigger.store_id, trigger.zone_id)


def _in_category(trigger: CategoryDwelt, seen: Occurrence, categories: Collection[str]) -> bool:
    if trigger.store_id not in (None, seen.store_id):
        return False
    if not trigger.categories:
        return bool(categories)
    return any(are_related(own, wanted) for wanted in trigger.categories for own in categories)


def _in_store(
    trigger: StoreEntered | StoreDwelt | StoreLeft, seen: Occurrence, _categories: Collection[str]
) -> bool:
    return trigger.store_id in (None, seen.store_id)


def _in_fence(
    trigger: FenceEntered | FenceDwelt | FenceLeft | FenceApproached,
    seen: Occurrence,
    _categories: Collection[str],
) -> bool:
    return seen.fence_id == trigger.fence_id


def _event(trigger: EventHappened, seen: Occurrence, _categories: Collection[str]) -> bool:
    event = seen.event
    if event is None or (event.kind, event.name) != (trigger.kind, trigger.name):
        return False
    return all(passes_filter(event.properties, asked) for asked in trigger.where)


def _segment(trigger: SegmentEntered, seen: Occurrence, _categories: Collection[str]) -> bool:
    return seen.segment_id == trigger.segment_id


_RULES: dict[type, _Rule] = {
    ZoneEntered: _Rule("zone_entered", "zone", _in_zone),
    ZoneDwelt: _Rule("zone_entered", "zone", _in_zone),
    ZoneLeft: _Rule("zone_left", "nothing", _in_zone),
    CategoryDwelt: _Rule("zone_entered", "zone", _in_category),
    StoreEntered: _Rule("store_entered", "store", _in_store),
    StoreDwelt: _Rule("store_entered", "store", _in_store),
    StoreLeft: _Rule("store_left", "nothing", _in_store),
    FenceEntered: _Rule("fence_entered", "fence", _in_fence),
    FenceDwelt: _Rule("fence_entered", "fence", _in_fence),
    FenceLeft: _Rule("fence_left", "nothing", _in_fence),
    FenceApproached: _Rule("fence_approached", "nothing", _in_fence),
    EventHappened: _Rule("event", "nothing", _event),
    SegmentEntered: _Rule("segment_entered", "nothing", _segment),
}
