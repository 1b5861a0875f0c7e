"""The write key that a request carries in its Authorization header."""

import base64
import binascii

MAX_KEY_CHARS = 200  # ours have 32; longer ones are nobody's


def key_of_header(authorization: str | None) -> str | None:
    """The key of `Basic base64(key:)`, with or without the colon, or of `Bearer key`; else None."""
    scheme, _, rest = (authorization or "").strip().partition(" ")
    match scheme.lower():
        case "basic":
            return usable_key(_basic_user(rest.strip()))
        case "bearer":
            return usable_key(rest.strip())
    return None


def usable_key(key: str | None) -> str | None:
    """The key, or None for what cannot be one."""
    return key if key and len(key) <= MAX_KEY_CHARS and key.isprintable() else None


def _basic_user(encoded: str) -> str | None:
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    return decoded.partition(":")[0]
