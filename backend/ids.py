"""Time-ordered identifiers (UUID version 7, RFC 9562 section 5.7)."""

import secrets
import uuid


def uuid7(now_ms: int) -> str:
    """48 bits of unix milliseconds, then 74 random bits; sorts by time, so indexes stay fast."""
    value = (now_ms & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
