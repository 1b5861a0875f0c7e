"""When an event happened, by Segment's rule: its own time, corrected by how wrong the device's clock is."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeAlias

from sdk_bridge.server.bodies import Rejected

Timestamp: TypeAlias = str | int | float | None
"""ISO 8601 text, or unix time in seconds or milliseconds."""

SKEW_STEP_MS = 5 * 60_000  # a slow network looks like skew too; below half a step it is taken for that
LONGEST_TIMESTAMP = 64  # characters; longer ones would only fill the cache
EARLIEST_MS = 946_684_800_000  # 1 January 2000: before it there are only clocks that were never set
_SECONDS_BELOW = 1e11  # 1973 in milliseconds, 5138 in seconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
_LATEST_MS = 253_402_300_799_999  # the last of the year 9999
_UNIX_DIGITS = (10, 13)  # of seconds and of milliseconds, from 2001 to 2286
_LEAP_SECOND = re.compile(r"(T[0-9]{2}:[0-9]{2}):60")


def unix_ms(stamp: Timestamp) -> int | None:
    """The time in unix milliseconds, None for none, 0 before 1970. Raises Rejected for what is no time."""
    if isinstance(stamp, str):
        return _from_iso(stamp) if stamp else None
    if stamp is None:
        return None
    at = int(stamp * 1000) if abs(stamp) < _SECONDS_BELOW else int(stamp)
    if at > _LATEST_MS:
        raise Rejected("the timestamp lies beyond the year 9999")
    return max(0, at)


def skew_ms(sent_at: Timestamp, received_at: int) -> int:
    """How far the device's clock is behind ours; 0 when it does not say.

    In whole steps, for a slow network looks like a clock that is behind. None makes a clock look ahead,
    though: so nothing is sent later than it is received.
    """
    if sent_at is None or (isinstance(sent_at, str) and len(sent_at) > LONGEST_TIMESTAMP):
        return 0
    return _skew_ms(sent_at, received_at)


@lru_cache(maxsize=64)  # a batch asks the same for each of its events
def _skew_ms(sent_at: Timestamp, received_at: int) -> int:
    try:
        sent = unix_ms(sent_at)
    except Rejected:
        return 0  # sentAt only corrects; an event with a good timestamp stands without it
    if sent is None:
        return 0
    behind = received_at - sent
    in_steps = round(behind / SKEW_STEP_MS) * SKEW_STEP_MS
    return min(in_steps, behind) if behind < 0 else in_steps


def occurred_ms(original_at: int, skew: int, received_at: int) -> int:
    """`receivedAt - (sentAt - originalTimestamp)`; the arrival for what a clock dates that was never set.

    It may lie in the future still: what to do with that is told by the others of its request.
    """
    occurred_at = original_at + skew
    return occurred_at if occurred_at >= EARLIEST_MS else received_at


def not_after(received_at: int, occurred: list[tuple[int, int, int]]) -> list[int]:
    """The times of events, none of them after `received_at`; of each is given when it occurred, the time by
    the device's own clock, and its index.

    What would lie in the future is put at the arrival, a millisecond apart, so that the order stays.
    """
    times = [at for at, _, _ in occurred]
    latest = received_at
    for number in sorted(range(len(times)), key=occurred.__getitem__, reverse=True):
        if times[number] > latest:
            times[number] = latest
            latest -= 1
    return times


def _from_iso(text: str) -> int:
    if len(text) in _UNIX_DIGITS and text.isdecimal():  # Python would read a date of the year 1700 in it
        return unix_ms(int(text)) or 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = _from_rfc_3339(text)
    try:
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    except OverflowError as error:
        raise Rejected("the timestamp is not ISO 8601") from error
    # In whole numbers: a float of seconds can lose a millisecond.
    at = since.days * _DAY_MS + since.seconds * 1000 + since.microseconds // 1000
    return at if at > 0 else 0


def _from_rfc_3339(text: str) -> datetime:
    """What RFC 3339 (section 5.6) allows and Python does not read: small letters, and a leap second, which
    counts as the one before it. Raises Rejected."""
    try:
        return datetime.fromisoformat(_LEAP_SECOND.sub(r"\1:59", text.strip().upper()))
    except ValueError as error:
        raise Rejected("the timestamp is not ISO 8601") from error
