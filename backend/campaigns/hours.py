"""Calendars as people live by them: their day, their week, the hours in which nobody may disturb. Pure.

A person's time zone is their own, else their devices', else the store's. Clocks go forward and back: a local
time may come twice or not at all. Instants are unix milliseconds.
"""

import re
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, TypeGuard
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Meta, Struct

Clock = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)")]
_ZONE_NAME = re.compile(r"[A-Za-z0-9_+\-/]{1,64}")
_MINUTE_MS = 60_000
_LONGEST_GAP_MINUTES = 24 * 60 + 1  # Samoa left out a whole day in 2011


class QuietHours(Struct, frozen=True, forbid_unknown_fields=True):
    """From `start` to `end` by the person's clock nothing is sent; over midnight where `end` is the earlier.

    Equal ends mean no quiet hours. What falls into them waits for the end, or is dropped if `hold` is false.
    """

    start: Clock = "21:00"
    end: Clock = "08:00"
    hold: bool = True

    def covers(self, instant: int, zone: ZoneInfo) -> bool:
        """Whether nobody may be disturbed at an instant."""
        start, end, now = _time(self.start), _time(self.end), _local(instant, zone).time()
        if start <= end:
            return start <= now < end
        return now >= start or now < end

    def end_after(self, instant: int, zone: ZoneInfo) -> int:
        """The first instant from this one on that is not quiet, to the minute."""
        if not self.covers(instant, zone):
            return instant
        local = _local(instant, zone)
        end = datetime.combine(local.date(), _time(self.end))
        if end <= local.replace(tzinfo=None):
            end += timedelta(days=1)
        candidate = max(_instant(end, zone), instant)
        if not self.covers(candidate, zone) and self.covers(candidate - 1, zone):
            return candidate
        return self._searched(instant, zone)

    def _searched(self, instant: int, zone: ZoneInfo) -> int:
        """Where the clock was changed in between: minute by minute."""
        minute = instant - instant % _MINUTE_MS
        for step in range(1, 2 * _LONGEST_GAP_MINUTES):
            if not self.covers(minute + step * _MINUTE_MS, zone):
                return minute + step * _MINUTE_MS
        return minute + 2 * _LONGEST_GAP_MINUTES * _MINUTE_MS


def time_zone(*names: object) -> ZoneInfo:
    """The first of the names that is a time zone's, else UTC; people and apps write all sorts of things."""
    for name in names:
        if isinstance(name, str) and (zone := _zone_called(name)) is not None:
            return zone
    return ZoneInfo("UTC")


@lru_cache(maxsize=1024)  # a name that is none's would be looked for on the disk with every event
def _zone_called(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if _ZONE_NAME.fullmatch(name) else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def is_time_zone(name: object) -> TypeGuard[str]:
    """Whether something is a time zone's name."""
    return isinstance(name, str) and _zone_called(name) is not None


def day_bounds(instant: int, zone: ZoneInfo) -> tuple[int, int]:
    """The calendar day around an instant, as [start, end)."""
    return _bounds(_local(instant, zone), zone, 1)


def week_bounds(instant: int, zone: ZoneInfo) -> tuple[int, int]:
    """The calendar week around an instant, Monday to Sunday (ISO 8601), as [start, end)."""
    local = _local(instant, zone)
    return _bounds(local - timedelta(days=local.weekday()), zone, 7)


def _bounds(first: datetime, zone: ZoneInfo, days: int) -> tuple[int, int]:
    midnight = datetime.combine(first.date(), time())
    return _instant(midnight, zone), _instant(midnight + timedelta(days=days), zone)


def _local(instant: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(instant / 1000, zone)


def _instant(local: datetime, zone: ZoneInfo) -> int:
    """When a local time comes, the first time; one that is skipped, when the clock has passed it."""
    found = local.replace(tzinfo=zone, fold=0)
    back = found.astimezone(UTC).astimezone(zone).replace(tzinfo=None)
    if back != local:  # inside a gap the reading before the change lies behind it, the one after before it
        found = local.replace(tzinfo=zone, fold=1)
        return _after_gap(int(found.timestamp() * 1000), local, zone)
    return int(found.timestamp() * 1000)


def _after_gap(instant: int, local: datetime, zone: ZoneInfo) -> int:
    """The end of the gap that swallowed a local time, found by halving."""
    low, high = instant, instant
    while _local(high, zone).replace(tzinfo=None) < local:
        high += 3_600_000
    while _local(low, zone).replace(tzinfo=None) >= local:
        low -= 3_600_000
    while high - low > 1000:
        middle = (low + high) // 2000 * 1000
        if _local(middle, zone).replace(tzinfo=None) < local:
            low = middle
        else:
            high = middle
    return high


def _time(text: str) -> time:
    return time(int(text[:2]), int(text[3:]))
