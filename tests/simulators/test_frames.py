"""The encoders against the bytes of the specifications, and against the air."""

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.beacons import decode
from simulators.frames import (
    APPLE,
    EDDYSTONE,
    altbeacon,
    eddystone_eid,
    eddystone_tlm,
    eddystone_uid,
    eddystone_url,
    ephemeral_id,
    ibeacon,
)
from simulators.packets import LEGACY_BYTES, compose, encode

UUID = "E2C56DB5-DFFB-48D2-B060-D0F5A71096E0"
IDENTITY_KEY = bytes.fromhex("00112233445566778899AABBCCDDEEFF")


def test_ibeacon_is_apples_example():
    frame = ibeacon(UUID, 1, 0xABCD, -59)
    assert frame.manufacturer_data[APPLE].hex() == "0215e2c56db5dffb48d2b060d0f5a71096e00001abcdc5"
    assert frame.key == "ibeacon:e2c56db5-dffb-48d2-b060-d0f5a71096e0:1:43981"


def test_altbeacon_may_be_any_companys():
    frame = altbeacon(bytes(range(20)), -59, 7, company=0x0499)
    assert frame.manufacturer_data == {0x0499: b"\xbe\xac" + bytes(range(20)) + b"\xc5\x07"}
    assert frame.key == f"altbeacon:{bytes(range(20)).hex()}"


SERVICE_CASES = [
    (
        eddystone_uid(bytes(range(10)), b"abcdef", -20),
        "00ec" + bytes(range(10)).hex() + "616263646566" + "0000",
    ),
    (eddystone_uid(bytes(10), bytes(6), -20, reserved=False), "00ec" + "00" * 16),
    (eddystone_url("https://example.com/a"), "10ee03" + b"example".hex() + "00" + "61"),
    (eddystone_url("http://www.shop.org"), "10ee00" + b"shop".hex() + "08"),
    (eddystone_tlm(3000, -1.5, 12, 34.5), "20000bb8fe800000000c00000159"),
    (eddystone_tlm(0, None, 0, 0), "200000008000" + "00" * 8),
    (eddystone_eid(bytes(range(8)), 4), "3004" + bytes(range(8)).hex()),
]


@pytest.mark.parametrize(("frame", "payload"), SERVICE_CASES)
def test_eddystone_frames_byte_by_byte(frame, payload):
    assert frame.service_data[EDDYSTONE].hex() == payload


@pytest.mark.parametrize(
    ("frame", "key"),
    [
        (eddystone_uid(bytes(range(10)), b"abcdef"), "eddystone-uid:00010203040506070809:616263646566"),
        (eddystone_url("https://example.com/a"), "eddystone-url:https://example.com/a"),
        (eddystone_tlm(1, 2, 3, 4), "eddystone-tlm"),
        (eddystone_eid(bytes(8)), "eddystone-eid:0000000000000000"),
    ],
)
def test_keys_are_canonical(frame, key):
    assert frame.key == key


def test_the_published_ephemeral_id():
    assert ephemeral_id(IDENTITY_KEY, 1518080946, 12).hex() == "7dd8169dae94258c"


def test_an_ephemeral_id_lives_for_its_rotation_only():
    start = 1518080946 >> 12 << 12
    assert ephemeral_id(IDENTITY_KEY, start, 12) == ephemeral_id(IDENTITY_KEY, start + 4095, 12)
    assert ephemeral_id(IDENTITY_KEY, start, 12) != ephemeral_id(IDENTITY_KEY, start + 4096, 12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: altbeacon(bytes(19)),
        lambda: eddystone_uid(bytes(9), bytes(6)),
        lambda: eddystone_uid(bytes(10), bytes(7)),
        lambda: eddystone_eid(bytes(9)),
        lambda: eddystone_url("ftp://example.com"),
        lambda: eddystone_url("https://a b.com"),
        lambda: eddystone_url("https://a-very-long-name-indeed.com"),
        lambda: eddystone_url("https://"),
        lambda: ibeacon("not a uuid", 1, 1),
        lambda: ephemeral_id(bytes(16), 0, 16),
        lambda: ephemeral_id(bytes(15), 0, 1),
    ],
)
def test_what_has_no_encoding_is_refused(make):
    with pytest.raises(ValueError):
        make()


def test_numbers_too_large_are_refused():
    with pytest.raises(struct.error):
        ibeacon(UUID, 65536, 0)


frames = st.one_of(
    st.builds(
        ibeacon,
        st.integers(0, 2**128 - 1).map(lambda number: str(uuid.UUID(int=number))),
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.integers(-128, 127),
    ),
    st.builds(altbeacon, st.binary(min_size=20, max_size=20), st.integers(-127, 0), st.integers(0, 255)),
    st.builds(
        eddystone_uid,
        st.binary(min_size=10, max_size=10),
        st.binary(min_size=6, max_size=6),
        st.integers(-100, 20),
        st.booleans(),
    ),
    st.builds(eddystone_eid, st.binary(min_size=8, max_size=8), st.integers(-100, 20)),
)


@given(frames)
def test_every_frame_fits_into_one_legacy_advertisement(frame):
    packet = compose(frame.manufacturer_data, frame.service_data)
    assert len(encode(packet.structures)) <= LEGACY_BYTES
    assert packet.passive.manufacturer_data == frame.manufacturer_data
    assert packet.passive.service_data == frame.service_data


@given(frames)
def test_the_gateways_decoder_reads_the_same_beacon(frame):
    assert decode(frame.manufacturer_data, frame.service_data).key == frame.key


@pytest.mark.parametrize(
    "url", ["https://example.com/a", "http://www.shop.org", "https://a.info/", "http://x"]
)
def test_the_gateways_decoder_reads_the_same_address(url):
    assert decode({}, eddystone_url(url).service_data).key == f"eddystone-url:{url}"
