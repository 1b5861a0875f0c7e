"""Who belongs to whom: the rules of identity as tables, and as properties over any order of arrival."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.profiles.memory import MemoryProfiles
from backend.profiles.model import Claim, Stamp, Statement
from backend.profiles.rules import beacon_owner, parent_of, standing, usable
from backend.profiles.service import ProfileService, person_of
from sdk_bridge.wire.app_events import AppEvent, PushAddress

SERVICE = ProfileService()
TAG = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:7"


def event(kind: str, at: int, **fields: Any) -> AppEvent:
    fields.setdefault("proven", "user_id" in fields)
    return AppEvent(
        kind=kind, message_id=f"m{at}-{kind}", source="app", occurred_at=at, received_at=at, **fields
    )


def apply(store: MemoryProfiles, *events: AppEvent) -> list[Any]:
    numbers = itertools.count(len(store.profiles))
    return [
        SERVICE.apply(store, one, index, one.occurred_at * 7919 % 1009, lambda: f"p{next(numbers)}")
        for index, one in enumerate(events)
    ]


def person(store: MemoryProfiles, id_type: Any, identifier: str) -> str | None:
    found = store.profile_of(id_type, identifier)
    return person_of(store, found) if found else None


def same_person(store: MemoryProfiles, *who: tuple[Any, str]) -> bool:
    return len({person(store, *one) for one in who}) == 1


@pytest.mark.parametrize(
    "value",
    ["", "  ", "null", "NaN", "undefined", "-1", "0", "00000000-0000-0000-0000-000000000000", "---",
     "[object Object]", "Anonymous", "guest", "true", "M\ufffdller", "device_id"],
)  # fmt: skip
def test_values_that_stand_for_nobody(value: str) -> None:
    assert usable(value) is None


@pytest.mark.parametrize("value", ["4711", "anna@example.org", "0x1", "nullable", "tester", "10"])
def test_values_that_may_stand_for_somebody(value: str) -> None:
    assert usable(value) == value


def test_an_anonymous_visitor_becomes_the_user_who_logs_in() -> None:
    store = MemoryProfiles()
    page, login = apply(
        store, event("page", 1, anonymous_id="a1"), event("identify", 2, anonymous_id="a1", user_id="u1")
    )
    assert same_person(store, ("anonymous_id", "a1"), ("user_id", "u1"))
    assert login.merged == (page.profile_id,)
    assert login.person_id == login.profile_id != page.profile_id


def test_a_claim_without_proof_binds_nothing() -> None:
    store = MemoryProfiles()
    apply(store, event("identify", 1, user_id="u1", traits={"email": "real@example.org"}))
    (forged,) = apply(
        store,
        event(
            "identify", 2, user_id="u1", anonymous_id="evil", device_id="evil-phone", proven=False,
            traits={"email": "evil@example.org"}, beacon_key=TAG, push_address=PushAddress("token", "evil"),
        ),
    )  # fmt: skip
    user = person(store, "user_id", "u1")
    assert forged.person_id != user
    assert person(store, "beacon", TAG) is None
    assert store.addresses[PushAddress("token", "evil")].profile_id == forged.profile_id
    assert store.traits[user, "email"][1] == '"real@example.org"'


def test_an_id_seen_with_two_users_is_shared_and_its_anonymous_events_never_move() -> None:
    store = MemoryProfiles()
    page, *_ = apply(
        store,
        event("page", 1, anonymous_id="kiosk"),
        event("identify", 2, anonymous_id="kiosk", user_id="u1"),
        event("identify", 3, anonymous_id="kiosk", user_id="u2"),
    )
    people = {
        person(store, "anonymous_id", "kiosk"),
        person(store, "user_id", "u1"),
        person(store, "user_id", "u2"),
    }
    assert len(people) == 3
    assert person(store, "anonymous_id", "kiosk") == page.profile_id


def test_two_identified_people_are_never_merged_by_an_event_but_reviewed() -> None:
    for order in itertools.permutations(
        [
            event("identify", 1, user_id="old"),
            event("identify", 2, user_id="new"),
            event("alias", 3, user_id="new", previous_id="old"),
        ]
    ):
        store = MemoryProfiles()
        apply(store, *order)
        assert not same_person(store, ("user_id", "old"), ("user_id", "new"))
        assert list(store.reviews.values()) == ["alias"]
        assert set(next(iter(store.reviews))) == {
            person(store, "user_id", "old"),
            person(store, "user_id", "new"),
        }


def test_alias_of_an_anonymous_id_is_a_login() -> None:
    store = MemoryProfiles()
    apply(
        store,
        event("page", 1, anonymous_id="a1"),
        event("alias", 2, user_id="u1", previous_id="a1"),
    )
    assert same_person(store, ("anonymous_id", "a1"), ("user_id", "u1"))


def test_more_identifiers_than_a_person_has_wait_for_review() -> None:
    service, store = ProfileService({"anonymous_id": 2}), MemoryProfiles()
    numbers = itertools.count()
    for at in range(8):
        kind, user = ("page", None) if at % 2 == 0 else ("identify", "u1")
        one = event(kind, at, anonymous_id=f"a{at // 2}", user_id=user, proven=user is not None)
        service.apply(store, one, at, at, lambda: f"p{next(numbers)}")
    user_profile = person(store, "user_id", "u1")
    assert sum(person(store, "anonymous_id", f"a{n}") == user_profile for n in range(4)) == 2
    assert list(store.reviews.values()) == ["limit", "limit"]


ADDRESS = PushAddress("token", "t1")


@pytest.mark.parametrize(
    ("events", "owner"),
    [
        ([("device", {"anonymous_id": "a1", "push_address": ADDRESS})], ("anonymous_id", "a1")),
        (
            [("device", {"anonymous_id": "a1", "push_address": ADDRESS}), ("identify", {"user_id": "u1"})],
            ("user_id", "u1"),
        ),
        (
            [("device", {"user_id": "u1", "push_address": ADDRESS}), ("identify", {"user_id": "u2"})],
            ("user_id", "u2"),
        ),
        ([("device", {"user_id": "u1", "push_address": ADDRESS}), ("logout", {})], None),
        (
            [
                ("device", {"user_id": "u1", "push_address": ADDRESS}),
                ("logout", {}),
                ("device", {"anonymous_id": "a2", "push_address": ADDRESS}),
            ],
            ("anonymous_id", "a2"),
        ),
        (
            [
                ("device", {"user_id": "u1", "push_address": ADDRESS}),
                ("device", {"user_id": "u9", "proven": False, "anonymous_id": "a9", "push_address": ADDRESS}),
            ],
            ("user_id", "u1"),
        ),
        (
            [
                ("device", {"user_id": "u1", "push_address": ADDRESS}),
                ("device", {"user_id": "u1", "push_address": PushAddress("token", "t2")}),
            ],
            None,
        ),
        (
            [
                ("device", {"user_id": "u1", "push_address": ADDRESS}),
                ("device", {"user_id": "u2", "push_address": ADDRESS, "device_id": "d2"}),
            ],
            ("user_id", "u2"),
        ),
    ],
    ids=["anonymous", "login", "last login wins", "logout", "after logout", "unproven", "rotated", "moved"],
)
def test_a_push_address_has_one_owner_whatever_the_order(events: Any, owner: Any) -> None:
    told = [event(kind, at, **{"device_id": "d1", **fields}) for at, (kind, fields) in enumerate(events, 1)]
    for order in itertools.permutations(told):
        store = MemoryProfiles()
        apply(store, *order)
        expected = store.profile_of(*owner) if owner else None
        assert store.addresses[ADDRESS].profile_id == expected


@pytest.mark.parametrize(
    ("claims", "owner"),
    [
        ([("u1", "d1", 1)], "u1"),
        ([("u1", "d1", 1), ("u2", "d1", 2)], "u2"),
        ([("u1", "d1", 2), ("u2", "d1", 1)], "u1"),
        ([("u1", "d1", 1), ("u1", "d2", 2)], "u1"),
        ([("u1", "d1", 1), ("thief", "d9", 2)], None),
    ],
)
def test_whose_beacon_it_is(claims: list[tuple[str, str, int]], owner: str | None) -> None:
    made = [Claim(who, via, at, Stamp(at, 0)) for who, via, at in claims]
    assert beacon_owner(made) == owner


def test_a_beacon_moves_only_with_proof_and_says_so() -> None:
    store = MemoryProfiles()
    first, again, forged, moved = apply(
        store,
        event("device", 1, user_id="u1", device_id="d1", beacon_key=TAG),
        event("device", 2, user_id="u1", device_id="d1", beacon_key=TAG),
        event("device", 3, user_id="u2", device_id="d1", beacon_key=TAG, proven=False),
        event("device", 4, user_id="u2", device_id="d1", beacon_key=TAG),
    )
    assert [one.beacons_changed for one in (first, again, forged, moved)] == [True, False, False, True]
    assert person(store, "beacon", TAG) == person(store, "user_id", "u2")


def said(granted: bool, at: int, identified: bool = False, merged_at: int | None = None) -> Statement:
    return Statement(granted, at, identified, merged_at)


@pytest.mark.parametrize(
    ("statements", "agrees"),
    [
        ([], False),
        ([said(True, 1)], True),
        ([said(True, 5, True), said(True, 1, merged_at=6)], True),
        ([said(True, 5, True), said(False, 1, merged_at=6)], False),  # the merge keeps the stricter
        ([said(True, 7, True), said(False, 1, merged_at=6)], True),  # the person spoke again since
        ([said(False, 5, True), said(True, 9, merged_at=6)], False),  # a browser cannot grant for a person
        ([said(True, 5, True), said(False, 9, merged_at=6)], False),  # but it can refuse
        ([said(True, 1, merged_at=2)], True),  # the person never said anything else
        ([said(True, 5, True), said(False, 4, True, merged_at=6)], False),  # two people found to be one
        ([said(False, 5, True), said(True, 8, True, merged_at=6)], True),  # who then agreed
    ],
)
def test_standing_consent(statements: list[Statement], agrees: bool) -> None:
    for order in itertools.permutations(statements):
        assert standing(order) is agrees


def agrees(store: MemoryProfiles, user: str) -> bool:
    return standing(store.statements(person(store, "user_id", user) or "", "proximity"))


def test_a_stranger_can_refuse_for_a_user_but_not_agree() -> None:
    refuse = {"user_id": "u1", "proven": False, "consent": {"proximity": False}}
    grant = {"user_id": "u1", "proven": False, "consent": {"proximity": True}}
    proven_grant = {"user_id": "u1", "consent": {"proximity": True}}
    for at_first, *rest, expected in [
        (grant, False),
        (proven_grant, grant, True),
        (proven_grant, refuse, False),
        (proven_grant, refuse, grant, False),
        (proven_grant, refuse, proven_grant, True),
    ]:
        told = [event("consent", at, **fields) for at, fields in enumerate([at_first, *rest], 2)]
        for order in itertools.permutations([event("identify", 1, user_id="u1"), *told]):
            store = MemoryProfiles()
            apply(store, *order)
            assert agrees(store, "u1") is expected


def test_consent_counts_as_changed_only_for_people_with_beacons() -> None:
    store = MemoryProfiles()
    banner, _, grant, same, withdrawal = apply(
        store,
        event("page", 1, anonymous_id="a1", consent={"proximity": True}),
        event("device", 2, user_id="u1", device_id="d1", beacon_key=TAG),
        event("consent", 3, user_id="u1", consent={"proximity": True}),
        event("consent", 4, user_id="u1", consent={"proximity": True}),
        event("consent", 5, user_id="u1", consent={"proximity": False}),
    )
    changed = [one.consent_changed for one in (banner, grant, same, withdrawal)]
    assert changed == [False, True, False, True]


def test_undoing_a_merge_leaves_what_never_having_merged_would() -> None:
    before = [
        event("identify", 1, anonymous_id="a1", traits={"colour": "red", "size": 4}),
        event("consent", 2, anonymous_id="a1", consent={"push": True}),
        event("identify", 3, user_id="u1", traits={"colour": "blue"}),
    ]
    login = event("track", 4, user_id="u1", anonymous_id="a1")
    store, never = MemoryProfiles(), MemoryProfiles()
    apply(never, *before)
    apply(store, *before, login)
    anonymous = store.profile_of("anonymous_id", "a1")
    assert anonymous and SERVICE.undo_merge(store, anonymous, 9)
    for part in ("profiles", "traits", "consents", "devices", "addresses"):
        assert getattr(store, part) == getattr(never, part)
    apply(store, event("identify", 10, user_id="u1", anonymous_id="a1"))
    assert not same_person(store, ("anonymous_id", "a1"), ("user_id", "u1")), "an operator's no is final"


def test_an_operators_merge_can_be_undone_too() -> None:
    store = MemoryProfiles()
    one, two = apply(store, event("identify", 1, user_id="u1"), event("identify", 2, user_id="u2"))
    assert SERVICE.merge(store, two.profile_id, one.profile_id, 5)
    assert not SERVICE.merge(store, one.profile_id, two.profile_id, 6), "no ring"
    assert same_person(store, ("user_id", "u1"), ("user_id", "u2"))
    assert SERVICE.undo_merge(store, two.profile_id, 7)
    assert not same_person(store, ("user_id", "u1"), ("user_id", "u2"))


def test_a_receipt_makes_nobody() -> None:
    store = MemoryProfiles()
    (applied,) = apply(
        store, event("push_receipt", 3, device_id="d1", push_id="push-1", receipt="opened", proven=False)
    )
    assert (applied.profile_id, store.profiles) == (None, {})
    assert (applied.receipt.push_id, applied.receipt.what, applied.receipt.at) == ("push-1", "opened", 3)


def test_parent_is_the_only_user_unless_an_operator_undid_it() -> None:
    def claim(who: str, via: str = "seen", undone: bool = False) -> Claim:
        return Claim(who, via, 1, Stamp(1, 0), undone)

    assert parent_of([]) is None
    assert parent_of([claim("u1"), claim("u1", "alias")]) is not None
    assert parent_of([claim("u1"), claim("u2")]) is None
    assert parent_of([claim("u1", undone=True), claim("u1", "alias")]) is None


# Any set of events, in any order ----------------------------------------------------------------------------

USERS, ANONYMOUS, DEVICES, TAGS = ("u1", "u2", "u3"), ("a1", "a2", "u1"), ("d1", "d2"), (TAG, f"{TAG}7")
maybe = st.none


@st.composite
def app_events(draw: st.DrawFn) -> AppEvent:
    kind = draw(
        st.sampled_from(["identify", "track", "alias", "device", "logout", "consent", "push_receipt"])
    )
    user = draw(st.sampled_from([None, *USERS]))
    return AppEvent(
        kind=kind,
        message_id=str(draw(st.integers(0, 10**6))),
        source="app",
        occurred_at=draw(st.integers(1, 12)),
        received_at=100,
        user_id=user,
        proven=user is not None and draw(st.booleans()),
        previous_id=draw(st.sampled_from([*ANONYMOUS, *USERS])) if kind == "alias" else None,
        anonymous_id=draw(st.sampled_from([None, *ANONYMOUS])),
        device_id=draw(st.sampled_from([None, *DEVICES])),
        push_address=draw(st.sampled_from([None, ADDRESS, PushAddress("fid", "t2")])),
        platform=draw(st.sampled_from([None, "ios", "android"])),
        beacon_key=draw(st.sampled_from([None, *TAGS])) if kind == "device" else None,
        traits=draw(st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 3), max_size=2)),
        consent=draw(st.dictionaries(st.sampled_from(["push", "proximity"]), st.booleans(), max_size=2)),
    )


def picture(store: MemoryProfiles) -> dict[str, Any]:
    """The whole state, with profiles named by the identifier they began with."""
    names = {edge.profile_id: key for key, edge in store.edges.items() if key[0] not in ("profile", "beacon")}

    def name(profile_id: str | None) -> Any:
        return names.get(profile_id or "")

    return {
        "merged": {
            name(key): (name(profile.parent), profile.merged_at) for key, profile in store.profiles.items()
        },
        "beacons": {key[1]: name(edge.profile_id) for key, edge in store.edges.items() if key[0] == "beacon"},
        "traits": {(name(key[0]), key[1]): value for key, value in store.traits.items()},
        "consents": {(name(key[0]), key[1]): value for key, value in store.consents.items()},
        "devices": {
            key: (name(holder), device.platform, device.address, device.logged_out, device.last_seen_at)
            for key, (device, holder) in store.devices.items()
        },
        "addresses": {
            address: (name(known.profile_id), known.proven, known.device_id)
            for address, known in store.addresses.items()
        },
    }


def fold(events: list[AppEvent]) -> MemoryProfiles:
    store, numbers = MemoryProfiles(), itertools.count()
    for one in events:
        SERVICE.apply(store, one, 0, hash(one.message_id), lambda: f"p{next(numbers)}")
    return store


@settings(max_examples=300, deadline=None)
@given(st.lists(app_events(), max_size=9, unique_by=lambda one: one.message_id), st.integers(0, 2**32))
def test_state_is_a_function_of_the_set_of_events(events: list[AppEvent], seed: int) -> None:
    shuffled = random.Random(seed).sample(events, len(events))
    assert picture(fold(shuffled)) == picture(fold(events))


@settings(max_examples=150, deadline=None)
@given(st.lists(app_events(), max_size=9, unique_by=lambda one: one.message_id))
def test_an_event_applied_twice_changes_nothing(events: list[AppEvent]) -> None:
    assert picture(fold(events + events)) == picture(fold(events))


@settings(max_examples=150, deadline=None)
@given(st.lists(app_events(), max_size=12, unique_by=lambda one: one.message_id))
def test_two_user_ids_are_never_one_person(events: list[AppEvent]) -> None:
    store = fold(events)
    people = [person(store, "user_id", user) for user in USERS if store.profile_of("user_id", user)]
    assert len(set(people)) == len(people)
