"""The allow-list: what is relayed, what is forgotten, and which entries a configuration may not hold."""

import dataclasses

import pytest

from gateway.allow import AllowList
from gateway.beacons import (
    AltBeacon,
    Beacon,
    EddystoneEid,
    EddystoneEtlm,
    EddystoneTlm,
    EddystoneUid,
    EddystoneUrl,
    IBeacon,
)

UUID = "f7826da6-4fa2-4e98-8024-bc5b71e0893e"
NAMESPACE = "8b0ca750095477cb3e77"
IBEACON = IBeacon(bytes.fromhex(UUID.replace("-", "")), 1, 2, -59)
UID = EddystoneUid(-18, bytes.fromhex(NAMESPACE), b"123456")
ALTBEACON = AltBeacon(bytes(range(20)), -59, 0)
URL = EddystoneUrl(-18, "https://shop.example/a")
EID = EddystoneEid(-18, b"12345678")
TLM = EddystoneTlm(3000, 20.0, 1, 0.1)
ETLM = EddystoneEtlm(b"0" * 12, b"00", b"00")
ALL = AllowList.of(
    ibeacons=[UUID],
    eddystone_namespaces=[NAMESPACE],
    altbeacon_prefixes=["0001"],
    urls=["https://shop.example/"],
)


@pytest.mark.parametrize(
    ("allow", "beacon", "passes"),
    [
        (ALL, IBEACON, True),
        (AllowList.of(ibeacons=[UUID.upper()]), IBEACON, True),
        (AllowList.of(ibeacons=[UUID.replace("-", "")]), IBEACON, True),
        (AllowList.of(ibeacons=["00000000-0000-0000-0000-000000000000"]), IBEACON, False),
        (ALL, UID, True),
        (AllowList.of(eddystone_namespaces=["00" * 10]), UID, False),
        (ALL, ALTBEACON, True),
        (AllowList.of(altbeacon_prefixes=["ff", bytes(range(20)).hex()]), ALTBEACON, True),
        (AllowList.of(altbeacon_prefixes=["0002"]), ALTBEACON, False),
        (ALL, URL, True),
        (AllowList.of(urls=["https://other.example/"]), URL, False),
        (AllowList.of(), EID, True),
        (AllowList.of(eid=False), EID, False),
        (ALL, TLM, False),
        (ALL, ETLM, False),
        *((AllowList.of(), beacon, False) for beacon in (IBEACON, UID, ALTBEACON, URL, TLM, ETLM)),
    ],
)
def test_what_passes(allow: AllowList, beacon: Beacon, passes: bool) -> None:
    assert allow.allows(beacon) is passes


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"ibeacons": ["f7826da6"]}, "'f7826da6' is not an iBeacon UUID"),
        ({"ibeacons": [UUID + "\n0"]}, "iBeacon UUID"),
        ({"ibeacons": [UUID, 7]}, "'7' is not an iBeacon UUID"),
        ({"eddystone_namespaces": [NAMESPACE + "00"]}, "20 hexadecimal digits"),
        ({"eddystone_namespaces": ["zz" * 10]}, "20 hexadecimal digits"),
        ({"altbeacon_prefixes": [""]}, "1 to 20 bytes"),
        ({"altbeacon_prefixes": ["012"]}, "1 to 20 bytes"),
        ({"altbeacon_prefixes": ["00" * 21]}, "1 to 20 bytes"),
        ({"urls": [""]}, "start of a URL"),
        ({"urls": ["ftp://shop.example"]}, "start of a URL"),
    ],
)
def test_a_bad_entry_is_named_with_what_it_may_be(lists: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AllowList.of(**lists)


def test_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ALL.eid = False
