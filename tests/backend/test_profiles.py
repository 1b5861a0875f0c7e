"""The stores of profiles: one contract over memory and SQLite, and what the backend asks of the database."""

import itertools
import random
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backend.profiles.memory import MemoryProfiles
from backend.profiles.model import (
    IDENTIFIED,
    Addressing,
    Claim,
    Device,
    Edge,
    Holding,
    Profile,
    Redemption,
    Stamp,
)
from backend.profiles.placing import person_of
from backend.profiles.rules import standing
from backend.profiles.service import Numbered, ProfileService
from backend.profiles.store import ProfileStore
from backend.storage import database as database_module
from backend.storage import migrations, profiles
from backend.storage.database import StorageConflict, open_for_writing, transaction
from backend.storage.profile_rows import ProfileRows
from sdk_bridge.wire.app_events import AppEvent, PushAddress

SERVICE = ProfileService()
NUMBERS = itertools.count()
TAG = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:7"
Run = Callable[[Callable[[ProfileStore], Any]], Any]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_for_writing(tmp_path / "state.db", "state")
    yield connection
    connection.close()


@pytest.fixture(params=["memory", "sqlite"])
def run(request: pytest.FixtureRequest, database: sqlite3.Connection) -> Run:
    """Each work sees what the earlier ones left, in the database as nobody remembers it."""
    if request.param == "memory":
        memory = MemoryProfiles()
        return lambda work: work(memory)
    return lambda work: transaction(database, "state", lambda session: flushed(session, work))


def flushed(session: Any, work: Callable[[ProfileRows], Any]) -> Any:
    rows = ProfileRows(session)
    result = work(rows)
    rows.flush()
    return result


def event(kind: str, at: int, **fields: Any) -> AppEvent:
    fields.setdefault("proven", "user_id" in fields)
    return AppEvent(
        kind=kind, message_id=f"m{at}-{kind}", source="app", occurred_at=at, received_at=at, **fields
    )


def tell(session: Any, *events: AppEvent) -> None:
    flushed(session, lambda rows: apply(rows, *events))


def apply(store: ProfileStore, *events: AppEvent) -> None:
    batch = [Numbered(one, index, hash(one.message_id)) for index, one in enumerate(events)]
    SERVICE.apply_all(store, batch, lambda: f"p{next(NUMBERS)}")


# The contract ----------------------------------------------------------------------------------------------

BEACON = ("beacon", TAG)
A1 = ("anonymous_id", "a1")


def test_edges_open_close_and_open_again(run: Run) -> None:
    def first(store: ProfileStore) -> None:
        store.add_profile(Profile("p1", "user_id", "u1", 1))
        store.add_profile(Profile("p2", "user_id", "u2", 1))
        store.open_edge(Edge(*BEACON, "p1", 1, "device", 7))
        assert store.profile_of(BEACON) == "p1"

    def then(store: ProfileStore) -> None:
        store.redate_edge(Edge(*BEACON, "p1", 0, "device", 6))
        assert store.open_edge_of(BEACON) == Edge(*BEACON, "p1", 0, "device", 6)
        store.close_edge(BEACON, 2)
        assert store.profile_of(BEACON) is None
        store.open_edge(Edge(*BEACON, "p2", 2, "device", None))

    run(first)
    run(then)
    assert run(lambda store: store.open_edge_of(BEACON)) == Edge(*BEACON, "p2", 2, "device", None)


def test_what_opens_and_closes_at_once_stays_in_the_history(database: sqlite3.Connection) -> None:
    def work(store: ProfileRows) -> None:
        store.open_edge(Edge(*BEACON, "p1", 1, "device", 7))
        store.close_edge(BEACON, 2)
        store.open_edge(Edge(*BEACON, "p2", 2, "device", 8))

    transaction(database, "state", lambda session: flushed(session, work))
    rows = database.execute(
        "select profile_id, valid_from, valid_to from identity_edges order by 2"
    ).fetchall()
    assert [tuple(row) for row in rows] == [("p1", 1, 2), ("p2", 2, None)]


def test_a_beacon_has_one_open_edge(run: Run) -> None:
    def twice(store: ProfileStore) -> None:
        store.open_edge(Edge(*BEACON, "p1", 1, "device", 1))
        store.open_edge(Edge(*BEACON, "p2", 1, "device", 1))

    with pytest.raises((ValueError, StorageConflict)):
        run(twice)


def test_an_identifier_has_one_profile(run: Run) -> None:
    def twice(store: ProfileStore) -> None:
        store.add_profile(Profile("p1", "user_id", "u1", 1))
        store.add_profile(Profile("p2", "user_id", "u1", 1))

    with pytest.raises((ValueError, StorageConflict)):
        run(twice)


def test_claims_keep_the_first_and_the_last_time(run: Run) -> None:
    def first(store: ProfileStore) -> None:
        told = (Stamp(5, 1), Stamp(9, -2), Stamp(9, -7), Stamp(2, 8))
        assert [store.add_claim(A1, "p1", "seen", stamp) for stamp in told] == [True, True, False, True]
        store.add_claim(A1, "p1", "alias", Stamp(1, 1))

    def then(store: ProfileStore) -> None:
        assert not store.add_claim(A1, "p1", "seen", Stamp(3, 0))
        seen = next(claim for claim in store.claims(A1) if claim.via == "seen")
        assert (seen.first_at, seen.last, seen.undone) == (2, Stamp(9, -2), False)
        assert list(store.claimed_by("p1")) == [A1]
        store.drop_claims(A1, "alias")
        store.undo_claims(A1, 9)

    run(first)
    run(then)
    assert run(lambda store: [(claim.via, claim.undone) for claim in store.claims(A1)]) == [("seen", True)]
    run(lambda store: store.add_claim(A1, "p1", "seen", Stamp(11, 0)))
    assert run(lambda store: store.claims(A1)[0].undone), "what an operator undid stays undone"
    run(lambda store: store.drop_claims(A1, "seen"))
    assert run(lambda store: (list(store.claims(A1)), list(store.claimed_by("p1")))) == ([], [])


def test_claims_made_undone_and_dropped_at_once(run: Run) -> None:
    def made_and_undone(store: ProfileStore) -> None:
        store.add_claim(A1, "p1", "seen", Stamp(5, 1))
        store.undo_claims(A1, 6)
        store.add_claim(A1, "p1", "seen", Stamp(7, 1))

    def dropped_and_made(store: ProfileStore) -> None:
        store.drop_claims(A1, "seen")
        store.add_claim(A1, "p1", "seen", Stamp(9, 1))

    def known(store: ProfileStore) -> list[Claim]:
        return list(store.claims(A1))

    run(made_and_undone)
    assert run(known) == [Claim("p1", "seen", 5, Stamp(7, 1), undone=True)]
    run(dropped_and_made)
    assert run(known) == [Claim("p1", "seen", 9, Stamp(9, 1))]


def test_profiles_change(run: Run) -> None:
    leaf = Profile("leaf", "anonymous_id", "a1", 5, cause="page", event_id=1)

    def first(store: ProfileStore) -> None:
        store.add_profile(leaf)
        assert store.profile_of(A1) == "leaf"

    moved = {"cause": "identify", "event_id": 2, "merged_cause": "seen", "merged_event": 3}
    merged = Profile("leaf", "anonymous_id", "a1", 4, "root", 9, 2, 8, shared=True, crowd=True, **moved)
    run(first)
    assert run(lambda store: store.profile("leaf")) == leaf
    run(lambda store: store.put_profile(merged))
    assert run(lambda store: store.profile("leaf")) == merged
    assert run(lambda store: store.profile("nobody")) is None


def test_the_later_statement_stays_and_a_changed_answer_is_told(run: Run) -> None:
    told = [(True, Stamp(5, 0)), (False, Stamp(4, 9)), (True, Stamp(6, 0)), (False, Stamp(6, 1))]
    changed = [run(lambda store, one=one: store.put_consent("p1", "push", *one)) for one in told]
    assert changed == [True, False, False, True]
    assert run(lambda store: (store.has_consents("p1"), store.has_consents("p2"))) == (True, False)


def test_a_link_token_is_spent_once(run: Run) -> None:
    spent = Redemption("n" * 22, -5, "d1", None, 9)
    assert run(lambda store: store.redemption(spent.nonce)) is None
    run(lambda store: store.redeem(spent))
    assert run(lambda store: store.redemption(spent.nonce)) == spent


def test_a_pair_is_reviewed_once(database: sqlite3.Connection) -> None:
    def work(store: ProfileRows) -> None:
        store.add_review(1, A1, ("p2", "p1"), "alias")
        store.add_review(2, A1, ("p1", "p2"), "limit")

    for _ in range(2):
        transaction(database, "state", lambda session: flushed(session, work))
    rows = database.execute(
        "select at, profile_id, other_profile_id, cause, state from merge_reviews"
    ).fetchall()
    assert [tuple(row) for row in rows] == [(1, "p1", "p2", "alias", "open")]


def test_registers_and_addresses(run: Run) -> None:
    first, second = PushAddress("token", "t1"), PushAddress("fid", "f1")
    device = Device("d1", 9, address=Addressing(first, Stamp(3, -4)), proven=Holding("p1", Stamp(2, 2**62)))
    assert run(lambda store: store.device("d1")) is None
    run(lambda store: store.put_device(device, "p1"))
    assert run(lambda store: store.device("d1")) == device

    def report(store: ProfileStore) -> None:
        store.see_address(first, "d1", Stamp(3, 0), 3)
        store.see_address(first, "d2", Stamp(2, 0), 9)
        store.see_address(second, "d1", Stamp(1, 0), 1)

    run(report)
    assert run(lambda store: set(store.addresses_on("d1"))) == {first, second}

    def move(store: ProfileStore) -> None:
        store.see_address(first, "d2", Stamp(4, 0), 4)
        assert list(store.addresses_on("d2")) == [first]
        store.own_address(first, "p1", True, "ios")

    run(move)
    assert run(lambda store: (list(store.addresses_on("d1")), list(store.addresses_on("d2")))) == (
        [second],
        [first],
    )


def test_an_address_that_was_dropped_is_not_brought_back_by_what_others_do(
    database: sqlite3.Connection,
) -> None:
    def told(*events: AppEvent) -> None:
        transaction(database, "state", lambda session: tell(session, *events))

    told(event("device", 1, user_id="u1", device_id="d1", push_address=PushAddress("token", "t1")))
    database.execute("delete from push_addresses")
    told(event("identify", 2, user_id="u2", device_id="d1"))
    assert database.execute("select count(*) from push_addresses").fetchone()[0] == 0


# Between transactions --------------------------------------------------------------------------------------


class Counting:
    """A session that counts what it is asked."""

    def __init__(self, session: Any) -> None:
        self._session, self.asked = session, 0

    def rows(self, query: str, **values: Any) -> Any:
        self.asked += 1
        return self._session.rows(query, **values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def test_what_is_known_holds_until_somebody_else_writes(database: sqlite3.Connection) -> None:
    kept: list[ProfileRows] = []

    def tell_at(at: int) -> int:
        def work(session: Any) -> int:
            counting = Counting(session)
            if kept:
                kept[0].begin(counting)
            else:
                kept.append(ProfileRows(counting))
            apply(kept[0], event("identify", at, user_id="u1", anonymous_id="a1", device_id="d1"))
            kept[0].flush()
            kept[0].end()
            return counting.asked

        return transaction(database, "state", work)

    assert tell_at(1) > 0
    assert [tell_at(2), tell_at(3)] == [0, 0]

    def undo(session: Any) -> None:
        rows = ProfileRows(session)
        own = rows.profile_of(A1) or ""
        assert SERVICE.undo_merge(rows, own, 9, lambda: "never")
        rows.flush()

    transaction(database, "state", undo)
    assert tell_at(4) > 0
    assert tell_at(5) == 0
    parents = dict(database.execute("select id_type, merged_into from profiles").fetchall())
    assert parents["anonymous_id"] is None, "the operator's word was heard"
    assert parents["device_id"] is not None
    database.execute("update stores set name = name")
    assert tell_at(6) == 0, "nothing was changed by that"


def test_another_process_that_writes_is_noticed(database: sqlite3.Connection, tmp_path: Path) -> None:
    rows: list[ProfileRows] = []

    def look(session: Any) -> str | None:
        if rows:
            rows[0].begin(session)
        else:
            rows.append(ProfileRows(session))
        found = rows[0].profile_of(A1)
        rows[0].end()
        return found

    assert transaction(database, "state", look) is None
    other = open_for_writing(tmp_path / "state.db", "state")
    transaction(other, "state", lambda session: tell(session, event("page", 1, anonymous_id="a1")))
    other.close()
    assert transaction(database, "state", look) is not None


def test_what_a_failed_transaction_knew_is_not_carried_on(database: sqlite3.Connection) -> None:
    def fail(session: Any) -> None:
        tell(session, event("page", 1, anonymous_id="a1"))
        raise RuntimeError("the disk")

    with pytest.raises(RuntimeError):
        transaction(database, "state", fail)
    found = transaction(database, "state", lambda session: ProfileRows(session).profile_of(A1))
    assert found is None


# Both stores under the same events -------------------------------------------------------------------------


def some_events(seed: int) -> list[AppEvent]:
    chance = random.Random(seed)

    def one(at: int) -> AppEvent:
        user = chance.choice([None, "u1", "u2"])
        kind = chance.choice(["identify", "track", "alias", "device", "consent", "logout"])
        return event(
            kind,
            at,
            user_id=user,
            proven=user is not None and chance.random() < 0.7,
            anonymous_id=chance.choice([None, "a1", "a2", "a3"]),
            previous_id=chance.choice(["a1", "u1", "u2"]) if kind == "alias" else None,
            device_id=chance.choice([None, "d1", "d2"]),
            push_address=chance.choice([None, PushAddress("token", "t1"), PushAddress("fid", "t2")]),
            beacon_key=chance.choice([None, TAG, TAG + "1"]) if kind == "device" else None,
            traits={"name": chance.randrange(5), f"t{chance.randrange(3)}": None},
            consent={chance.choice(["push", "proximity"]): chance.random() < 0.6},
        )

    return [one(at) for at in range(1, 30)]


@pytest.mark.parametrize("seed", range(12))
def test_both_stores_come_to_the_same_answers(database: sqlite3.Connection, seed: int) -> None:
    """The one event by event, the other in transactions of seven."""
    memory, events = MemoryProfiles(), some_events(seed)
    numbers, memorys = itertools.count(), itertools.count()
    batch = [Numbered(one, index, hash(one.message_id)) for index, one in enumerate(events)]
    SERVICE.apply_all(memory, batch, lambda: f"p{next(memorys)}")
    for start in range(0, len(batch), 7):
        part = batch[start : start + 7]
        work = partial(SERVICE.apply_all, batch=part, new_id=lambda: f"p{next(numbers)}")
        transaction(database, "state", partial(flushed, work=work))

    def compare(session: Any) -> None:
        people = {person_of(memory, profile_id) for profile_id in memory.profiles}
        for key, profile_id in memory.owners.items():
            assert profiles.resolve(session, *key) == person_of(memory, profile_id)
        for person in people:
            assert set(profiles.profiles_of_person(session, person)) == set(memory.tree(person))
            for purpose in ("push", "proximity"):
                expected = standing(memory.statements(person, purpose))
                assert profiles.consent_of(session, person, purpose) is expected
        owners = {
            address: known.profile_id for address, known in memory.addresses.items() if known.profile_id
        }
        for address, owner in owners.items():
            reached = {
                person
                for person in people
                for found in profiles.push_addresses_of(session, person)
                if (found.kind, found.value) == (address.kind, address.value)
            }
            # An unproven claim reaches nobody once its profile has become part of an identified person.
            root = memory.profiles[person_of(memory, owner)]
            strays = not memory.addresses[address].proven and root.id_type in IDENTIFIED
            assert reached == (set() if strays else {person_of(memory, owner)})
        agreed = {
            key[1]: person_of(memory, edge.profile_id)
            for key, edge in memory.edges.items()
            if key[0] == "beacon"
            and standing(memory.statements(person_of(memory, edge.profile_id), "proximity"))
        }
        assert profiles.consented_beacons(session) == agreed

    transaction(database, "state", compare)


# What the backend asks -------------------------------------------------------------------------------------


def test_a_person_in_one_view(database: sqlite3.Connection) -> None:
    def check(session: Any) -> None:
        tell(
            session,
            event("identify", 1, anonymous_id="a1", traits={"colour": "red", "size": 4, "gone": "x"}),
            event("identify", 3, user_id="u1", anonymous_id="a1", traits={"colour": "blue", "gone": None}),
            event(
                "device", 4, user_id="u1", device_id="d1", platform="android", beacon_key=TAG,
                push_address=PushAddress("token", "t1"), consent={"proximity": True, "push": False},
            ),
        )  # fmt: skip
        view = profiles.profile_view(session, "anonymous_id", "a1")
        assert view is not None
        assert view["identified"] is True
        assert view["traits"] == {"colour": "blue", "size": 4}
        assert view["consents"] == {"proximity": True, "push": False}
        assert view["devices"] == [{"device_id": "d1", "platform": "android", "last_seen_at": 4}]
        assert view["push_addresses"] == [{"kind": "token", "platform": "android", "last_seen_at": 4}]
        assert [(one["type"], one["id"]) for one in view["identities"]] == [
            ("anonymous_id", "a1"),
            ("beacon", TAG),
            ("device_id", "d1"),
            ("user_id", "u1"),
        ]
        assert view == profiles.profile_view(session, "profile_id", view["profile_id"])
        assert profiles.consented_beacons(session) == {TAG: view["profile_id"]}
        assert profiles.profile_view(session, "user_id", "nobody") is None

    transaction(database, "state", check)


def test_a_beacon_of_the_shop_is_nobodys_whoever_claims_it(database: sqlite3.Connection) -> None:
    database.execute(
        "insert into beacons (beacon_key, role, store_id, zone_id) values (?, 'zone', 's', 'z')", (TAG,)
    )

    def check(session: Any) -> None:
        tell(
            session,
            event("device", 1, user_id="u1", device_id="d1", beacon_key=TAG, consent={"proximity": True}),
        )
        assert profiles.consented_beacons(session) == {}

    transaction(database, "state", check)


def test_a_quarantined_address_is_not_offered(database: sqlite3.Connection) -> None:
    def check(session: Any) -> None:
        tell(
            session,
            event("device", 1, user_id="u1", device_id="d1", push_address=PushAddress("token", "t1")),
        )
        person = profiles.resolve(session, "user_id", "u1") or ""
        assert [one.value for one in profiles.push_addresses_of(session, person)] == ["t1"]
        session.run("quarantine_push_address", kind="token", value="t1", now=9, sending_at=9)
        assert profiles.push_addresses_of(session, person) == []

    transaction(database, "state", check)


@pytest.mark.parametrize(("later_ms", "reached"), [(1, False), (86_399_999, False), (86_400_000, True)])
def test_a_quarantined_address_is_tried_again_when_its_app_shows_itself_a_day_later(
    database: sqlite3.Connection, later_ms: int, reached: bool
) -> None:
    """A wrong service account must not silence everybody for ever."""
    address = PushAddress("token", "t1")

    def check(session: Any) -> None:
        tell(session, event("device", 1, user_id="u1", device_id="d1", push_address=address))
        session.run("quarantine_push_address", kind="token", value="t1", now=9, sending_at=9)
        tell(session, event("device", 9 + later_ms, user_id="u1", device_id="d1", push_address=address))
        person = profiles.resolve(session, "user_id", "u1") or ""
        assert bool(profiles.push_addresses_of(session, person)) is reached

    transaction(database, "state", check)


def test_the_timeline_spans_the_merged_profiles(database: sqlite3.Connection) -> None:
    events = [
        event("page", 1, anonymous_id="a1", name="Shoes"),
        event("track", 2, user_id="u1", name="Order Completed"),
        event("page", 3, anonymous_id="other"),
        event("identify", 4, user_id="u1", anonymous_id="a1"),
    ]

    def check(session: Any) -> None:
        store, numbers = ProfileRows(session), itertools.count()
        for index, one in enumerate(events):
            applied = SERVICE.apply(store, one, index, index, lambda: f"p{next(numbers)}")
            store.flush()
            session.run(
                "add_event",
                event_id=index,
                event_hash=index,
                profile_id=applied.profile_id,
                kind=one.kind,
                name=one.name,
                source=one.source,
                message_id=one.message_id,
                occurred_at=one.occurred_at,
                received_at=one.received_at,
                body=b"\x80",
                properties=None,
            )
        person = profiles.resolve(session, "user_id", "u1") or ""
        names = [one["name"] for one in profiles.timeline(session, person, before=10, limit=10)]
        assert names == [None, "Order Completed", "Shoes"]
        assert len(profiles.timeline(session, person, before=4, limit=1)) == 1

    transaction(database, "state", check)


def test_identifiers_and_merges_of_an_earlier_version_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were edges then; `u2` was merged into `u1`, apart again, and merged anew."""
    path = tmp_path / "earlier.db"
    earlier = [file for file in migrations.migration_files("state") if file.number <= 20]
    monkeypatch.setattr(database_module, "migration_files", lambda _: earlier)
    with open_for_writing(path, "state") as old:
        for profile_id, parent, at in (("p1", None, None), ("p2", "p1", 7)):
            row = (profile_id, "user_id", 1, parent, at)
            old.execute(
                "insert into profiles (profile_id, id_type, created_at, merged_into, merged_at)"
                " values (?, ?, ?, ?, ?)",
                row,
            )
            own = ("user_id", f"u{profile_id[1]}", profile_id, 1, None, "identify", 4)
            old.execute("insert into identity_edges values (?, ?, ?, ?, ?, ?, ?)", own)
        for edge in ((5, 6, "operator", None), (7, None, "link", 9)):
            old.execute("insert into identity_edges values ('profile', 'p2', 'p1', ?, ?, ?, ?)", edge)
    old.close()
    monkeypatch.undo()
    connection = open_for_writing(path, "state")
    found = transaction(connection, "state", _known_of_p2)
    connection.close()
    assert found == (
        Profile(
            "p2",
            "user_id",
            "u2",
            1,
            "p1",
            7,
            cause="identify",
            event_id=4,
            merged_cause="link",
            merged_event=9,
        ),
        [("profile", "p2", "p1", 5, 6, "operator"), ("profile", "p2", "p1", 7, None, "link")],
        [(7, None, "link"), (5, 6, "operator")],
    )


def _known_of_p2(session: Any) -> tuple[Profile | None, list[Any], list[Any]]:
    """The profile, its merges in the history of its person, and the same on the timeline."""
    history = session.rows("identity_history_of_person", profile_id="p1", limit=9)
    timeline = session.rows("timeline_merges", profile_id="p1")
    return (
        ProfileRows(session).profile("p2"),
        [tuple(row) for row in history if row["id_type"] == "profile"],
        [(row["at"], row["valid_to"], row["cause"]) for row in timeline],
    )
