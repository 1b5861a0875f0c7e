"""What is remembered of people is what would be read of them."""

import pytest

from backend.profiles.arrivals import Arrival
from backend.profiles.model import EVER, Profile
from backend.segments.dependencies import Needs
from backend.segments.memory import SHORT, Histories, Memory, ToldEvent
from sdk_bridge.wire.app_events import AppEvent

NOW = 1_750_075_200_000
DAY = 86_400_000
PAGES = Needs(events=frozenset({(("page",), None)}), since_s=7 * 86_400)
ALL = Needs(events=frozenset({(("page",), None), (("track",), "Product Viewed")}), since_s=None)
VISITOR = frozenset({"anonymous_id"})
USER = frozenset({"user_id"})


def event(at: int, kind: str = "page", name: str | None = "Shoes") -> AppEvent:
    return AppEvent(kind=kind, message_id=f"m{at}", source="web", occurred_at=at, received_at=NOW, name=name)


def profile(profile_id: str, **more) -> Profile:
    return Profile(profile_id, "anonymous_id", profile_id, NOW, **more)


def known(*profiles: Profile):
    return {one.profile_id: one for one in profiles}.get


def times(histories: Histories, person: str, needs: Needs = ALL, now: int = NOW) -> list[int] | None:
    found = histories.known([person], needs, now)
    return [deed.at for deed in found[person]] if person in found else None


def test_of_whoever_is_new_all_is_known_newest_first():
    histories = Histories()
    histories.tell([("v", event(2)), ("x", event(5))], [Arrival(("v",), None, VISITOR)], known(profile("v")))
    histories.tell([("v", event(3)), ("v", event(1))], (), known())
    assert times(histories, "v") == [3, 2, 1]
    assert times(histories, "x") is None


def test_what_was_read_answers_no_more_than_it_was_read_for():
    histories = Histories()
    histories.keep({"p": [ToldEvent(NOW - DAY, "page", "Shoes", None)]}, PAGES, NOW)
    histories.tell([("p", event(NOW))], (), known())
    assert times(histories, "p", PAGES) == [NOW, NOW - DAY]
    assert times(histories, "p", PAGES, NOW + DAY) == [NOW, NOW - DAY]
    assert times(histories, "p", PAGES, NOW - 1) is None  # it looks further back
    assert times(histories, "p", ALL) is None


@pytest.mark.parametrize(("attach", "expected"), [({}, [3, 2, 1]), ({"attach_from": NOW + 1}, None)])
def test_whoever_logs_in_brings_what_the_visitor_did_unless_a_window_cuts_it(attach, expected):
    histories = Histories()
    histories.tell([("v", event(1))], [Arrival(("v",), None, VISITOR)], known(profile("v")))
    merged = profile("v", parent="u", **{"attach_until": EVER, **attach})
    login = Arrival(("u", "v"), "v", USER)
    histories.tell([("v", event(2)), ("u", event(3))], [login], known(profile("u"), merged))
    assert times(histories, "u") == expected
    assert times(histories, "v") is None


def test_of_whoever_was_not_known_nothing_is_after_a_login():
    histories = Histories()
    merged = profile("v", parent="u")
    histories.tell([("u", event(3))], [Arrival(("u", "v"), "v", USER)], known(profile("u"), merged))
    assert times(histories, "u") is None


def test_whoever_did_much_is_read_again():
    histories = Histories()
    arrival = Arrival(("v",), None, VISITOR)
    histories.tell([("v", event(at)) for at in range(SHORT)], [arrival], known(profile("v")))
    assert times(histories, "v") == list(range(SHORT))[::-1]
    histories.tell([("v", event(SHORT))], (), known())
    assert times(histories, "v") is None


def test_who_is_another_is_forgotten_but_not_by_what_rows_they_are_in():
    memory = Memory()
    memory.trees.profiles["v"] = ["v"]
    memory.keep_memberships({"v": {"s1": NOW}, "w": {"s2": NOW}}, ["w"])
    memory.histories.tell([("v", event(1))], [Arrival(("v",), None, VISITOR)], known(profile("v")))
    memory.forget({"v"})
    assert "v" not in memory.trees.profiles
    assert times(memory.histories, "v") is None
    assert memory.memberships == {"v": {"s1": NOW}}
    memory.forget_memberships(["v"])
    assert not memory.memberships
