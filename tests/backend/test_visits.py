"""When a visit to a store begins and ends, by the zones someone was in."""

import pytest

from backend.proximity.places import Place
from backend.proximity.visits import AWAY_MS, DEAF_MS, Visits
from backend.proximity.zones import Transition

ENTRANCE, SHOES, ELSEWHERE = Place("s", "entrance"), Place("s", "shoes"), Place("t", "door")


def entered(place: Place, at: int) -> Transition:
    return Transition("entered", "tag", place, at, at)


def left(place: Place, at: int, kind="left") -> Transition:
    return Transition(kind, "tag", place, at, 0)


CASES = {
    "one zone": ([entered(ENTRANCE, 10), left(ENTRANCE, 20)], [("entered", "s", 10), ("left", "s", 20)]),
    "through two zones": (
        [entered(ENTRANCE, 10), left(ENTRANCE, 20), entered(SHOES, 20), left(SHOES, 90)],
        [("entered", "s", 10), ("left", "s", 90)],
    ),
    "out of sight for less than the limit": (
        [entered(ENTRANCE, 0), left(ENTRANCE, 10), entered(SHOES, AWAY_MS), left(SHOES, AWAY_MS + 10)],
        [("entered", "s", 0), ("left", "s", AWAY_MS + 10)],
    ),
    "a zone that became unknown": (
        [entered(ENTRANCE, 0), left(ENTRANCE, 30, "unknown")],
        [("entered", "s", 0), ("left", "s", 30)],
    ),
    "straight to another store": (
        [entered(SHOES, 0), entered(ELSEWHERE, 50), left(SHOES, 60), left(ELSEWHERE, 70)],
        [("entered", "s", 0), ("left", "s", 50), ("entered", "t", 50), ("left", "t", 70)],
    ),
    "to another store after a pause": (
        [entered(SHOES, 0), left(SHOES, 40), entered(ELSEWHERE, 50), left(ELSEWHERE, 70)],
        [("entered", "s", 0), ("left", "s", 40), ("entered", "t", 50), ("left", "t", 70)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_visit_is_from_the_first_zone_to_the_last(name):
    transitions, expected = CASES[name]
    visits, seen = Visits(), []
    for transition in transitions:
        seen += visits.moved(transition)
    last = transitions[-1].at
    assert list(visits.expire(last + AWAY_MS)) == [], "not yet gone for long enough"
    seen += visits.expire(last + AWAY_MS + 1)
    told = [(one.kind, one.visit.store_id, one.at) for one in seen if one.kind in ("entered", "left")]
    assert told == expected
    assert visits.open == {}


def test_whoever_stays_in_a_zone_stays_in_the_store():
    visits = Visits()
    list(visits.moved(entered(SHOES, 0)))
    assert list(visits.expire(10 * AWAY_MS)) == []


def test_a_withdrawal_ends_the_visit_at_once():
    visits = Visits()
    list(visits.moved(entered(SHOES, 5)))
    assert [(one.kind, one.at) for one in visits.forget("tag", 9)] == [("left", 9)]
    assert list(visits.forget("tag", 9)) == []


# Where nobody listens -------------------------------------------------------------------------------------


class Deaf:
    """A visit in a zone whose gateway fell silent at 10; `listened_since` is what the engine would say."""

    def __init__(self) -> None:
        self.visits, self.listened_since = Visits(), None
        list(self.visits.moved(entered(SHOES, 0)))
        list(self.visits.moved(left(SHOES, 10, "unknown")))

    def at(self, now: int) -> list[tuple]:
        def since(place: Place) -> int | None:
            assert place == SHOES
            return self.listened_since

        return [(one.kind, one.at, one.confidence) for one in self.visits.expire(now, since)]


def test_nobody_leaves_a_shop_because_it_lost_its_network():
    deaf = Deaf()
    assert deaf.at(DEAF_MS // 2) == []
    deaf.listened_since = DEAF_MS // 2
    assert deaf.at(DEAF_MS // 2 + AWAY_MS) == []
    [resumed] = deaf.visits.moved(entered(SHOES, DEAF_MS // 2 + AWAY_MS))
    assert resumed.kind == "resumed", "one visit, not two"
    list(deaf.visits.moved(left(SHOES, DEAF_MS)))
    assert deaf.at(DEAF_MS + AWAY_MS + 1) == [("left", DEAF_MS, "high")]


def test_who_is_not_heard_when_the_gateway_is_back_left_nobody_knows_when():
    deaf = Deaf()
    deaf.listened_since = 900_000
    assert deaf.at(900_000 + AWAY_MS) == []
    assert deaf.at(900_000 + AWAY_MS + 1) == [("left", 10, "low")]


def test_a_gateway_that_never_comes_back_keeps_nobody_in_the_shop_for_ever():
    deaf = Deaf()
    assert deaf.at(10 + DEAF_MS) == []
    assert deaf.at(11 + DEAF_MS) == [("left", 10, "none")]
