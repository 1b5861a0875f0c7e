"""What is remembered of people from one transaction to the next, as long as nobody else writes; pure.

Whoever does something does more within minutes: what was read of them then need not be read each time.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from backend.profiles.arrivals import Arrival, Known, is_whole
from backend.profiles.trees import MOST_PEOPLE, Trees
from backend.segments.dependencies import Needs
from backend.segments.facts import EventFact
from sdk_bridge.wire.app_events import AppEvent

SHORT = 50  # events: a robot's would be gone through with each that it adds, wherever they come from
MOST_EVENTS = 100_000  # are remembered: some 60 MB
_at = attrgetter("at")


class Deed(EventFact, Protocol):
    """An event with what it is counted by."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str | None: ...


class ToldEvent(Struct, frozen=True, gc=False):
    """An event as it came."""

    at: int
    kind: str
    name: str | None
    properties: Any


class _Read(NamedTuple):
    """For what somebody's events were read, and since when: others are not known."""

    needs: Needs
    since: float

    def answers(self, needs: Needs, since: float) -> bool:
        return self.since <= since and needs.events <= self.needs.events


class Histories:
    """What people did, of whom all of it is known, or all that was needed."""

    def __init__(self) -> None:
        self._deeds: dict[str, list[Deed]] = {}
        self._read: dict[str, _Read] = {}
        self._events = 0

    def known(self, people: Iterable[str], needs: Needs, now: int) -> dict[str, Sequence[Deed]]:
        """What these did, newest first, of whom all is known that is needed."""
        found: dict[str, Sequence[Deed]] = {}
        since = _since(needs, now)
        for person in people:
            deeds, read = self._deeds.get(person), self._read.get(person)
            if deeds is None or len(deeds) > SHORT or not (read is None or read.answers(needs, since)):
                continue
            if len(deeds) > 1:
                deeds.sort(key=_at, reverse=True)
            found[person] = deeds
        return found

    def keep(self, read: Mapping[str, list[Deed]], needs: Needs, now: int) -> None:
        """What was read of people because it was needed."""
        why = _Read(needs, _since(needs, now))
        for person, deeds in read.items():
            if len(deeds) <= SHORT:
                self._deeds[person], self._read[person] = deeds, why
                self._events += len(deeds)

    def tell(self, told: Iterable[tuple[str, AppEvent]], arrivals: Sequence[Arrival], known: Known) -> None:
        """What people did meanwhile; of whom nothing is known yet, but for arrivals, that is let go."""
        if self._events > MOST_EVENTS:
            self._deeds, self._read, self._events = {}, {}, 0
        deeds, joined = self._deeds, list[Arrival]()
        for arrival in arrivals:
            if arrival.is_alone:
                deeds[arrival.profiles[0]] = []
                continue
            if arrival.before is not None and arrival.before not in deeds:
                continue
            joined.append(arrival)
            for profile_id in arrival.begun:
                deeds[profile_id] = []
        for person, event in told:
            theirs = deeds.get(person)
            if theirs is not None:
                self._events += 1
                theirs.append(ToldEvent(event.occurred_at, event.kind, event.name, event.properties or None))
        for arrival in joined:
            self._join(arrival, known)

    def _join(self, arrival: Arrival, known: Known) -> None:
        """What was done under the profiles of an arrival is the person's, unless a window cuts it."""
        parts = [self._deeds.pop(profile_id, None) for profile_id in arrival.profiles]
        read = self._read.pop(arrival.before, None) if arrival.before is not None else None
        if None in parts or not all(is_whole(known(one)) for one in arrival.profiles[1:]):
            return
        self._deeds[arrival.person_id] = list(chain.from_iterable(filter(None, parts)))
        if read is not None:
            self._read[arrival.person_id] = read

    def forget(self, people: Iterable[str]) -> None:
        """What these did may be another's now, or another's theirs."""
        for person in people:
            self._deeds.pop(person, None)
            self._read.pop(person, None)


def _since(needs: Needs, now: int) -> float:
    return -inf if needs.since_s is None else now - needs.since_s * 1000


@dataclass(frozen=True, slots=True)
class Memory:
    """Of people: their profiles, what they did, what they are in.

    `memberships`: by profile, in which segments it is by rows of its own, each since when.
    """

    trees: Trees = field(default_factory=Trees)
    histories: Histories = field(default_factory=Histories)
    memberships: dict[str, Mapping[str, int]] = field(default_factory=dict)

    def forget(self, profile_ids: AbstractSet[str]) -> None:
        """These are, or were, of another person; or of one who has more now, or less."""
        self.trees.forget(profile_ids)
        self.histories.forget(profile_ids)

    def keep_memberships(self, rows: Mapping[str, Mapping[str, int]], unsure: Iterable[str] = ()) -> None:
        """What profiles are in from now on; of those that are `unsure` it has to be read."""
        if len(self.memberships) > MOST_PEOPLE:
            self.memberships.clear()
        self.memberships.update(rows)
        self.forget_memberships(unsure)

    def forget_memberships(self, profile_ids: Iterable[str]) -> None:
        """Others write what these are in."""
        for profile_id in profile_ids:
            self.memberships.pop(profile_id, None)
