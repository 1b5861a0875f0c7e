"""What a segment's answer hangs on, so that an event wakes those segments alone that it may concern."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.occurrences import Occurrence
from backend.segments.model import (
    Agreed,
    Condition,
    DaysAgo,
    Did,
    Dwelt,
    Filter,
    HasIdentifier,
    HasRfm,
    HasTrait,
    InSegment,
    IsIn,
    IsNear,
    nodes_of,
    parts_of,
)
from backend.segments.values import passes_filter
from sdk_bridge.wire.app_events import AppEvent

_PLACES = frozenset(
    {
        *("zone_entered", "zone_left", "zone_unknown"),
        *("store_entered", "store_left", "fence_entered", "fence_left"),
    }
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be read to answer conditions.

    `named` and `nameless` are the events asked for: by name, and by kind alone. `since_s` is how far back
    events are asked for, in seconds, `visits_s` the same for stays; None: ever.
    """

    named: frozenset[str] = frozenset()
    nameless: frozenset[str] = frozenset()
    since_s: int | None = 0
    traits: frozenset[str] = frozenset()
    purposes: frozenset[str] = frozenset()
    identifiers: frozenset[str] = frozenset()
    visits_s: int | None = 0
    categories: frozenset[str] = frozenset()
    near_stores: frozenset[str] = frozenset()
    rfm: bool = False
    segments: frozenset[str] = frozenset()

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            named=self.named | other.named,
            nameless=self.nameless | other.nameless,
            since_s=_longer(self.since_s, other.since_s),
            traits=self.traits | other.traits,
            purposes=self.purposes | other.purposes,
            identifiers=self.identifiers | other.identifiers,
            visits_s=_longer(self.visits_s, other.visits_s),
            categories=self.categories | other.categories,
            near_stores=self.near_stores | other.near_stores,
            rfm=self.rfm or other.rfm,
            segments=self.segments | other.segments,
        )


def needs_of(condition: Condition) -> Needs:
    """What has to be read to answer a condition."""
    needs = Needs()
    for node in nodes_of(condition):
        needs |= _needs_of_node(node)
    return needs


def _needs_of_node(node: Condition) -> Needs:  # noqa: PLR0911 - a table in the form of a match
    match node:
        case Did(name=None):
            return Needs(nameless=frozenset(node.kinds), since_s=node.within_s)
        case Did(name=str() as name):
            return Needs(named=frozenset({name}), since_s=node.within_s)
        case HasTrait():
            return Needs(traits=frozenset({parts_of(node.name)[0]}))
        case Agreed():
            return Needs(purposes=frozenset({node.purpose}))
        case HasIdentifier():
            return Needs(identifiers=frozenset({node.kind}))
        case Dwelt():
            categories = frozenset({node.category} if node.category is not None else ())
            return Needs(visits_s=node.within_s, categories=categories)
        case IsNear(store_id=str() as store_id):
            return Needs(near_stores=frozenset({store_id}))
        case HasRfm():
            return Needs(rfm=True)
        case InSegment():
            return Needs(segments=frozenset({node.segment_id}))
        case _:
            return Needs()


def _longer(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)


def is_restless(condition: Condition) -> bool:
    """Whether time alone can change the answer."""
    return any(_turns_with_time(node) for node in nodes_of(condition))


def _turns_with_time(node: Condition) -> bool:
    if isinstance(node, Did):
        return node.within_s is not None
    return isinstance(node, Dwelt) or (isinstance(node, HasTrait) and isinstance(node.test, DaysAgo))


@dataclass(slots=True)
class Wakes:
    """Which segments an occurrence may concern; built once for all that are live."""

    _events: dict[tuple[str, str | None], dict[str, list[tuple[Filter, ...]]]] = field(default_factory=dict)
    _traits: dict[str, set[str]] = field(default_factory=dict)
    _purposes: dict[str, set[str]] = field(default_factory=dict)
    _identifiers: set[str] = field(default_factory=set)
    _floor: set[str] = field(default_factory=set)
    _segments: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, conditions: Mapping[str, Condition]) -> "Wakes":
        """By segment id."""
        wakes = cls()
        for segment_id, condition in conditions.items():
            for node in nodes_of(condition):
                wakes._add(segment_id, node)
        return wakes

    def _add(self, segment_id: str, node: Condition) -> None:
        match node:
            case Did():
                for kind in node.kinds:
                    asked = self._events.setdefault((kind, node.name), {})
                    asked.setdefault(segment_id, []).append(node.where)
            case HasTrait():
                self._traits.setdefault(parts_of(node.name)[0], set()).add(segment_id)
            case Agreed():
                self._purposes.setdefault(node.purpose, set()).add(segment_id)
            case HasIdentifier():
                self._identifiers.add(segment_id)
            case IsIn() | IsNear() | Dwelt():
                self._floor.add(segment_id)
            case InSegment():
                self._segments.setdefault(node.segment_id, set()).add(segment_id)
            case _:
                pass

    def dependents(self, segment_id: str) -> frozenset[str]:
        """The segments that ask whether somebody is in this one."""
        return frozenset(self._segments.get(segment_id, ()))

    def woken_by(self, occurrence: Occurrence) -> Iterator[str]:
        """Segments whose answer for the occurrence's person may be another now; perhaps some twice."""
        if occurrence.event is not None:
            yield from self._woken_by_event(occurrence.event)
        elif occurrence.kind in _PLACES:
            yield from self._floor

    def _woken_by_event(self, event: AppEvent) -> Iterator[str]:
        for key in ((event.kind, event.name), (event.kind, None)):
            for segment_id, asked in self._events.get(key, {}).items():
                if any(_passes_all(event.properties, where) for where in asked):
                    yield segment_id
            if event.name is None:
                break
        if event.kind == "identify":
            yield from self._identifiers
            for name in event.traits if self._traits else ():
                yield from self._traits.get(name, ())
        for purpose in event.consent:
            yield from self._purposes.get(purpose, ())


def _passes_all(properties: Mapping[str, Any], where: tuple[Filter, ...]) -> bool:
    """The same as the fold will find when it reads the event again."""
    return all(passes_filter(properties, asked) for asked in where)
