"""Readings, range changes and telemetry into batches: every advert once, no batch too big, few bytes each."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.aggregate import MAX_BYTES, MAX_NOTES, MAX_SECONDS, Aggregator
from gateway.beacons import EddystoneTlm
from sdk_bridge.wire.codec import decode_up, encode
from sdk_bridge.wire.messages import Batch, BeaconHealth, RangeChange

BOOT = "3c9d1a3e-6ac1-4b3f-9d21-6f1f0a2b4c5d"
UUID = "f7826da6-4fa2-4e98-8024-bc5b71e0893e"
TLM = EddystoneTlm(battery_mv=3000, temperature_c=-1.5, adverts=70_000, uptime_s=7000.5)
LARGEST = EddystoneTlm(
    battery_mv=65_535, temperature_c=-127.99609375, adverts=2**32 - 1, uptime_s=429_496_729.5
)


def key(number: int) -> str:
    return f"ibeacon:{UUID}:1:{number}"


def rows(batches: list[Batch]) -> list[tuple[str, int, int, int, int]]:
    """Key, second of the boot clock, count, mean and best loss."""
    return [
        (batch.keys[beacon], batch.base_ms // 1000 + second, count, loss, best)
        for batch in batches
        for beacon, second, count, loss, best in zip(
            batch.readings.beacon,
            batch.readings.second,
            batch.readings.count,
            batch.readings.loss,
            batch.readings.best,
            strict=True,
        )
    ]


def test_a_second_of_a_beacon_is_one_reading() -> None:
    aggregator = Aggregator()
    for at, rssi in ((5000, -60), (5400, -71), (5999, -64)):
        aggregator.add("a", at, rssi)
    assert aggregator.close(5999, BOOT) == []
    (batch,) = aggregator.close(6000, BOOT)
    assert (batch.boot_id, batch.base_ms) == (BOOT, 5000)
    assert rows([batch]) == [("a", 5, 3, 65, 60)]
    assert aggregator.close(7000, BOOT) == []


@pytest.mark.parametrize(
    ("heard", "loss", "best"),
    [
        ([-127], 127, 127),
        ([-127, -60, -127], 60, 60),
        ([-128, -300], 127, 127),
        ([-126], 126, 126),
        ([5, 20], 0, 0),
        ([-60, -61], 61, 60),
    ],
    ids=str,
)
def test_strength_told_and_not_told(heard: list[int], loss: int, best: int) -> None:
    aggregator = Aggregator()
    for rssi in heard:
        aggregator.add("a", 1000, rssi)
    assert rows(aggregator.close(2000, BOOT)) == [("a", 1, len(heard), loss, best)]


def test_the_current_second_waits_unless_flushed() -> None:
    aggregator = Aggregator()
    aggregator.add("a", 1500, -60)
    aggregator.add("a", 2500, -60)
    assert rows(aggregator.close(2600, BOOT)) == [("a", 1, 1, 60, 60)]
    aggregator.add("a", 2700, -70)
    assert rows(aggregator.close(2800, BOOT, flush=True)) == [("a", 2, 2, 65, 60)]
    aggregator.add("a", 2900, -80)
    assert rows(aggregator.close(3000, BOOT)) == [("a", 2, 1, 80, 80)]


def test_changes_of_range_and_telemetry_do_not_wait_for_the_second() -> None:
    aggregator = Aggregator()
    aggregator.note_range("a", 7250, True)
    aggregator.note_health("b", 7300, TLM)
    aggregator.note_range("a", 7900, False)
    (batch,) = aggregator.close(7900, BOOT)
    assert batch == decode_up(encode(batch))
    assert (batch.base_ms, batch.keys) == (7000, ["a", "b"])
    assert batch.ranges == [RangeChange(0, 250, True), RangeChange(0, 900, False)]
    assert batch.health == [BeaconHealth(1, 300, 3000, -1.5, 70_000, 7000.5)]
    assert aggregator.close(7950, BOOT) == []


def test_only_the_latest_telemetry_of_a_beacon_is_told() -> None:
    aggregator = Aggregator()
    aggregator.note_health("a", 1000, EddystoneTlm(2900, None, 1, 0.1))
    aggregator.note_health("a", 2000, TLM)
    (batch,) = aggregator.close(3000, BOOT)
    assert [report.battery_mv for report in batch.health] == [3000]


HEARD = st.lists(
    st.tuples(
        st.integers(0, 60), st.integers(0, 200_000_000) | st.integers(0, 20_000), st.integers(-130, 30)
    ),
    max_size=300,
)


@given(HEARD, st.integers(512, 2000), st.lists(st.integers(0, 20_000), max_size=3))
def test_every_advert_is_in_exactly_one_reading(
    heard: list[tuple[int, int, int]], max_bytes: int, closings: list[int]
) -> None:
    aggregator = Aggregator(max_bytes=max_bytes)
    batches = []
    for index, (number, at, rssi) in enumerate(heard):
        aggregator.add(key(number), at, rssi)
        aggregator.note_range(key(number), at, rssi > -80)
        aggregator.note_health(key(number), at, LARGEST)
        if closings and index % 50 == 49:
            batches += aggregator.close(closings.pop(), BOOT)
    batches += aggregator.close(0, BOOT, flush=True)
    counted = Counter[tuple[str, int]]()
    for name, second, count, loss, best in rows(batches):
        counted[name, second] += count
        assert best <= loss
    expected = Counter((key(number), at // 1000) for number, at, _ in heard)
    assert counted <= expected
    assert counted.total() + aggregator.dropped == aggregator.adverts == len(heard)
    assert sum(len(batch.ranges) for batch in batches) == len(heard)
    for batch in batches:
        payload = encode(batch)
        assert len(payload) <= max_bytes
        assert decode_up(payload) == batch


def test_a_reading_takes_six_bytes_at_most() -> None:
    """Beside its key, which a beacon's readings in the batch share."""
    aggregator = Aggregator()
    for second in range(MAX_SECONDS):
        for number in range(4):
            aggregator.add(key(number), 86_400_000 + second * 1000, -60)
    (batch,) = aggregator.close(90_000_000, BOOT)
    keys = sum(len(name) + 2 for name in batch.keys)
    assert (len(encode(batch)) - keys) / len(rows([batch])) <= 6


@pytest.mark.parametrize("event", ["range", "health"])
def test_an_event_takes_ninety_bytes_at_most(event: str) -> None:
    aggregator = Aggregator()
    for number in range(100):
        if event == "range":
            aggregator.note_range(key(number), 90_000_000 + 10 * number, True)
        else:
            aggregator.note_health(key(number), 90_000_000 + 10 * number, TLM)
    batches = aggregator.close(90_001_000, BOOT)
    assert sum(len(batch.ranges) + len(batch.health) for batch in batches) == 100
    assert sum(len(encode(batch)) for batch in batches) / 100 <= 90


def test_batches_are_filled_before_another_begins() -> None:
    aggregator = Aggregator()
    for number in range(2000):
        aggregator.add(key(number), 1000, -60)
    sizes = [len(encode(batch)) for batch in aggregator.close(2000, BOOT)]
    assert max(sizes) <= MAX_BYTES
    assert min(sizes[:-1]) > MAX_BYTES - 200


def test_a_beacon_beyond_counting_takes_two_rows() -> None:
    aggregator = Aggregator()
    for _ in range(65_536):
        aggregator.add("a", 1000, -60)
    assert [row[2] for row in rows(aggregator.close(2000, BOOT))] == [65_535, 1]


def test_too_many_beacons_in_a_second_are_dropped_and_counted() -> None:
    aggregator = Aggregator(max_beacons=100)
    for number in range(150):
        aggregator.add(key(number), 1000, -60)
    aggregator.add(key(0), 1500, -60)
    assert (aggregator.adverts, aggregator.dropped) == (151, 50)
    assert sum(row[2] for row in rows(aggregator.close(2000, BOOT))) == 101


def test_what_nobody_closes_is_bounded() -> None:
    aggregator = Aggregator()
    for second in range(3 * MAX_SECONDS):
        aggregator.add("a", second * 1000, -60)
    for number in range(MAX_NOTES + 5):
        aggregator.note_range("a", 0, True)
        aggregator.note_health(key(number), 0, TLM)
    assert aggregator.dropped == 2 * MAX_SECONDS
    assert aggregator.dropped_notes == 10
    seconds = [row[1] for row in rows(aggregator.close(10**6, BOOT))]
    assert seconds == list(range(2 * MAX_SECONDS, 3 * MAX_SECONDS))


@pytest.mark.parametrize("max_bytes", [0, 511, 70_000])
def test_a_batch_size_that_cannot_work_is_refused(max_bytes: int) -> None:
    with pytest.raises(ValueError, match=str(max_bytes)):
        Aggregator(max_bytes=max_bytes)
