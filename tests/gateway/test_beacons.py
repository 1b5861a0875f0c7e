"""Beacon frames: golden vectors that other languages can read, and any bytes at all."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import beacons
from gateway.beacons import APPLE, EDDYSTONE, EddystoneTlm, EddystoneUid, IBeacon, decode, decode_all

VECTORS = json.loads((Path(__file__).parent / "vectors" / "beacons.json").read_text())["vectors"]
KINDS = {"ibeacon", "altbeacon"} | {f"eddystone-{name}" for name in ("uid", "url", "tlm", "etlm", "eid")}
UUID = bytes(range(16))
IBEACON = b"\x02\x15" + UUID + b"\x00\x01\x00\x02\xc5"
UID = b"\x00\xee" + bytes(range(16))
TLM = bytes.fromhex("20000bb8fe800000000100000001")


def advertisement(vector: dict[str, Any]) -> tuple[dict[int, bytes], dict[str, bytes]]:
    manufacturer = {
        int(company): bytes.fromhex(data) for company, data in vector["manufacturer_data"].items()
    }
    service = {uuid: bytes.fromhex(data) for uuid, data in vector["service_data"].items()}
    return manufacturer, service


def as_text(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_vectors(vector: dict[str, Any]) -> None:
    for _ in range(2):  # the second time from memory
        beacon = decode(*advertisement(vector))
        expected = vector["beacon"]
        if expected is None:
            assert beacon is None
        else:
            assert {name: as_text(getattr(beacon, name)) for name in expected} == expected


def test_the_vectors_show_every_kind() -> None:
    assert {vector["beacon"]["kind"] for vector in VECTORS if vector["beacon"]} == KINDS


def test_telemetry_beside_a_name_is_not_lost() -> None:
    frames = decode_all({APPLE: IBEACON}, {EDDYSTONE: TLM})
    assert [type(frame) for frame in frames] == [IBeacon, EddystoneTlm]
    assert [type(frame) for frame in decode_all({APPLE: IBEACON}, {EDDYSTONE: UID})] == [
        IBeacon,
        EddystoneUid,
    ]


def test_a_beacon_cannot_be_changed() -> None:
    beacon = decode({APPLE: IBEACON}, {})
    with pytest.raises(AttributeError):
        beacon.major = 3


def test_strangers_cannot_fill_the_memory() -> None:
    tracemalloc.start()
    try:
        for number in range(5 * beacons.REMEMBERED):
            beacon = decode({APPLE: IBEACON[:18] + number.to_bytes(4, "big") + b"\xc5"}, {})
            assert beacon.key
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3_000_000


PREFIXES = [b"", b"\x02\x15", b"\xbe\xac", b"\x00", b"\x10\x00", b"\x20\x00", b"\x20\x01", b"\x30"]
PAYLOADS = st.builds(bytes.__add__, st.sampled_from(PREFIXES), st.binary(max_size=40))
COMPANIES = st.sampled_from([APPLE, 0x118, 0xBEAC]) | st.integers(0, 0xFFFF)
UUIDS = st.just(EDDYSTONE) | st.text(max_size=40)


@settings(max_examples=600)
@given(st.dictionaries(COMPANIES, PAYLOADS, max_size=3), st.dictionaries(UUIDS, PAYLOADS, max_size=3))
def test_any_bytes_give_a_beacon_or_nothing(
    manufacturer: dict[int, bytes], service: dict[str, bytes]
) -> None:
    beacon = decode(manufacturer, service)
    frames = decode_all(manufacturer, service)
    assert (frames[0] if frames else None) == beacon
    if beacon is not None:
        assert beacon.kind in KINDS
        assert beacon.key.startswith(beacon.kind)
        assert 1 <= len(beacon.key) <= 160
        assert beacon.key.isascii()
        assert beacon.key.isprintable()
        assert beacon.power_at_1m is None or -169 <= beacon.power_at_1m <= 127


ODD = st.none() | st.integers() | st.text() | st.lists(st.integers()) | st.binary().map(bytearray)


@given(st.dictionaries(st.integers() | st.none(), ODD), st.dictionaries(st.text() | st.none(), ODD))
def test_odd_contents_are_no_beacon(manufacturer: dict[Any, Any], service: dict[Any, Any]) -> None:
    assert decode(manufacturer, service) is None
    assert decode({APPLE: manufacturer}, {EDDYSTONE: service}) is None
    assert decode_all({APPLE: [1]}, {EDDYSTONE: None}) == []


@given(
    st.binary(min_size=16, max_size=16), st.integers(0, 65535), st.integers(0, 65535), st.integers(-128, 127)
)
def test_every_ibeacon_reads_back(uuid: bytes, major: int, minor: int, power: int) -> None:
    payload = b"\x02\x15" + uuid + major.to_bytes(2, "big") + minor.to_bytes(2, "big") + bytes([power & 0xFF])
    assert decode({APPLE: payload}, {}) == IBeacon(uuid, major, minor, power)
