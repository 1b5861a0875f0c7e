"""Time-ordered identifiers (UUID version 7, RFC 9562 section 5.7)."""

import secrets


def uuid7(now_ms: int) -> str:
    """48 bits of unix milliseconds, then 74 random bits; sorts by time, so indexes stay fast."""
    value = (now_ms & (1 << 48) - 1) << 80 | int.from_bytes(secrets.token_bytes(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    text = f"{value & ~(0x3 << 62) | 0x2 << 62:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
