"""One Eddystone-EID beacon: published vectors, registration, wrapped keys, encrypted telemetry."""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from backend.proximity.eid import (
    EidError,
    EtlmReport,
    KeyWrap,
    eid_at,
    identity_key,
    open_etlm,
    public_key,
    rotations,
    seal_etlm,
)

KEY = bytes.fromhex("00112233445566778899AABBCCDDEEFF")
TIME = 1518080946
TEMPORARY_KEY = bytes.fromhex("b7c2d909d27d22df8343271162480210")
ETLM = bytes.fromhex("1e1ce0211d355b79720c117c")
PLAIN = bytes.fromhex("FFEEDDCCBBAA998877665544")
NONCE = bytes(range(12))

exponents = st.integers(0, 15)
times = st.integers(0, 2**32 - 1)
keys = st.binary(min_size=16, max_size=16)


def aes(key: bytes, block: bytes) -> bytes:
    return Cipher(AES(key), ECB()).encryptor().update(block)  # noqa: S305 - as the specification asks


def test_published_vector() -> None:
    assert eid_at(KEY, 12, TIME).hex() == "7dd8169dae94258c"
    assert aes(KEY, bytes(11) + b"\xff\x00\x00" + (TIME >> 16).to_bytes(2, "big")) == TEMPORARY_KEY


@given(keys, exponents, times)
def test_the_formula_step_by_step(key: bytes, exponent: int, time: int) -> None:
    temporary = aes(key, bytes(11) + b"\xff\x00\x00" + (time >> 16).to_bytes(2, "big"))
    cleared = time // 2**exponent * 2**exponent
    assert (
        eid_at(key, exponent, time)
        == aes(temporary, bytes(11) + bytes([exponent]) + cleared.to_bytes(4, "big"))[:8]
    )


@given(keys, exponents, times, st.integers(1, 70))
def test_many_rotations_are_the_single_ones(key: bytes, exponent: int, time: int, count: int) -> None:
    made = rotations(key, exponent, time, count)
    ids = [made[start : start + 8] for start in range(0, len(made), 16)]
    assert ids == [eid_at(key, exponent, time + (step << exponent)) for step in range(count)]


@given(keys, exponents, times)
def test_an_id_lives_for_one_rotation(key: bytes, exponent: int, time: int) -> None:
    begin = time >> exponent << exponent
    assert eid_at(key, exponent, begin) == eid_at(key, exponent, begin + 2**exponent - 1)
    assert eid_at(key, exponent, begin) != eid_at(key, exponent, begin + 2**exponent)


@pytest.mark.parametrize(("key", "exponent"), [(KEY[1:], 4), (KEY + b"0", 4), (KEY, -1), (KEY, 16)])
def test_what_is_no_beacon_is_refused(key: bytes, exponent: int) -> None:
    with pytest.raises(EidError):
        eid_at(key, exponent, TIME)


def test_resolver_and_beacon_agree_on_a_key() -> None:
    resolver, beacon = bytes(range(32)), bytes(range(32, 64))
    one = identity_key(own_private=resolver, peer_public=public_key(beacon), own_is_resolver=True)
    other = identity_key(own_private=beacon, peer_public=public_key(resolver), own_is_resolver=False)
    assert one == other
    assert len(one) == 16
    assert one != identity_key(own_private=beacon, peer_public=public_key(resolver), own_is_resolver=True)


SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("public", [*SMALL_ORDER, b"", bytes(31), bytes(33)], ids=bytes.hex)
def test_public_keys_that_give_a_zero_secret_are_refused(public: bytes) -> None:
    with pytest.raises(EidError):
        identity_key(own_private=bytes(range(32)), peer_public=public, own_is_resolver=True)


def test_a_wrapped_key_opens_with_its_wrapping_key_and_for_its_beacon_only() -> None:
    wrap = KeyWrap(bytes(32))
    blob = wrap.wrap(KEY, "tag-1", NONCE)
    assert KEY not in blob
    assert wrap.unwrap(blob, "tag-1") == KEY
    for keeper, changed, beacon in [
        (wrap, blob, "tag-2"),
        (KeyWrap(bytes([1] * 32)), blob, "tag-1"),
        (wrap, blob[:-1] + bytes([blob[-1] ^ 1]), "tag-1"),
        (wrap, b"\x02" + blob[1:], "tag-1"),
        (wrap, blob[:9], "tag-1"),
        (wrap, b"", "tag-1"),
    ]:
        with pytest.raises(EidError, match=beacon):
            keeper.unwrap(changed, beacon)


@pytest.mark.parametrize(("key", "nonce"), [(KEY[1:], NONCE), (KEY, NONCE[1:])])
def test_only_whole_keys_and_nonces_are_wrapped(key: bytes, nonce: bytes) -> None:
    with pytest.raises(EidError):
        KeyWrap(bytes(32)).wrap(key, "tag-1", nonce)


def test_a_wrapping_key_has_its_length() -> None:
    with pytest.raises(EidError, match="32"):
        KeyWrap(bytes(16))


def test_etlm_vector() -> None:
    assert seal_etlm(KEY, 4, TIME, plain=PLAIN, salt=b"\xff\xff") == (ETLM, bytes.fromhex("76d7"))
    report = open_etlm(KEY, 4, TIME, ciphertext=ETLM, salt=b"\xff\xff", mic=bytes.fromhex("76d7"))
    assert report == EtlmReport(0xFFEE, -34.203125, 0xBBAA9988, 0x77665544 / 10)


@pytest.mark.parametrize(
    ("key", "time", "ciphertext", "salt", "mic"),
    [
        (bytes(16), TIME, ETLM, "ffff", "76d7"),
        (KEY, TIME + 16, ETLM, "ffff", "76d7"),
        (KEY, TIME, ETLM[:-1] + b"\x00", "ffff", "76d7"),
        (KEY, TIME, ETLM, "fffe", "76d7"),
        (KEY, TIME, ETLM, "ffff", "d776"),
        (KEY, TIME, ETLM[:-1], "ffff", "76d7"),
        (KEY, TIME, ETLM, "ff", "76d7"),
        (KEY, TIME, ETLM, "ffff", ""),
    ],
)
def test_etlm_of_another_beacon_or_time_stays_shut(
    key: bytes, time: int, ciphertext: bytes, salt: str, mic: str
) -> None:
    opened = open_etlm(key, 4, time, ciphertext=ciphertext, salt=bytes.fromhex(salt), mic=bytes.fromhex(mic))
    assert opened is None


def test_etlm_says_what_was_not_measured() -> None:
    plain = bytes.fromhex("00008000") + bytes(8)
    ciphertext, mic = seal_etlm(KEY, 4, TIME, plain=plain, salt=b"12")
    report = open_etlm(KEY, 4, TIME, ciphertext=ciphertext, salt=b"12", mic=mic)
    assert report == EtlmReport(None, None, 0, 0.0)
