"""The secret beside the database that everything about rotating ids hangs on: a file, for its owner alone.

It holds 32 random bytes in hexadecimal. From them come the key that wraps beacons' identity keys, the
resolver's X25519 pair, and the key of the fingerprints by which a beacon registered twice is found. Without
the file no tag can be named again; with it *and* the database every tag can be followed. Back up both, apart.
"""

import hmac
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from backend.proximity.eid import KEY_BYTES, EidError, KeyWrap, identity_key, public_key
from backend.secret_file import SECRET_BYTES, SecretUnusable, make_secret, read_secret


class EidKeysUnusable(RuntimeError):
    """The file with the secret is missing, damaged or open to others; the text is one line."""


class EidKeys:
    """What is derived from the secret. Identity keys go through here and are kept nowhere."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES or not any(secret):
            raise EidError(f"the secret needs {SECRET_BYTES} bytes, not all of them zero")
        self.wrap = KeyWrap(_derived(secret, b"wrapping identity keys"))
        self._private = _derived(secret, b"resolver")
        self._fingerprints = _derived(secret, b"fingerprints")
        self.resolver_public: bytes = public_key(self._private)

    def agreed_with(self, beacon_public: bytes) -> bytes:
        """The identity key of a beacon that was given our public key, from its own. Raises EidError."""
        return identity_key(own_private=self._private, peer_public=beacon_public, own_is_resolver=True)

    def fingerprint(self, key: bytes) -> bytes:
        """Equal for equal identity keys, and of no use without the secret."""
        return hmac.digest(self._fingerprints, key, "sha256")[:16]


def checked_identity_key(key: bytes) -> bytes:
    """The key. Raises EidError for one of a wrong length, and for zeros: anybody could compute its ids."""
    if len(key) != KEY_BYTES:
        raise EidError(f"an identity key has {KEY_BYTES} bytes, not {len(key)}")
    if not any(key):
        raise EidError("an identity key of zeros is known to everybody")
    return key


def open_eid_keys(
    path: Path, *, may_make: bool, random: Callable[[int], bytes] = secrets.token_bytes
) -> EidKeys:
    """Reads the file; makes it, 0600, where there is none and that is allowed. Raises EidKeysUnusable."""
    there = path.exists()
    if not there and not may_make:
        raise EidKeysUnusable(f"{path} is not there; no other opens the registered beacons' keys")
    try:
        if not there:
            make_secret(path, random(SECRET_BYTES))
        return EidKeys(read_secret(path))
    except SecretUnusable as error:
        raise EidKeysUnusable(str(error)) from error
    except EidError as error:
        raise EidKeysUnusable(f"{path}: {error}") from error


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, b"footfall eid: " + purpose).derive(secret)
