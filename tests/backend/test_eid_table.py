"""Naming many Eddystone-EID beacons at once: drift, replays, collisions, memory."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from backend.proximity.eid import EidError, eid_at  # noqa: E402 - after the check for numpy
from backend.proximity.eid_table import AMBIGUOUS, UNKNOWN, EidBeacon, EidTable, _Slot  # noqa: E402

NOW = 1_753_000_000
HALF = 512


def fleet(count: int, exponent: int = 10, *, ahead: bool = False) -> list[EidBeacon]:
    rng = random.Random(3)
    return [
        EidBeacon(number, rng.randbytes(16), exponent, rng.randrange(2**32) if ahead else 0)
        for number in range(count)
    ]


def sent(beacon: EidBeacon, unix_s: int) -> bytes:
    return eid_at(beacon.key, beacon.exponent, (unix_s + beacon.clock_ahead_s) % 2**32)


@pytest.mark.parametrize("ahead", [False, True])
def test_every_beacon_is_named_for_as_long_as_the_table_is_valid(ahead: bool) -> None:
    beacons = fleet(5000, ahead=ahead)
    table = EidTable.make(beacons, len(beacons), NOW)
    assert table.valid_until_s - NOW > 60 * 1024
    for at in (NOW, NOW + 700, NOW + 30_000, table.valid_until_s - 1):
        for wrong in (-HALF, -100, 0, 100, HALF):
            assert table.resolve([sent(beacon, at + wrong) for beacon in beacons], at) == list(range(5000))


def test_beacons_of_different_rotation_are_named_together() -> None:
    beacons = [EidBeacon(exponent, bytes([exponent] * 16), exponent) for exponent in range(16)]
    table = EidTable.make(beacons, 16, NOW)
    assert table.resolve([sent(beacon, NOW) for beacon in beacons], NOW) == list(range(16))
    assert table.valid_until_s == NOW + 62


def test_an_id_played_back_later_names_nobody() -> None:
    (beacon,) = beacons = fleet(1)
    table = EidTable.make(beacons, 1, NOW)
    eid = sent(beacon, NOW)
    assert table.resolve([eid], NOW) == [0]
    assert table.resolve([eid], NOW + 2 * 1024) == [None]
    assert table.resolve([sent(beacon, NOW + 3 * 1024)], NOW) == [None]


def test_strangers_and_fragments_name_nobody() -> None:
    beacons = fleet(100)
    table = EidTable.make(beacons, 100, NOW)
    known = sent(beacons[7], NOW)
    assert table.resolve([b"", known[:7], known, bytes(8), b"\xff" * 8, known + b"0"], NOW) == [
        None,
        None,
        7,
        None,
        None,
        None,
    ]
    assert EidTable.make([], 0, NOW).resolve([known], NOW) == [None]
    assert table.resolve([], NOW) == []


def test_two_beacons_with_one_id_are_not_told_apart() -> None:
    twin = EidBeacon(8, bytes(16), 10)
    beacons = [EidBeacon(3, bytes(16), 10), twin, EidBeacon(5, bytes([1] * 16), 10)]
    table = EidTable.make(beacons, 3, NOW)
    assert table.resolve([sent(beacon, NOW) for beacon in beacons], NOW) == [None, None, 5]


ids = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**32 - 1)), min_size=1, max_size=12, unique=True)


@given(ids, ids, st.lists(st.integers(0, 10), min_size=1, max_size=8))
def test_an_id_shared_within_or_across_slots_is_ambiguous(
    one: list[tuple[int, int]], other: list[tuple[int, int]], wanted: list[int]
) -> None:
    slots = {}
    for number, entries in ((100, one), (101, other)):
        ordered = sorted(entries)
        slots[0, number] = _Slot(
            np.array([eid for eid, _ in ordered], np.uint64),
            np.array([name for _, name in ordered], np.uint32),
        )
    found = EidTable(slots, 200).resolve_packed(np.array(wanted, np.uint64), 100).tolist()
    for eid, number in zip(wanted, found, strict=True):
        names = {name for known, name in one + other if known == eid}
        expected = UNKNOWN if not names else names.pop() if len(names) == 1 else AMBIGUOUS
        assert number == expected


def test_the_table_looks_as_far_ahead_as_its_memory_allows() -> None:
    beacons = fleet(1000)
    roomy, tight = EidTable.make(beacons, 1000, NOW), EidTable.make(beacons, 1000, NOW, max_bytes=1)
    assert (roomy.size_bytes, tight.size_bytes) == (64 * 12_000, 3 * 12_000)
    assert NOW < tight.valid_until_s <= NOW + 1024
    assert tight.resolve([sent(beacons[9], NOW)], NOW) == [9]


def test_a_bad_exponent_or_key_is_refused() -> None:
    for key, exponent in ((bytes(16), 16), (bytes(16), -1), (bytes(15), 10)):
        with pytest.raises(EidError):
            EidTable.make([EidBeacon(1, key, exponent)], 1, NOW)
