"""Rotating beacons, from the air to the floor: who is named and when, what never reaches a disk or a log."""

import asyncio
import sqlite3

import pytest
import structlog

pytest.importorskip("numpy")

import numpy as np

from backend import eid_desk as eid_desk_module
from backend import ingest as ingest_module
from backend.custody import Custody
from backend.eid_desk import EidDesk
from backend.ingest import EID_UNRESOLVED, NAMED_WITHIN_MS, Ingest
from backend.listening import Gateway, Listening
from backend.proximity.eid_keys import EidKeys
from backend.proximity.eid_roll import Roll, stable_key
from backend.proximity.eid_shelf import STAYS_S, EidShelf, Want
from backend.proximity.eid_table import EidBeacon, EidTable
from backend.storage.database import StorageError
from backend.storage.eid import EidRows, Registration, register, remove
from backend.storage.entries import BEGINNING
from sdk_bridge import mqtt
from sdk_bridge.wire import codec
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Batch, Readings
from sdk_bridge.wire.topics import GatewayAddress
from simulators.eid_tags import EidTag

NOON_S = 1_750_075_200
EPOCH = "0123456789abcdef"
HOUR = 3600
KEYS = EidKeys(bytes(range(32)))


def tag(number: int, exponent: int = 10) -> EidTag:
    """Its clock was at some number of seconds at noon; times are unix seconds."""
    return EidTag(bytes([number + 1] * 32), exponent, 1_000_000 * number + 12_345 - NOON_S)


def eid(one: EidTag, at_s: float) -> bytes:
    return bytes.fromhex(one.frame(at_s).key.removeprefix("eddystone-eid:"))


async def enrol(state, *tags: EidTag, at_s: int = NOON_S, keys: EidKeys = KEYS) -> list[str]:
    """Registers tags as the API does; their stable keys."""
    made = []
    for one in tags:
        beacon_key = stable_key(one.private_key[:16])
        new = Registration(
            beacon_key,
            keys.wrap.wrap(one.identity_key, beacon_key, one.private_key[:12]),
            keys.fingerprint(one.identity_key),
            one.exponent,
            one.counter(at_s) - at_s,
            at_s * 1000,
        )
        made.append((await state.write(lambda session, new=new: register(session, new, at_s * 1000)))[0])
    return made


class Asker:
    """Asks a desk until it knows."""

    def __init__(self, desk: EidDesk) -> None:
        self.desk = desk
        self.calls = 0

    async def __call__(self, eids, at_s) -> list:
        async with asyncio.timeout(10):
            while True:
                ready = asyncio.Event()
                names = self.desk.resolve(eids, at_s, ready.set)
                if names is not None:
                    return names
                self.calls += 1
                await ready.wait()


@pytest.fixture
async def desk(state, clock, running, monkeypatch):
    """A desk that runs over the state's file, and knows no rest."""
    monkeypatch.setattr(eid_desk_module, "REST", 0)
    monkeypatch.setattr(eid_desk_module, "LEAST_REST_S", 0.0)
    made = EidDesk(EidRows(state), KEYS.wrap, clock)
    await made.load()
    async with running(made.run()):
        yield made


@pytest.fixture
def ask(desk):
    return Asker(desk)


async def known(desk, eventually, count) -> None:
    """Waits until the desk has heard of a change."""
    desk.changed()
    await eventually(lambda: desk.beacons == count and not desk._stale)


# The desk -------------------------------------------------------------------------------------------------


async def test_a_registered_beacon_is_named_and_a_stranger_is_not(desk, ask, state, eventually):
    tags = [tag(1), tag(2), tag(3, exponent=4)]
    keys = await enrol(state, *tags)
    await known(desk, eventually, 3)
    sent = [*(eid(one, NOON_S) for one in tags), b"stranger"]
    assert await ask(sent, [NOON_S] * 4) == [*keys, None]
    assert await ask([], []) == []


@pytest.mark.parametrize("exponent", [0, 4, 10, 15])
async def test_a_beacon_is_named_through_its_rotations_and_its_clocks_faults(
    desk, ask, state, eventually, clock, exponent
):
    one = tag(1, exponent)
    [key] = await enrol(state, one)
    await known(desk, eventually, 1)
    rotation = 1 << exponent
    for step in range(8):
        at = NOON_S + step * rotation // 2
        clock.now = at * 1000
        for wrong in (-(rotation // 2), 0, rotation // 2):
            assert await ask([eid(one, at + wrong)], [at]) == [key]
        assert await ask([eid(one, at - 3 * rotation), eid(one, at + 3 * rotation)], [at, at]) == [None, None]


async def test_without_any_registered_beacon_nothing_is_made_and_nobody_waits(desk):
    assert desk.resolve([b"stranger"], [NOON_S], pytest.fail) == [None]
    assert desk.size_bytes == 0


async def test_yesterdays_readings_are_named_by_yesterdays_ids(desk, ask, state, eventually):
    one = tag(1)
    [key] = await enrol(state, one, at_s=NOON_S - 10 * 24 * HOUR)
    await known(desk, eventually, 1)
    hours = [NOON_S - hours * HOUR for hours in (1, 20, 48, 200)]
    for at in hours:
        assert await ask([eid(one, at), eid(one, NOON_S)], [at, at]) == [key, None]
    assert ask.calls == len(hours)
    assert await ask([eid(one, hours[0])], [hours[0]]) == [key]
    assert ask.calls == len(hours)  # that table is at hand still


@pytest.mark.parametrize("at_s", [NOON_S - 32 * 24 * HOUR, NOON_S + 2 * HOUR, -5, 0, 2**62])
async def test_wild_times_name_nobody_and_cost_no_table(desk, ask, state, eventually, at_s):
    one = tag(1)
    [key] = await enrol(state, one)
    await known(desk, eventually, 1)
    made = desk.counts["tables"]
    sent = eid(one, NOON_S)
    assert await ask([sent, sent], [at_s, NOON_S]) == [None, key]
    assert desk.counts["tables"] == made


async def test_the_next_table_is_there_before_the_present_one_ends(desk, ask, state, eventually, clock):
    one = tag(1, exponent=4)
    [key] = await enrol(state, one)
    await known(desk, eventually, 1)
    for _ in range(5):
        clock.forward(500_000)
        desk._wake.set()
        await eventually(lambda: desk._ends_in(desk._shelf, 4) > 0)
        at = clock.now // 1000
        assert desk.resolve([eid(one, at)], [at], pytest.fail) == [key]
        assert desk.resolve([eid(one, at - 30)], [at - 30], pytest.fail) == [key]  # half a minute on its way


async def test_a_removed_beacon_is_nobody_at_once(desk, ask, state, eventually):
    tags = [tag(1), tag(2)]
    keys = await enrol(state, *tags)
    await known(desk, eventually, 2)
    sent = [eid(one, NOON_S) for one in tags]
    assert await ask(sent, [NOON_S] * 2) == keys
    await state.write(lambda session: remove(session, keys[0]))
    desk.removed(keys[0])
    assert desk.resolve(sent, [NOON_S] * 2, pytest.fail) == [None, keys[1]]
    await eventually(lambda: desk.beacons == 1)
    assert await ask(sent, [NOON_S] * 2) == [None, keys[1]]


async def test_a_beacon_told_anew_keeps_its_key_and_gets_its_new_clock(desk, ask, state, eventually, clock):
    one = tag(1)
    [key] = await enrol(state, one)
    again = EidTag(one.private_key, one.exponent, -NOON_S)  # a new battery: it counts from zero
    assert await enrol(state, again) == [key]
    await known(desk, eventually, 1)
    assert await ask([eid(again, NOON_S), eid(one, NOON_S)], [NOON_S] * 2) == [key, None]


async def test_keys_of_another_secret_are_counted_and_the_others_work(desk, ask, state, eventually):
    await enrol(state, tag(1), keys=EidKeys(bytes([7] * 32)))
    [key] = await enrol(state, tag(2))
    await known(desk, eventually, 2)
    assert await ask([eid(tag(1), NOON_S), eid(tag(2), NOON_S)], [NOON_S] * 2) == [None, key]
    assert desk.unreadable == 1


async def test_a_clock_that_drifts_is_followed_for_ever(desk, ask, state, eventually, clock):
    """50 ppm, read once a day over a year: without learning it would leave the window within four months."""
    [key] = await enrol(state, tag(1))
    await known(desk, eventually, 1)
    for day in range(0, 366, 3):
        drift = round(day * 24 * HOUR * 50e-6)
        clock.now = (NOON_S + day * 24 * HOUR) * 1000
        at = clock.now // 1000
        assert await ask([eid(tag(1), at + drift)], [at]) == [key], f"lost after {day} days"
        await desk.close()
        desk.changed()
        await eventually(lambda: not desk._stale)
    [row] = await state.read(
        lambda session: [dict(row) for row in session.rows("eid_beacons", after="", limit=9)]
    )
    assert abs(row["drift_s"] - drift) <= 1024


async def test_an_id_played_back_all_night_carries_no_clock_away(desk, ask, state, eventually, clock):
    """Each time it is believed the clock seems to run slower; in the morning the tag must still be known."""
    one = tag(1)
    [key] = await enrol(state, one)
    await known(desk, eventually, 1)
    recorded, believed = eid(one, NOON_S), []
    for rotation in range(1, 30):
        clock.now = (NOON_S + rotation * 1024) * 1000
        believed += await ask([recorded], [clock.now // 1000])
        await desk.close()
        desk.changed()
        await eventually(lambda: not desk._stale)
    assert set(believed[2:]) == {None}
    at = clock.now // 1000
    assert await ask([eid(one, at)], [at]) == [key]


async def test_a_failing_disk_keeps_nobody_waiting_in_silence(state, clock, running, monkeypatch, eventually):
    monkeypatch.setattr(eid_desk_module, "RETRY_S", 0.01)
    [key] = await enrol(state, tag(1))
    rows = Failing(EidRows(state))
    desk = EidDesk(rows, KEYS.wrap, clock)
    await desk.load()
    ask = Asker(desk)
    async with running(desk.run()):
        asking = asyncio.create_task(ask([eid(tag(1), NOON_S)], [NOON_S]))
        await eventually(lambda: ask.calls >= 3)
        rows.fails = False
        assert await asking == [key]


class Failing:
    def __init__(self, rows: EidRows) -> None:
        self._rows = rows
        self.fails = True
        self.roll, self.save_clocks = rows.roll, rows.save_clocks

    def sealed(self, exponent, use):
        if self.fails:
            raise StorageError("disk full")
        return self._rows.sealed(exponent, use)


async def test_a_thousand_registrations_do_not_make_a_thousand_tables(desk, state, eventually, monkeypatch):
    monkeypatch.setattr(eid_desk_module, "LEAST_REST_S", 0.2)
    await enrol(state, tag(1))
    await known(desk, eventually, 1)
    made = desk.counts["tables"]
    for _ in range(1000):
        desk.changed()
        await asyncio.sleep(0)
    await eventually(lambda: not desk._stale)
    assert desk.counts["tables"] - made <= 4


# The shelf ------------------------------------------------------------------------------------------------


def test_spare_tables_make_room_for_each_other_once_they_were_used():
    beacons = [EidBeacon(number, bytes([number + 1] * 16), 10) for number in range(50)]
    one = EidTable.make(beacons, 50, NOON_S).size_bytes
    shelf = EidShelf([10], spare_bytes=3 * one)
    now = float(NOON_S)

    def put(day: int) -> None:
        want = Want(10, NOON_S - day * 86_400)
        shelf.put(want, EidTable.make(beacons, 50, want.at_s), np.zeros(0, np.int64), now)
        assert shelf.wants(np.array([want.at_s], np.int64)) == []

    days = iter(range(40, 0, -1))
    while shelf.has_room(now):  # these were only just made: whoever asked has had no time to use them
        put(next(days))
    assert shelf.size_bytes == 4 * one
    for day in days:
        now += STAYS_S
        assert shelf.has_room(now)
        put(day)
        assert shelf.size_bytes <= 4 * one


def test_a_roll_with_gaps_names_who_is_there():
    keys = {number: stable_key(bytes([number] * 16)) for number in (2, 5, 6)}
    roll = Roll.of(keys.items(), {10: 3})
    assert [roll.name(number) for number in range(9)] == [keys.get(number) for number in range(9)]
    roll.strike(keys[5])
    assert [roll.name(number) for number in (2, 5, 6)] == [keys[2], None, keys[6]]
    roll.strike(stable_key(bytes(16)))


# Through the ingest ---------------------------------------------------------------------------------------


class Door:
    """A gateway `s1/g-a` in front of an ingest that asks the desk."""

    def __init__(self, ingest: Ingest, connection, clock) -> None:
        self.ingest, self.connection, self.clock = ingest, connection, clock
        self.topic = GatewayAddress("s1", "g-a").topic("up")

    def send(self, heard: Batch, seq: int, lane: str = "live") -> None:
        envelope = Envelope(lane, EPOCH, seq)
        self.connection.receive(self.topic, codec.encode(heard), envelope.properties())

    @property
    def upto(self) -> int:
        return max((ack.upto for _, ack in self.connection.acks), default=0)

    @property
    def gaps(self) -> int:
        return sum(ack.gap for _, ack in self.connection.acks)

    async def deliver(self, heard: Batch, seq: int, eventually, lane: str = "live") -> None:
        """Sends again whenever asked to, as a gateway does."""
        while True:
            gaps = self.gaps
            self.send(heard, seq, lane)
            await eventually(lambda gaps=gaps: self.gaps > gaps or self._committed(seq, lane))
            if self._committed(seq, lane):
                return

    def _committed(self, seq: int, lane: str) -> bool:
        return any(ack.upto >= seq and ack.lane == lane for _, ack in self.connection.acks)


@pytest.fixture
async def door(shop, desk, fake_mqtt, monkeypatch, running, eventually):
    fake, clock = fake_mqtt(), shop.clock
    monkeypatch.setattr(ingest_module.mqtt, "connect", fake.connect)
    ingest = Ingest(mqtt.Broker("nowhere", 1, "backend"), shop.journal, Custody({}), clock)
    ingest.resolver = desk
    ingest.listening = Listening({"s1/g-a": Gateway("s1", "g-a", "a")})
    async with running(ingest.run()):
        await eventually(lambda: ingest.connected)
        yield Door(ingest, fake.connections[0], clock)


def heard(at_s: int, *rows: tuple[str, int, int], boot: str = "") -> Batch:
    """Rows of key, second and count; without a boot id the times are unix times."""
    keys = list(dict.fromkeys(key for key, _, _ in rows))
    size = len(rows)
    readings = Readings(
        [keys.index(key) for key, _, _ in rows],
        [second for _, second, _ in rows],
        [count for _, _, count in rows],
        [60] * size,
        [55] * size,
    )
    return Batch(boot, at_s * 1000, keys, readings)


def key_of(one: EidTag, at_s: float) -> str:
    return one.frame(at_s).key


def listen_to(door: Door, *keys: str) -> None:
    door.ingest.listening = Listening(door.ingest.listening.gateways, frozenset(keys))


STRANGER = "eddystone-eid:" + "5" * 16


async def test_the_journal_holds_the_beacons_own_key_and_nothing_of_strangers(
    door, journal, journal_file, state, desk, eventually
):
    anna, berta = tag(1), tag(2)
    [anna_key, _] = await enrol(state, anna, berta)
    listen_to(door, anna_key)
    with structlog.testing.capture_logs() as logs:
        await door.deliver(
            heard(NOON_S, (key_of(anna, NOON_S), 0, 3), (STRANGER, 0, 7), (key_of(berta, NOON_S), 0, 11)),
            1,
            eventually,
        )
        desk.changed()
        await eventually(lambda: desk.beacons == 2)
        await door.deliver(
            heard(NOON_S, (key_of(anna, NOON_S), 1, 3), (STRANGER, 1, 7), (key_of(berta, NOON_S), 1, 11)),
            2,
            eventually,
        )
        await door.deliver(heard(NOON_S, (STRANGER, 2, 100)), 3, eventually)
    [entry] = await journal.after(BEGINNING, 10)
    assert codec.decode_up(entry.payload).keys == [anna_key]
    forgotten = await journal_file.read(
        lambda s: dict(s._connection.execute("select reason, adverts from forgotten").fetchall())
    )
    assert forgotten == {"eid_unresolved": 21 + 7 + 100, "no consent": 11}
    assert door.ingest.counts[EID_UNRESOLVED] == 128
    digits = STRANGER.removeprefix("eddystone-eid:")
    assert digits not in str(logs)
    for file in (journal_file.path, state.path):
        for path in (file, file.with_name(f"{file.name}-wal")):
            stored = path.read_bytes()
            assert digits.encode() not in stored
            assert bytes.fromhex(digits) not in stored
            assert b"eddystone-eid:" not in stored


async def test_a_person_with_a_rotating_tag_is_found_on_the_floor_also_while_it_rotates(
    door, live_shop, state, desk, clock, eventually
):
    one = tag(1, exponent=4)
    [key] = await enrol(state, one)
    await live_shop.person("anna", key)
    await live_shop.folded()
    door.ingest.listening = live_shop.heard[-1]
    await known(desk, eventually, 1)
    seen = set()
    for seq in range(1, 41):
        clock.forward(1000)
        at = clock.now // 1000
        before, now = key_of(one, at - 1), key_of(one, at)
        seen |= {before, now}
        await door.deliver(heard(at - 1, (before, 0, 1), (now, 1, 2)), seq, eventually)
    await live_shop.folded()
    assert len(seen) >= 3
    assert await live_shop.rows("select beacon_key from heard_keys") == [{"beacon_key": key}]
    assert sum(await live_shop.column("select adverts from sightings")) == 120
    assert await live_shop.column("select beacon_key from zone_visits") == [key]


async def test_a_backlog_of_the_night_waits_for_its_tables_with_its_gateway(
    door, journal, state, desk, eventually
):
    one = tag(1)
    [key] = await enrol(state, one, at_s=NOON_S - 30 * HOUR)
    await known(desk, eventually, 1)
    listen_to(door, key)
    for seq, hours in enumerate((26, 25, 12, 1), start=1):
        at = NOON_S - hours * HOUR
        await door.deliver(heard(at, (key_of(one, at), 0, 5)), seq, eventually, "backlog")
    entries = await journal.after(BEGINNING, 10)
    assert [codec.decode_up(entry.payload).keys for entry in entries] == [[key]] * 4
    assert door.ingest.counts["waits for names"] >= 1
    assert door.ingest.counts[EID_UNRESOLVED] == 0


async def test_while_a_lane_waits_it_hears_nothing_and_the_other_goes_on(
    door, journal, state, clock, eventually
):
    """A word would make the gateway send its window again and again."""
    asked = []

    class Later:
        def resolve(self, _eids, _at_s, ready):
            asked.append(ready)

    door.ingest.resolver = Later()
    waiting = heard(NOON_S, (STRANGER, 0, 3))
    for seq in (1, 2, 3, 1, 2, 3):
        door.send(waiting, seq)
    await door.deliver(heard(NOON_S, ("altbeacon:01", 0, 1)), 1, eventually, "backlog")
    assert (len(asked), door.gaps, door.upto) == (1, 0, 1)
    asked[0]()
    assert door.gaps == 1
    door.send(waiting, 1)
    assert len(asked) == 2
    clock.forward(NAMED_WITHIN_MS)  # nobody can name them, ever: the lane must not stand still for that
    asked[1]()
    await door.deliver(waiting, 1, eventually)
    assert door.ingest.counts[EID_UNRESOLVED] == 3


async def test_a_gateway_that_invents_epochs_fills_no_memory(door, monkeypatch):
    monkeypatch.setattr(ingest_module, "MAX_UNNAMED", 10)

    class Never:
        def resolve(self, _eids, _at_s, _ready):
            return None

    door.ingest.resolver = Never()
    payload = codec.encode(heard(NOON_S, (STRANGER, 0, 3)))
    for number in range(100):
        door.connection.receive(door.topic, payload, Envelope("live", f"{number:016x}", 1).properties())
    assert len(door.ingest._unnamed) == 10


async def test_readings_without_time_name_nobody(door, journal, journal_file, state, desk, eventually):
    one = tag(1)
    [key] = await enrol(state, one)
    await known(desk, eventually, 1)
    listen_to(door, key, "altbeacon:01")
    await door.deliver(
        heard(NOON_S, (key_of(one, NOON_S), 0, 5), ("altbeacon:01", 0, 2), boot="an-unanchored-boot"),
        1,
        eventually,
    )
    [entry] = await journal.after(BEGINNING, 10)
    assert (entry.boot_offset, codec.decode_up(entry.payload).keys) == (None, ["altbeacon:01"])
    assert door.ingest.counts[EID_UNRESOLVED] == 5


async def test_after_a_restart_everybody_is_known_as_before(state, clock, running, desk, ask, eventually):
    tags = [tag(number) for number in range(5)]
    keys = await enrol(state, *tags)
    await known(desk, eventually, 5)
    sent = [eid(one, NOON_S) for one in tags]
    assert await ask(sent, [NOON_S] * 5) == keys
    again = EidDesk(EidRows(state), EidKeys(bytes(range(32))).wrap, clock)
    await again.load()
    async with running(again.run()):
        assert await Asker(again)(sent, [NOON_S] * 5) == keys


async def test_the_database_holds_no_key_that_anybody_could_use(state):
    tags = [tag(number) for number in range(20)]
    await enrol(state, *tags)
    stored = state.path.read_bytes() + state.path.with_name("state.db-wal").read_bytes()
    with sqlite3.connect(state.path) as file:
        assert file.execute("select count(*) from eid_beacons").fetchone() == (20,)
    for one in tags:
        assert one.identity_key not in stored
        assert one.identity_key.hex().encode() not in stored
        assert eid(one, NOON_S) not in stored
    assert bytes(range(32)) not in stored
