"""Segments in the fold: whom a transaction's occurrences, due timers and computing move in or out.

Each person is asked once, at the end of the transaction, and only by the segments that what happened may
concern. A new definition is computed for everybody by SQL, some people in each transaction; what is computed
and what happens meanwhile take turns on one thread, so neither misses the other's.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Literal

from backend.occurrences import Occurrence
from backend.profiles.arrivals import Arrival, Known, nobody_known
from backend.profiles.trees import Trees
from backend.segments.dependencies import EITHER, LEAVES, Needs, Wake, Wakes, is_restless, needs_of
from backend.segments.facts import NOTHING_KNOWN
from backend.segments.memory import Memory
from backend.segments.model import LONGEST_S, Condition, in_order, references
from backend.segments.predicate import Answer, evaluate, evaluate_all
from backend.storage import segments as rows
from backend.storage.ownership import EVERYTHING, Holding
from backend.storage.segment_facts import PeopleFacts
from backend.storage.segments import Change, Membership, StoredSegment
from backend.storage.session import Session
from sdk_bridge.wire.app_events import AppEvent

TIMERS_AT_ONCE = 500  # at midnight everybody's may be due; gateways and phones must not wait for them all
PORTION_S = 0.006  # with its commit well below the 20 ms that bulk work may hold the writer for
FIRST_PORTION = 50
LARGEST_PORTION = 2_000
HEAVY = 2_000  # events; to read a robot's hundred thousand with each that it adds would hold up everybody
HEAVIES = 1_000


@dataclass(slots=True)
class Audiences:
    """The segments that the fold keeps up to date; each after those that it asks for."""

    segments: dict[str, StoredSegment]
    deleting: list[str]
    wakes: Wakes
    needs: dict[str, Needs]
    """Of each segment, with those that are asked because of it."""
    restless: frozenset[str]
    of_strangers: frozenset[str]
    """Those in which is whoever nothing is known of."""
    next_due: int | None
    """When the next timer is due; never later than in the database."""
    portion: int = FIRST_PORTION
    """How many people are computed at once; follows how long the last ones took."""
    rests: dict[str, int] = field(default_factory=dict)
    """Until when people are not asked again who have done so much that it takes long; unix milliseconds."""

    @classmethod
    def read(cls, session: Session) -> "Audiences":
        """Also has those computed again whose zones and categories were set up otherwise."""
        for found in rows.segments(session).values():
            basis = rows.basis_of(session, found.condition) if found.state != "deleting" else found.basis
            if basis != found.basis:
                rows.start_computing(session, found.segment_id, basis)
        stored = rows.segments(session)
        conditions = {key: found.condition for key, found in stored.items() if found.state != "deleting"}
        order = in_order({key: references(condition) for key, condition in conditions.items()})
        wakes = Wakes.of(conditions)
        return cls(
            segments={key: stored[key] for key in order},
            deleting=[key for key, found in stored.items() if found.state == "deleting"],
            wakes=wakes,
            needs=_needs(conditions, order, wakes),
            restless=frozenset(key for key, condition in conditions.items() if is_restless(condition)),
            of_strangers=frozenset(
                key for key, condition in conditions.items() if evaluate(condition, NOTHING_KNOWN, 0).holds
            ),
            next_due=rows.next_due(session),
        )

    @property
    def computing(self) -> StoredSegment | None:
        """The first that is not computed for everybody yet."""
        return next((found for found in self.segments.values() if found.state == "computing"), None)

    def asking_of(self, arrival: Arrival) -> frozenset[str]:
        """The segments that an arrival concerns, whatever the person did.

        Where not everybody was asked yet, it is not known what a person brings.
        """
        named = self.wakes.naming(arrival.kinds)
        if arrival.before is None:
            return named | self.of_strangers
        if arrival.before == arrival.person_id:
            return named
        unfinished = (key for key, found in self.segments.items() if found.state == "computing")
        return named.union(self.wakes.of_roots, unfinished)

    def reach(self, segment_id: str) -> int:
        """How far back events are asked for, in seconds."""
        since_s = self.needs[segment_id].since_s
        return LONGEST_S + 1 if since_s is None else since_s


@dataclass(slots=True)
class _Noted:
    """Profiles that something happened to, by what it woke; about some every segment asks."""

    woken: defaultdict[Wake, set[str]] = field(default_factory=lambda: defaultdict(set))
    by_all: set[str] = field(default_factory=set)
    arrivals: list[Arrival] = field(default_factory=list)
    told: list[tuple[str, AppEvent]] = field(default_factory=list)
    """What people did in this transaction."""

    def entering(self) -> set[str]:
        """Those who may have come into something by what they did."""
        return set[str]().union(*(woken for wake, woken in self.woken.items() if wake.may_enter))

    def profiles(self) -> set[str]:
        return self.by_all.union(*self.woken.values())


@dataclass(slots=True)
class _Found:
    """What is to be written once everybody has been asked."""

    entered: list[tuple[Membership, int]] = field(default_factory=list)
    gone: list[tuple[str, str]] = field(default_factory=list)
    changes: list[tuple[Change, int]] = field(default_factory=list)
    """Each with the time since when they are, or were, in."""
    timers: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(slots=True)
class _Held:
    """What people are in, each since when.

    `rooted`: (person, segment) where the row is the root's own. `merged`: people of whom a merged profile had
    a row.
    """

    members: dict[str, set[str]]
    since: dict[tuple[str, str], int] = field(default_factory=dict)
    rooted: set[tuple[str, str]] = field(default_factory=set)
    merged: set[str] = field(default_factory=set)

    def of(self, segment_id: str, people: Iterable[str]) -> set[str]:
        """Those of them who are in a segment."""
        return {person for person in people if segment_id in self.members[person]}

    def open_to(self, segment_id: str, effect: int, people: set[str]) -> set[str]:
        """Those of them whose answer may change. What can only bring somebody in is no question for whoever
        is in already; nor is when they will leave: that is no earlier than was known before.
        """
        if effect == EITHER:
            return people
        inside = self.of(segment_id, people)
        return inside if effect == LEAVES else people - inside


@dataclass(slots=True)
class _People:
    """People about to be asked: whom each segment asks, what they are in, what is waited for."""

    trees: Trees
    asked: dict[str, set[str]]
    held: _Held
    timers: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class _Group:
    """People of whom is known what happened since the same moment."""

    people: set[str]
    facts: PeopleFacts


class AudiencePart:
    """What the occurrences of one transaction mean for segments. `more`: the rest waits for the next one.

    `computed`: a new definition has been computed for everybody.
    """

    def __init__(
        self,
        session: Session,
        audiences: Audiences,
        stopwatch: Callable[[], float] = time.perf_counter,
        holding: Holding = EVERYTHING,
    ) -> None:
        self._session = session
        self._known: Known = nobody_known
        self._memory = Memory()
        self._holding = holding
        self._audiences = audiences
        self._stopwatch = stopwatch
        self._noted = _Noted()
        self._later: dict[tuple[str, str], int] = {}
        self.more = False
        self.computed = False

    def happened(self, occurrence: Occurrence) -> None:
        """Notes whom to ask."""
        person_id, audiences, noted = occurrence.profile_id, self._audiences, self._noted
        if not person_id or occurrence.segment_id is not None or not audiences.segments:
            return
        if occurrence.event is not None:
            noted.told.append((person_id, occurrence.event))
        rests_until = audiences.rests.get(person_id, 0) if audiences.rests else 0
        for wake in audiences.wakes.woken_by(occurrence):
            if rests_until > occurrence.received_at:
                self._later.update(((person_id, segment_id), rests_until) for segment_id in wake.effects)
            else:
                noted.woken[wake].add(person_id)

    def disturbed(self, profiles: Iterable[str]) -> None:
        """These profiles are of another person than before: every segment asks about them."""
        self._noted.by_all.update(profiles)

    def arrived(self, arrivals: Iterable[Arrival], known: Known, memory: Memory) -> None:
        """These people are new, or more than before: the segments that it concerns ask about them.

        `known`: profiles that need not be read, and `memory`: people.
        """
        self._noted.arrivals.extend(arrivals)
        self._known, self._memory = known, memory

    def settle(self, now: int) -> Iterator[Occurrence]:
        """Asks everybody whom anything happened to. `now`: everything until then is folded."""
        audiences = self._audiences
        if audiences.segments or audiences.deleting:
            if self._holding.leads:
                yield from self._settle_everybody(now)
            else:
                yield from self._ask_noted(now)
            self._wait_for(self._later)

    def _settle_everybody(self, now: int) -> Iterator[Occurrence]:
        """And what is one process's to do for all: timers, new definitions, those that are no more."""
        audiences = self._audiences
        if not self._holding.whole:
            audiences.next_due = rows.next_due(self._session)  # others set timers, too
        self._take_due(now)
        yield from self._ask_noted(now)
        yield from self._compute(now)
        yield from self._ask_noted(now)  # those who ask for the segment that was computed
        self._delete()
        self.more = self.more or audiences.computing is not None or bool(audiences.deleting)

    def _take_due(self, now: int) -> None:
        audiences = self._audiences
        if audiences.next_due is None or audiences.next_due > now:
            return
        due = rows.take_due(self._session, now, TIMERS_AT_ONCE)
        for profile_id, segment_id in due:
            if segment_id == rows.EVERY:
                self.disturbed([profile_id])
            elif segment_id in audiences.segments:
                self._noted.woken[audiences.wakes.alone[segment_id]].add(profile_id)
        self.more = len(due) == TIMERS_AT_ONCE
        audiences.next_due = rows.next_due(self._session)

    # Asking people by the predicate -----------------------------------------------------------------------

    def _ask_noted(self, now: int) -> list[Occurrence]:
        noted, self._noted = self._noted, _Noted()
        self._memory.forget(noted.by_all)
        if not self._audiences.segments or not (noted.woken or noted.by_all or noted.arrivals):
            self._memory.histories.tell(noted.told, (), self._known)
            return []
        people, found = self._people(noted), _Found()
        groups = self._groups(people, now)
        for segment in self._audiences.segments.values():
            for group in groups:
                self._ask_all(segment, people, group, found, now)
        self._bring(people.held, found)
        for group in groups:
            self._let_rest(group.facts, now)
            self._memory.histories.keep(group.facts.read, group.facts.needs, now)
        self._memory.keep_memberships(*_rows_after(people))
        return self._write(found)

    def _groups(self, people: _People, now: int) -> list[_Group]:
        """People with what is known of them, read once for all segments that may ask about them.

        People are read together with those whose segments look equally far back. Nobody's events are read
        from longer ago than one of their own segments asks for, for some have done very much.
        """
        audiences, by_reach, placed = self._audiences, dict[int, set[str]](), set[str]()
        for segment_id in sorted(people.asked, key=audiences.reach, reverse=True):
            others = people.asked[segment_id] - placed
            by_reach.setdefault(audiences.reach(segment_id), set()).update(others)
            placed |= others
        return [self._group(people, together, now) for together in by_reach.values() if together]

    def _group(self, people: _People, together: set[str], now: int) -> _Group:
        asking = [key for key, asked in people.asked.items() if not together.isdisjoint(asked)]
        needs = reduce(or_, (self._audiences.needs[segment_id] for segment_id in asking))
        profiles = {person: tree for person, tree in people.trees.profiles.items() if person in together}
        trees = Trees(profiles, people.trees.windows)
        members, histories = people.held.members, self._memory.histories.known(together, needs, now)
        facts = PeopleFacts(self._session, trees, needs, now, members, histories, self._known)
        return _Group(together, facts)

    def _people(self, noted: _Noted) -> _People:
        """The people behind the profiles, and which segments have to ask about them."""
        audiences, session = self._audiences, self._session
        asking, passed_by = self._asking_of_arrivals(noted)
        arrivals = [arrival for arrival, _ in asking]
        self._memory.histories.tell(noted.told, arrivals, self._known)
        profiles = noted.profiles() - passed_by
        trees = rows.whole_trees(session, profiles, self._known, arrivals, self._memory.trees)
        person_of = {profile: person for person, tree in trees.profiles.items() for profile in tree}
        begun = {one for arrival in arrivals for one in arrival.begun}
        held = self._held(trees.profiles, person_of, begun)
        arrived = {arrival.person_id for arrival in arrivals}
        by_all = (held.merged - arrived) | _known(person_of, noted.by_all)
        asked = {segment_id: by_all.copy() for segment_id in audiences.segments}
        for arrival, segment_ids in asking:
            for segment_id in segment_ids:
                asked[segment_id].add(arrival.person_id)
        for wake, woken in noted.woken.items():
            people = _known(person_of, woken)
            for segment_id, effect in wake.effects.items():
                asked[segment_id] |= held.open_to(segment_id, effect, people)
        waiting = set().union(*asked.values()) - begun if audiences.restless else ()
        timers = rows.timers_of(session, waiting) if waiting else {}
        return _People(trees, asked, held, timers)

    def _asking_of_arrivals(self, noted: _Noted) -> tuple[list[tuple[Arrival, frozenset[str]]], set[str]]:
        """The arrivals, each with the segments that it concerns; and newcomers' profiles that no segment asks
        about: they are in none, and whatever they did brought them into none.
        """
        asking, passed_by, entering = list[tuple[Arrival, frozenset[str]]](), set[str](), noted.entering()
        of_kind: dict[object, frozenset[str]] = {}
        for arrival in noted.arrivals:
            segment_ids = of_kind.get(arrival.kind)
            if segment_ids is None:
                segment_ids = of_kind[arrival.kind] = self._audiences.asking_of(arrival)
            if arrival.before is None and not segment_ids and entering.isdisjoint(arrival.profiles):
                passed_by.update(arrival.profiles)
            else:
                asking.append((arrival, segment_ids))
        return asking, passed_by

    def _held(
        self, trees: Mapping[str, Sequence[str]], person_of: Mapping[str, str], begun: AbstractSet[str]
    ) -> _Held:
        """What people are in; a profile that was merged gives its memberships to its person."""
        held, stale = _Held({person: set() for person in trees}), list[tuple[str, str]]()
        before = person_of.keys() - begun
        for profile_id, segment_id, since in self._memberships(before):
            person = person_of[profile_id]
            key = (person, segment_id)
            held.members[person].add(segment_id)
            held.since[key] = min(since, held.since.get(key, since))
            if profile_id == person:
                held.rooted.add(key)
            else:
                held.merged.add(person)
                stale.append((profile_id, segment_id))
        rows.end_members(self._session, stale)
        return held

    def _memberships(self, profiles: AbstractSet[str]) -> Iterator[Membership]:
        """What profiles are in by rows of their own."""
        known = self._memory.memberships
        unread = [profile_id for profile_id in profiles if profile_id not in known]
        for profile_id in profiles & known.keys():
            for segment_id, since in known[profile_id].items():
                yield Membership(profile_id, segment_id, since)
        if unread:
            yield from rows.memberships(self._session, unread)

    def _ask_all(
        self, segment: StoredSegment, people: _People, group: _Group, found: _Found, now: int
    ) -> None:
        """One segment, and all of a group that it concerns."""
        concerned = people.asked[segment.segment_id] & group.people
        if concerned:
            answer = evaluate_all(segment.condition, concerned, group.facts, now)
            self._judge(segment, concerned, answer, people, found, now)

    def _let_rest(self, facts: PeopleFacts, now: int) -> None:
        """A millisecond for each event: so even the heaviest take half a hundredth of the time."""
        rests = self._audiences.rests
        rests.update((person_id, now + events) for person_id, events in facts.who_did_more(than=HEAVY))
        if len(rests) > HEAVIES:
            self._audiences.rests = {person_id: until for person_id, until in rests.items() if until > now}

    def _judge(
        self,
        segment: StoredSegment,
        concerned: AbstractSet[str],
        answer: Answer,
        people: _People,
        found: _Found,
        now: int,
    ) -> None:
        segment_id, held = segment.segment_id, people.held
        was = held.of(segment_id, concerned)
        entered, left = sorted(answer.holds - was), sorted(was - answer.holds)
        for person_id in entered:
            held.since[person_id, segment_id] = now
            held.members[person_id].add(segment_id)
        for person_id in left:
            held.members[person_id].discard(segment_id)
        for person_id in entered:
            if person_id not in held.merged:
                found.entered.append((Membership(person_id, segment_id, now), segment.version))
        found.gone += [key for person_id in left if (key := (person_id, segment_id)) in held.rooted]
        found.changes += _changes(segment, entered, left, held.since, now)
        for dependent in self._audiences.wakes.dependents(segment_id) if entered or left else ():
            people.asked[dependent].update(entered, left)
        for person_id, at in answer.changes_at.items():
            key = (person_id, segment_id)
            if at < people.timers.get(key, at + 1):
                found.timers[key] = at

    def _bring(self, held: _Held, found: _Found) -> None:
        """What people are in whose merged profiles were in something is the person's own now."""
        for person_id in sorted(held.merged):
            for segment_id in sorted(held.members[person_id]):
                key, segment = (person_id, segment_id), self._audiences.segments.get(segment_id)
                if key not in held.rooted and segment is not None:
                    found.entered.append((Membership(*key, held.since[key]), segment.version))

    def _write(self, found: _Found) -> list[Occurrence]:
        session = self._session
        rows.end_members(session, found.gone)
        rows.put_members(session, found.entered)
        rows.add_changes(session, (change for change, _ in found.changes))
        self._wait_for(found.timers)
        return [_occurrence(change, since) for change, since in found.changes if not change.backfill]

    def _wait_for(self, timers: Mapping[tuple[str, str], int]) -> None:
        if timers:
            rows.put_timers(self._session, timers)
            soonest = min(timers.values())
            known = self._audiences.next_due
            self._audiences.next_due = soonest if known is None else min(known, soonest)

    # Asking everybody by SQL ------------------------------------------------------------------------------

    def _compute(self, now: int) -> Iterator[Occurrence]:
        """The next people of the first segment that is not computed for everybody."""
        audiences, session = self._audiences, self._session
        segment = audiences.computing
        if segment is None:
            return
        began = self._stopwatch()
        people = rows.people_after(session, segment.computed_to, audiences.portion)
        if not people:
            rows.end_computing(session, segment.segment_id, segment.version, now)
            self.computed = True
            self._replace(replace(segment, state="live", computed_at=now))
            return
        yield from self._compute_portion(segment, people, now)
        rows.move_computing(session, segment.segment_id, segment.version, people[-1])
        self._replace(replace(segment, computed_to=people[-1]))
        if len(people) == audiences.portion:
            audiences.portion = _next_portion(audiences.portion, self._stopwatch() - began)

    def _compute_portion(self, segment: StoredSegment, people: list[str], now: int) -> Iterator[Occurrence]:
        session, segment_id, found = self._session, segment.segment_id, _Found()
        asked = rows.ask(session, segment.condition, people, now)
        held = rows.members_between(session, segment_id, segment.computed_to, people[-1])
        before = held.keys() & set(people)  # a row of somebody merged meanwhile is about to be looked at
        for person_id in sorted(asked.members ^ before):
            holds = person_id in asked.members
            change = _change(segment, person_id, entered=holds, at=now, backfill=segment.silent)
            found.changes.append((change, held.get(person_id, now)))
            if holds:
                found.entered.append((Membership(person_id, segment_id, now), segment.version))
            else:
                found.gone.append((person_id, segment_id))
            for dependent in self._audiences.wakes.dependents(segment_id):
                self._noted.woken[self._audiences.wakes.alone[dependent]].add(person_id)
        self._memory.forget_memberships(change.profile_id for change, _ in found.changes)
        found.timers = self._timers_of(segment, asked.restless, now)
        yield from self._write(found)

    def _timers_of(
        self, segment: StoredSegment, people: Iterable[str], now: int
    ) -> dict[tuple[str, str], int]:
        """SQL says for whom time may change the answer; the predicate knows when."""
        segment_id, session = segment.segment_id, self._session
        trees = rows.whole_trees(session, people)
        members: dict[str, set[str]] = {}
        for held in rows.memberships(session, trees.profiles):
            members.setdefault(held.profile_id, set()).add(held.segment_id)
        facts = PeopleFacts(session, trees, self._audiences.needs[segment_id], now, members)
        answer = evaluate_all(segment.condition, trees.profiles.keys(), facts, now)
        return {(person, segment_id): at for person, at in answer.changes_at.items()}

    def _replace(self, segment: StoredSegment) -> None:
        self._audiences.segments[segment.segment_id] = segment

    def _delete(self) -> None:
        """Some members of a segment that is no more; that it ended is not their leaving."""
        audiences, session = self._audiences, self._session
        if not audiences.deleting:
            return
        segment_id = audiences.deleting[0]
        gone = rows.members_beyond(session, segment_id, "", LARGEST_PORTION)
        rows.end_members(session, [(row["profile_id"], segment_id) for row in gone])
        if not gone:
            rows.forget_segment(session, segment_id)
            audiences.deleting = audiences.deleting[1:]


def _needs(conditions: Mapping[str, Condition], order: Sequence[str], wakes: Wakes) -> dict[str, Needs]:
    """By segment: its own needs, and those of all that may be asked once it is answered."""
    needs: dict[str, Needs] = {}
    for key in reversed(order):
        needs[key] = reduce(or_, (needs[one] for one in wakes.dependents(key)), needs_of(conditions[key]))
    return needs


def _rows_after(people: _People) -> tuple[dict[str, Mapping[str, int]], list[str]]:
    """By profile its memberships once all is written; and of whom only the database knows since when."""
    held, found, nothing, unsure = people.held, dict[str, Mapping[str, int]](), dict[str, int](), list[str]()
    for person, tree in people.trees.profiles.items():
        for profile_id in tree:
            found[profile_id] = nothing
        if theirs := held.members[person]:
            found[person] = {one: held.since[person, one] for one in theirs}
            if person in held.merged and any((person, one) in held.rooted for one in theirs):
                unsure.append(person)
    return found, unsure


def _known(person_of: Mapping[str, str], profiles: Iterable[str]) -> set[str]:
    """The people of profiles; who claims an id without proof is nobody."""
    return {person_of[profile_id] for profile_id in profiles if profile_id in person_of}


def _changes(
    segment: StoredSegment,
    entered: Iterable[str],
    left: Iterable[str],
    since: Mapping[tuple[str, str], int],
    at: int,
) -> Iterator[tuple[Change, int]]:
    """Of people whom the predicate found; whom the computing would have found anyhow are no news."""
    unreached = segment.computed_to if segment.state == "computing" and segment.silent else None
    kinds: tuple[tuple[Literal["entered", "left"], Iterable[str]], ...] = (
        ("entered", entered),
        ("left", left),
    )
    for kind, people in kinds:
        for person_id in people:
            backfill = unreached is not None and person_id > unreached
            change = Change(segment.segment_id, person_id, segment.version, kind, at, backfill)
            yield change, since[person_id, segment.segment_id]


def _change(segment: StoredSegment, person_id: str, *, entered: bool, at: int, backfill: bool) -> Change:
    kind: Literal["entered", "left"] = "entered" if entered else "left"
    return Change(segment.segment_id, person_id, segment.version, kind, at, backfill)


def _occurrence(change: Change, since: int) -> Occurrence:
    return Occurrence(
        kind="segment_entered" if change.kind == "entered" else "segment_left",
        profile_id=change.profile_id,
        subject=change.profile_id,
        at=change.at,
        received_at=change.at,
        segment_id=change.segment_id,
        entered_at=since,
    )


def _next_portion(portion: int, took_s: float) -> int:
    """Twice as many at the most, for the next people may have done more than these."""
    factor = min(2.0, max(0.25, PORTION_S / max(took_s, 1e-6)))
    return max(1, min(LARGEST_PORTION, int(portion * factor)))
