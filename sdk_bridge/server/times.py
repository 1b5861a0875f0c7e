"""When an event happened, by Segment's rule: its own time, corrected by how wrong the device's clock is."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeAlias

from sdk_bridge.server.bodies import Rejected

Timestamp: TypeAlias = str | int | float | None
"""ISO 8601 text, or unix time in seconds or milliseconds."""

SKEW_STEP_MS = 5 * 60_000  # a slow network looks like skew too; below half a step it is taken for that
LONGEST_TIMESTAMP = 64  # characters; longer ones would only fill the cache
_SECONDS_BELOW = 1e11  # 1973 in milliseconds, 5138 in seconds
_LATEST_MS = 253_402_300_799_999  # the last of the year 9999


def unix_ms(stamp: Timestamp) -> int | None:
    """The time in unix milliseconds, None for none. Raises Rejected for what is no time."""
    if stamp is None or stamp == "":
        return None
    if isinstance(stamp, str):
        return _from_iso(stamp)
    at = int(stamp * 1000) if abs(stamp) < _SECONDS_BELOW else int(stamp)
    if not 0 <= at <= _LATEST_MS:
        raise Rejected("the timestamp lies outside 1970 to 9999")
    return at


def skew_ms(sent_at: Timestamp, received_at: int) -> int:
    """How far the device's clock is behind ours, in whole steps; 0 when it does not say."""
    if sent_at is None or (isinstance(sent_at, str) and len(sent_at) > LONGEST_TIMESTAMP):
        return 0
    return _skew_ms(sent_at, received_at)


@lru_cache(maxsize=64)  # a batch asks the same for each of its events
def _skew_ms(sent_at: Timestamp, received_at: int) -> int:
    try:
        sent = unix_ms(sent_at)
    except Rejected:
        return 0  # sentAt only corrects; an event with a good timestamp stands without it
    return 0 if sent is None else round((received_at - sent) / SKEW_STEP_MS) * SKEW_STEP_MS


def occurred_ms(original_at: int, skew: int, received_at: int) -> int:
    """`receivedAt - (sentAt - originalTimestamp)`, never in the future and never before 1970."""
    return max(0, min(original_at + skew, received_at))


def _from_iso(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        at = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise Rejected("the timestamp is not ISO 8601") from error
    return max(0, at)
