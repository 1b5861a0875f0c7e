"""Time-ordered identifiers (UUID version 7, RFC 9562 section 5.7)."""

import os

_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def uuid7(now_ms: int) -> str:
    """48 bits of unix milliseconds, then 74 random bits; sorts by time, so indexes stay fast."""
    time, chance = f"{now_ms & (1 << 48) - 1:012x}", os.urandom(10).hex()
    return f"{time[:8]}-{time[8:]}-7{chance[1:4]}-{_VARIANT[chance[4]]}{chance[5:8]}-{chance[8:]}"
