"""Who arrived: what may be taken for granted of people of whom all but one at the most is new."""

import pytest

from backend.profiles.arrivals import Arrival, arrivals, known_root
from backend.profiles.model import Profile
from backend.profiles.placing import MAX_CHAIN


def browser(profile_id: str, parent: str | None = None, **more) -> Profile:
    return Profile(profile_id, "anonymous_id", profile_id, 1_000, parent, **more)


def user(profile_id: str, parent: str | None = None) -> Profile:
    return Profile(profile_id, "user_id", profile_id, 1_000, parent)


def claimed(profile_id: str) -> Profile:
    return Profile(profile_id, "claimed_user_id", profile_id, 1_000)


ANONYMOUS, USER = frozenset({"anonymous_id"}), frozenset({"user_id"})
BOTH = ANONYMOUS | USER


@pytest.mark.parametrize(
    ("profiles", "begun", "joined", "arrived"),
    [
        ([browser("a")], {"a"}, [], [Arrival(("a",), None, ANONYMOUS)]),
        ([user("u"), browser("a", "u")], {"a", "u"}, [{"a", "u"}], [Arrival(("u", "a"), None, BOTH)]),
        ([user("u"), browser("a", "u")], {"u"}, [{"a", "u"}], [Arrival(("u", "a"), "a", USER)]),
        ([user("u"), browser("a", "u")], {"a"}, [{"a", "u"}], [Arrival(("u", "a"), "u", ANONYMOUS)]),
        ([user("u"), browser("a", "u")], set(), [{"a", "u"}], []),
        ([claimed("c")], {"c"}, [], []),
        ([], {"unread"}, [], []),
        # What happened long before the merge is not the user's.
        ([user("u"), browser("a", "u", attach_from=1_001)], {"u"}, [{"a", "u"}], []),
        ([user("u"), browser("a", "u", attach_until=9_000)], {"u"}, [{"a", "u"}], []),
        # Two browsers that were there before, one after the other.
        ([user("u"), browser("a", "u"), browser("b", "u")], {"u"}, [{"a", "u"}, {"b", "u"}], []),
        # It was another user's.
        ([user("u"), user("v"), browser("a", "u")], {"u"}, [{"a", "u", "v"}], []),
        ([user("u"), browser("a")], {"a", "u"}, [{"a", "u"}, {"a", "u"}], []),
        # It came to a new user, and to one who was there before.
        ([user("u"), user("v"), browser("a")], {"u"}, [{"a", "u"}, {"a", "u", "v"}], []),
    ],
)  # fmt: skip
def test_who_arrived(profiles, begun, joined, arrived):
    known = {profile.profile_id: profile for profile in profiles}
    found, others = arrivals(begun, joined, known.get)
    assert found == arrived
    concerned = begun.union(*joined)
    assert others >= concerned - {one for arrival in found for one in arrival.profiles} - {"c"}
    assert others.isdisjoint({one for arrival in found for one in arrival.profiles})


def test_what_is_not_known_or_a_ring_has_no_root():
    known = {one.profile_id: one for one in (browser("a", "u"), browser("b", "c"), browser("c", "b"))}
    assert known_root(known.get, "a") is None
    assert known_root(known.get, "b") is None
    chain = {str(n): browser(str(n), str(n + 1)) for n in range(MAX_CHAIN - 1)}
    chain[str(MAX_CHAIN - 1)] = user(str(MAX_CHAIN - 1))
    assert known_root(chain.get, "0") == user(str(MAX_CHAIN - 1))
