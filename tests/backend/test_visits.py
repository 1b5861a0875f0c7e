"""When a visit to a store begins and ends, by the zones someone was in."""

import pytest

from backend.proximity.visits import AWAY_MS, Visits
from backend.proximity.zones import Place, Transition

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
