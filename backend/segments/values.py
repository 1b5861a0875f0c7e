"""Tests of one JSON value: types are exact, absent is nothing, and SQL says the same (docs/segments.md)."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

from backend.segments.model import (
    EACH,
    Contains,
    DateIs,
    DaysAgo,
    Exists,
    Filter,
    Is,
    NumberIs,
    OneOf,
    Path,
    Test,
    parts_of,
)

Passes: TypeAlias = Callable[[Any], bool]
"""Of an event's properties."""
DAY_MS = 86_400_000
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_SMALL = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def values_at(value: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    """Every value that a path leads to."""
    if not keys:
        yield value
    elif keys[0] == EACH:
        for element in value if isinstance(value, list) else ():
            yield from values_at(element, keys[1:])
    elif isinstance(value, Mapping) and keys[0] in value:
        yield from values_at(value[keys[0]], keys[1:])


def passes(value: Any, test: Test, today: date) -> bool:
    """Whether one value passes; `today` is what `days_ago` counts from."""
    return _TESTS[type(test)](value, test, today)


def passes_filter(properties: Any, asked: Filter) -> bool:
    """Whether an event's properties pass a filter."""
    return passing(asked)(properties)


def passing(asked: Filter) -> Passes:
    """A filter, ready for the properties of many events: every event of everybody comes by here."""
    path, test, negate = asked.property, asked.test, asked.negate
    rule = _TESTS[type(test)]

    def at_name(properties: Any) -> bool:
        found = isinstance(properties, dict) and path in properties
        return (found and rule(properties[path], test, date.min)) != negate

    def at_path(properties: Any) -> bool:
        return any(rule(value, test, date.min) for value in values_at(properties, parts_of(path))) != negate

    return at_name if isinstance(path, str) else at_path


def passing_all(asked: Sequence[Filter]) -> Passes:
    """The same of several filters at once."""
    tests = [passing(one) for one in asked]
    return tests[0] if len(tests) == 1 else lambda properties: all(test(properties) for test in tests)


def passes_path(value: Any, path: Path, test: Test, today: date) -> bool:
    """Whether any value at the rest of a path passes; its first part is what led to `value`."""
    return any(passes(found, test, today) for found in values_at(value, parts_of(path)[1:]))


def changes_on(value: Any, path: Path, test: Test, now: int) -> int | None:
    """When, by the calendar alone, `passes_path` may come out otherwise, unix milliseconds; None: never."""
    if not isinstance(test, DaysAgo):
        return None
    found = (_turns(value, test, today_of(now)) for value in values_at(value, parts_of(path)[1:]))
    return min((start_of(day) for day in found if day is not None), default=None)


def today_of(now: int) -> date:
    """The calendar day in UTC."""
    return datetime.fromtimestamp(now / 1000, UTC).date()


def start_of(day: date) -> int:
    """When a day begins in UTC, unix milliseconds."""
    return (day - date(1970, 1, 1)).days * DAY_MS


def day_number(day: date) -> int:
    """2025-06-16 as 20250616: days that can be compared without being parsed."""
    return day.year * 10_000 + day.month * 100 + day.day


def lowest_and_highest_day(test: DateIs | DaysAgo, today: date) -> tuple[int, int]:
    """The days, as numbers, between which a date passes; both included."""
    if isinstance(test, DateIs):
        return (
            day_number(date.min) if test.since is None else _number(test.since),
            day_number(date.max) if test.until is None else _number(test.until),
        )
    lowest = date.min if test.at_most is None else _before(today, test.at_most)
    highest = date.max if test.at_least is None else _before(today, test.at_least)
    return day_number(lowest), day_number(highest)


def _before(today: date, days: int) -> date:
    """So many days earlier, as far as the calendar goes; for an event `today` is its first day."""
    return date.fromordinal(min(max(today.toordinal() - days, 1), date.max.toordinal()))


def is_number(value: Any) -> bool:
    """JSON's numbers; Python takes True for one, too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted
    if is_number(wanted):
        return is_number(value) and float(value) == float(wanted)
    return isinstance(value, str) and bool(text_of(value) == wanted)


def text_of(value: str) -> str:
    """A text as databases have it: what follows a U+0000 is lost in them."""
    return value.partition("\0")[0]


def _contains(value: Any, test: Contains, _today: date) -> bool:
    if not isinstance(value, str):
        return False
    text = text_of(value)
    if test.ignore_case:
        return test.text.translate(_SMALL) in text.translate(_SMALL)
    return test.text in text


def _number_is(value: Any, test: NumberIs, _today: date) -> bool:
    if not is_number(value):
        return False
    number = float(value)
    return (
        (test.at_least is None or number >= test.at_least)
        and (test.at_most is None or number <= test.at_most)
        and (test.more_than is None or number > test.more_than)
        and (test.less_than is None or number < test.less_than)
    )


def _date_is(value: Any, test: DateIs | DaysAgo, today: date) -> bool:
    if not isinstance(value, str) or not _DATE.match(value):
        return False
    lowest, highest = lowest_and_highest_day(test, today)
    return lowest <= _number(value) <= highest


def _number(text: str) -> int:
    return int(text[0:4] + text[5:7] + text[8:10])


def _turns(value: Any, test: DaysAgo, today: date) -> date | None:
    """The day on which a value passes no more, or begins to."""
    match = _DATE.match(value) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        day = date(*(int(part) for part in match.groups()))
        ahead = [day + timedelta(days=bound) for bound in _turning_days(test)]
    except (ValueError, OverflowError):
        return today + timedelta(days=1)  # 31 February: no day to count from, so ask again tomorrow
    return min((turn for turn in ahead if turn > today), default=None)


def _turning_days(test: DaysAgo) -> list[int]:
    """How many days after its date a value begins to pass, and passes no more."""
    begins = [] if test.at_least is None else [test.at_least]
    return begins if test.at_most is None else [*begins, test.at_most + 1]


_TESTS: dict[type, Callable[[Any, Any, date], bool]] = {
    Exists: lambda value, _test, _today: value is not None,
    Is: lambda value, test, _today: _is(value, test.value),
    OneOf: lambda value, test, _today: any(_is(value, wanted) for wanted in test.values),
    Contains: _contains,
    NumberIs: _number_is,
    DateIs: _date_is,
    DaysAgo: _date_is,
}
