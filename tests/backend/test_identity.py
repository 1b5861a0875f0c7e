"""Who belongs to whom: the rules of identity, rule by rule, as tables and small stories."""

import itertools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.profiles import rules
from backend.profiles.memory import MemoryProfiles
from backend.profiles.model import EVER, OPERATOR, Claim, Profile, Stamp, Statement
from backend.profiles.placing import MAX_CLAIMANTS, person_of
from backend.profiles.rules import (
    ATTACH_MS,
    LOGOUTS_AT_AN_END,
    Claimant,
    beacon_owner,
    placement,
    standing,
    usable,
    usable_as,
)
from backend.profiles.service import ProfileService, whose
from sdk_bridge.wire.app_events import AppEvent, ExternalId, Link, PushAddress

SERVICE = ProfileService()
MAX_LOGOUTS = 2 * LOGOUTS_AT_AN_END
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
    found = store.profile_of((id_type, identifier))
    return person_of(store, found) if found else None


def ids(store: MemoryProfiles) -> Any:
    numbers = itertools.count(len(store.profiles))
    return lambda: f"p{next(numbers)}"


def causes(store: MemoryProfiles) -> list[str]:
    return [review.cause for review in store.reviews.values()]


def same_person(store: MemoryProfiles, *who: tuple[Any, str]) -> bool:
    return len({person(store, *one) for one in who}) == 1


@pytest.mark.parametrize(
    "value",
    ["", "  ", "null", "NaN", "undefined", "-1", "0", "00000000-0000-0000-0000-000000000000", "---",
     "[object Object]", "Anonymous", "guest", "true", "M\ufffdller", "device_id", "not_authenticated",
     "email", '"null"', "'undefined'", "\u200b", "\ufeffnull", "[object Undefined]", "02:00:00:00:00:00"],
)  # fmt: skip
def test_values_that_stand_for_nobody(value: str) -> None:
    assert usable(value) is None


@pytest.mark.parametrize("value", ["4711", "anna@example.org", "0x1", "nullable", "tester", "10", "o'neill"])
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
    assert store.traits[user]["email"][1] == '"real@example.org"'


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
        assert causes(store) == ["alias"]
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


def test_a_user_id_with_more_browsers_than_a_person_has_gathers_none_of_them() -> None:
    service = ProfileService({"anonymous_id": 2})
    told = [
        event(kind, at, anonymous_id=f"a{at // 2}", user_id=user, proven=user is not None)
        for at, (kind, user) in enumerate([("page", None), ("identify", "guest-account")] * 4)
    ]
    for seed in range(6):
        store = MemoryProfiles()
        for at, one in enumerate(random.Random(seed).sample(told, len(told))):
            service.apply(store, one, at, one.occurred_at, ids(store))
            if at == 3:
                assert causes(store) == []
        user_profile = person(store, "user_id", "guest-account")
        assert not any(person(store, "anonymous_id", f"a{n}") == user_profile for n in range(4))
        assert causes(store) == ["limit"]


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
        expected = store.profile_of(owner) if owner else None
        assert store.addresses[ADDRESS].profile_id == expected


@pytest.mark.parametrize(
    ("claims", "owner"),
    [
        ([("u1", "d1", 1)], "u1"),
        ([("u1", "d1", 1), ("u2", "d1", 2)], "u2"),
        ([("u1", "d1", 2), ("u2", "d1", 1)], "u1"),
        ([("u1", "d1", 1), ("u1", "d2", 2)], "u1"),
        ([("u1", "d1", 1), ("thief", "d9", 2)], None),
        ([("u1", OPERATOR, 1), ("thief", "d9", 2), ("u2", "d1", 3)], "u1"),
    ],
)
def test_whose_beacon_it_is(claims: list[tuple[str, str, int]], owner: str | None) -> None:
    made = [Claim(who, via, at, Stamp(at, 0)) for who, via, at in claims]
    found = beacon_owner(made)
    assert (found.profile_id if found else None) == owner


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


def test_a_beacon_is_its_owners_since_the_first_of_all_their_phones_claimed_it() -> None:
    told = [
        event("device", at, user_id="u1", device_id=device, beacon_key=TAG)
        for at, device in ((1, "d1"), (3, "d2"), (5, "d3"), (7, "d2"))
    ]
    for order in itertools.permutations(told):
        store = MemoryProfiles()
        apply(store, *order)
        assert store.open_edge_of(("beacon", TAG)).valid_from == 1


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


@pytest.mark.parametrize("hashes", [(1, 2), (2, 1)], ids=["refusal-last", "refusal-first"])
def test_of_a_yes_and_a_no_of_one_moment_the_no_counts(hashes: tuple[int, int]) -> None:
    """A file that has a customer twice; a form that was answered twice within a second."""
    said = [
        (event("consent", 2, user_id="u1", consent={"proximity": granted}), event_hash)
        for granted, event_hash in zip((True, False), hashes, strict=True)
    ]
    for order in itertools.permutations(said):
        store = MemoryProfiles()
        for index, (one, event_hash) in enumerate(order):
            SERVICE.apply(store, one, index, event_hash, ids(store))
        assert agrees(store, "u1") is False


def test_who_may_be_listened_for_anew_is_told() -> None:
    store = MemoryProfiles()
    page, grant, same, login, refusal = apply(
        store,
        event("page", 1, anonymous_id="a1"),
        event("consent", 2, anonymous_id="a1", consent={"proximity": True}),
        event("consent", 3, anonymous_id="a1", consent={"proximity": True}),
        event("identify", 4, anonymous_id="a1", user_id="u1"),
        event("consent", 5, user_id="u1", consent={"proximity": False}),
    )
    user = person(store, "user_id", "u1")
    assert (page.moved, same.moved) == (frozenset(), frozenset())
    assert grant.moved == {page.profile_id}
    assert login.moved == {page.profile_id, user}
    assert refusal.moved == {user}


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
    anonymous = store.profile_of(("anonymous_id", "a1"))
    assert anonymous and SERVICE.undo_merge(store, anonymous, 9, ids(store))
    for part in ("profiles", "traits", "consents", "devices", "addresses"):
        assert getattr(store, part) == getattr(never, part)
    apply(store, event("identify", 10, user_id="u1", anonymous_id="a1"))
    assert not same_person(store, ("anonymous_id", "a1"), ("user_id", "u1")), "an operator's no is final"


def test_an_operators_merge_can_be_undone_too() -> None:
    store = MemoryProfiles()
    one, two = apply(store, event("identify", 1, user_id="u1"), event("identify", 2, user_id="u2"))
    assert SERVICE.merge(store, two.profile_id, one.profile_id, 5, ids(store)) == two.profile_id
    assert SERVICE.merge(store, one.profile_id, two.profile_id, 6, ids(store)) is None, "no ring"
    assert same_person(store, ("user_id", "u1"), ("user_id", "u2"))
    assert SERVICE.undo_merge(store, two.profile_id, 7, ids(store))
    assert not SERVICE.undo_merge(store, two.profile_id, 8, ids(store))
    assert not same_person(store, ("user_id", "u1"), ("user_id", "u2"))
    assert SERVICE.merge(store, two.profile_id, one.profile_id, 9, ids(store)), "and be made again"


def test_a_person_who_is_known_stays_the_root_whichever_way_round_an_operator_says_it() -> None:
    store = MemoryProfiles()
    page, login = apply(store, event("page", 1, anonymous_id="a1"), event("identify", 2, user_id="u1"))
    assert SERVICE.merge(store, login.profile_id, page.profile_id, 5, ids(store)) == page.profile_id
    assert person(store, "anonymous_id", "a1") == login.profile_id


def test_what_two_users_share_is_theirs_when_an_operator_says_they_are_one() -> None:
    store = MemoryProfiles()
    page, one, two = apply(
        store,
        event("page", 1, anonymous_id="a1", device_id="d1"),
        event("identify", 2, user_id="u1", anonymous_id="a1"),
        event("identify", 3, user_id="u2", anonymous_id="a1"),
    )
    shared = store.profile(page.profile_id)
    assert shared.shared and shared.parent is None
    SERVICE.merge(store, two.profile_id, one.profile_id, 5, ids(store))
    assert same_person(store, ("anonymous_id", "a1"), ("user_id", "u1"), ("user_id", "u2"))
    SERVICE.undo_merge(store, two.profile_id, 6, ids(store))
    assert store.profile(page.profile_id) == shared


def test_a_receipt_makes_nobody() -> None:
    store = MemoryProfiles()
    (applied,) = apply(
        store, event("push_receipt", 3, device_id="d1", push_id="push-1", receipt="opened", proven=False)
    )
    assert (applied.profile_id, store.profiles) == (None, {})
    assert (applied.receipt.push_id, applied.receipt.what, applied.receipt.at) == ("push-1", "opened", 3)


# Where claims put an identifier ---------------------------------------------------------------------------

DAY = 86_400_000


def claim(who: str, at: int = 100 * DAY, via: str = "seen", last: int | None = None, **more: Any) -> Claim:
    return Claim(who, via, at, Stamp(last or at, 0), **more)


def speaking(*who: tuple[str, str, str]) -> dict[str, Claimant]:
    """(profile, type, root) of each."""
    return {one: Claimant(Profile(one, kind, one, 0), root) for one, kind, root in who}


WHO = speaking(
    ("u1", "user_id", "u1"), ("u2", "user_id", "u2"), ("e1", "email", "u1"), ("d1", "device_id", "d1"),
    ("u3", "user_id", "u1"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("claims", "parent", "shared"),
    [
        ([], None, False),
        ([claim("u1"), claim("u1", via="alias")], "u1", False),
        ([claim("u1"), claim("u2")], None, True),
        ([claim("e1", 1 * DAY), claim("u1")], "u1", False),  # both are the same person: the more trusted
        ([claim("e1"), claim("u2")], None, True),
        ([claim("d1"), claim("e1")], None, True),
        ([claim("u1"), claim("u3", 99 * DAY)], "u3", False),  # an operator merged them: the earlier
        ([claim("u1", undone=True), claim("u1", via="alias")], None, False),
        ([claim("u1"), claim("u2"), claim("d1", via=OPERATOR)], "d1", False),
        ([claim("u1"), claim("crowd")], "u1", False),  # who is a crowd, or shared, does not speak
        ([claim("crowd")], None, False),
    ],
)
def test_where_claims_put_an_identifier(claims: list[Claim], parent: str | None, shared: bool) -> None:
    for order in itertools.permutations(claims):
        found = placement("anonymous_id", order, WHO)
        assert (found.parent, found.shared) == (parent, shared)


@pytest.mark.parametrize(
    ("claims", "interval"),
    [
        ([claim("u1")], (70 * DAY, EVER)),
        ([claim("u1"), claim("u1", 90 * DAY, "alias")], (60 * DAY, EVER)),
        ([claim("u1", 5 * DAY)], (0, EVER)),
        ([claim("u1", last=120 * DAY), claim("", 110 * DAY, "logout")], (70 * DAY, EVER)),
        (
            [claim("u1", last=120 * DAY), claim("", 130 * DAY, "logout"), claim("", 125 * DAY, "logout 2")],
            (70 * DAY, 125 * DAY),
        ),
    ],
    ids=["30 days back", "of the first", "not before time began", "in again", "the first logout since"],
)
def test_what_of_a_browsers_doings_is_its_persons(claims: list[Claim], interval: tuple[int, int]) -> None:
    found = placement("anonymous_id", claims, WHO)
    assert (found.attach_from, found.attach_until) == interval
    whole = placement("email", claims, WHO)
    assert (whole.attach_from, whole.attach_until) == (0, EVER), "an e-mail address changes no hands"


def test_late_anonymous_events_attach_by_event_time_within_thirty_days() -> None:
    login = event("identify", 100 * DAY, user_id="u1", anonymous_id="a1")
    late = [
        event("page", 100 * DAY - ATTACH_MS - 1, anonymous_id="a1"),
        event("page", 100 * DAY - ATTACH_MS, anonymous_id="a1"),
        event("page", 300 * DAY, anonymous_id="a1"),
    ]
    for order in itertools.permutations([login, *late]):
        store = MemoryProfiles()
        apply(store, *order)
        own = store.profile_of(("anonymous_id", "a1"))
        user = person(store, "user_id", "u1")
        assert [whose(store, own, one.occurred_at) for one in late] == [own, user, user]


def test_what_a_guest_does_after_the_logout_is_not_the_users() -> None:
    told = [
        event("page", 1, anonymous_id="a1"),
        event("identify", 2, user_id="u1", anonymous_id="a1", device_id="d1"),
        event("logout", 3, anonymous_id="a1", device_id="d1"),
        event("page", 4, anonymous_id="a1"),
    ]
    for order in itertools.permutations(told):
        store = MemoryProfiles()
        apply(store, *order)
        own, user = store.profile_of(("anonymous_id", "a1")), person(store, "user_id", "u1")
        assert [whose(store, own, at) for at in (1, 4)] == [user, own]
        apply(store, event("identify", 5, user_id="u1", anonymous_id="a1"))
        assert whose(store, own, 4) == user, "who logs in again was there before"


def test_a_device_that_is_known_by_its_logout_began_then_whenever_that_was_heard_of() -> None:
    told = [
        msgspec.structs.replace(event("logout", 2, anonymous_id="a1", device_id="d1"), received_at=5),
        msgspec.structs.replace(event("device", 4, device_id="d1"), received_at=9),
    ]
    for order in itertools.permutations(told):
        store = MemoryProfiles()
        apply(store, *order)
        device = store.profile(store.profile_of(("device_id", "d1")))
        assert (device.created_at, device.cause) == (2, "seen")


def logins_and_logouts(times: int) -> list[AppEvent]:
    """One user, in and out on one phone; a guest takes it between, and after the last time."""
    return [
        event(kind, 10 * DAY + 3 * number + offset, device_id="d1", **who)
        for number in range(times)
        for offset, (kind, who) in enumerate((("identify", {"user_id": "u1"}), ("logout", {}), ("page", {})))
    ]


@pytest.mark.parametrize("times", [1, MAX_LOGOUTS // 2, MAX_LOGOUTS, MAX_LOGOUTS + 1, 3 * MAX_LOGOUTS])
def test_after_however_many_logouts_a_guests_doings_are_not_the_users(times: int) -> None:
    told = logins_and_logouts(times)
    for seed in range(3):
        store = MemoryProfiles()
        apply(store, *random.Random(seed).sample(told, len(told)))
        own, until = store.profile_of(("device_id", "d1")), told[-2].occurred_at
        assert store.profile(own).attach_until == until
        assert [whose(store, own, at) for at in (until, until + 1)] == [person(store, "user_id", "u1"), own]


@given(
    proofs=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    logouts=st.lists(st.integers(1, 60), unique=True, max_size=24),
    seed=st.integers(0, 2**32),
)
def test_of_logouts_that_are_too_many_to_keep_none_makes_more_the_users(
    proofs: list[int], logouts: list[int], seed: int
) -> None:
    told = [event("identify", at, user_id="u1", device_id="d1") for at in proofs]
    told += [event("logout", at, device_id="d1") for at in logouts]

    def until(order: list[AppEvent]) -> int:
        store = MemoryProfiles()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rules, "LOGOUTS_AT_AN_END", 3)
            apply(store, *order)
        return store.profile(store.profile_of(("device_id", "d1"))).attach_until

    found = until(told)
    assert found == until(random.Random(seed).sample(told, len(told)))
    exact = min((at for at in logouts if at > max(proofs)), default=EVER)
    assert found == exact or (found == max(proofs) and len(logouts) >= 6)


def test_strangers_cannot_fill_an_identifier_without_end() -> None:
    store = MemoryProfiles()
    apply(store, *(event("logout", at, device_id="d1") for at in range(1, 3 * MAX_LOGOUTS)))
    apply(store, *(event("identify", 500, user_id=f"u{n}", device_id="d1") for n in range(2 * MAX_CLAIMANTS)))
    assert len(store.claims(("device_id", "d1"))) <= MAX_CLAIMANTS + MAX_LOGOUTS
    assert store.profile(store.profile_of(("device_id", "d1"))).shared


# E-mail addresses, telephones, cards ----------------------------------------------------------------------


def known(kind: str, at: int, *external: tuple[str, str], **fields: Any) -> AppEvent:
    return event(kind, at, external_ids=[ExternalId(*one) for one in external], **fields)


MAIL = ("email", "anna@example.org")


def test_a_verified_address_leads_an_anonymous_visitor_to_the_account() -> None:
    told = [
        event("page", 1, anonymous_id="newsletter"),
        known("identify", 2, MAIL, anonymous_id="newsletter"),
        known("identify", 3, MAIL, user_id="u1"),
    ]
    for order in itertools.permutations(told):
        store = MemoryProfiles()
        apply(store, *order)
        assert same_person(store, ("anonymous_id", "newsletter"), MAIL, ("user_id", "u1"))
        assert causes(store) == []


def test_two_users_with_one_address_wait_for_an_operator() -> None:
    told = [
        known("identify", 1, MAIL, user_id="u1"),
        known("identify", 2, MAIL, user_id="u2"),
        known("identify", 3, MAIL, anonymous_id="a1"),
        event("page", 4, anonymous_id="a1"),
    ]
    for order in itertools.permutations(told):
        store = MemoryProfiles()
        apply(store, *order)
        people = [person(store, *one) for one in (("user_id", "u1"), ("user_id", "u2"), MAIL)]
        assert len({*people, person(store, "anonymous_id", "a1")}) == 4
        assert causes(store) == ["same email"]
        one, two = people[:2]
        SERVICE.merge(store, two, one, 9, ids(store))
        assert same_person(store, ("user_id", "u1"), ("user_id", "u2"), MAIL, ("anonymous_id", "a1"))


def test_the_most_trusted_of_several_takes_the_rest() -> None:
    card, phone = ("loyalty_id", "C-77"), ("phone", "+436601234567")
    store = MemoryProfiles()
    (till,) = apply(store, known("track", 1, phone, card))
    assert till.profile_id == store.profile_of(card) == person(store, *phone)
    apply(store, known("identify", 2, phone, MAIL), event("page", 3, anonymous_id="a1"))
    assert store.profile(store.profile_of(phone)).shared, "a card and an address: one of two people's"
    apply(store, known("identify", 4, MAIL, card, user_id="u1"))
    assert same_person(store, card, phone, MAIL, ("user_id", "u1"))


def test_two_addresses_in_one_event_are_not_each_others() -> None:
    store = MemoryProfiles()
    apply(store, known("identify", 1, MAIL, ("email", "bert@example.org")))
    assert person(store, "email", "bert@example.org") is None
    apply(store, known("identify", 2, MAIL, ("email", "bert@example.org"), user_id="u1"))
    assert same_person(store, MAIL, ("email", "bert@example.org"), ("user_id", "u1"))


@pytest.mark.parametrize(
    "address", ["noreply@example.org", "no-reply@x.at", "test@test.com", "null@example.org"]
)
def test_addresses_that_stand_for_nobody(address: str) -> None:
    assert usable_as("email", address) is None
    assert usable_as("email", "annareply@example.org")


# Link tokens ----------------------------------------------------------------------------------------------


def link(
    at: int, nonce: str = "n" * 22, web: str = "web", web_user: str | None = None, **fields: Any
) -> AppEvent:
    token = Link(nonce, "site", web, at - 1, at + 1000, web_user)
    return event("link", at, link=token, device_id="d1", anonymous_id="app", **fields)


APP = [("device_id", "d1"), ("anonymous_id", "app")]


@pytest.mark.parametrize(
    ("web_user", "app_user", "together"),
    [
        (None, None, [*APP, ("anonymous_id", "web")]),
        ("u1", None, [("user_id", "u1"), ("anonymous_id", "web"), ("anonymous_id", "app")]),
        (None, "u1", [("user_id", "u1"), ("anonymous_id", "web"), ("anonymous_id", "app")]),
        ("u1", "u1", [("user_id", "u1"), ("anonymous_id", "web"), ("anonymous_id", "app")]),
    ],
)
def test_a_link_joins_visitor_account_and_app(web_user: Any, app_user: Any, together: Any) -> None:
    proven = {"user_id": app_user} if app_user else {}
    told = [
        event("page", 1, anonymous_id="web"),
        event("screen", 2, anonymous_id="app", device_id="d1"),
        link(3, web_user=web_user, **proven),
        event("device", 4, anonymous_id="app", device_id="d1", push_address=ADDRESS),
    ]
    for order in itertools.permutations(told):
        store = MemoryProfiles()
        apply(store, *order)
        assert same_person(store, *together)
        owner = store.addresses[ADDRESS]
        assert owner.proven is bool(web_user or app_user)
        assert person_of(store, owner.profile_id) == person(store, *together[0])


def test_whoever_logs_in_later_on_a_linked_phone_brings_the_visitor_along() -> None:
    told = [
        event("page", 1, anonymous_id="web"),
        event("screen", 2, anonymous_id="app", device_id="d1"),
        link(3),
        event("identify", 4, user_id="u1", anonymous_id="app", device_id="d1"),
    ]
    for order in itertools.permutations(told):
        store = MemoryProfiles()
        apply(store, *order)
        assert same_person(store, ("anonymous_id", "web"), *APP, ("user_id", "u1"))


def test_a_page_that_two_phones_linked_is_neithers() -> None:
    store = MemoryProfiles()
    one = link(3)
    two = event("link", 4, link=Link("m" * 22, "site", "web", 1, 999), device_id="d2", anonymous_id="app2")
    apply(store, event("page", 1, anonymous_id="web"), one, two)
    people = [
        person(store, *who) for who in (("anonymous_id", "web"), ("device_id", "d1"), ("device_id", "d2"))
    ]
    assert len(set(people)) == 3


def test_two_accounts_on_the_ends_of_a_link_wait_for_an_operator() -> None:
    store = MemoryProfiles()
    apply(store, event("page", 1, anonymous_id="web"), link(3, web_user="u1", user_id="u2"))
    assert same_person(store, ("anonymous_id", "web"), ("user_id", "u1"))
    assert not same_person(store, ("user_id", "u2"), ("user_id", "u1"))
    assert store.devices["d1"][1] == person(store, "user_id", "u2")
    assert causes(store) == ["link"]


def test_the_second_redemption_of_a_token_changes_nothing() -> None:
    store = MemoryProfiles()
    first = link(3, web_user="u1")
    apply(store, first)
    before = repr(vars(store))
    thief = event("link", 4, link=first.link, device_id="thief", anonymous_id="thief")
    assert SERVICE.apply(store, thief, 9, 999, ids(store)).refused
    assert repr(vars(store)) == before
    assert not SERVICE.apply(store, first, 9, first.occurred_at * 7919 % 1009, ids(store)).refused


# What operators assign ------------------------------------------------------------------------------------


def test_an_operator_hands_a_tag_to_somebody_and_takes_it_away() -> None:
    store = MemoryProfiles()
    one, two = apply(store, event("identify", 1, user_id="u1"), event("identify", 2, user_id="u2"))
    apply(store, event("device", 3, user_id="u1", device_id="d1", beacon_key=TAG))
    SERVICE.assign_beacon(store, TAG, two.profile_id, 5)
    assert person(store, "beacon", TAG) == two.profile_id
    (again,) = apply(store, event("device", 6, user_id="u1", device_id="d1", beacon_key=TAG))
    assert not again.beacons_changed, "the counter's word is above an app's"
    SERVICE.assign_beacon(store, TAG, one.profile_id, 7)
    assert person(store, "beacon", TAG) == one.profile_id
    assert SERVICE.take_beacon(store, TAG, 8) == one.profile_id
    assert person(store, "beacon", TAG) is None
    apply(store, event("device", 9, user_id="u1", device_id="d1", beacon_key=TAG))
    assert person(store, "beacon", TAG) is None, "what was taken away is not claimed back by itself"
    apply(store, event("device", 10, user_id="u3", device_id="d3", beacon_key=TAG))
    assert person(store, "beacon", TAG) == person(store, "user_id", "u3")
