"""Beacon profiles: those that come with Footfall are good, and bad ones are refused with the reason."""

import pytest

from firmware_configs.beacon_profiles import (
    BeaconProfile,
    EidFrame,
    IBeaconFrame,
    ProfileError,
    TlmFrame,
    UidFrame,
    load_profile,
    profile_names,
    read_profile,
)
from gateway.allow import AllowList
from gateway.beacons import decode
from simulators import frames

GOOD = """
role = "zone"
interval_ms = 350
power_dbm = -4
[[frames]]
type = "ibeacon"
uuid = "5d1c2f0a-6b1e-4c57-9a63-0f6d2a1b7e10"
power_at_1m_dbm = -63
"""
UID = '[[frames]]\ntype = "eddystone-uid"\nnamespace = "8b5f3c1d9a2e47600001"\npower_at_0m_dbm = -22\n'
EID = '[[frames]]\ntype = "eddystone-eid"\nrotation_exponent = 10\npower_at_0m_dbm = -22\n'
TLM = '[[frames]]\ntype = "eddystone-tlm"\nevery_s = 30\nencrypted = false\n'
HEAD = 'role = "tag"\ninterval_ms = 350\npower_dbm = -4\n'


def test_the_shipped_ones_are_known_and_good():
    assert profile_names() == ["asset-eddystone", "tag-eid", "tag-ibeacon", "zone-eddystone", "zone-ibeacon"]
    for name in profile_names():
        assert load_profile(name).role == name.split("-")[0]


def test_a_profile_is_read_whole():
    assert read_profile(GOOD + TLM) == BeaconProfile(
        role="zone",
        interval_ms=350,
        power_dbm=-4,
        frames=(IBeaconFrame("5d1c2f0a-6b1e-4c57-9a63-0f6d2a1b7e10", -63), TlmFrame(30, False)),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing required field `role`"),
        ("role =", "Invalid value"),
        (GOOD.replace("zone", "wall"), "Invalid enum value 'wall'"),
        (GOOD.replace("350", "351"), "multiple of 5"),
        (GOOD.replace("350", "95"), ">= 100"),
        (GOOD.replace("350", "2005"), "<= 2000"),
        (GOOD.replace("350", "350.5"), "Expected `int`"),
        (GOOD.replace("-4\n", "21\n", 1), "<= 20"),
        (GOOD.replace("5d1c2f0a-", "5D1C2F0A-"), "frames"),
        (GOOD.replace("5d1c2f0a-", "5d1c2f0a"), "frames"),
        (GOOD.replace('"ibeacon"', '"ubeacon"'), "Invalid value 'ubeacon'"),
        (GOOD.replace("power_dbm", "colour = 1\npower_dbm", 1), "unknown field `colour`"),
        (GOOD.replace("uuid =", "major = 1\nuuid ="), "unknown field `major`"),
        (GOOD + UID.replace("8b5f", "8b5"), "frames"),
        (GOOD + UID + UID, "each type of frame may stand once"),
        (HEAD + "frames = []", ">= 1"),
        (HEAD + TLM, "add an identity frame"),
        (HEAD + UID, "can be followed by anybody"),
        (GOOD.replace("zone", "tag"), "can be followed by anybody"),
        (HEAD + EID + TLM, "gives a rotating identity away"),
        (HEAD + EID.replace("10", "16"), "<= 15"),
        (GOOD.replace("interval_ms", "traceable = true\ninterval_ms"), "word about tags only"),
        ("a = " + "[" * 5000 + "]" * 5000, "recursion"),
    ],
)
def test_bad_ones_are_refused_with_the_reason(text, reason):
    with pytest.raises(ProfileError) as caught:
        read_profile(text, "mine")
    assert str(caught.value).startswith("mine: ")
    assert reason in str(caught.value)


def test_a_tag_may_be_traceable_when_it_says_so():
    assert read_profile(HEAD + "traceable = true\n" + UID).traceable


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ProfileError, match="zone-ibeacon"):
        load_profile("../gateway_image/gateway")


@pytest.mark.parametrize("name", profile_names())
def test_keys_are_those_that_a_gateway_hears_and_lets_through(name):
    profile = load_profile(name)
    allow = AllowList.of(
        ibeacons=profile.allowed()["ibeacon"], eddystone_namespaces=profile.allowed()["eddystone"], eid=False
    )
    for frame in profile.frames:
        match frame:
            case IBeaconFrame():
                sent, key = frames.ibeacon(frame.uuid, 7, 65535, frame.power_at_1m_dbm), frame.key(7, 65535)
            case UidFrame():
                instance = (0xABCDEF).to_bytes(6, "big")
                sent = frames.eddystone_uid(bytes.fromhex(frame.namespace), instance, frame.power_at_0m_dbm)
                key = frame.key(0xABCDEF)
            case EidFrame() | TlmFrame():
                continue
        heard = decode(sent.manufacturer_data, sent.service_data)
        assert heard.key == key
        assert allow.allows(heard)


@pytest.mark.parametrize(("major", "minor"), [(-1, 0), (65536, 0), (0, -1), (0, 65536)])
def test_numbers_that_fit_no_ibeacon(major, minor):
    with pytest.raises(ProfileError, match="65535"):
        IBeaconFrame("5d1c2f0a-6b1e-4c57-9a63-0f6d2a1b7e10", -63).key(major, minor)


@pytest.mark.parametrize("instance", [-1, 2**48])
def test_numbers_that_fit_no_eddystone(instance):
    with pytest.raises(ProfileError, match="instance"):
        UidFrame("8b5f3c1d9a2e47600001", -22).key(instance)
