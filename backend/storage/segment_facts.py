"""What the conditions ask about many people, read in one query for all of them when one is first asked."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, takewhile
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import msgspec

from backend.profiles.arrivals import Known, nobody_known
from backend.profiles.model import IDENTIFIED, Statement
from backend.profiles.rules import standing
from backend.profiles.trees import Trees
from backend.segments.dependencies import Needs
from backend.segments.facts import EventFact, RfmFact, VisitFact
from backend.segments.memory import Deed
from backend.storage.segment_sql import EVER
from backend.storage.session import Row, Session


class StoredEvent:
    """An event whose properties are decoded when they are first asked for."""

    __slots__ = ("_properties", "_text", "at", "kind", "name")

    def __init__(self, kind: str, name: str | None, at: int, text: str | None) -> None:
        self.kind = kind
        self.name = name
        self.at = at
        self._text = text
        self._properties: Any = None

    @property
    def properties(self) -> Any:
        if self._text is not None:
            self._properties = msgspec.json.decode(self._text)
            self._text = None
        return self._properties


_Events: TypeAlias = Mapping[str, list[EventFact]]
"""By person, newest first."""


class PeopleFacts:
    """Facts of people, given with all their profiles, as `needs` says they will be asked.

    `members` are the segments that each is in; it may change while the segments are gone through.
    `histories`: what people did, newest first, of whom that is known; the others' is read. `known`: profiles
    that need not be read.
    """

    def __init__(
        self,
        session: Session,
        trees: Trees,
        needs: Needs,
        now: int,
        members: Mapping[str, Collection[str]],
        histories: Mapping[str, Sequence[Deed]] = MappingProxyType({}),
        known: Known = nobody_known,
    ) -> None:
        self._known = known
        self._session = session
        self._person_of = {profile: person for person, tree in trees.profiles.items() for profile in tree}
        self._windows = trees.windows
        self._profiles = as_json(self._person_of)
        self._told = histories
        self.needs = needs
        self.read: dict[str, list[Deed]] = {}
        """What had to be read of the others, newest first."""
        self._now = now
        self._events_read: Sequence[Row] = ()
        self.members = members

    def of(self, person_id: str) -> "PersonFacts":
        """One of them."""
        return PersonFacts(self, person_id)

    def who_did_more(self, than: int) -> Iterator[tuple[str, int]]:
        """People of whom more events than so many had to be read, each with how many."""
        if len(self._events_read) > than:
            counts = Counter(self._person_of[row[0]] for row in self._events_read)
            yield from ((person, count) for person, count in counts.items() if count > than)

    def events(self, kinds: Sequence[str], name: str | None) -> Mapping[str, Sequence[EventFact]]:
        """What people did, newest first; no more of the past than any of the conditions asks for."""
        return self._histories.get((tuple(kinds), name), {})

    def _rows(self, query: str, **values: Any) -> Iterator[tuple[str, Row]]:
        """Rows of all their profiles, each with the person."""
        for row in self._session.rows(query, profiles=self._profiles, **values):
            yield self._person_of[row[0]], row

    def _since(self, seconds: int | None) -> int:
        return EVER if seconds is None else self._now - seconds * 1000

    @cached_property
    def traits(self) -> Mapping[tuple[str, str], Any]:
        """By person and name: the newest that an identified profile said, else the newest."""
        best: dict[tuple[str, str], tuple[tuple[Any, ...], str]] = {}
        for person, row in self._rows("segment_traits", names=as_json(self.needs.traits)):
            key = (person, row["name"])
            rank = (row["id_type"] in IDENTIFIED, row["occurred_at"], row["event_hash"])
            if key not in best or rank > best[key][0]:
                best[key] = (rank, row["value"])
        return {key: msgspec.json.decode(value) for key, (_, value) in best.items()}

    @cached_property
    def consents(self) -> Mapping[tuple[str, str], bool]:
        """By person and purpose. Of two at the same moment a refusal comes later, and stands."""
        said: dict[tuple[str, str], list[Statement]] = {}
        for person, row in self._rows("segment_consents", purposes=as_json(self.needs.purposes)):
            statement = Statement(
                bool(row["granted"]), row["occurred_at"], row["id_type"] in IDENTIFIED, row["merged_at"]
            )
            said.setdefault((person, row["purpose"]), []).append(statement)
        return {key: standing(statements) for key, statements in said.items()}

    @cached_property
    def identifiers(self) -> Mapping[tuple[str, str], Collection[str]]:
        """By person and kind; what a profile is known by need not be read where the profile is known."""
        found: dict[tuple[str, str], set[str]] = {}
        kinds, unknown = self.needs.identifiers, list[str]()
        for profile_id, person in self._person_of.items():
            profile = None if "beacon" in kinds else self._known(profile_id)
            if profile is None:
                unknown.append(profile_id)
            elif profile.id_type in kinds:
                found.setdefault((person, profile.id_type), set()).add(profile.id)
        if unknown:
            rows = self._session.rows("segment_identifiers", profiles=as_json(unknown), kinds=as_json(kinds))
            for profile_id, kind, name in rows:
                found.setdefault((self._person_of[profile_id], kind), set()).add(name)
        return found

    @cached_property
    def _histories(self) -> Mapping[tuple[tuple[str, ...], str | None], _Events]:
        """By what is counted: kinds, and a name or none. An event is in the history of all that count it."""
        histories = {one: defaultdict[str, list[EventFact]](list) for one in self.needs.events}
        counting: dict[tuple[str, str | None], list[defaultdict[str, list[EventFact]]]] = {}
        self._read_events()
        for person, events in chain(self._told.items(), self.read.items()):
            for event in events:
                into = counting.get((event.kind, event.name))
                if into is None:
                    into = counting[event.kind, event.name] = [
                        history
                        for (kinds, wanted), history in histories.items()
                        if event.kind in kinds and wanted in (None, event.name)
                    ]
                for history in into:
                    history[person].append(event)
        return histories

    def _read_events(self) -> None:
        """What those did of whom it is not known."""
        asked, person_of, windows = self.needs.events, self._person_of, self._windows
        others = [profile for profile, person in person_of.items() if person not in self._told]
        if not others:
            return
        self.read = {person_of[profile]: [] for profile in others}
        self._events_read = self._session.rows(
            "segment_events",
            profiles=as_json(others),
            since=self._since(self.needs.since_s),
            named=as_json({name for _, name in asked if name is not None}),
            nameless=as_json({kind for kinds, name in asked if name is None for kind in kinds}),
        )
        for profile_id, kind, name, at, text in self._events_read:
            window = windows.get(profile_id) if profile_id != person_of[profile_id] else None
            if window is None or window[0] <= at <= window[1]:
                self.read[person_of[profile_id]].append(StoredEvent(kind, name, at, text))

    @cached_property
    def visits(self) -> Mapping[str, list[VisitFact]]:
        """By person, with the categories that the zones have now."""
        categories = zone_categories(self._session) if self.needs.categories else {}
        visits: dict[str, list[VisitFact]] = {}
        for person, row in self._rows("segment_visits", since=self._since(self.needs.visits_s)):
            place = (row["store_id"], row["zone_id"])
            stay = VisitFact(*place, categories.get(place, ()), row["entered_at"], row["left_at"])
            visits.setdefault(person, []).append(stay)
        return visits

    @cached_property
    def zones(self) -> Mapping[str, set[tuple[str, str]]]:
        """By person: where they are now."""
        zones: dict[str, set[tuple[str, str]]] = {}
        for person, row in self._rows("segment_zones"):
            zones.setdefault(person, set()).add((row["store_id"], row["zone_id"]))
        return zones

    @cached_property
    def stores(self) -> Mapping[str, set[str]]:
        """By person: which stores they are in now."""
        stores: dict[str, set[str]] = {}
        for person, row in self._rows("segment_stores"):
            stores.setdefault(person, set()).add(row["store_id"])
        return stores

    @cached_property
    def fences(self) -> Mapping[str, set[tuple[str, str | None]]]:
        """By person: which geofences they are inside of now."""
        around, fences = fence_stores(self._session), dict[str, set[tuple[str, str | None]]]()
        for person, row in self._rows("segment_fences"):
            fences.setdefault(person, set()).add((row["fence_id"], around.get(row["fence_id"])))
        return fences

    @cached_property
    def scores(self) -> Mapping[str, RfmFact]:
        """By person; scores belong to the root."""
        return {
            person: RfmFact(row["r"], row["f"], row["m"], row["name"])
            for person, row in self._rows("segment_scores")
            if row["profile_id"] == person and None not in (row["r"], row["f"], row["m"])
        }


class PersonFacts(NamedTuple):
    """Satisfies Facts."""

    people: PeopleFacts
    person_id: str

    def trait(self, name: str) -> Any:
        return self.people.traits.get((self.person_id, name))

    def identifiers(self, kind: str) -> Collection[str]:
        return self.people.identifiers.get((self.person_id, kind), ())

    def agrees(self, purpose: str) -> bool:
        return self.people.consents.get((self.person_id, purpose), False)

    def events(self, kinds: Sequence[str], name: str | None, since: int | None) -> Iterator[EventFact]:
        did = self.people.events(kinds, name).get(self.person_id, ())
        return takewhile(lambda event: since is None or event.at > since, did)

    def visits(self, since: int | None) -> Sequence[VisitFact]:
        stays = self.people.visits.get(self.person_id, [])
        return [stay for stay in stays if since is None or stay.left_at is None or stay.left_at > since]

    def zones(self) -> Collection[tuple[str, str]]:
        return self.people.zones.get(self.person_id, ())

    def stores(self) -> Collection[str]:
        return self.people.stores.get(self.person_id, ())

    def fences(self) -> Collection[tuple[str, str | None]]:
        return self.people.fences.get(self.person_id, ())

    def rfm(self) -> RfmFact | None:
        return self.people.scores.get(self.person_id)

    def is_member(self, segment_id: str) -> bool:
        return segment_id in self.people.members.get(self.person_id, ())


def as_json(texts: Iterable[str]) -> str:
    """A list of texts for `json_each`."""
    return msgspec.json.encode(list(texts)).decode()


def fence_stores(session: Session) -> dict[str, str | None]:
    """The stores that geofences are around."""
    return {row["fence_id"]: row["store_id"] for row in session.rows("segment_fence_stores")}


def zone_categories(session: Session) -> dict[tuple[str, str], frozenset[str]]:
    """The categories of each zone."""
    return {
        (row["store_id"], row["zone_id"]): frozenset(
            category for category in msgspec.json.decode(row["categories"]) if isinstance(category, str)
        )
        for row in session.rows("segment_categories")
    }
