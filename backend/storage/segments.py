"""Segments in the database: definitions and their versions, members, changes, timers."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from backend.catalog.shelves import are_related
from backend.profiles.arrivals import Arrival, Known, known_root, nobody_known
from backend.profiles.model import Profile
from backend.profiles.trees import Trees
from backend.segments.dependencies import needs_of
from backend.segments.model import (
    Condition,
    Definition,
    Named,
    SegmentInvalid,
    named_by,
    references,
    ring_of,
)
from backend.storage.segment_facts import as_json, fence_stores, zone_categories
from backend.storage.segment_sql import members_sql
from backend.storage.session import Row, Rows, Session

EVERY = ""
"""In a timer: every segment."""
MAX_SEGMENTS = 500  # every one is compiled and indexed wherever the fold starts
MEMBER = ("segment_id", "profile_id", "since", "version")
ENDED = ("segment_id", "profile_id")
TIMER = ("profile_id", "segment_id", "due_at")
_definition = msgspec.json.Decoder(Definition)


class SegmentInUse(ValueError):
    """Other segments ask for this one; the text names them."""


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment as it is now. `computed_to` is the last person whom the computing has reached."""

    segment_id: str
    version: int
    state: Literal["computing", "live", "deleting", "deleted"]
    definition: Definition
    silent: bool
    computed_to: str
    basis: str
    changed_at: int
    computed_at: int | None
    created_by: str

    @property
    def condition(self) -> Condition:
        return self.definition.condition


class Change(NamedTuple):
    """Somebody entered or left; `backfill`: found by computing a new definition, so no news."""

    segment_id: str
    profile_id: str
    version: int
    kind: Literal["entered", "left"]
    at: int
    backfill: bool


class Membership(NamedTuple):
    """A profile is in a segment, since when."""

    profile_id: str
    segment_id: str
    since: int


@dataclass(frozen=True, slots=True)
class Asked:
    """People who were asked a condition by SQL: who is in, and for whom time alone may change that."""

    members: frozenset[str]
    restless: frozenset[str]


# Definitions ------------------------------------------------------------------------------------------------


def segments(session: Session) -> dict[str, StoredSegment]:
    """Every segment by id; deleted ones only while their members are being removed."""
    return {row["segment_id"]: _stored(row) for row in session.rows("segments")}


def segment(session: Session, segment_id: str) -> StoredSegment | None:
    """One segment that is not deleted."""
    row = session.row("segment", segment_id=segment_id)
    stored = _stored(row) if row else None
    return stored if stored is not None and stored.state in ("computing", "live") else None


def save_segment(session: Session, segment_id: str, definition: Definition, now: int, by: str) -> int:
    """Stores a definition as the next version, to be computed for everybody. Its version.

    Raises SegmentInvalid where it names what is not there, or asks in a ring for itself.
    """
    row = session.row("segment", segment_id=segment_id)
    before = _stored(row) if row else None
    version = before.version + 1 if before else 1
    known = before if before is not None and before.state in ("computing", "live") else None
    _check_ring(session, segment_id, definition.condition)
    check_named(session, definition.condition, known.condition if known is not None else None)
    if known is not None and _same(known.definition, definition):
        return known.version
    if known is not None and _same(known.condition, definition.condition):
        session.run("rename_segment", segment_id=segment_id, version=version, now=now)
    else:
        session.run("save_segment", segment_id=segment_id, version=version, now=now)
    session.run(
        "add_segment_version",
        segment_id=segment_id,
        version=version,
        definition=msgspec.json.encode(definition).decode(),
        now=now,
        created_by=by,
    )
    return version


def _same(one: Any, other: Any) -> bool:
    """As they are written: to Python, true is 1."""
    return msgspec.json.encode(one) == msgspec.json.encode(other)


def _check_ring(session: Session, segment_id: str, condition: Condition) -> None:
    """Raises SegmentInvalid where a condition asks for itself, or there are too many segments."""
    stored = {key: found for key, found in segments(session).items() if found.state != "deleting"}
    if segment_id not in stored and len(stored) >= MAX_SEGMENTS:
        raise SegmentInvalid(f"there may be {MAX_SEGMENTS} segments")
    asks_for = {key: references(found.condition) for key, found in stored.items()}
    asks_for[segment_id] = references(condition)
    ring = ring_of(segment_id, asks_for)
    if ring is not None:
        raise SegmentInvalid(f"segments ask for each other in a ring: {' → '.join(ring)}")


def check_named(session: Session, condition: Condition, standing: Condition | None = None) -> None:
    """Raises SegmentInvalid where a condition names what nobody has set up.

    What the `standing` one named already may be gone since: who corrects a name need not mend the rest.
    """
    before = named_by(standing) if standing is not None else ()
    missing = first_missing(session, named_by(condition), before)
    if missing is not None:
        raise SegmentInvalid(missing)


def first_missing(session: Session, named: Iterable[Named], before: Iterable[Named] = ()) -> str | None:
    """The first field that names what is not there, in words; not what was named `before`."""
    stood = {(one.kind, one.key) for one in before}
    for where, kind, key in named:
        if (kind, key) not in stood and not _IS_THERE[kind](session, *key):
            return f"{where}: {_NOT_THERE[kind].format(*key)}"
    return None


_NOT_THERE = {
    "store": "there is no store {0}",
    "zone": "the store {0} has no zone {1}",
    "fence": "there is no geofence {0}",
    "segment": "there is no segment {0}",
}
_IS_THERE: Mapping[str, Callable[..., bool]] = {
    "store": lambda session, store: session.row("store", store_id=store) is not None,
    "zone": lambda session, store, zone: session.row("zone", store_id=store, zone_id=zone) is not None,
    "fence": lambda session, fence: session.row("fence", fence_id=fence) is not None,
    "segment": lambda session, segment_id: segment(session, segment_id) is not None,
}


def delete_segment(session: Session, segment_id: str, now: int) -> bool:
    """Ends a segment; its members are removed little by little. False where there is none.

    Raises SegmentInUse.
    """
    if segment(session, segment_id) is None:
        return False
    users = [
        key
        for key, found in segments(session).items()
        if found.state != "deleting" and segment_id in references(found.condition)
    ]
    if users:
        raise SegmentInUse(f"segment {segment_id} is asked for by {', '.join(users)}")
    session.run("delete_segment", segment_id=segment_id, now=now)
    return True


def versions(session: Session, segment_id: str, limit: int) -> list[dict[str, Any]]:
    """What a segment was, newest first."""
    return [
        {**dict(row), "definition": _definition.decode(row["definition"])}
        for row in session.rows("segment_versions", segment_id=segment_id, limit=limit)
    ]


def _stored(row: Row) -> StoredSegment:
    return StoredSegment(
        segment_id=row["segment_id"],
        version=row["version"],
        state=row["state"],
        definition=_definition.decode(row["definition"]),
        silent=bool(row["silent"]),
        computed_to=row["computed_to"],
        basis=row["basis"],
        changed_at=row["changed_at"],
        computed_at=row["computed_at"],
        created_by=row["created_by"],
    )


# Computing for the whole base -------------------------------------------------------------------------------


def people_after(session: Session, after: str, limit: int) -> list[str]:
    """The next people in the order of their ids."""
    return [row["profile_id"] for row in session.rows("segment_people_after", after=after, limit=limit)]


def count_people(session: Session) -> int:
    """Everybody who could be in a segment."""
    return _number(session.row("count_people"))


def ask(session: Session, condition: Condition, people: Collection[str], now: int) -> Asked:
    """Asks people a condition by SQL."""
    held = zone_categories(session).values() if needs_of(condition).categories else ()
    compiled = members_sql(condition, people, now, frozenset[str]().union(*held))
    rows = session.found(compiled.sql, compiled.values)
    return Asked(
        frozenset(row["person_id"] for row in rows if row["member"]),
        frozenset(row["person_id"] for row in rows if row["restless"]),
    )


def start_computing(session: Session, segment_id: str, basis: str) -> None:
    """Everybody is to be asked again, since the world changed; who comes or goes by it is news."""
    session.run("restart_segment_computing", segment_id=segment_id, basis=basis)
    session.run("begin_segment_computing", segment_id=segment_id, basis=basis)


def move_computing(session: Session, segment_id: str, version: int, computed_to: str) -> None:
    """Everybody up to a person has been asked."""
    session.run("move_segment_computing", segment_id=segment_id, version=version, computed_to=computed_to)


def end_computing(session: Session, segment_id: str, version: int, now: int) -> None:
    """Everybody has been asked by this version; without effect where another was saved meanwhile."""
    session.run("end_segment_computing", segment_id=segment_id, version=version, now=now)


def forget_segment(session: Session, segment_id: str) -> None:
    """Its last member is removed."""
    session.run("forget_segment", segment_id=segment_id)


def basis_of(session: Session, condition: Condition) -> str:
    """A mark of what operators set up that the answers depend on; '' where they depend on none of it.

    The zones of the categories asked for, and the geofences around the stores asked for.
    """
    needs = needs_of(condition)
    if not needs.categories and not needs.near_stores:
        return ""
    zones = [
        (*place, sorted(own for own in held if any(are_related(own, asked) for asked in needs.categories)))
        for place, held in zone_categories(session).items()
    ]
    fences = fence_stores(session).items() if needs.near_stores else ()
    basis = ([zone for zone in zones if zone[2]], [one for one in fences if one[1] in needs.near_stores])
    return hashlib.sha256(msgspec.json.encode(basis)).hexdigest()


# Members ----------------------------------------------------------------------------------------------------


def trees(session: Session, profiles: Iterable[str]) -> dict[str, list[str]]:
    """The people around profiles: each root with all that is merged into it, itself the first."""
    return whole_trees(session, profiles).profiles


def whole_trees(
    session: Session,
    profiles: Iterable[str],
    known: Known = nobody_known,
    arrivals: Sequence[Arrival] = (),
    remembered: Trees | None = None,
) -> Trees:
    """The people around profiles, and those who arrived. `known`: profiles that need not be read.

    `remembered`: people who need not be read either; those who are read now are added.
    A level at a time: in one recursive statement each profile takes twice as long.
    """
    kept = remembered or Trees()
    found, unread = dict[str, list[str]](), dict[str, str]()
    for arrival in arrivals:
        tree = found[arrival.person_id] = list(arrival.profiles)
        before = kept.profiles.pop(arrival.before or "", ())
        tree += [profile_id for profile_id in before if profile_id not in arrival.profiles]
        if arrival.before is not None and not before:
            unread[arrival.before] = arrival.person_id
    for one in _merged(arrivals, known):
        kept.windows[one.profile_id] = (one.attach_from, one.attach_until)
    arrived = {profile_id for tree in found.values() for profile_id in tree}
    for root in _roots(session, set(profiles) - arrived, known):
        if root in kept.profiles:
            found.setdefault(root, kept.profiles[root])
        elif root not in found:
            found[root], unread[root] = [root], root
    for person_id, profile_id, window in _below(session, unread):
        if profile_id not in arrived:
            found[person_id].append(profile_id)
            kept.windows[profile_id] = window
    kept.profiles.update(found)
    return Trees(found, kept.windows)


def _below(session: Session, people: Mapping[str, str]) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """What is merged into profiles, given each with its person: the person, the profile, its window."""
    while people:
        rows, above, people = session.rows("segment_profiles_below", profiles=as_json(people)), people, {}
        for profile_id, parent, begins, ends in rows:
            person_id = people[profile_id] = above[parent]
            yield person_id, profile_id, (begins, ends)


def _merged(arrivals: Sequence[Arrival], known: Known) -> Iterator[Profile]:
    """Those profiles of arrivals that are not the root."""
    found = (known(profile_id) for arrival in arrivals for profile_id in arrival.profiles[1:])
    return (profile for profile in found if profile is not None)


def _roots(session: Session, profiles: Iterable[str], known: Known) -> list[str]:
    """The people; ids claimed without proof are nobody."""
    tops = {profile_id: known_root(known, profile_id) for profile_id in profiles}
    roots = list({top.profile_id for top in tops.values() if top and top.id_type != "claimed_user_id"})
    wanted, seen = {profile_id for profile_id, top in tops.items() if top is None}, set[str]()
    while wanted:
        seen |= wanted
        rows, wanted = session.rows("segment_profiles", profiles=as_json(sorted(wanted))), set()
        for profile_id, parent, id_type in rows:
            if parent is not None:
                wanted.add(parent)
            elif id_type != "claimed_user_id":
                roots.append(profile_id)
        wanted -= seen
    return roots


def bearers_of(session: Session, beacons: Iterable[str]) -> list[str]:
    """The profiles that carry beacons, or once did."""
    rows = session.rows("segment_bearers", beacons=as_json(beacons))
    return [row["profile_id"] for row in rows]


def memberships(session: Session, profiles: Iterable[str]) -> list[Membership]:
    """Which segments profiles are in."""
    return list(map(Membership._make, session.rows("segment_memberships", profiles=as_json(profiles))))


def members_between(session: Session, segment_id: str, after: str, until: str) -> dict[str, int]:
    """Who is in a segment, since when, among the people after one id and up to another."""
    rows = session.rows("segment_members_between", segment_id=segment_id, after=after, until=until)
    return {row["profile_id"]: row["since"] for row in rows}


def members_beyond(session: Session, segment_id: str, after: str, limit: int) -> Sequence[Row]:
    """A page of members in the order of their ids: profile_id, since, version."""
    return session.rows("segment_members_beyond", segment_id=segment_id, after=after, limit=limit)


def count_members(session: Session, segment_id: str) -> int:
    """How many are in a segment."""
    return _number(session.row("count_segment_members", segment_id=segment_id))


def segments_of(session: Session, person_id: str) -> Sequence[Row]:
    """Which segments a person is in: segment_id, since, version."""
    return session.rows("segments_of_person", profile_id=person_id)


def put_members(session: Session, members: Iterable[tuple[Membership, int]]) -> None:
    """People came in, under a version; whoever is in already keeps the earlier time."""
    rows = [(segment_id, profile_id, since, version) for (profile_id, segment_id, since), version in members]
    session.many("put_segment_member", Rows(MEMBER, rows), together=True)


def end_members(session: Session, gone: Iterable[tuple[str, str]]) -> None:
    """Profiles are in a segment no more, given as (profile, segment)."""
    rows = [(segment_id, profile_id) for profile_id, segment_id in gone]
    if rows:
        session.many("end_segment_member", Rows(ENDED, rows))


def add_changes(session: Session, changes: Iterable[Change]) -> None:
    """For the timeline."""
    rows = [(*told, int(backfill)) for *told, backfill in changes]
    session.many("add_segment_change", Rows(Change._fields, rows), together=True)


def erase(session: Session, profiles: Iterable[str]) -> None:
    """Forgets all that segments and scores hold of profiles."""
    rows = [{"profile_id": profile_id} for profile_id in profiles]
    for query in ("erase_segment_members", "erase_segment_changes", "erase_segment_timers", "erase_scores"):
        session.many(query, rows)


# Timers -----------------------------------------------------------------------------------------------------


def timers_of(session: Session, profiles: Iterable[str]) -> dict[tuple[str, str], int]:
    """When (profile, segment) will be looked at again."""
    rows = session.rows("segment_timers_of", profiles=as_json(profiles))
    return {(profile_id, segment_id): due_at for profile_id, segment_id, due_at in rows}


def put_timers(session: Session, due: Mapping[tuple[str, str], int]) -> None:
    """Looks at (profile, segment) at this time, or earlier if so was said before."""
    rows = [(*key, at) for key, at in sorted(due.items())]  # neighbours in the index, one after the other
    session.many("put_segment_timer", Rows(TIMER, rows))


def ask_again(session: Session, profiles: Iterable[str], now: int) -> None:
    """Has every segment asked again about people, in whatever transaction something changed about them.

    For whoever merges, splits or scores people outside the fold.
    """
    session.run("ask_segments_again", profiles=as_json(profiles), segment_id=EVERY, now=now)


def take_due(session: Session, now: int, limit: int) -> list[tuple[str, str]]:
    """The (profile, segment) pairs that are due; they are waited for no longer."""
    rows = session.rows("due_segment_timers", now=now, limit=limit)
    due = [(row["profile_id"], row["segment_id"]) for row in rows]
    end_timers(session, due)
    return due


def end_timers(session: Session, ended: Iterable[tuple[str, str]]) -> None:
    """Waits for (profile, segment) no longer."""
    session.many("end_segment_timer", _pairs(ended))


def next_due(session: Session) -> int | None:
    """When the next timer is due."""
    row = session.row("next_segment_timer")
    return None if row is None or row[0] is None else int(row[0])


def _pairs(pairs: Iterable[tuple[str, str]]) -> Iterable[dict[str, str]]:
    return [{"profile_id": profile_id, "segment_id": segment_id} for profile_id, segment_id in pairs]


def _number(row: Row | None) -> int:
    return 0 if row is None else int(row[0])
