"""Time-ordered identifiers (UUID version 7, RFC 9562 section 5.7)."""

import os
from collections.abc import Iterator
from functools import lru_cache

_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
_AT_ONCE = (
    256  # asking the system for each id took longer than making it, and let other threads have their turn
)
_tails: list[str] = []
os.register_at_fork(after_in_child=_tails.clear)  # or parent and child would give the same ones


def uuid7(now_ms: int) -> str:
    """48 bits of unix milliseconds, then 74 random bits; sorts by time, so indexes stay fast."""
    try:
        tail = _tails.pop()
    except IndexError:
        tail, *others = _fresh_tails()
        _tails.extend(others)
    return _head(now_ms) + tail


@lru_cache(maxsize=1)
def _head(now_ms: int) -> str:
    """The time and the version; a transaction makes all its ids at one time."""
    time = f"{now_ms & (1 << 48) - 1:012x}"
    return f"{time[:8]}-{time[8:]}-7"


def _fresh_tails() -> Iterator[str]:
    """What stands behind the version, each of its own random bytes."""
    chance = os.urandom(10 * _AT_ONCE).hex()
    for start in range(0, len(chance), 20):
        rest = chance[start + 1 : start + 20]
        yield f"{rest[:3]}-{_VARIANT[rest[3]]}{rest[4:7]}-{rest[7:]}"
