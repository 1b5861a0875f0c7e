"""The uplink against real brokers: custody through their death, lanes after an outage, hostile answers."""

import asyncio
import contextlib
import itertools
import subprocess
import time
from random import Random

import pytest

from gateway.gobackn import WINDOW
from gateway.outbox import Outbox, OutboxUnavailable, Parcel
from gateway.uplink import MAX_UNSTORED, Uplink, backoff_seconds
from sdk_bridge.mqtt import Broker
from sdk_bridge.wire.codec import encode
from sdk_bridge.wire.messages import Ack, Batch, Heartbeat, Readings
from sdk_bridge.wire.topics import GatewayAddress
from simulators.broker import find_mosquitto, start_broker

ADDRESS = GatewayAddress("demo-shop", "door")


def batch(number, boot_id, keys=1):
    names = [f"eddystone-eid:{index:016x}" for index in range(keys)]
    return encode(Batch(boot_id, number, names, Readings([0], [0], [1], [60], [60])))


def numbers(batches):
    return [one.base_ms for one in batches]


class Sender:
    """An uplink over an outbox in a folder; `kill` leaves it as a dead process would."""

    def __init__(self, folder, port, clock, max_bytes=10**8, username=None):
        epochs = (f"{n:016x}" for n in itertools.count(1))
        self.clock = clock
        self.outbox = Outbox(
            folder / "outbox.db", max_bytes=max_bytes, new_epoch=lambda: next(epochs), now_ms=lambda: 0
        )
        broker = Broker("127.0.0.1", port, f"sender-{Random().random()}")
        self.uplink = Uplink(
            ADDRESS, broker, self.outbox, clock, pulse=self.pulse, version="test", random=Random(1)
        )
        self.tasks = []
        self.number = 0

    def pulse(self, stock):
        beat = Heartbeat("", 0, "hearing", 0, 0, 0, 0, 0, 0, False, "test")
        return Heartbeat(
            self.clock.boot_id, self.clock.boot_ms(), *[getattr(beat, f) for f in beat.__struct_fields__[2:]]
        )

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(self.uplink.run()), asyncio.create_task(self.flush())]
        return self

    async def __aexit__(self, *_exc):
        await self.stop()
        await self.uplink.close()

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def flush(self):
        while True:
            await self.uplink.store([])
            await asyncio.sleep(0.1)

    async def store(self, count=1):
        for _ in range(count):
            payload = batch(self.number, self.clock.boot_id)
            self.number += 1
            await self.uplink.store([Parcel(payload, self.clock.boot_id, self.clock.boot_ms(), 1)])


@pytest.fixture
def sender(tmp_path, hand_clock):
    def make(port, **more):
        clock = more.pop("clock", None) or hand_clock()
        return Sender(tmp_path, port, clock, **more)

    return make


async def test_batches_arrive_in_the_live_lane_and_leave_the_outbox(broker, sender, receiver_on, wait_until):
    async with receiver_on(broker.port) as receiver, sender(broker.port) as gateway:
        await wait_until(lambda: gateway.uplink.connected)
        await gateway.store(20)
        await wait_until(lambda: len(receiver.batches()) == 20 and gateway.outbox.stock.records == 0)
        assert numbers(receiver.batches("live")) == list(range(20))
        assert receiver.duplicates == receiver.gaps == 0


async def test_heartbeats_come_every_three_seconds_and_only_while_connected(
    any_broker, sender, receiver_on, wait_until
):
    async with sender(any_broker.port) as gateway:
        async with receiver_on(any_broker.port) as receiver:
            await wait_until(receiver.heartbeats)
            gateway.clock.skip(3_000)
            await wait_until(lambda: len(receiver.heartbeats()) == 2)
            assert gateway.uplink.connected
        await any_broker.kill()
        await wait_until(lambda: not gateway.uplink.connected)
        await gateway.store()
        waiting = gateway.outbox.stock.records
        for _ in range(5):
            gateway.clock.skip(3_000)
            await gateway.uplink.store([])
        assert gateway.outbox.stock.records == waiting


async def test_status_is_retained_and_turns_offline_in_order_and_by_the_will(
    any_broker, sender, receiver_on, wait_until
):
    async with receiver_on(any_broker.port) as receiver:
        async with sender(any_broker.port) as gateway:
            await wait_until(lambda: receiver.statuses)
            epoch = gateway.outbox.stock.epoch
            assert receiver.statuses == [(True, epoch)]
        await wait_until(lambda: len(receiver.statuses) == 2)
        assert receiver.statuses[-1] == (False, epoch)
        async with receiver_on(any_broker.port) as later:
            await wait_until(lambda: later.statuses == [(False, epoch)])


async def test_an_outage_fills_the_backlog_while_what_is_fresh_shows_at_once(
    any_broker, sender, receiver_on, wait_until, hand_clock
):
    async with receiver_on(any_broker.port) as receiver, sender(any_broker.port) as gateway:
        await wait_until(lambda: gateway.uplink.connected)
        await any_broker.kill()
        await wait_until(lambda: not gateway.uplink.connected)
        for _ in range(500):
            await gateway.store()
            gateway.clock.skip(1_000)
        await gateway.store(3)
        receiver.arrivals.clear()
        await any_broker.start()
        await wait_until(lambda: len(receiver.batches()) == 503, 30)
        live, backlog = numbers(receiver.batches("live")), numbers(receiver.batches("backlog"))
        assert backlog == list(range(len(backlog))) and live == list(range(len(backlog), 503))
        assert 20 < len(live) < 40
        first_live = next(at for at, envelope in receiver.arrivals if envelope.lane == "live")
        assert first_live - receiver.arrivals[0][0] < 1
        await wait_until(lambda: gateway.outbox.stock.records == 0)


async def test_without_a_backend_only_a_few_records_are_numbered_and_nothing_is_lost(
    any_broker, sender, receiver_on, wait_until
):
    async with receiver_on(any_broker.port) as receiver, sender(any_broker.port) as gateway:
        await wait_until(receiver.heartbeats)
        receiver.muted = True
        for _ in range(60):
            await gateway.store()
            gateway.clock.skip(1_000)
        assert gateway.outbox.stock.lanes["live"].last < 16
        assert gateway.outbox.stock.lanes["backlog"].last <= WINDOW
        receiver.muted = False
        receiver.announce()
        await wait_until(lambda: len(receiver.batches()) == 60, 30)
        assert sorted(numbers(receiver.batches())) == list(range(60))


async def test_a_broker_that_dies_again_and_again_loses_and_repeats_nothing(
    broker, sender, receiver_on, wait_until
):
    chance = Random(5)
    async with receiver_on(broker.port) as receiver, sender(broker.port) as gateway:
        for _ in range(4):
            await wait_until(lambda: gateway.uplink.connected)
            for _ in range(20):
                await gateway.store()
                await asyncio.sleep(chance.uniform(0, 0.01))
            await broker.kill()
            await gateway.store(5)
            await broker.start()
        await wait_until(lambda: len(receiver.batches()) >= gateway.number, 30)
        assert sorted(numbers(receiver.batches())) == list(range(gateway.number))
        assert numbers(receiver.batches("live")) == sorted(numbers(receiver.batches("live")))


async def test_a_restarted_gateway_carries_on_where_its_outbox_was(
    any_broker, sender, receiver_on, wait_until
):
    async with receiver_on(any_broker.port) as receiver:
        receiver.muted = True
        async with sender(any_broker.port) as gateway:
            await wait_until(lambda: gateway.uplink.connected)
            await gateway.store(10)
            await wait_until(lambda: gateway.outbox.stock.lanes["live"].last >= 10)
        receiver.muted = False
        async with sender(any_broker.port) as gateway:
            gateway.number = 10
            await gateway.store(5)
            await wait_until(lambda: len(receiver.batches()) == 15)
        assert numbers(receiver.batches()) == list(range(15))
        assert len({envelope.epoch for envelope, _ in receiver.taken}) == 1


async def test_an_earlier_boots_records_travel_in_the_backlog_with_their_anchor(
    any_broker, sender, receiver_on, wait_until, hand_clock
):
    async with receiver_on(any_broker.port) as receiver:
        earlier = hand_clock(boot_id="0f0e0d0c-0000-4000-8000-00000000000e", is_synchronised=True)
        async with sender(1, clock=earlier) as gateway:  # nobody listens on port 1
            await gateway.store(3)
            await wait_until(lambda: gateway.outbox.stock.records == 3)
        async with sender(any_broker.port, clock=hand_clock()) as gateway:
            await gateway.store()
            await wait_until(lambda: len(receiver.batches()) == 4)
            old = [envelope for envelope, m in receiver.taken if getattr(m, "boot_id", "") == earlier.boot_id]
            assert {(e.lane, e.anchor, e.boot_id) for e in old} == {
                ("backlog", earlier.unix_zero, gateway.clock.boot_id)
            }
            new = [e for e, m in receiver.taken if getattr(m, "boot_id", "") != earlier.boot_id]
            assert {(e.anchor, e.sent_at) for e in new} == {(None, 0)}, "this clock was never set"


async def test_a_boot_without_a_clock_is_anchored_by_the_backends_answer(
    any_broker, sender, receiver_on, wait_until
):
    async with receiver_on(any_broker.port) as receiver, sender(any_broker.port) as gateway:
        await wait_until(lambda: receiver.heartbeats() and gateway.outbox.anchors)
        [(boot_id, anchor)] = gateway.outbox.anchors.items()
        assert boot_id == gateway.clock.boot_id
        assert abs(anchor + gateway.clock.boot_ms() - time.time() * 1000) < 2_000


async def test_foreign_and_malformed_answers_are_counted_and_change_nothing(
    any_broker, sender, receiver_on, wait_until
):
    async with receiver_on(any_broker.port) as receiver, sender(any_broker.port) as gateway:
        await wait_until(receiver.heartbeats)
        bad = [b"", b"\xff" * 50, b"{}", b"x" * 10_000, encode(Ack("f" * 16, "live", 5, True, 1)) + b"tail"]
        for payload in bad:
            receiver.publish("down/ack", payload)
        receiver.publish("down/ack", encode(Ack("feedfeedfeedfeed", "live", 2**50, True, 1)))
        await wait_until(lambda: gateway.uplink.counts.bad_acks == len(bad))
        await gateway.store(3)
        await wait_until(lambda: len(receiver.batches()) == 3)
        assert len({envelope.epoch for envelope, _ in receiver.taken}) == 1


async def test_what_the_broker_cannot_carry_becomes_a_skip(tmp_path, sender, receiver_on, wait_until):
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    async with (
        small_mosquitto(tmp_path / "broker") as port,
        receiver_on(port) as receiver,
        sender(port) as gateway,
    ):
        await wait_until(lambda: gateway.uplink.connected)
        await gateway.store(2)
        await gateway.uplink.store(
            [Parcel(b"\x00" * 3000, gateway.clock.boot_id, gateway.clock.boot_ms(), 9)]
        )
        await gateway.store(2)
        await wait_until(lambda: len(receiver.batches()) == 4)
        [(_, skip)] = receiver.skips()
        assert (skip.reason, skip.counts.batches, skip.counts.readings) == ("packet-size", 1, 9)


@contextlib.asynccontextmanager
async def small_mosquitto(folder):
    """The port of a mosquitto that takes packets of 2,000 bytes and says so."""
    probe = await start_broker(folder, kind="mosquitto")
    await probe.stop()
    config = folder / "small.conf"
    lines = ["allow_anonymous true", "max_packet_size 2000", f"listener {probe.port} 127.0.0.1", "user root"]
    config.write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(
        find_mosquitto(), "-c", str(config), stderr=subprocess.DEVNULL
    )
    try:
        yield probe.port
    finally:
        process.kill()
        await process.wait()


async def test_a_backend_that_forgot_gets_a_new_epoch_and_a_skip(any_broker, sender, receiver_on, wait_until):
    async with receiver_on(any_broker.port) as receiver, sender(any_broker.port) as gateway:
        await wait_until(lambda: gateway.uplink.connected)
        await gateway.store(10)
        await wait_until(lambda: gateway.outbox.stock.records == 0)
        old = gateway.outbox.stock.epoch
        receiver.upto[old, "live"] = 4  # restored from a backup
        receiver.taken.clear()
        for _ in range(2):
            await gateway.store()
            await wait_until(lambda: receiver.gaps)
            receiver.gaps = 0
            gateway.clock.skip(6_000)  # a late complaint would not come again after so long
        await wait_until(lambda: gateway.outbox.stock.epoch != old)
        await wait_until(lambda: len(receiver.batches()) == 2 and receiver.skips())
        [(_, skip)] = receiver.skips()
        assert skip.reason == "receiver-forgot" and skip.counts.batches >= 6
        assert receiver.statuses[-1] == (True, gateway.outbox.stock.epoch)


async def test_a_disk_that_takes_nothing_keeps_batches_in_memory_and_counts_what_falls_out(
    any_broker, sender, receiver_on, wait_until, monkeypatch
):
    async with receiver_on(any_broker.port) as receiver, sender(any_broker.port) as gateway:
        await wait_until(receiver.heartbeats)
        works = gateway.outbox.turn

        def full(_turn):
            raise OutboxUnavailable("database or disk is full")

        monkeypatch.setattr(gateway.outbox, "turn", full)
        await gateway.store(MAX_UNSTORED + 4)
        assert gateway.uplink.counts.lost == (4, 4)
        monkeypatch.setattr(gateway.outbox, "turn", works)
        await wait_until(lambda: len(receiver.batches()) == MAX_UNSTORED)
        assert numbers(receiver.batches()) == list(range(4, MAX_UNSTORED + 4))
        assert [(skip.reason, skip.counts.batches) for _, skip in receiver.skips()] == [("disk-full", 4)]


def test_back_off_is_quick_at_first_then_ten_seconds_and_never_the_same_for_all():
    waits = [backoff_seconds(failures, Random(3)) for failures in range(12)]
    assert waits[0] <= 0.2 and all(5 <= wait <= 10 for wait in waits[6:])
    assert len({backoff_seconds(9, Random(seed)) for seed in range(20)}) == 20
