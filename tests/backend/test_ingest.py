"""Ingest: what strangers may send, what is kept of it, what is answered; then through real brokers."""

import asyncio
import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import ingest as ingest_module
from backend.custody import Custody
from backend.ingest import Ingest
from backend.listening import Gateway, Listening, without_strangers
from backend.storage import journal as journal_module
from backend.storage.entries import BEGINNING
from sdk_bridge import mqtt
from sdk_bridge.wire import codec
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import (
    MAX_PAYLOAD_BYTES,
    Ack,
    Batch,
    BeaconHealth,
    Heartbeat,
    RangeChange,
    Readings,
    Skip,
    SkipCounts,
    Status,
)
from sdk_bridge.wire.topics import GatewayAddress
from simulators.broker import find_mosquitto, start_broker

NOON = 1_750_075_200_000
EPOCH = "0123456789abcdef"
BOOT, OLD_BOOT = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
ADDRESS = GatewayAddress("s1", "g1")
UP, STATUS, ACK = ADDRESS.topic("up"), ADDRESS.topic("status"), ADDRESS.topic("down/ack")
PLACE, ANNA, BERTA, STRANGER = "altbeacon:01", "altbeacon:02", "altbeacon:03", "altbeacon:99"


def beat(at: int = 1) -> bytes:
    return codec.encode(Heartbeat(BOOT, at, "hearing", 1, 1, 0, 0, 0, 0, True, "1.0.0"))


def batch(*keys: str, boot: str = BOOT, counts: tuple[int, ...] = (), **more) -> Batch:
    """One row a key."""
    size = len(keys)
    counts = counts or (1,) * size
    readings = Readings(list(range(size)), [0] * size, list(counts), [60] * size, [55] * size)
    return Batch(boot, 1000 if boot else NOON, list(keys), readings, **more)


class Sender:
    """A gateway of the test, which knows no mercy."""

    def __init__(self, connection) -> None:
        self.connection = connection

    def send(self, payload: bytes, seq: int = 1, topic: str = UP, **more) -> None:
        defaults = {"lane": "live", "epoch": EPOCH, "boot_id": BOOT, "boot_ms": 5000}
        properties = Envelope(seq=seq, **{**defaults, **more}).properties()
        self.connection.receive(topic, payload, properties)

    @property
    def acks(self) -> list[Ack]:
        return [ack for topic, ack in self.connection.acks if topic == ACK]


@pytest.fixture
async def ingest(journal, clock, fake_mqtt, monkeypatch, running, eventually):
    """An ingest that is connected; `sender` is in front of it."""
    fake = fake_mqtt()
    monkeypatch.setattr(ingest_module.mqtt, "connect", fake.connect)
    made = Ingest(mqtt.Broker("nowhere", 1, "backend"), journal, Custody({}), clock)
    made.listening = Listening(
        {name: Gateway("s1", name[3:], "a") for name in ("s1/g1", "s1/g2")},
        frozenset({PLACE}),
        {ANNA: "p-anna", BERTA: "p-berta"},
    )
    made.fake = fake
    async with running(made.run()):
        await eventually(lambda: made.connected)
        yield made


@pytest.fixture
def sender(ingest):
    return Sender(ingest.fake.connections[0])


async def settled(ingest) -> None:
    await ingest.drain()


async def kept(journal) -> list:
    return [codec.decode_up(entry.payload) for entry in await journal.after(BEGINNING, 100)]


async def rows(journal_file, sql: str) -> list[tuple]:
    return await journal_file.read(lambda s: [tuple(row) for row in s._connection.execute(sql)])


# What is answered -----------------------------------------------------------------------------------------


async def test_a_message_is_acknowledged_once_it_is_committed(ingest, sender, journal):
    sender.send(beat())
    assert sender.acks == []
    await settled(ingest)
    assert sender.acks == [Ack(EPOCH, "live", 1, False, NOON)]
    assert len(await kept(journal)) == 1


@pytest.mark.parametrize(
    ("seq", "answer"),
    [
        (2, Ack(EPOCH, "live", 2, gap=False, server_ms=NOON)),
        (1, Ack(EPOCH, "live", 2, gap=False, server_ms=NOON)),
        (3, Ack(EPOCH, "live", 3, gap=False, server_ms=NOON)),
        (4, Ack(EPOCH, "live", 2, gap=True, server_ms=NOON)),
        (2**53, Ack(EPOCH, "live", 2, gap=True, server_ms=NOON)),
    ],
)
async def test_duplicates_are_confirmed_and_gaps_are_told(ingest, sender, journal, seq, answer):
    sender.send(beat(), 1)
    sender.send(beat(), 2)
    await settled(ingest)
    sender.send(beat(), seq)
    await settled(ingest)
    assert sender.acks[-1] == answer
    assert len(await kept(journal)) == answer.upto


async def test_a_burst_is_taken_before_its_first_commit(ingest, sender, journal):
    for seq in range(1, 65):
        sender.send(beat(seq), seq)
    await settled(ingest)
    assert sender.acks[-1].upto == 64
    assert len(sender.acks) < 64, "one word tells of all that a commit took"
    assert [message.at_ms for message in await kept(journal)] == list(range(1, 65))


async def test_every_message_frees_its_slot_at_the_broker(ingest, sender):
    sender.send(beat(), 1)
    sender.send(b"nonsense", 2)
    sender.send(beat(), 99)
    sender.connection.receive("what/is/this", b"")
    sender.connection.receive(UP, beat())
    assert sender.connection.freed == 5
    await settled(ingest)


async def test_a_new_connection_tells_every_gateway_what_is_expected(ingest, sender, eventually):
    sender.send(beat(), 1)
    sender.send(beat(), 1, lane="backlog")
    await settled(ingest)
    sender.connection.over.set_result("the test")
    await eventually(lambda: len(ingest.fake.connections) == 2 and ingest.connected)
    assert [(ack.lane, ack.upto, ack.gap) for _topic, ack in ingest.fake.connections[1].acks] == [
        ("live", 1, True),
        ("backlog", 1, True),
    ]


async def test_after_a_restart_it_knows_where_it_stopped(ingest, sender, journal, clock, running, eventually):
    sender.send(beat(), 1)
    await settled(ingest)
    again = Ingest(mqtt.Broker("nowhere", 1, "backend"), journal, Custody(await journal.load()), clock)
    again.listening = ingest.listening
    async with running(again.run()):
        await eventually(lambda: again.connected)
        connection = ingest.fake.connections[-1]
        assert [(ack.epoch, ack.upto, ack.gap) for _topic, ack in connection.acks] == [(EPOCH, 1, True)]


async def test_a_gateway_that_comes_online_is_told_both_lanes(ingest, sender):
    sender.connection.receive(STATUS, codec.encode(Status(online=True, epoch="ab" * 8, version="1")))
    assert [(ack.epoch, ack.lane, ack.upto, ack.gap) for ack in sender.acks] == [
        ("ab" * 8, "live", 0, True),
        ("ab" * 8, "backlog", 0, True),
    ]
    sender.connection.receive(STATUS, codec.encode(Status(online=False, epoch="ab" * 8, version="1")))
    assert len(sender.acks) == 2


async def test_a_broker_that_refuses_is_tried_again(ingest, sender, eventually):
    ingest.fake.refuse = True
    sender.connection.over.set_result("the test")
    await eventually(lambda: not ingest.connected)
    ingest.fake.refuse = False
    await eventually(lambda: ingest.connected)


async def test_what_is_committed_while_the_broker_is_away_is_kept(ingest, sender, journal):
    sender.send(beat(), 1)
    sender.connection.over.set_result("the test")
    await settled(ingest)
    assert len(await kept(journal)) == 1


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "topic", "reason"),
    [
        ("a gateway that nobody registered", GatewayAddress("s1", "g9").topic("up"), "unknown gateway"),
        ("a store that nobody registered", GatewayAddress("s9", "g1").topic("up"), "unknown gateway"),
        (
            "a foreign partition",
            UP.replace(f"/{ADDRESS.partition}/", f"/{(ADDRESS.partition + 1) % 64}/"),
            "malformed",
        ),
        ("no partition", UP.replace(f"/{ADDRESS.partition}/", "/x/"), "malformed"),
        ("another version of the wire", UP.replace("footfall/1", "footfall/2"), "malformed"),
        ("a leaf of nobody", UP + "x", "malformed"),
        ("no topic at all", "", "malformed"),
    ],
)
async def test_topics_of_others_are_refused_and_counted(ingest, sender, journal, why, topic, reason):
    sender.send(beat(), topic=topic)
    await settled(ingest)
    assert ingest.counts[reason] == 1, why
    assert await journal.after(BEGINNING, 10) == []
    assert sender.connection.acks == []


@pytest.mark.parametrize(
    "properties",
    [
        [],
        [("lane", "live"), ("epoch", EPOCH)],
        [("lane", "fast"), ("epoch", EPOCH), ("seq", "1")],
        [("lane", "live"), ("epoch", "no hex"), ("seq", "1")],
        [("lane", "live"), ("epoch", EPOCH), ("seq", "0")],
        [("lane", "live"), ("epoch", EPOCH), ("seq", "-1")],
        [("lane", "live"), ("epoch", EPOCH), ("seq", "1e3")],
        [("lane", "live"), ("epoch", EPOCH), ("seq", "9" * 400)],
        [("lane", "live"), ("epoch", EPOCH), ("seq", "1"), ("boot_ms", "soon")],
        [("lane", "live"), ("epoch", EPOCH), ("seq", "1"), ("boot_id", "x" * 99)],
    ],
)
async def test_a_bad_envelope_consumes_nothing(ingest, sender, journal, properties):
    sender.connection.receive(UP, beat(), properties)
    await settled(ingest)
    assert ingest.counts["malformed"] == 1
    assert await journal.after(BEGINNING, 10) == []


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 100,
        b"{",
        b'{"type": "batch"}',
        b"[" * 5000,
        b'{"type":"batch","boot_id":' + b"[" * 5000,
        codec.encode(Ack(EPOCH, "live", 1, gap=False, server_ms=1)),
        codec.encode(Batch(BOOT, 0, [ANNA], Readings([1], [0], [1], [60], [60]))),
        codec.encode(Batch(BOOT, 0, [ANNA], Readings([0, 0], [0], [1], [60], [60]))),
        codec.encode(Skip(to=1, reason="x", counts=SkipCounts(1, 1))),
        b"\x00" * (MAX_PAYLOAD_BYTES + 1),
    ],
    ids=lambda payload: f"{payload[:12]!r} of {len(payload)}",
)
async def test_what_nobody_can_read_becomes_a_dead_letter_and_consumes_its_sequence(
    ingest, sender, journal, journal_file, payload
):
    sender.send(beat(), 1)
    sender.send(payload, 2)
    sender.send(beat(), 3)
    await settled(ingest)
    assert sender.acks[-1].upto == 3
    assert ingest.counts["unreadable"] == 1
    [(origin, reason, size)] = await rows(
        journal_file, "select origin, reason, length(payload) from dead_letters"
    )
    assert origin == "s1/g1"
    assert reason
    assert size == min(len(payload), MAX_PAYLOAD_BYTES)
    assert len(await kept(journal)) == 2


@given(
    st.binary(max_size=200),
    st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=8),
    st.text(),
)
def test_nothing_from_outside_gets_through_as_an_exception(payload, properties, topic):
    async def receive() -> None:
        ingest = Ingest(mqtt.Broker("nowhere", 1, "b"), _Nowhere(), Custody({}), lambda: NOON)
        ingest.listening = Listening({"s1/g1": Gateway("s1", "g1", "a")})
        envelope = Envelope("live", EPOCH, 1).properties()
        for where, beside in ((topic, envelope), (UP, properties), (UP, envelope), (STATUS, [])):
            ingest._on_message(_Deaf(), mqtt.Message(where, payload, tuple(beside), False, 1, 1))
        await ingest.drain()

    asyncio.run(receive())


class _Deaf:
    def acknowledge(self, _message) -> None:
        pass


class _Nowhere:
    async def append_gateways(self, appends) -> list[int]:
        return [append.upto for append in appends]


async def test_a_flood_that_the_disk_cannot_take_is_neither_kept_nor_acknowledged(
    ingest, sender, journal, monkeypatch
):
    monkeypatch.setattr(ingest_module, "MAX_MESSAGES_TAKEN", 10)
    for seq in range(1, 21):
        sender.send(beat(seq), seq)
    await settled(ingest)
    assert max(ack.upto for ack in sender.acks) == 10
    assert ingest.counts["overloaded"] == 1  # the eleventh; those behind it are gaps
    assert len(await kept(journal)) == 10


async def test_a_message_at_fault_fails_alone_among_those_it_came_with(ingest, sender, journal, monkeypatch):
    write = journal_module._write_gateway

    def fails_for_one(group, append):
        if append.lane.gateway == "s1/g1" and append.first == 2:
            raise OverflowError("too large for the disk")
        return write(group, append)

    monkeypatch.setattr(journal_module, "_write_gateway", fails_for_one)
    other = GatewayAddress("s1", "g2").topic("up")
    with suppress(OverflowError):  # told to whoever watches the tasks
        for seq in (1, 2, 3):
            sender.send(beat(seq), seq)
            sender.send(beat(seq), seq, other)
        await settled(ingest)
    theirs = [entry.source for entry in await journal.after(BEGINNING, 100)]
    assert (theirs.count("s1/g1"), theirs.count("s1/g2")) == (1, 3)
    assert sender.acks[-1] == Ack(EPOCH, "live", 1, gap=True, server_ms=NOON)
    sender.send(beat(2), 2)
    await settled(ingest)
    monkeypatch.undo()
    for seq in (2, 3):  # whoever was at fault is expected again
        sender.send(beat(seq), seq)
    await settled(ingest)
    assert sender.acks[-1] == Ack(EPOCH, "live", 3, gap=False, server_ms=NOON)


# What is kept ---------------------------------------------------------------------------------------------


async def test_a_skip_moves_the_lane(ingest, sender, journal):
    sender.send(codec.encode(Skip(to=40, reason="full", counts=SkipCounts(40, 400))), 1)
    sender.send(beat(), 41)
    await settled(ingest)
    assert sender.acks[-1].upto == 41
    assert [type(message).__name__ for message in await kept(journal)] == ["Skip", "Heartbeat"]


async def test_json_of_other_peoples_gateways_is_kept_as_messagepack(ingest, sender, journal):
    sender.send(codec.msgspec.json.encode(codec.to_json_object(batch(ANNA))), 1)
    await settled(ingest)
    assert await kept(journal) == [batch(ANNA)]


async def test_strangers_are_counted_and_forgotten_before_the_journal(ingest, sender, journal, journal_file):
    heard = batch(
        STRANGER,
        ANNA,
        "altbeacon:98",
        PLACE,
        counts=(7, 3, 11, 2),
        ranges=[RangeChange(0, 1, True), RangeChange(3, 2, False)],
        health=[BeaconHealth(2, 5, 3000), BeaconHealth(1, 6, 2900)],
    )
    sender.send(codec.encode(heard), 1)
    sender.send(codec.encode(batch(STRANGER, counts=(5,))), 2)
    await settled(ingest)
    assert sender.acks[-1].upto == 2
    [only] = await kept(journal)
    assert only.keys == [ANNA, PLACE]
    assert list(zip(only.readings.beacon, only.readings.count, strict=True)) == [(0, 3), (1, 2)]
    assert only.ranges == [RangeChange(1, 2, False)]
    assert only.health == [BeaconHealth(0, 6, 2900)]
    assert await rows(journal_file, "select * from forgotten") == [("s1/g1", "no consent", 23)]
    for table in ("entries", "dead_letters"):
        payloads = await rows(journal_file, f"select payload from {table}")
        assert not any(STRANGER.encode() in payload for (payload,) in payloads)


async def test_a_withdrawal_acts_on_the_next_message(ingest, sender, journal):
    sender.send(codec.encode(batch(ANNA, BERTA)), 1)
    ingest.listening = Listening(ingest.listening.gateways, ingest.listening.places, {BERTA: "p-berta"})
    sender.send(codec.encode(batch(ANNA, BERTA)), 2)
    await settled(ingest)
    assert [message.keys for message in await kept(journal)] == [[ANNA, BERTA], [BERTA]]


KEYS = [f"altbeacon:{number:02}" for number in range(6)]


@given(
    st.lists(st.sampled_from(KEYS), unique=True),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1, 65535)), max_size=30),
    st.sets(st.sampled_from(KEYS)),
)
def test_every_advert_is_either_kept_or_counted(keys, drawn, agreed):
    rows_of = [row for row in drawn if row[0] < len(keys)]
    columns = [list(column) for column in zip(*rows_of, strict=True)] or [[], [], []]
    loss = [60] * len(rows_of)
    heard = Batch(BOOT, 5, keys, Readings(*columns, loss, loss))
    left, forgotten = without_strangers(heard, agreed.__contains__)
    told = (
        []
        if left is None
        else [
            (left.keys[beacon], second, count)
            for beacon, second, count in zip(
                left.readings.beacon, left.readings.second, left.readings.count, strict=True
            )
        ]
    )
    assert told == [(keys[b], s, c) for b, s, c in rows_of if keys[b] in agreed]
    assert sum(count for _key, _second, count in told) + forgotten == sum(columns[2])


@pytest.mark.parametrize(
    ("why", "boot", "envelope", "offset"),
    [
        ("the present boot is placed by its arrival", BOOT, {}, NOON - 5000),
        ("whatever the sender's wall clock says", BOOT, {"sent_at": 1}, NOON - 5000),
        ("an earlier boot by its anchor", OLD_BOOT, {"anchor": NOON - 99_000}, NOON - 99_000),
        ("an earlier boot without one: nobody knows", OLD_BOOT, {}, None),
        ("an anchor in the future is none", OLD_BOOT, {"anchor": NOON + 1}, None),
        ("a sender that says nothing of boots sends unix time", "", {}, 0),
        ("a sender whose envelope names no boot", BOOT, {"boot_id": ""}, None),
    ],
)
async def test_time_is_repaired(ingest, sender, journal, why, boot, envelope, offset):
    sender.send(codec.encode(batch(ANNA, boot=boot)), 1, **envelope)
    await settled(ingest)
    assert [entry.boot_offset for entry in await journal.after(BEGINNING, 10)] == [offset], why


async def test_a_batch_sent_again_later_means_the_same_time(ingest, sender, journal, clock):
    sender.send(codec.encode(batch(ANNA)), 1, boot_ms=5000)
    clock.forward(60_000)
    sender.send(codec.encode(batch(ANNA)), 2, boot_ms=65_000)
    await settled(ingest)
    assert {entry.boot_offset for entry in await journal.after(BEGINNING, 10)} == {NOON - 5000}


# Real brokers ---------------------------------------------------------------------------------------------


needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")


@pytest.mark.parametrize("kind", [pytest.param("mosquitto", marks=needs_mosquitto), "iotcore"])
async def test_go_back_n_through_a_real_broker_that_dies(kind, journal, clock, tmp_path, running, eventually):
    """A naive sender repeats until it is told; the broker is killed in between."""
    total, seed = 120, 7
    async with await start_broker(tmp_path / kind, kind=kind) as broker:
        ingest = Ingest(mqtt.Broker(broker.host, broker.port, "backend"), journal, Custody({}), clock)
        ingest.listening = Listening({"s1/g1": Gateway("s1", "g1", "a")})
        async with running(ingest.run()), running(_send_all(broker, total, random.Random(seed))) as sending:
            await eventually(lambda: journal.head.positions[0] > total // 4, 30)
            await broker.kill()
            await broker.start()
            async with asyncio.timeout(60):
                await sending
    assert [message.at_ms for message in await kept_all(journal)] == list(range(1, total + 1))


async def kept_all(journal) -> list:
    return [codec.decode_up(entry.payload) for entry in await journal.after(BEGINNING, 10_000)]


async def _send_all(broker, total: int, chance: random.Random) -> None:
    """Go-back-N as simply as can be, with losses and repetitions of its own."""
    acked = 0

    def on_message(connection, message) -> None:
        nonlocal acked
        connection.acknowledge(message)
        acked = max(acked, codec.decode_ack(message.payload).upto)

    while acked < total:
        try:
            async with mqtt.connect(
                mqtt.Broker(broker.host, broker.port, f"g1-{chance.random()}"), on_message
            ) as link:
                await link.subscribe([ACK])
                while acked < total and link.is_open:
                    for seq in range(acked + 1, min(acked + 17, total + 1)):
                        for _ in range(chance.choice([0, 1, 1, 1, 2])):
                            link.publish(UP, beat(seq), properties=Envelope("live", EPOCH, seq).properties())
                    await asyncio.sleep(0.05)
        except mqtt.MqttUnavailable:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("boot_id", "base_ms", "second", "known"),
    [
        ("", NOON, 0, True),
        ("", NOON + 60_000, 0, True),
        ("", NOON + 60_001, 0, False),
        ("", NOON, 61, False),
        ("", NOON - 42 * 86_400_000, 0, True),
        ("", NOON - 42 * 86_400_000 - 1, 0, False),
        ("", 0, 0, False),
        ("now", 5_000, 0, True),
        ("now", 2**53, 0, False),
        ("before", 5_000, 0, False),
    ],
)
def test_absurd_times_are_no_times(boot_id, base_ms, second, known):
    """Six weeks back and a minute ahead are believed, of our gateways and of others'."""
    envelope = Envelope("live", EPOCH, 1, boot_id="now", boot_ms=6_000)
    heard = Batch(boot_id, base_ms, ["k"], Readings([0], [second], [1], [60], [60]))
    assert (ingest_module.time_offset(envelope, heard, NOON) is not None) is known
