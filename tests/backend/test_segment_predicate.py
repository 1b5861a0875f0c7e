"""The predicate by tables: counts at edges of windows, stays that grow, and when time alone changes them."""

from dataclasses import dataclass, field

import pytest

from backend.segments.facts import VisitFact
from backend.segments.model import AllOf, AnyOf, DaysAgo, Did, Dwelt, HasTrait, Not
from backend.segments.predicate import dwell, evaluate

NOW = 1_750_075_200_000  # 16 June 2025, 12:00 UTC
SECOND, HOUR, DAY = 1000, 3_600_000, 86_400_000


@dataclass
class Happened:
    at: int
    properties: dict | None = None


@dataclass
class Person:
    """Facts made by hand."""

    happened: list[int] = field(default_factory=list)
    stays: list[VisitFact] = field(default_factory=list)
    traits: dict = field(default_factory=dict)

    def events(self, kinds, name, since):
        return [Happened(at) for at in sorted(self.happened, reverse=True) if since is None or at > since]

    def visits(self, since):
        return self.stays

    def trait(self, name):
        return self.traits.get(name)


HOURLY = {"within_s": 3600}
COUNTS = [
    # how long ago, condition, holds, changes so much later
    ([], Did("x"), False, None),
    ([0], Did("x"), True, None),
    ([0], Did("x", **HOURLY), True, HOUR),
    ([HOUR - 1], Did("x", **HOURLY), True, 1),
    ([HOUR], Did("x", **HOURLY), False, None),
    ([-5], Did("x", **HOURLY), True, HOUR + 5),
    ([10, 20, 30], Did("x", at_least=3, **HOURLY), True, HOUR - 30),
    ([10, 20, 30, 40], Did("x", at_least=3, **HOURLY), True, HOUR - 30),
    ([10, 20], Did("x", at_least=3, **HOURLY), False, None),
    ([10, 20, 30], Did("x", at_most=0, **HOURLY), False, HOUR - 10),
    ([10, 20, 30], Did("x", at_most=2, **HOURLY), False, HOUR - 30),
    ([10, 20], Did("x", at_most=2, **HOURLY), True, None),
    ([10, 20], Did("x", at_least=1, at_most=2, **HOURLY), True, HOUR - 10),
    ([10, 20, 30], Did("x", at_least=1, at_most=2, **HOURLY), False, HOUR - 30),
    ([10, 20, 30], Did("x", at_most=2), False, None),
    ([10], Not(Did("x", **HOURLY)), False, HOUR - 10),
    ([10], AllOf((Did("x", **HOURLY), Did("x", within_s=60))), True, 60 * SECOND - 10),
    ([10], AllOf((Did("x", within_s=60), Did("x", **HOURLY))), True, 60 * SECOND - 10),
    ([10], AnyOf((Did("x", at_least=2), Did("x", **HOURLY))), True, HOUR - 10),
    ([10], AllOf((Did("x", at_most=0, **HOURLY), Did("x", at_least=2))), False, None),
    ([10], AnyOf((Did("x", **HOURLY), Did("x"))), True, None),
    ([2 * HOUR], AllOf((Did("x"), Did("x", at_most=0, **HOURLY))), True, None),
]


@pytest.mark.parametrize(("ago", "condition", "holds", "later"), COUNTS)
def test_counts(ago, condition, holds, later):
    person = Person(happened=[NOW - each for each in ago])
    assert evaluate(condition, person, NOW) == (holds, None if later is None else NOW + later)


def stay(entered, left=None) -> VisitFact:
    """Seconds ago."""
    return VisitFact("s", "z", ("c",), NOW - entered * SECOND, None if left is None else NOW - left * SECOND)


STAYS = [
    # stays, needed seconds, window seconds, holds, changes so many seconds later
    ([], 60, None, False, None),
    ([stay(59)], 60, None, False, 1),
    ([stay(60)], 60, None, True, None),
    ([stay(100, 70)], 60, None, False, None),
    ([stay(100, 70), stay(20)], 60, None, False, 10),
    ([stay(20), stay(20)], 60, None, False, 40),  # a tag and a phone: nobody stays twice at once
    ([stay(100, 30), stay(90, 60)], 80, None, False, None),
    ([stay(100, 60), stay(80, 40), stay(20)], 90, None, False, 10),
    ([stay(100, 60), stay(80, 40)], 60, 200, True, 100.001),
    ([stay(90, 70), stay(80, 50), stay(40)], 60, 100, True, None),
    ([stay(100, 40)], 60, 200, True, 100.001),
    ([stay(100, 30)], 60, 200, True, 110.001),
    ([stay(300)], 60, 100, True, None),
    ([stay(30)], 60, 100, False, 30),
    ([stay(95, 55), stay(10)], 60, 100, False, 50),
    ([stay(130, 90), stay(40)], 60, 100, False, 20),
]


@pytest.mark.parametrize(("stays", "needed", "window", "holds", "later"), STAYS)
def test_stays(stays, needed, window, holds, later):
    condition = Dwelt(needed, category="c", within_s=window)
    expected = None if later is None else NOW + round(later * SECOND)
    assert evaluate(condition, Person(stays=stays), NOW) == (holds, expected)
    if expected is not None:
        span = None if window is None else window * SECOND
        around = [dwell(stays, at, span) >= needed * SECOND for at in (expected - 1, expected)]
        assert around == [holds, not holds]


MIDNIGHT = NOW + 12 * HOUR
DATES = [
    ("2025-06-16", DaysAgo(at_least=0, at_most=0), True, MIDNIGHT),
    ("2025-06-16T23:59:59Z", DaysAgo(at_most=2), True, MIDNIGHT + 2 * DAY),
    ("2025-06-20", DaysAgo(at_least=-3, at_most=0), False, MIDNIGHT),
    ("2025-06-20", DaysAgo(at_least=0), False, MIDNIGHT + 3 * DAY),
    ("2025-06-01", DaysAgo(at_least=3), True, None),
    ("2025-06-01", DaysAgo(at_most=3), False, None),
    ("2025-02-31", DaysAgo(at_least=3), True, MIDNIGHT),
    ("16 June", DaysAgo(at_least=3), False, None),
    (20250616, DaysAgo(at_least=0), False, None),
]


@pytest.mark.parametrize(("value", "test", "holds", "changes_at"), DATES)
def test_days(value, test, holds, changes_at):
    person = Person(traits={"born": value})
    assert evaluate(HasTrait("born", test), person, NOW) == (holds, changes_at)
