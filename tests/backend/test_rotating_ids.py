"""Rotating ids in a batch: named, joined where a beacon rotates, left out where nobody knows them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.rotating_ids import NoResolver, has_rotating, named, with_names
from sdk_bridge.wire import codec
from sdk_bridge.wire.messages import Batch, BeaconHealth, RangeChange, Readings

ANNA, BERTA = (
    "eid:" + "a" * 8 + "-1111-4111-8111-" + "1" * 12,
    "eid:" + "b" * 8 + "-2222-4222-8222-" + "2" * 12,
)
PLACE, OLD, NEW, OTHER = (
    "altbeacon:01",
    "eddystone-eid:" + "a" * 16,
    "eddystone-eid:" + "b" * 16,
    "eddystone-eid:" + "c" * 16,
)
NOON_S = 1_750_075_200


class Table:
    """Names ids by what the test says; writes down what it was asked."""

    def __init__(self, names=None) -> None:
        self.names = names or {}
        self.asked = []

    def resolve(self, eids, at_s, _ready):
        self.asked += zip([eid.hex() for eid in eids], at_s, strict=True)
        return [self.names.get(eid.hex()) for eid in eids]


def batch(keys, rows, **more) -> Batch:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], [], []]
    return Batch("boot", 5_000, keys, Readings(*columns), **more)


def told(batch: Batch) -> list[tuple]:
    rows = batch.readings
    return [
        (batch.keys[beacon], *rest)
        for beacon, *rest in zip(rows.beacon, rows.second, rows.count, rows.loss, rows.best, strict=True)
    ]


def test_two_ids_of_one_beacon_are_joined_where_it_rotates():
    heard = batch(
        [OLD, PLACE, NEW], [(0, 0, 4, 60, 50), (1, 0, 1, 40, 40), (2, 0, 6, 70, 55), (2, 1, 3, 66, 60)]
    )
    table = Table({"a" * 16: ANNA, "b" * 16: ANNA})
    known, left_out = named(heard, NOON_S * 1000, table, lambda: None)
    assert left_out == 0
    assert known.keys == [PLACE, ANNA]
    assert told(known) == [(PLACE, 0, 1, 40, 40), (ANNA, 0, 10, 66, 50), (ANNA, 1, 3, 66, 60)]


def test_each_id_is_asked_for_at_the_second_it_was_heard():
    heard = batch(
        [OLD, PLACE],
        [(0, 0, 1, 60, 60), (0, 0, 2, 60, 60), (0, 7, 1, 60, 60), (1, 3, 1, 60, 60)],
        health=[BeaconHealth(0, 9_900, 3000)],
    )
    table = Table()
    named(heard, NOON_S * 1000 + 400, table, lambda: None)
    assert table.asked == [("a" * 16, NOON_S + 5 + second) for second in (0, 7, 9)]


def test_an_id_that_names_somebody_only_part_of_the_time_counts_only_then():
    """Played back later, it names nobody any more."""
    heard = batch([OLD], [(0, 0, 4, 60, 50), (0, 40, 5, 60, 50)])
    known, left_out = with_names(heard, {(0, 0): ANNA, (0, 40): None})
    assert (told(known), left_out) == ([(ANNA, 0, 4, 60, 50)], 5)


def test_what_is_unknown_is_left_out_and_so_is_what_a_gateway_cannot_know():
    heard = batch([OLD, ANNA, "eddystone-eid:short", "eddystone-eid:" + "G" * 16, PLACE], [
        (number, 0, 10**number, 60, 60) for number in range(5)
    ])  # fmt: skip
    known, left_out = named(heard, 0, Table(), lambda: None)
    assert (known.keys, left_out) == ([PLACE], 1111)


def test_without_a_time_nobody_is_named():
    heard = batch([OLD, PLACE], [(0, 0, 3, 60, 60), (1, 0, 1, 60, 60)])
    table = Table({"a" * 16: ANNA})
    known, left_out = named(heard, None, table, lambda: None)
    assert (known.keys, left_out, table.asked) == ([PLACE], 3, [])


def test_telemetry_follows_its_beacon_and_a_change_of_range_does_not():
    heard = batch(
        [OLD, OTHER, PLACE],
        [(0, 0, 1, 60, 60)],
        ranges=[RangeChange(0, 10, True), RangeChange(2, 20, True), RangeChange(0, 30, False)],
        health=[BeaconHealth(0, 500, 3000), BeaconHealth(1, 500, 2000), BeaconHealth(2, 500, 1000)],
    )
    known, _ = named(heard, 0, Table({"a" * 16: ANNA}), lambda: None)
    assert known.keys == [PLACE, ANNA]
    assert known.ranges == [RangeChange(0, 20, True)]
    assert known.health == [BeaconHealth(1, 500, 3000), BeaconHealth(0, 500, 1000)]


def test_not_yet_is_passed_on():
    class Later:
        def resolve(self, _eids, _at_s, _ready):
            return None

    assert named(batch([OLD], [(0, 0, 1, 60, 60)]), 0, Later(), lambda: None) is None


def test_silent_readings_do_not_blur_the_level_and_counts_never_overflow():
    heard = batch([OLD, NEW], [(0, 0, 65_535, 127, 127), (1, 0, 65_535, 60, 55)])
    known, _ = with_names(heard, {(0, 0): ANNA, (1, 0): ANNA})
    assert told(known) == [(ANNA, 0, 65_535, 60, 55), (ANNA, 0, 65_535, 60, 55)]


@pytest.mark.parametrize(
    ("keys", "needed"), [([PLACE], False), ([], False), ([PLACE, OLD], True), ([ANNA], True)]
)
def test_most_batches_need_none_of_this(keys, needed):
    assert has_rotating(batch(keys, [])) is needed


KEYS = [PLACE, "altbeacon:02", OLD, NEW, OTHER, "eddystone-eid:" + "d" * 16, ANNA]
rows = st.lists(
    st.tuples(
        st.integers(0, 6), st.integers(0, 3), st.integers(1, 65_535), st.integers(0, 127), st.integers(0, 127)
    ),
    max_size=40,
)
moments = st.dictionaries(
    st.tuples(st.integers(2, 5), st.integers(0, 3)), st.sampled_from([ANNA, BERTA, None]), max_size=16
)


@given(rows, moments)
def test_every_advert_is_kept_under_its_own_name_or_counted(drawn, names):
    known, left_out = with_names(batch(KEYS, drawn), names)
    expected, strangers = Counter(), 0
    for beacon, second, count, _loss, _best in drawn:
        name = KEYS[beacon] if beacon < 2 else names.get((beacon, second))
        if name is None:
            strangers += count
        else:
            expected[name, second] += count
    kept = Counter()
    for name, second, count, _loss, _best in told(known):
        kept[name, second] += count
    assert (kept, left_out) == (expected, strangers)
    assert not any(key.startswith("eddystone-eid:") for key in known.keys)
    assert codec.decode_up(codec.encode(known)) == known  # still a batch of the wire


@given(rows, moments)
def test_joined_levels_lie_between_those_they_are_made_of(drawn, names):
    known, _ = with_names(batch(KEYS, drawn), names)
    levels = {}
    for beacon, second, _count, loss, best in drawn:
        name = KEYS[beacon] if beacon < 2 else names.get((beacon, second))
        levels.setdefault((name, second), []).append((loss, best))
    for name, second, _count, loss, best in told(known):
        losses, bests = zip(*levels[name, second], strict=True)
        assert min(losses) <= loss <= max(losses)
        assert min(bests) <= best <= max(bests)


def test_without_rotating_beacons_everything_is_a_stranger():
    assert NoResolver().resolve([b"12345678"], [1], lambda: None) == [None]
