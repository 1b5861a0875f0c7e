"""What a segment's answer hangs on, so that an event wakes those segments alone that it may concern."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from backend.occurrences import Occurrence
from backend.segments.model import (
    Agreed,
    AllOf,
    AnyOf,
    Condition,
    DaysAgo,
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
from backend.segments.values import Passes, passing_all
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

    `events` are those that are counted, by kinds, and by name or without one. `since_s` is how far back
    events are asked for, in seconds, `visits_s` the same for stays; None: ever.
    """

    events: frozenset[tuple[tuple[str, ...], str | None]] = frozenset()
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
            events=self.events | other.events,
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
        case Did():
            return Needs(events=frozenset({(node.kinds, node.name)}), since_s=node.within_s)
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


ENTERS, LEAVES = 1, 2
"""What an event may do to somebody; both are bits."""
EITHER = ENTERS | LEAVES


def effects(condition: Condition, upside_down: bool = False) -> Iterator[tuple[Condition, int]]:
    """Every leaf, and what one more event that it counts may do to the answer of the whole."""
    if isinstance(condition, Not):
        yield from effects(condition.of, not upside_down)
    elif isinstance(condition, AllOf | AnyOf):
        for child in condition.of:
            yield from effects(child, upside_down)
    else:
        yield condition, _effect(condition, upside_down)


def _effect(leaf: Condition, upside_down: bool) -> int:
    if not isinstance(leaf, Did) or (leaf.least > 0 and leaf.at_most is not None):
        return EITHER
    return ENTERS if (leaf.at_most is None) != upside_down else LEAVES


@dataclass(frozen=True, slots=True, eq=False)
class Wake:
    """Segments that what happened concerns, each with what that may do to somebody."""

    effects: Mapping[str, int]

    @property
    def may_enter(self) -> bool:
        """Whether somebody may come into one of them."""
        return any(effect & ENTERS for effect in self.effects.values())


@dataclass(slots=True)
class _Counted:
    """Events of a kind and name: whom all of them wake, and whom those alone that pass filters."""

    always: dict[str, int] = field(default_factory=dict)
    filtered: list[tuple[Passes, Wake]] = field(default_factory=list)
    wake: Wake | None = None

    def add(self, segment_id: str, leaf: Did, effect: int) -> None:
        if leaf.where:
            self.filtered.append((passing_all(leaf.where), Wake({segment_id: effect})))
            return
        self.always[segment_id] = self.always.get(segment_id, 0) | effect
        self.wake = Wake(self.always)

    def join(self, other: "_Counted") -> None:
        """The events are counted by all that the others are counted by, too."""
        for segment_id, effect in other.always.items():
            self.always[segment_id] = self.always.get(segment_id, 0) | effect
        self.filtered += other.filtered
        self.wake = Wake(self.always) if self.always else None


@dataclass(slots=True)
class Wakes:
    """Which segments an occurrence may concern, and how; built once for all that are live."""

    _events: dict[tuple[str, str | None], _Counted] = field(default_factory=dict)
    """By kind and name, and by kind alone for events of any other name."""
    _traits: dict[str, Wake] = field(default_factory=dict)
    _purposes: dict[str, Wake] = field(default_factory=dict)
    _identifiers: dict[str, Wake] = field(default_factory=dict)
    _floor: Wake | None = None
    _segments: dict[str, set[str]] = field(default_factory=dict)
    alone: dict[str, Wake] = field(default_factory=dict)
    """By segment: it has to be asked, whatever happened."""
    of_roots: frozenset[str] = frozenset()
    """Those that ask for what belongs to a person's root alone, the scores."""

    @classmethod
    def of(cls, conditions: Mapping[str, Condition]) -> "Wakes":
        """By segment id."""
        wakes = cls(alone={segment_id: Wake({segment_id: EITHER}) for segment_id in conditions})
        for segment_id, condition in conditions.items():
            for leaf, effect in effects(condition):
                wakes._add(segment_id, leaf, effect)
        for (kind, name), counted in wakes._events.items():
            if name is not None and (kind, None) in wakes._events:
                counted.join(wakes._events[kind, None])
        return wakes

    def _add(self, segment_id: str, leaf: Condition, effect: int) -> None:
        match leaf:
            case Did():
                for kind in leaf.kinds:
                    self._events.setdefault((kind, leaf.name), _Counted()).add(segment_id, leaf, effect)
            case HasTrait():
                name = parts_of(leaf.name)[0]
                self._traits[name] = _also(self._traits.get(name), segment_id)
            case Agreed():
                self._purposes[leaf.purpose] = _also(self._purposes.get(leaf.purpose), segment_id)
            case HasRfm():
                self.of_roots |= {segment_id}
            case HasIdentifier():
                self._identifiers[leaf.kind] = _also(self._identifiers.get(leaf.kind), segment_id)
            case IsIn() | IsNear() | Dwelt():
                self._floor = _also(self._floor, segment_id)
            case InSegment():
                self._segments.setdefault(leaf.segment_id, set()).add(segment_id)
            case _:
                pass

    def dependents(self, segment_id: str) -> frozenset[str]:
        """The segments that ask whether somebody is in this one."""
        return frozenset(self._segments.get(segment_id, ()))

    def naming(self, kinds: Iterable[str]) -> frozenset[str]:
        """The segments that ask for identifiers of some kinds."""
        return frozenset(key for wake in _those(self._identifiers, kinds) for key in wake.effects)

    def woken_by(self, occurrence: Occurrence) -> Iterable[Wake]:
        """The segments whose answer for the person may be another now, and how; perhaps some twice."""
        event = occurrence.event
        if event is None:
            return (self._floor,) if self._floor is not None and occurrence.kind in _PLACES else ()
        woken = self._counting(event)
        if event.kind == "identify" or event.consent:
            woken += self._stated_in(event)
        return woken

    def _counting(self, event: AppEvent) -> list[Wake]:
        """Those that count such events; the filters find here what they will find when it is read again."""
        counted = self._events.get((event.kind, event.name)) or self._events.get((event.kind, None))
        if counted is None:
            return []
        woken = [counted.wake] if counted.wake is not None else []
        if counted.filtered:
            woken += [wake for passes, wake in counted.filtered if passes(event.properties)]
        return woken

    def _stated_in(self, event: AppEvent) -> Iterator[Wake]:
        if event.kind == "identify":
            yield from self._identifiers.values()
            yield from _those(self._traits, event.traits)
        yield from _those(self._purposes, event.consent)


def _also(wake: Wake | None, segment_id: str) -> Wake:
    """With one segment more."""
    return Wake({**(wake.effects if wake is not None else {}), segment_id: EITHER})


def _those(wakes: Mapping[str, Wake], names: Iterable[str]) -> Iterator[Wake]:
    return (wakes[name] for name in names if name in wakes) if wakes else iter(())
