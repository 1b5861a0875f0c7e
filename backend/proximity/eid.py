"""Eddystone-EID, one beacon at a time: registering its key, keeping the key, its rotating ids, its telemetry.

Source: Google "Eddystone-EID Computation" and "Eddystone-TLM (encrypted)". A beacon's time is its own 32-bit
counter of seconds; an id lives 2^K seconds, K being the rotation exponent. Randomness (private keys, nonces)
is an argument. backend/proximity/eid_table.py names many beacons at once.
"""

import hmac
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct as Layout
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 16
EID_BYTES: Final = 8
MAX_EXPONENT: Final = (
    15  # a rotation of nine hours; a temporary key lives 2^16 s, and an id no longer than it
)
NONCE_BYTES: Final = 12  # of a wrapped key; random ones are safe for 2^32 keys under one wrapping key
_WINDOW_BITS: Final = 16  # of the time, which one temporary key serves
_TIME_MASK: Final = 0xFFFFFFFF
_WRAP_VERSION: Final = b"\x01"
_ECB: Final = ECB()  # noqa: S305 - the specification asks for single blocks, each unlike any other
_TLM = Layout(">HhII")


class EidError(ValueError):
    """A key, a public key or a wrapped key that cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class EtlmReport:
    """Opened telemetry: millivolts, °C, adverts sent, seconds since start; None is "not measured"."""

    battery_mv: int | None
    temperature_c: float | None
    adverts: int
    uptime_s: float


def identity_key(*, own_private: bytes, peer_public: bytes, own_is_resolver: bool) -> bytes:
    """The identity key that resolver and beacon agree on, each from its private and the other's public key.

    Keys are the 32 bytes of X25519. Raises EidError, also for a public key that yields a zero secret: with it
    anyone could compute the key.
    """
    try:
        private = X25519PrivateKey.from_private_bytes(own_private)
        secret = private.exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as error:
        raise EidError(f"the X25519 exchange failed: {error}") from error
    if not any(secret):
        raise EidError("the X25519 exchange gave a zero secret")
    own_public = private.public_key().public_bytes_raw()
    salt = own_public + peer_public if own_is_resolver else peer_public + own_public
    return HKDF(SHA256(), KEY_BYTES, salt, b"").derive(secret)


def public_key(private: bytes) -> bytes:
    """The X25519 public key to a private one, 32 bytes each. Raises EidError."""
    try:
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    except ValueError as error:
        raise EidError(f"not an X25519 private key: {error}") from error


class KeyWrap:
    """Encrypts identity keys for storage (AES-GCM) under a key that is kept outside the database.

    A wrapped key is bound to its beacon's name, so one row's key cannot be passed off as another's.
    """

    def __init__(self, wrapping_key: bytes) -> None:
        if len(wrapping_key) != 32:
            raise EidError(f"the wrapping key has {len(wrapping_key)} bytes and needs 32")
        self._cipher = AESGCM(wrapping_key)

    def wrap(self, key: bytes, beacon: str, nonce: bytes) -> bytes:
        """The key for storage; `nonce` is 12 random bytes, never used twice."""
        if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
            raise EidError(f"an identity key has {KEY_BYTES} bytes, its nonce {NONCE_BYTES}")
        return _WRAP_VERSION + nonce + self._cipher.encrypt(nonce, key, beacon.encode())

    def unwrap(self, blob: bytes, beacon: str) -> bytes:
        """The key. Raises EidError where the blob, the beacon or the wrapping key is not the right one."""
        nonce, sealed = blob[1 : 1 + NONCE_BYTES], blob[1 + NONCE_BYTES :]
        try:
            if blob[:1] != _WRAP_VERSION:
                raise EidError(f"the wrapped key of {beacon} is of an unknown version")
            key = self._cipher.decrypt(nonce, sealed, beacon.encode())
        except (InvalidTag, ValueError) as error:
            raise EidError(f"the wrapped key of {beacon} does not open: {error or 'wrong key'}") from error
        if len(key) != KEY_BYTES:
            raise EidError(f"the wrapped key of {beacon} holds {len(key)} bytes")
        return key


def eid_at(key: bytes, exponent: int, beacon_time: int) -> bytes:
    """The 8 bytes that a beacon with this identity key sends at this second of its clock. Raises EidError."""
    return rotations(key, exponent, beacon_time, 1)[:EID_BYTES]


def rotations(key: bytes, exponent: int, beacon_time: int, count: int) -> bytes:
    """`count` ids from that of `beacon_time` on, 16 bytes each, of which the first 8 are the id.

    Setting up a cipher costs fifty times a block, so every temporary key makes all its ids in one update.
    Raises EidError.
    """
    _check(key, exponent)
    return b"".join(
        [
            _encrypt(_encrypt(key, key_block), id_blocks)
            for key_block, id_blocks in _plan(exponent, beacon_time >> exponent, count)
        ]
    )


def _check(key: bytes, exponent: int) -> None:
    if len(key) != KEY_BYTES:
        raise EidError(f"an identity key has {KEY_BYTES} bytes, not {len(key)}")
    if not 0 <= exponent <= MAX_EXPONENT:
        raise EidError(f"rotation exponent {exponent} must be 0 to {MAX_EXPONENT}")


@lru_cache(maxsize=4096)
def _plan(exponent: int, first: int, count: int) -> list[tuple[bytes, bytes]]:
    """The block that makes each temporary key, and the blocks it is to encrypt; alike for beacons in step."""
    plan: dict[int, bytes] = {}
    for rotation in range(first, first + count):
        time = (rotation << exponent) & _TIME_MASK
        window = time >> _WINDOW_BITS
        plan[window] = plan.get(window, b"") + bytes(11) + bytes([exponent]) + time.to_bytes(4, "big")
    return [
        (bytes(11) + b"\xff\x00\x00" + window.to_bytes(2, "big"), blocks) for window, blocks in plan.items()
    ]


def _encrypt(key: bytes, blocks: bytes) -> bytes:
    return Cipher(AES(key), _ECB).encryptor().update(blocks)


def open_etlm(
    key: bytes, exponent: int, beacon_time: int, *, ciphertext: bytes, salt: bytes, mic: bytes
) -> EtlmReport | None:
    """An encrypted telemetry frame, opened; None if it is not this key's at this time.

    The MIC has 16 bits only: of forged frames one in 65,536 opens, so what it says decides nothing of value.
    Raises EidError.
    """
    if len(ciphertext) != 12 or len(salt) != 2 or len(mic) != 2:
        return None
    _check(key, exponent)
    plain = _eax_open(key, _etlm_nonce(exponent, beacon_time, salt), ciphertext, mic)
    if plain is None:
        return None
    battery, temperature, adverts, tenths = _TLM.unpack(plain)
    return EtlmReport(
        battery or None, None if temperature == -0x8000 else temperature / 256, adverts, tenths / 10
    )


def seal_etlm(
    key: bytes, exponent: int, beacon_time: int, *, plain: bytes, salt: bytes
) -> tuple[bytes, bytes]:
    """What a beacon sends: ciphertext and MIC of the twelve bytes of a plain frame after its version.

    Raises EidError.
    """
    _check(key, exponent)
    nonce = _etlm_nonce(exponent, beacon_time, salt)
    ciphertext = _ctr(key, _omac(key, 0, nonce), plain)
    return ciphertext, _eax_tag(key, nonce, ciphertext)[:2]


def _etlm_nonce(exponent: int, beacon_time: int, salt: bytes) -> bytes:
    return (beacon_time >> exponent << exponent & _TIME_MASK).to_bytes(4, "big") + salt


# AES-EAX (Bellare, Rogaway, Wagner 2004) without associated data, from the library's CMAC and CTR.


def _eax_open(key: bytes, nonce: bytes, ciphertext: bytes, mic: bytes) -> bytes | None:
    if not hmac.compare_digest(_eax_tag(key, nonce, ciphertext)[: len(mic)], mic):
        return None
    return _ctr(key, _omac(key, 0, nonce), ciphertext)


def _eax_tag(key: bytes, nonce: bytes, ciphertext: bytes) -> bytes:
    parts = (_omac(key, 0, nonce), _omac(key, 1, b""), _omac(key, 2, ciphertext))
    return bytes(one ^ two ^ three for one, two, three in zip(*parts, strict=True))


def _omac(key: bytes, purpose: int, message: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(bytes(15) + bytes([purpose]) + message)
    return mac.finalize()


def _ctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    return Cipher(AES(key), CTR(counter)).encryptor().update(data)
