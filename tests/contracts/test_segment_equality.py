"""One meaning, two executions: for random trees and random lives, the predicate and the SQL say the same."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from backend.segments import model
from backend.segments.dependencies import needs_of
from backend.segments.predicate import Verdict, evaluate, evaluate_all
from backend.storage import database, segments
from backend.storage.postgres.line import Address, Line
from backend.storage.segment_facts import PeopleFacts
from backend.storage.session import Session
from simulators.postgres import drop_database, make_database

NOON = 1_750_075_200_000  # 16 June 2025, 12:00 UTC
HOUR, DAY = 3_600_000, 86_400_000
NAMES = ("Product Viewed", "Order Completed")
KEYS = ("category", "price", "ünï", "a.b", "products")
TRAITS = ("plan", "born")
PURPOSES = ("push", "proximity")
STORES, ZONES, CATEGORIES = ("s1", "s2"), ("a", "b"), ("shoes", "Shoes > Running", "bags")
TEXTS = (
    "shoes",
    "Shoes",
    "größe",
    "GRÖSSE",
    "",
    "2025-06-10",
    "2025-06-10T23:00:00+14:00",
    "2025-02-31",
    "7",
    "null",
)
NUMBERS = (0, -1, 7, 7.0, 19.99, 0.1, 1e-7, 2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), -0.0, 1e15, 1e300)

# Lives ------------------------------------------------------------------------------------------------------

numbers = st.sampled_from(NUMBERS) | st.integers(-(10**9), 10**9).map(lambda cents: cents / 100)
texts = st.sampled_from(TEXTS) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\uffff"), max_size=6
)
atoms = st.none() | st.booleans() | numbers | texts
values = atoms | st.lists(atoms, max_size=3) | st.dictionaries(st.sampled_from(KEYS), atoms, max_size=3)
products = st.lists(st.dictionaries(st.sampled_from(KEYS), atoms, max_size=3), max_size=3)
properties = st.none() | st.fixed_dictionaries(
    {}, optional={**dict.fromkeys(KEYS[:-1], values), "products": products | values}
)
edges = st.sampled_from([NOON - span + step for span in (0, HOUR, DAY, 7 * DAY) for step in (-1, 0, 1)])
moments = (
    edges
    | st.integers(0, 240).map(lambda steps: NOON - steps * HOUR)
    | st.integers(NOON - 10 * DAY, NOON + HOUR)
)
attachments = st.fixed_dictionaries({}, optional={"attach_from": moments, "attach_until": moments})
hashes = st.integers(-(2**62), 2**62)
# Made once: hypothesis takes longer to make and to check a strategy than to draw from it.
some_categories = st.lists(st.sampled_from(CATEGORIES), max_size=2)
perhaps_a_store = st.none() | st.sampled_from(STORES)
perhaps_a_zone = st.none() | st.sampled_from(ZONES)
perhaps_a_name = st.none() | st.sampled_from(NAMES)
perhaps_a_class = st.none() | st.sampled_from(("Champions", "Lost"))
perhaps_a_score = st.none() | st.integers(1, 5)
perhaps_a_moment = st.none() | moments
id_types = st.sampled_from(("user_id", "email", "anonymous_id", "device_id"))
some_segments = st.sets(st.sampled_from(("vip", "new")))
some_traits = st.sets(st.sampled_from(TRAITS))
some_purposes = st.sets(st.sampled_from(PURPOSES))
a_fence = st.sampled_from(("f1", "f2"))
kinds = st.sampled_from(("track", "track", "page", "identify", "device"))
a_store = st.sampled_from(STORES)
a_zone = st.sampled_from(ZONES)
yes_or_no = st.booleans()
perhaps_a_stay = st.none() | st.integers(0, 5 * HOUR)
up_to = [st.integers(0, most) for most in range(6)]


@dataclass
class World:
    """Rows by table, as they would lie in the database."""

    rows: list[tuple[str, dict]] = field(default_factory=list)
    people: list[str] = field(default_factory=list)

    def add(self, table: str, **values) -> None:
        self.rows.append((table, values))


@st.composite
def worlds(draw) -> World:
    world = World()
    for store in STORES:
        world.add("stores", store_id=store, name=store, timezone="UTC")
        for zone in ZONES:
            has = draw(some_categories)
            world.add("zones", store_id=store, zone_id=zone, name=zone, categories=json.dumps(has))
    for fence in ("f1", "f2"):
        around = draw(perhaps_a_store)
        definition = json.dumps({"name": fence} | ({"store_id": around} if around else {}))
        world.add("geofences", fence_id=fence, definition=definition, changed_at=0)
    number = 0
    for person in range(1 + draw(up_to[2])):
        root = f"p{person}"
        world.people.append(root)
        tree = [root, *(f"{root}-{child}" for child in range(draw(up_to[2])))]
        for place, profile in enumerate(tree):
            parent = None if place == 0 else tree[draw(up_to[place - 1])]
            merged_at = None if parent is None else draw(moments)
            kind = draw(id_types)
            attach = {} if parent is None else draw(attachments)
            world.add(
                "profiles",
                profile_id=profile,
                id_type=kind,
                id=f"id of {profile}",
                created_at=0,
                merged_into=parent,
                merged_at=merged_at,
                **attach,
            )
            world.add(
                "identity_edges",
                id_type="beacon",
                id=f"beacon of {profile}",
                profile_id=profile,
                valid_from=0,
                valid_to=draw(perhaps_a_moment),
                cause="test",
                event_id=None,
            )
            number = _life(draw, world, profile, number)
        for segment in draw(some_segments):
            world.add("segment_members", segment_id=segment, profile_id=root, since=1, version=1)
        if draw(yes_or_no):
            scores = {score: draw(perhaps_a_score) for score in "rfm"}
            name = draw(perhaps_a_class)
            world.add("rfm_scores", profile_id=root, run_id=1, **scores, name=name, scored_at=1)
    return world


def _life(draw: st.DrawFn, world: World, profile: str, number: int) -> int:
    """Adds what a profile said and did; the number of the last."""
    for name in draw(some_traits):
        value = msgspec.json.encode(draw(values)).decode()
        stamp = {"occurred_at": draw(moments), "event_hash": draw(hashes)}
        world.add("traits", profile_id=profile, name=name, value=value, **stamp)
    for purpose in draw(some_purposes):
        stamp = {"occurred_at": draw(moments), "event_hash": draw(hashes)}
        world.add("consents", profile_id=profile, purpose=purpose, granted=draw(up_to[1]), **stamp)
    for _ in range(draw(up_to[5])):
        number += 1
        world.add("events", **_event(draw, profile, number))
    for _ in range(draw(up_to[3])):
        number += 1
        entered = draw(moments)
        stayed = draw(perhaps_a_stay)
        place = {"store_id": draw(a_store), "zone_id": draw(a_zone)}
        world.add(
            "zone_visits",
            visit_id=number,
            beacon_key="b",
            profile_id=profile,
            **place,
            entered_at=entered,
            left_at=None if stayed is None else entered + stayed,
        )
    for _ in range(draw(up_to[1])):
        number += 1
        stay = {"profile_id": profile, "entered_at": 0, "left_at": draw(perhaps_a_moment)}
        world.add("visits", visit_id=number, subject=str(number), store_id=draw(a_store), **stay)
        fence = draw(a_fence)
        world.add(
            "fence_visits",
            visit_id=number,
            subject=str(number),
            fence_id=fence,
            confidence="high",
            **stay,
        )
    if draw(yes_or_no):
        zone = draw(perhaps_a_zone)
        world.add(
            "presences",
            beacon_key=f"beacon of {profile}",
            profile_id=profile,
            store_id=draw(a_store),
            zone_id=zone,
            entered_at=0,
            seen_at=0,
            engine=b"",
        )
    return number


def _event(draw: st.DrawFn, profile: str, number: int) -> dict:
    found = draw(properties)
    return {
        "event_id": number,
        "event_hash": number,
        "profile_id": profile,
        "kind": draw(kinds),
        "name": draw(perhaps_a_name),
        "source": "web",
        "message_id": str(number),
        "occurred_at": draw(moments),
        "received_at": NOON,
        "body": b"",
        "properties": None if found is None else msgspec.json.encode(found).decode(),
    }


# Trees ------------------------------------------------------------------------------------------------------

days = st.sampled_from(("2025-06-01", "2025-06-10", "2025-02-28", "2025-06-16"))
some_number = numbers.filter(lambda n: abs(n) <= 1e15).map(float)
few_days = st.integers(-8, 8)
literals = st.booleans() | some_number | texts


def in_order(test) -> bool:
    """Whether anything lies between its bounds; where nothing does, no definition is taken."""
    names = ("since", "until") if isinstance(test, model.DateIs) else ("at_least", "at_most")
    low, high = (getattr(test, name) for name in names)
    return (low is None or high is None or low <= high) and not has_closed_gap(test)


def has_closed_gap(test) -> bool:
    """Whether bounds of which one is itself outside meet or cross."""
    if not isinstance(test, model.NumberIs):
        return False
    pairs = (
        (test.at_least, test.less_than),
        (test.more_than, test.at_most),
        (test.more_than, test.less_than),
    )
    return any(low is not None and high is not None and high <= low for low, high in pairs)


def some_of(kind, **bounds):
    """A test with at least one of its bounds."""
    one = st.sampled_from(sorted(bounds)).flatmap(lambda name: st.fixed_dictionaries({name: bounds[name]}))
    more = st.fixed_dictionaries({}, optional=bounds)
    return st.builds(lambda first, rest: kind(**{**rest, **first}), one, more).filter(in_order)


tests = st.one_of(
    st.just(model.Exists()),
    st.builds(model.Is, literals),
    st.builds(model.OneOf, st.lists(literals, min_size=1, max_size=4).map(tuple)),
    st.builds(model.Contains, texts.filter(bool), st.booleans()),
    some_of(model.NumberIs, **dict.fromkeys(("at_least", "at_most", "more_than", "less_than"), some_number)),
    some_of(model.DateIs, since=days, until=days),
)
paths = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(
        (("products", "[]", "category"), ("products", "[]"), ("category", "ünï"), ("price", "[]", "a.b"))
    ),
)
filters = st.builds(model.Filter, paths, tests, st.booleans())
within = st.none() | st.sampled_from((3600, 86_400, 7 * 86_400))


some_filters = st.lists(filters, max_size=2).map(tuple)
a_name = st.sampled_from(NAMES)
asked_kinds = st.sampled_from(("track", "page", "any"))
leasts = st.sampled_from((None, None, 0, 1, 2, 3))
mosts = [st.integers(least, 4) for least in range(4)]


@st.composite
def happenings(draw) -> model.Did:
    kind = draw(asked_kinds)
    name = draw(a_name if kind == "track" else perhaps_a_name)
    where, seconds, least = draw(some_filters), draw(within), draw(leasts)
    most = draw(mosts[least or 0]) if least == 0 or draw(yes_or_no) else None
    return model.Did(name, kind, within_s=seconds, where=where, at_least=least, at_most=most)


trait_tests = tests | some_of(model.DaysAgo, at_least=few_days, at_most=few_days)
trait_paths = st.one_of(
    st.sampled_from(TRAITS),
    st.sampled_from((("plan", "category"), ("born", "[]"), ("plan", "products", "[]", "price"))),
)
scores = st.builds(
    lambda low, high: model.Between(min(low, high), max(low, high)), st.integers(1, 5), st.integers(1, 5)
)
leaves = st.one_of(
    happenings(),
    happenings(),
    st.builds(model.HasTrait, trait_paths, trait_tests),
    st.builds(
        model.HasIdentifier,
        st.sampled_from(("user_id", "email", "anonymous_id", "beacon")),
        st.just(()) | st.just(("id of p0", "id of p1-0", "beacon of p0", "beacon of p1-0")),
    ),
    st.builds(model.Agreed, st.sampled_from(PURPOSES)),
    st.builds(model.IsIn, st.sampled_from(STORES), st.none() | st.sampled_from(ZONES)),
    st.builds(model.IsNear, fence_id=st.sampled_from(("f1", "f2"))),
    st.builds(model.IsNear, store_id=st.sampled_from(STORES)),
    st.builds(model.Dwelt, st.integers(1, 4 * 3600), category=st.sampled_from(CATEGORIES), within_s=within),
    st.builds(
        model.Dwelt,
        st.integers(1, 4 * 3600),
        store_id=st.sampled_from(STORES),
        zone_id=st.none() | st.sampled_from(ZONES),
        within_s=within,
    ),
    st.builds(model.HasRfm, st.just(()) | st.just(("Champions",)), scores, scores, scores),
    st.builds(model.InSegment, st.sampled_from(("vip", "new"))),
)


def above(inner):
    """Trees of these."""
    few = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return inner | st.builds(model.Not, inner) | st.builds(model.AllOf, few) | st.builds(model.AnyOf, few)


trees = above(above(leaves))

# The two executions -----------------------------------------------------------------------------------------


class Undone(Exception):
    """Nothing of an example stays."""


@pytest.fixture(scope="module")
def on_sqlite() -> Iterator[Callable]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    database.migrate(connection, "state")
    yield lambda work: database.transaction(connection, "state", work)
    connection.close()


@pytest.fixture(scope="module")
def on_postgres(postgres_server: str, postgres_template: str) -> Iterator[Callable]:
    line = Line(Address(make_database(postgres_server, "segments", postgres_template), "state"))
    yield lambda work: line.transaction("begin", work)
    line.close()
    drop_database(postgres_server, "segments")


def in_world(run: Callable, world: World, check: Callable[[Session], None]) -> None:
    """Runs a check where the world's rows are."""

    def work(session: Session) -> None:
        for table, row in world.rows:
            names, values = ", ".join(row), ", ".join(f":{name}" for name in row)
            session.found(f"insert into {table} ({names}) values ({values})", row)
        check(session)
        raise Undone

    with pytest.raises(Undone):
        run(work)


def by_predicate(
    session: Session, condition: model.Condition, people: list[str], now: int
) -> dict[str, Verdict]:
    trees = segments.whole_trees(session, people)
    members: dict[str, set[str]] = {}
    for held in segments.memberships(session, people):
        members.setdefault(held.profile_id, set()).add(held.segment_id)
    facts = PeopleFacts(session, trees, needs_of(condition), now, members)
    return {person: evaluate(condition, facts.of(person), now) for person in people}


def same_answers(run: Callable, world: World, condition: model.Condition) -> None:
    def check(session: Session) -> None:
        verdicts = by_predicate(session, condition, world.people, NOON)
        asked = segments.ask(session, condition, world.people, NOON)
        event("somebody" if asked.members else "nobody")
        assert {person for person, verdict in verdicts.items() if verdict.holds} == asked.members
        waits = {person for person, verdict in verdicts.items() if verdict.changes_at is not None}
        assert waits <= asked.restless

    in_world(run, world, check)


@settings(max_examples=250)
@given(worlds(), trees)
def test_the_predicate_and_sqlite_say_the_same(on_sqlite, world, condition):
    same_answers(on_sqlite, world, condition)


@settings(max_examples=100)
@given(worlds(), trees)
def test_whoever_is_asked_with_others_is_told_the_same(on_sqlite, world, condition):
    def check(session: Session) -> None:
        trees, members = (
            segments.whole_trees(session, world.people),
            {person: set() for person in world.people},
        )
        people = trees.profiles.keys()
        for held in segments.memberships(session, people):
            members[held.profile_id].add(held.segment_id)
        facts = PeopleFacts(session, trees, needs_of(condition), NOON, members)
        holds, changes_at = evaluate_all(condition, people, facts, NOON)
        together = {person: (person in holds, changes_at.get(person)) for person in people}
        assert together == by_predicate(session, condition, world.people, NOON)

    in_world(on_sqlite, world, check)


@settings(max_examples=100)
@given(worlds(), trees)
def test_the_predicate_and_postgres_say_the_same(on_postgres, world, condition):
    same_answers(on_postgres, world, condition)


@settings(max_examples=100)
@given(worlds(), trees, st.data())
def test_nothing_changes_before_the_predicate_says_so(on_sqlite, world, condition, data):
    def check(session: Session) -> None:
        for person, (holds, changes_at) in by_predicate(session, condition, world.people, NOON).items():
            assert changes_at is None or changes_at > NOON
            last = NOON + 400 * DAY if changes_at is None else changes_at - 1
            for moment in (last, data.draw(st.integers(NOON, last))):
                assert (person in segments.ask(session, condition, [person], moment).members) == holds

    in_world(on_sqlite, world, check)


@settings(max_examples=50)
@given(trees)
def test_the_definition_survives_json(condition):
    assert model.parse_condition(msgspec.json.encode(condition)) == condition


VALUES = [
    None,
    True,
    False,
    0,
    1,
    -0.0,
    7,
    7.0,
    2**53,
    2**53 + 1,
    2**64 - 1,
    -(2**63),
    19.99,
    1e300,
    1e-300,
    "7",
    "",
    "null",
    "true",
    "Straße",
    "STRASSE",
    "2025-06-16",
    "2025-06-16x",
    "2025-6-16",
    "20250616--",
    "x2025-06-16",
    "\u0000 nul",
    "back\\u0000slash",
    "👟",
    [],
    ["shoes"],
    [["shoes"]],
    {},
    {"ünï": "shoes"},
    {"a.b": 7},
]
TESTS = [
    model.Exists(),
    *(
        model.Is(value)
        for value in (True, False, 0.0, 1.0, 7.0, float(2**53), 19.99, "7", "", "null", "Straße", "shoes")
    ),
    model.OneOf(("7", 7.0, True)),
    model.Contains("TRA", ignore_case=True),
    model.Contains("ß"),
    model.Contains("nul"),
    model.NumberIs(at_least=7, less_than=1e15),
    model.NumberIs(more_than=0),
    model.DateIs(since="2025-06-16"),
    model.DateIs(until="2025-06-16"),
    model.DaysAgo(at_least=0, at_most=0),
]
PATHS = ["value", ("value", "[]"), ("value", "ünï"), ("value", "a.b"), ("value", "[]", "[]"[:1])]


@pytest.mark.parametrize("engine", ["on_sqlite", "on_postgres"])
def test_every_value_against_every_test(engine, request):
    """Types are exact: nothing is taken for what it only looks like."""
    world = World()
    for number, value in enumerate(VALUES):
        person = f"p{number:02}"
        world.people.append(person)
        world.add("profiles", profile_id=person, id_type="user_id", created_at=0)
        text = msgspec.json.encode(value).decode()
        world.add("traits", profile_id=person, name="value", value=text, occurred_at=0, event_hash=0)

    def check(session: Session) -> None:
        for test in TESTS:
            for path in PATHS:
                condition = model.HasTrait(path, test)
                verdicts = by_predicate(session, condition, world.people, NOON)
                expected = {person for person, verdict in verdicts.items() if verdict.holds}
                asked = segments.ask(session, condition, world.people, NOON)
                assert expected == asked.members, (
                    condition,
                    [VALUES[int(p[1:])] for p in expected ^ asked.members],
                )

    in_world(request.getfixturevalue(engine), world, check)


@pytest.mark.parametrize("engine", ["on_sqlite", "on_postgres"])
def test_stays_that_overlap_count_once(engine, request):
    """Everybody has two stays and some a third, which begin and end in every order; 0: it still lasts."""
    world = World()
    spans = [(begun, ended) for begun in range(1, 5) for ended in range(begun)]
    stays = [*combinations_with_replacement(spans, 2), *combinations(spans, 3)]
    for number, theirs in enumerate(stays):
        person = f"p{number:03}"
        world.people.append(person)
        world.add("profiles", profile_id=person, id_type="user_id", created_at=0)
        for place, (begun, ended) in enumerate(theirs):
            world.add(
                "zone_visits",
                visit_id=10 * number + place,
                beacon_key="b",
                profile_id=person,
                store_id="vienna",
                zone_id="shoes",
                entered_at=NOON - begun * HOUR,
                left_at=NOON - ended * HOUR if ended else None,
            )

    def covered(theirs: tuple[tuple[int, int], ...], hours: int) -> int:
        return len({hour for begun, ended in theirs for hour in range(ended, begun) if hour < hours})

    def check(session: Session) -> None:
        for needed in range(1, 5):
            for hours in (2, 3, 100):
                condition = model.Dwelt(needed * 3600, store_id="vienna", within_s=hours * 3600)
                verdicts = by_predicate(session, condition, world.people, NOON)
                expected = {
                    person
                    for person, theirs in zip(world.people, stays, strict=True)
                    if covered(theirs, hours) >= needed
                }
                assert {person for person, verdict in verdicts.items() if verdict.holds} == expected
                assert segments.ask(session, condition, world.people, NOON).members == expected

    in_world(request.getfixturevalue(engine), world, check)
