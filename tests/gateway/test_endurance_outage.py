"""Days without a backend: small batches become few large ones, nothing is lost, live readings go first."""

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.coalesce import MAX_ROWS, Row, plan
from gateway.outbox import FRESH_MS, Outbox, Parcel, Span, Turn
from gateway.uplink import Uplink
from sdk_bridge.mqtt import Broker
from sdk_bridge.wire.codec import decode_up, encode
from sdk_bridge.wire.messages import Batch, BeaconHealth, Heartbeat, RangeChange, Readings, Skip
from sdk_bridge.wire.topics import GatewayAddress
from simulators.endurance.outage import Outage, run_outage
from simulators.endurance.tap import tap

BOOT = "0f0e0d0c-0000-4000-8000-000000000001"
EARLIER = "0f0e0d0c-0000-4000-8000-000000000000"
MAX_BYTES = 2048
KEYS = [f"eddystone-eid:{number:016x}" for number in range(8)]


# Made once: hypothesis takes longer to make and to check a strategy than to draw from it.
beginnings, lengths, yes_or_no = st.integers(0, 10**9), st.integers(0, 40), st.booleans()
gaps = st.sampled_from([1000, 1000, 1000, 2000, 60_000, 10**6, 1500])
some_keys = st.lists(st.sampled_from(KEYS), unique=True, min_size=1)
up_to = [st.integers(0, most) for most in range(len(KEYS) + 1)]
boots = st.sampled_from([BOOT, BOOT, BOOT, EARLIER])


@st.composite
def batches(draw):
    """A gateway's batches in order: a second each, mostly, with range changes and telemetry between."""
    base, made = draw(beginnings) * 1000, []
    for _ in range(draw(lengths)):
        base += draw(gaps)
        keys = draw(some_keys)
        rows = draw(up_to[len(keys)])
        readings = Readings(list(range(rows)), [0] * rows, [3] * rows, [60] * rows, [55] * rows)
        ranges = [RangeChange(0, 250, draw(yes_or_no))] if draw(yes_or_no) else []
        health = [BeaconHealth(len(keys) - 1, 900, 3000, 21.5)] if draw(yes_or_no) else []
        boot = draw(boots)
        made.append(Batch(boot, base, keys, readings, ranges, health))
    return made


def said(batch):
    """Everything that a batch says, in words that do not depend on how it is cut."""
    rows, boot, base = batch.readings, batch.boot_id, batch.base_ms
    columns = zip(rows.beacon, rows.second, rows.count, rows.loss, rows.best, strict=True)
    facts = [(boot, batch.keys[b], base + s * 1000, count, loss, best) for b, s, count, loss, best in columns]
    facts += [(boot, batch.keys[c.beacon], base + c.after_ms, c.near) for c in batch.ranges]
    return facts + [
        (boot, batch.keys[h.beacon], base + h.after_ms, h.battery_mv, h.temperature_c) for h in batch.health
    ]


def rows_of(made, sealed=()):
    return [
        Row(n, b.boot_id, b.base_ms, 1, len(b.readings.beacon), n in sealed, encode(b))
        for n, b in enumerate(made, start=1)
    ]


@given(batches(), st.sets(st.integers(1, 40), max_size=4))
def test_joined_batches_say_the_same_in_the_same_order(made, sealed):
    rows = rows_of(made, sealed)
    planned = plan(rows, 0, MAX_BYTES)
    taken = [record_id for joined in planned.joins for record_id in joined.ids]
    assert len(taken) == len(set(taken)) and not sealed & set(taken)
    for joined in planned.joins:
        parts = [made[record_id - 1] for record_id in joined.ids]
        whole = decode_up(joined.payload)
        assert Counter(said(whole)) == Counter(fact for part in parts for fact in said(part))
        assert [r[2] for r in said(whole)[: joined.readings]] == sorted(
            r[2] for r in said(whole)[: joined.readings]
        )
        assert len(joined.payload) <= MAX_BYTES and len({part.boot_id for part in parts}) == 1
        assert joined.ids == tuple(range(joined.ids[0], joined.ids[-1] + 1)), "neighbours only"
        assert joined.readings == sum(len(part.readings.beacon) for part in parts)
        assert joined.batches == len(parts) <= MAX_ROWS and joined.at_ms == parts[-1].base_ms
    assert max(taken, default=0) <= planned.through <= len(rows)


@given(batches())
def test_what_is_joined_once_is_not_looked_at_again(made):
    rows = rows_of(made)
    planned = plan(rows, 0, MAX_BYTES)
    left = [row for row in rows if row.id > planned.through]
    assert plan(left, planned.through, MAX_BYTES) == ([], planned.through)


@pytest.fixture
def open_outbox(tmp_path):
    opened = []

    def make(max_bytes=10**8):
        epochs = (f"{number:016x}" for number in itertools.count(len(opened) + 1))
        path = tmp_path / "outbox.db"
        opened.append(Outbox(path, max_bytes=max_bytes, new_epoch=lambda: next(epochs), now_ms=lambda: 0))
        return opened[-1]

    yield make
    for outbox in opened:
        outbox.close()


def second(number, boot=BOOT, beacons=20):
    keys = [f"eddystone-eid:{beacon:016x}" for beacon in range(beacons)]
    columns = [list(range(beacons)), [0] * beacons, [3] * beacons, [60] * beacons, [55] * beacons]
    return Parcel(encode(Batch(boot, number * 1000, keys, Readings(*columns))), boot, number * 1000, beacons)


def turn(outbox, now_s, **more):
    return outbox.turn(Turn(outbox.stock.epoch, BOOT, now_s * 1000, **more))


def drained(outbox, now_s):
    """Everything in the backlog lane, numbered and acknowledged until nothing is left."""
    messages = []
    while outbox.stock.records:
        span = turn(outbox, now_s, room={"backlog": 64}).lanes["backlog"]
        messages += [decode_up(record.payload) for record in outbox.load("backlog", span.acked + 1, 64)]
        turn(outbox, now_s, acked={"backlog": span.last})
    return messages


def seconds_in(messages):
    """The seconds that batches tell of, in order, each once for its batch."""
    return [
        batch.base_ms // 1000 + second
        for batch in messages
        for second in dict.fromkeys(batch.readings.second)
    ]


def test_only_what_is_stale_and_unnumbered_is_joined_and_the_order_stays(open_outbox):
    outbox = open_outbox()
    for number in range(300):
        turn(outbox, number, parcels=[second(number, beacons=50)], room={"live": 1} if number < 3 else {})
    before = outbox.stock
    assert outbox.coalesce(BOOT, 300_000) is True, "256 were looked at, so there is more"
    assert outbox.coalesce(BOOT, 300_000) is False
    after = outbox.stock
    assert after.lanes == before.lanes == {"live": Span(0, 3), "backlog": Span(0, 0)}
    assert after.bytes < before.bytes / 2 and after.records - after.waiting == 3
    fresh = FRESH_MS // 1000 - 1
    live = turn(outbox, 300, room={"live": 64}).lanes["live"]
    assert live.last == 3 + fresh, "what is fresh still goes one by one"
    turn(outbox, 300, acked={"live": live.last})
    assert seconds_in(drained(outbox, 301)) == list(range(3, 300 - fresh))


def test_joined_records_survive_reopening_and_their_books_balance(open_outbox):
    outbox = open_outbox()
    for number in range(200):
        turn(outbox, number, parcels=[second(number, EARLIER if number < 90 else BOOT)])
    outbox.coalesce(BOOT, 10**6)
    before = outbox.stock
    outbox.close()
    again = open_outbox()
    assert again.stock == before
    assert again.coalesce(BOOT, 10**6) is False and again.stock == before, "there was no more to gain"
    assert seconds_in(drained(again, 10**6)) == list(range(200))
    assert (again.stock.records, again.stock.bytes, again.stock.waiting) == (0, 0, 0)


def test_after_everything_was_sent_the_next_outage_is_joined_too(open_outbox):
    """The ids of records begin at 1 again then."""
    outbox = open_outbox()
    for _ in range(2):
        for number in range(100):
            turn(outbox, number, parcels=[second(number)])
        outbox.coalesce(BOOT, 10**6)
        assert outbox.stock.records < 40
        assert seconds_in(drained(outbox, 10**6)) == list(range(100))


def test_over_the_limit_joined_batches_are_dropped_by_a_skip_that_counts_what_was_in_them(open_outbox):
    outbox = open_outbox(max_bytes=30_000)
    for number in range(1200):
        turn(outbox, number, parcels=[second(number)])
        if number % 60 == 0:
            outbox.coalesce(BOOT, number * 1000)
        assert outbox.stock.bytes <= 30_000
    messages = drained(outbox, 10**6)
    [skip] = [message for message in messages if isinstance(message, Skip)]
    kept = [message for message in messages if isinstance(message, Batch)]
    assert isinstance(messages[0], Skip) and skip.reason == "outbox-full"
    assert skip.counts.readings + sum(len(batch.readings.beacon) for batch in kept) == 1200 * 20
    left = seconds_in(kept)
    assert left == list(range(1200 - len(left), 1200)) and skip.counts.batches == 1200 - len(left)


def test_half_an_hour_of_fifty_beacons_costs_few_bytes_a_reading_and_all_of_it_arrives(tmp_path):
    """At this rate 72 hours fit 256 MB twice over; docs/endurance.md has them measured."""
    lines = []
    figures = run_outage(Outage(hours=0.5), tmp_path / "outbox.db", lines.append)
    assert figures.readings == figures.drained_readings == 50 * 1800 and figures.skipped_readings == 0
    assert figures.bytes_a_reading * 50 * 3600 * 72 < 0.6 * 256 * 1024 * 1024
    assert figures.commits < 1800 + 40, "joining costs a commit a minute"
    assert lines


class Gateway:
    """An uplink over an outbox that has seen an outage; `live` stores one second, as the radio does."""

    def __init__(self, outbox, port, clock):
        self.clock = clock
        self.outbox = outbox
        broker = Broker("127.0.0.1", port, f"gateway-{time.monotonic_ns()}")
        address = GatewayAddress("demo-shop", "door")
        self.uplink = Uplink(
            address, broker, outbox, clock, pulse=self.pulse, version="test", random=Random(1)
        )
        self.number = 10**6

    def pulse(self, stock):
        now = self.clock.boot_ms()
        return Heartbeat(
            self.clock.boot_id, now, "hearing", 0, 0, 0, 0, stock.records, stock.bytes, False, "test"
        )

    async def flush(self):
        while True:
            await self.uplink.store([])
            await asyncio.sleep(0.1)

    async def live(self, receiver):
        """Seconds from storing a fresh batch to its arrival in the live lane."""
        self.number += 1
        fresh = second(self.number, self.clock.boot_id, beacons=50)
        began = time.monotonic()
        await self.uplink.store([replace(fresh, at_ms=self.clock.boot_ms())])
        while not any(batch.base_ms == self.number * 1000 for batch in receiver.batches("live")):
            if time.monotonic() - began > 30:
                pytest.fail("a live batch did not arrive in 30 s")
            await asyncio.sleep(0.01)
        return time.monotonic() - began


OUTAGE_SECONDS = 1800


def outage(outbox, clock):
    """Half an hour of fifty beacons, stored and joined."""
    for number in range(OUTAGE_SECONDS):
        parcel = second(number, clock.boot_id, beacons=50)
        outbox.turn(Turn(outbox.stock.epoch, clock.boot_id, number * 1000, [parcel]))
        if number % 60 == 59:
            outbox.coalesce(clock.boot_id, number * 1000)


@pytest.mark.parametrize("bits_a_second", [None, 500_000])
async def test_after_an_outage_live_readings_arrive_within_five_seconds_while_the_backlog_drains(
    bits_a_second, any_broker, open_outbox, receiver_on, hand_clock, wait_until
):
    outbox, clock = open_outbox(), hand_clock(now=OUTAGE_SECONDS * 1000 + 60_000)
    outage(outbox, clock)
    up = None if bits_a_second is None else bits_a_second // 8
    async with receiver_on(any_broker.port) as receiver, tap(any_broker.port, up) as line:
        gateway = Gateway(outbox, line.port, clock)
        tasks = [asyncio.create_task(gateway.uplink.run()), asyncio.create_task(gateway.flush())]
        try:
            await wait_until(lambda: gateway.uplink.connected)
            latencies, drained = [], []
            for _ in range(4):
                latencies.append(await gateway.live(receiver))
                drained.append(len(receiver.batches("backlog")))
            assert max(latencies) < 5
            await wait_until(lambda: len(receiver.batches("backlog")) > drained[0])
            if bits_a_second is None:
                await wait_until(lambda: outbox.stock.records == 0)
                assert seconds_in_all(receiver.batches("backlog")) == [
                    n for n in range(OUTAGE_SECONDS) for _ in range(50)
                ]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await gateway.uplink.close()


def seconds_in_all(batches):
    return [batch.base_ms // 1000 + second for batch in batches for second in batch.readings.second]
