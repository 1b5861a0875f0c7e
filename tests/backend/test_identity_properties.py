"""Identity as properties: any order of arrival, and ten thousand random merges and undoings."""

import itertools
import os
import random
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.profiles.memory import MemoryProfiles
from backend.profiles.model import EVER, IDENTIFIED, OBSERVED, OPERATOR, TRUST, Identifier
from backend.profiles.placing import person_of
from backend.profiles.rules import standing
from backend.profiles.service import ProfileService, whose
from backend.profiles.store import ProfileStore
from backend.storage import browsers_seen, profiles
from backend.storage.database import open_for_writing, transaction
from backend.storage.entries import HOUR_MS
from backend.storage.profile_rows import ProfileRows
from backend.storage.queries import named_queries
from sdk_bridge.wire.app_events import AppEvent, ExternalId, Link, PushAddress

SEQUENCES = int(os.environ.get("FOOTFALL_SEQUENCES", "10000"))
TAG = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:7"
USERS, ANONYMOUS, DEVICES, TAGS = ("u1", "u2", "u3"), ("a1", "a2", "u1"), ("d1", "d2"), (TAG, f"{TAG}7")
KNOWN = (("email", "anna@x.at"), ("email", "bert@x.at"), ("loyalty_id", "C1"), ("phone", "+436601234567"))
ADDRESS = PushAddress("token", "t1")
DAY = 86_400_000
TIMES = (*range(1, 12), 45 * DAY, 45 * DAY + 1, 80 * DAY)  # in one session, and months apart


# Made once: hypothesis takes longer to make and to check a strategy than to draw from it.
nonces = st.integers(0, 10**6).map(str)
a_user = st.sampled_from([None, *USERS])
an_anonymous, perhaps_anonymous = st.sampled_from(ANONYMOUS), st.sampled_from([None, *ANONYMOUS])
a_device, perhaps_a_device = st.sampled_from(DEVICES), st.sampled_from([None, *DEVICES])
kinds = st.sampled_from(["identify", "track", "alias", "device", "logout", "consent", "push_receipt", "link"])
times = st.sampled_from(TIMES)
yes_or_no = st.booleans()
a_previous = st.sampled_from([*ANONYMOUS, *USERS])
an_address = st.sampled_from([None, ADDRESS, PushAddress("fid", "t2")])
a_platform = st.sampled_from([None, "ios", "android"])
a_tag = st.sampled_from([None, *TAGS])
some_traits = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 3), max_size=2)
some_consent = st.dictionaries(st.sampled_from(["push", "proximity"]), yes_or_no, max_size=2)
some_known = st.lists(st.sampled_from(KNOWN).map(lambda one: ExternalId(*one)), max_size=2)


@st.composite
def app_events(draw: st.DrawFn) -> AppEvent:
    kind, user, message_id = draw(kinds), draw(a_user), draw(nonces)
    return AppEvent(
        kind=kind,
        message_id=message_id,
        source="app",
        occurred_at=draw(times),
        received_at=100 * DAY,
        user_id=user,
        proven=user is not None and draw(yes_or_no),
        previous_id=draw(a_previous) if kind == "alias" else None,
        anonymous_id=draw(perhaps_anonymous),
        device_id=draw(a_device if kind == "link" else perhaps_a_device),
        push_address=draw(an_address),
        platform=draw(a_platform),
        beacon_key=draw(a_tag) if kind == "device" else None,
        traits=draw(some_traits),
        consent=draw(some_consent),
        external_ids=draw(some_known),
        link=Link(message_id, "site", draw(an_anonymous), 0, 1, draw(a_user)) if kind == "link" else None,
    )


class World:
    """A store, the rules, and what is asked; profiles are named by the identifiers they began with."""

    def __init__(self, store: ProfileStore, service: ProfileService | None = None) -> None:
        self.store, self.service = store, service or ProfileService()
        self.events: list[tuple[str, AppEvent]] = []
        numbers = itertools.count()
        self.new_id: Callable[[], str] = lambda: f"p{next(numbers)}"

    def hear(self, event: AppEvent) -> None:
        number = int(event.message_id)
        applied = self.service.apply(self.store, event, number, number * 7919, self.new_id)
        if applied.profile_id is not None:
            self.events.append((applied.profile_id, event))

    def merge(self, one: Identifier, other: Identifier) -> None:
        child, root = self.store.profile_of(one), self.store.profile_of(other)
        if child and root:
            self.service.merge(self.store, child, root, 200 * DAY, self.new_id)

    def undo(self, identifier: Identifier) -> None:
        profile_id = self.store.profile_of(identifier)
        if profile_id:
            self.service.undo_merge(self.store, profile_id, 200 * DAY, self.new_id)

    def doings(self) -> dict[str, list[str]]:
        """What everybody did, by the roots of the trees."""
        found: dict[str, list[str]] = defaultdict(list)
        for own, event in self.events:
            found[whose(self.store, own, event.occurred_at)].append(event.message_id)
        return found

    def is_decided(self, identifier: Identifier) -> bool:
        return any(claim.via == OPERATOR for claim in self.store.claims(identifier))


def dump(world: World, identifiers: list[Identifier]) -> bytes:
    """All that anybody can see of everybody, with profiles by their names."""
    store = world.store
    name = {profile_id: key for key in identifiers if (profile_id := store.profile_of(key))}
    people: dict[str, list[str]] = {}
    for profile_id in name:
        people.setdefault(person_of(store, profile_id), []).append(profile_id)
    seen: list[Any] = []
    doings = world.doings()
    for root, tree in people.items():
        seen.append(
            [
                name[root],
                sorted(name[one] for one in tree),
                sorted((name[one], store.profile(one).created_at, store.profile(one).shared) for one in tree),
                sorted(doings.get(root, ())),
                traits(store, tree),
                consents(store, root),
                sorted(key for key, (_, holder) in store.devices.items() if holder in tree),
                sorted(
                    (one.kind, one.value, known.proven)
                    for one, known in store.addresses.items()
                    if known.profile_id in tree
                ),
                sorted(tag for tag in TAGS if store.profile_of(("beacon", tag)) in tree),
            ]
        )  # fmt: skip
    return msgspec.msgpack.encode(sorted(seen))


def traits(store: MemoryProfiles, tree: list[str]) -> dict[str, str]:
    best: dict[str, Any] = {}
    for owner in tree:
        profile = store.profile(owner)
        for trait, (stamp, value) in store.traits.get(owner, {}).items():
            if profile.attach_from <= stamp.occurred_at <= profile.attach_until:
                rank = (profile.id_type in IDENTIFIED, stamp, value)
                best[trait] = max(best.get(trait, rank), rank)
    return {trait: rank[2] for trait, rank in sorted(best.items())}


def consents(store: MemoryProfiles, root: str) -> dict[str, bool]:
    return {purpose: standing(store.statements(root, purpose)) for purpose in ("proximity", "push")}


def everybody(store: MemoryProfiles) -> list[Identifier]:
    return sorted(key for key in store.owners if key[0] != "beacon")


def told(events: list[AppEvent]) -> World:
    world = World(MemoryProfiles())
    for one in events:
        world.hear(one)
    return world


def picture(events: list[AppEvent]) -> bytes:
    world = told(events)
    return dump(world, everybody(world.store))


some_events = st.lists(app_events(), max_size=9, unique_by=lambda one: one.message_id)


@settings(max_examples=400, deadline=None)
@given(some_events, st.integers(0, 2**32))
def test_a_person_is_a_function_of_the_set_of_events(events: list[AppEvent], seed: int) -> None:
    assert picture(random.Random(seed).sample(events, len(events))) == picture(events)


@settings(max_examples=200, deadline=None)
@given(some_events)
def test_an_event_applied_twice_changes_nothing(events: list[AppEvent]) -> None:
    once, twice = told(events), told(events + events)
    twice.events = twice.events[: len(twice.events) // 2]
    assert dump(once, everybody(once.store)) == dump(twice, everybody(twice.store))


@settings(max_examples=200, deadline=None)
@given(some_events)
def test_two_user_ids_are_never_one_person_by_themselves(events: list[AppEvent]) -> None:
    store = told(events).store
    people = [person_of(store, found) for user in USERS if (found := store.profile_of(("user_id", user)))]
    assert len(set(people)) == len(people)


# Merges and undoings --------------------------------------------------------------------------------------

PEOPLE: list[Identifier] = [
    *(("user_id", user) for user in USERS),
    *(("anonymous_id", one) for one in ("a1", "a2", "a3")),
    *(("device_id", one) for one in DEVICES),
    ("email", "anna@x.at"),
]
STEP = 3  # bytes of a sequence that make one step
# Bytes of a fixed number, cut: of an open number, hypothesis would draw for each whether there is one more.
sequences = st.builds(
    lambda whole, count: whole[: count * STEP],
    st.binary(min_size=18 * STEP, max_size=18 * STEP),
    st.integers(6, 18),
)


def steps(sequence: bytes) -> Iterator[tuple[int, int, int]]:
    for at in range(0, len(sequence) - STEP + 1, STEP):
        yield sequence[at], sequence[at + 1], sequence[at + 2]


def heard(number: int, what: int, who: int) -> AppEvent:
    """An event, from two bytes: who and through which browser, phone or address, what and when."""
    user = USERS[who % 4] if who % 4 < len(USERS) else None
    mail = [ExternalId("email", "anna@x.at")] if who // 64 == 3 else []
    return AppEvent(
        kind=("identify", "track", "consent", "device", "logout")[what % 5],
        message_id=str(number),
        source="app",
        occurred_at=TIMES[what // 5 % len(TIMES)],
        received_at=100 * DAY,
        user_id=user,
        proven=user is not None,
        anonymous_id=(None, "a1", "a2", "a3")[who // 4 % 4],
        device_id=(None, *DEVICES, None)[who // 16 % 4],
        traits={"colour": number},
        consent={"push": what % 2 == 0} if what % 5 == 2 else {},
        push_address=ADDRESS if what % 5 == 3 else None,
        external_ids=mail,
    )


def play(sequence: bytes, real: World, *never: World) -> None:
    """A step is an event, which all worlds hear, or in the real one a merge, or the undoing of one."""
    for number, (choice, one, other) in enumerate(steps(sequence)):
        if choice < 112:
            for world in (real, *never):
                world.hear(heard(number, one, other))
        elif choice < 192:
            real.merge(PEOPLE[one % len(PEOPLE)], PEOPLE[other % len(PEOPLE)])
        elif decided := [identifier for identifier in PEOPLE if real.is_decided(identifier)]:
            real.undo(decided[one % len(decided)])


def undo_all(world: World, *, decided_only: bool) -> None:
    for identifier in PEOPLE:
        while (not decided_only or world.is_decided(identifier)) and (
            (found := world.store.profile_of(identifier)) and world.store.profile(found).parent
        ):
            world.undo(identifier)


def check(sequence: bytes) -> None:
    """What operators merged and took apart again leaves no trace; nor does what merged by itself."""
    real, never = World(MemoryProfiles()), World(MemoryProfiles())
    alone = World(MemoryProfiles(), ProfileService(dict.fromkeys(TRUST, 0)))  # nothing goes with anything
    play(sequence, real, never, alone)
    undo_all(real, decided_only=True)
    assert dump(real, PEOPLE) == dump(never, PEOPLE)
    undo_all(real, decided_only=False)
    assert unshared(real) == unshared(alone)


def unshared(world: World) -> bytes:
    """Who is who and did what, without the mark of what several people use: that is known also when apart."""
    people = msgspec.msgpack.decode(dump(world, PEOPLE))
    seen = [
        [root, tree, doings, known, said, devices, addresses]
        for root, tree, _, doings, known, said, devices, addresses, _ in people
    ]
    return msgspec.msgpack.encode([one for one in seen if one[2] or one[5]])


@pytest.mark.timeout(600)
@settings(max_examples=SEQUENCES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(sequences)
def test_merges_and_undoings_leave_what_never_having_merged_would(sequence: bytes) -> None:
    check(sequence)


def test_the_sequences_do_merge_and_undo() -> None:
    """Or the ten thousand would show nothing."""
    merged, undone, apart = 0, 0, 0
    for seed in range(400):
        sequence = random.Random(seed).randbytes(18 * STEP)
        real, never = World(MemoryProfiles()), World(MemoryProfiles())
        play(sequence, real, never)
        merged += sum(real.is_decided(one) for one in PEOPLE)
        undone += sum(edge.cause == "operator" for edge, _ in real.store.closed)
        apart += dump(real, PEOPLE) != dump(never, PEOPLE)
    assert min(merged, undone, apart) > 100


# The same in the database ---------------------------------------------------------------------------------


class DatabaseWorld(World):
    """Each step in a store of its own, so that nothing is known but what was written."""

    def __init__(self, session: Any) -> None:
        self._session = session
        super().__init__(self._opened())

    def _opened(self) -> ProfileRows:
        return ProfileRows(self._session)

    def hear(self, event: AppEvent) -> None:
        super().hear(event)
        self._forget()

    def merge(self, one: Identifier, other: Identifier) -> None:
        super().merge(one, other)
        self._forget()

    def undo(self, identifier: Identifier) -> None:
        super().undo(identifier)
        self._forget()

    def _forget(self) -> None:
        self.store.flush()
        self.store = self._opened()

    def rows(self) -> bytes:
        """Every person as the API shows them, and where each profile belongs."""
        name = {profile_id: key for key in PEOPLE if (profile_id := self.store.profile_of(key))}
        views = [profiles.profile_view(self._session, *key) for key in PEOPLE]
        for view in filter(None, views):
            view["profile_id"] = name[view["profile_id"]]
            view["merged"] = sorted((name[one["profile_id"]], one["since"]) for one in view["merged"])
        found = (
            msgspec.structs.replace(self.store.profile(profile_id), event_id=None, merged_event=None)
            for profile_id in name
        )
        placed = sorted(
            [one.identifier, name.get(one.parent or ""), *msgspec.structs.astuple(one)[5:]] for one in found
        )
        return msgspec.msgpack.encode([views, placed])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    connection = open_for_writing(tmp_path_factory.mktemp("identity") / "state.db", "state")
    yield connection
    connection.close()


class RollBackError(Exception):
    """Ends a transaction without a trace."""


def in_database(
    connection: sqlite3.Connection,
    play_in: Callable[[DatabaseWorld], None],
    kind: type[DatabaseWorld] = DatabaseWorld,
) -> bytes:
    found: list[bytes] = []

    def work(session: Any) -> None:
        world = kind(session)
        play_in(world)
        found.append(world.rows())
        raise RollBackError

    with pytest.raises(RollBackError):
        transaction(connection, "state", work)
    return found[0]


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(sequence=sequences)
def test_so_it_is_in_the_database(database: sqlite3.Connection, sequence: bytes) -> None:
    def merging(world: DatabaseWorld) -> None:
        play(sequence, world)
        undo_all(world, decided_only=True)

    def never(world: DatabaseWorld) -> None:
        play(sequence, World(MemoryProfiles()), world)

    assert in_database(database, merging) == in_database(database, never)


class WorldOfEvents(DatabaseWorld):
    """Keeps its events, as the fold does, though not where people were; so it need not write each claim."""

    def _opened(self) -> ProfileRows:
        return ProfileRows(self._session, events_follow=True)

    def hear(self, event: AppEvent) -> None:
        known = len(self.events)
        super().hear(event)
        if len(self.events) > known and event.kind not in OBSERVED:
            self._session.many("add_event", [event_row(*self.events[-1])])

    def _forget(self) -> None:
        self.store.flush()
        if len(self.events) % 3:
            self.store = self._opened()

    def rows(self) -> bytes:
        self.store = self._opened()
        return super().rows()


def event_row(profile_id: str, event: AppEvent) -> dict[str, Any]:
    return {
        "event_id": int(event.message_id),
        "event_hash": int(event.message_id) * 7919,
        "profile_id": profile_id,
        "kind": event.kind,
        "name": None,
        "source": event.source,
        "message_id": event.message_id,
        "occurred_at": event.occurred_at,
        "received_at": event.received_at,
        "body": msgspec.msgpack.encode(event),
        "properties": None,
    }


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(sequence=sequences, seen=st.integers(0, 5))
def test_what_events_can_tell_again_need_not_be_written(
    database: sqlite3.Connection, sequence: bytes, seen: int
) -> None:
    def playing(world: DatabaseWorld) -> None:
        hear = world.hear

        def in_disguise(event: AppEvent) -> None:
            observed = event.kind == "track" and int(event.message_id) % 6 < seen
            hear(msgspec.structs.replace(event, kind="location") if observed else event)

        world.hear = in_disguise  # type: ignore[method-assign]
        play(sequence, world)

    assert in_database(database, playing, WorldOfEvents) == in_database(database, playing)


def proof(number: int, at: int, kind: str = "identify") -> AppEvent:
    user = {"user_id": "u1", "proven": True} if kind != "logout" else {}
    times = {"occurred_at": at, "received_at": DAY}
    return AppEvent(kind=kind, message_id=str(number), source="app", anonymous_id="a1", **times, **user)


@pytest.mark.parametrize(
    ("events", "written", "until"),
    [
        ([proof(1, 5), proof(2, 7)], (5, 5), EVER),
        ([proof(1, 5), proof(2, 7), proof(3, 6, "logout")], (5, 7), EVER),
        ([proof(1, 5), proof(2, 7), proof(3, 8, "logout")], (5, 7), 8),
        ([proof(1, 5), proof(2, 7), proof(3, 8, "logout"), proof(4, 9)], (5, 9), EVER),
        ([proof(1, 5), proof(2, 7, "location"), proof(3, 6, "logout")], (5, 7), EVER),
        ([proof(1, 5), proof(2, HOUR_MS + 5)], (5, HOUR_MS + 5), EVER),
        ([proof(1, 5), proof(2, 3)], (3, 5), EVER),
        ([proof(2, 7), proof(1, 7), proof(3, 7, "logout")], (7, 7), 7),
    ],
    ids=["same hour", "late logout", "logout", "proof again", "seen there", "next hour", "earlier", "tie"],
)
def test_when_a_claim_was_last_said_is_known_where_it_counts(
    database: sqlite3.Connection, events: list[AppEvent], written: tuple[int, int], until: int
) -> None:
    def telling(world: DatabaseWorld) -> None:
        for one in events:
            world.hear(one)
        kept = "select first_at, last_at from identity_claims where id = 'a1' and via = 'seen'"
        assert [tuple(row) for row in database.execute(kept)] == [written]
        own = world.store.profile(world.store.profile_of(("anonymous_id", "a1")))
        assert own.attach_until == until

    in_database(database, telling, WorldOfEvents)


@pytest.mark.parametrize("harm", ["too many", "unreadable"])
def test_what_nobody_can_tell_any_more_is_nobodys(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """Not the other way about: what follows a logout that somebody may have ended is not theirs."""
    monkeypatch.setattr(browsers_seen, "MAX_RECALLED", 1 if harm == "too many" else 9)

    def telling(world: DatabaseWorld) -> None:
        phone = msgspec.structs.replace(proof(3, 8), anonymous_id=None, device_id="d1")
        for one in (proof(1, 5), proof(2, 7), phone):
            world.hear(one)
        if harm == "unreadable":
            database.execute("update events set body = x'c1' where event_id = 2")
        world.store = world._opened()
        world.hear(proof(4, 6, "logout"))
        assert world.store.profile(world.store.profile_of(("anonymous_id", "a1"))).attach_until == 6

    in_database(database, telling, WorldOfEvents)


@pytest.mark.parametrize("query", ["forget_observations", "kept_events_of_profile"])
def test_what_retention_forgets_is_not_relied_on(query: str) -> None:
    assert set(re.findall(r"'(\w+)'", named_queries("state")[query])) == OBSERVED
