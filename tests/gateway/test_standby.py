"""An outbox over a card that comes and goes: heard in memory meanwhile, and everything delivered once."""

import errno
import itertools
import os
from random import Random

import pytest
from structlog.testing import capture_logs

import gateway.standby
from gateway.app import AlreadyRunning, only_one
from gateway.outbox import LANES, MemoryOutbox, Outbox, OutboxTooNew, OutboxUnavailable, Parcel, Turn
from gateway.standby import LOOK_MS, MAX_SPARES, RETREAT_MS, Standby
from sdk_bridge.wire.codec import decode_up, encode
from sdk_bridge.wire.messages import Batch, Readings, Skip

BOOT = "0f0e0d0c-0000-4000-8000-0000000000ed"
WINDOW = 16


class Card:
    """Where outboxes have their files; while it is full every write fails."""

    full = False

    def check(self):
        if self.full:
            raise OutboxUnavailable("no space left")


@pytest.fixture
def card(monkeypatch):
    card = Card()

    class OnCard(Outbox):
        def __init__(self, path, **more):
            card.check()
            super().__init__(path, **more)

        def turn(self, turn):
            card.check()
            return super().turn(turn)

        def probe(self):
            card.check()
            super().probe()

    class InMemory(MemoryOutbox):
        def copy_to(self, path):
            card.check()
            super().copy_to(path)

    monkeypatch.setattr(gateway.standby, "Outbox", OnCard)
    monkeypatch.setattr(gateway.standby, "MemoryOutbox", InMemory)
    return card


class World:
    """A gateway's flushes and a backend that takes only the next sequence. Time is by hand."""

    def __init__(self, folder, seed=0):
        self.folder = folder
        self.now = 1_000
        self.epochs = (f"{number:016x}" for number in itertools.count(1))
        self.upto = {}
        self.taken = []
        self.stored = []
        self.unstored = []
        self.counter = itertools.count()
        self.dice = Random(seed)
        self.open()

    def open(self):
        path = self.folder / "outbox.db"
        self.outbox = Standby(
            path, max_bytes=10**8, new_epoch=lambda: next(self.epochs), now_ms=lambda: self.now
        )

    def flush(self, parcels=1, connected=True, milliseconds=500):
        """As the uplink does it: what could not be stored waits and is tried again."""
        self.now += milliseconds
        for _ in range(parcels):
            number = next(self.counter)
            payload = encode(
                Batch(BOOT, number, ["eddystone-eid:" + "0" * 16], Readings([0], [0], [1], [60], [60]))
            )
            self.unstored.append((number, Parcel(payload, BOOT, self.now, 1)))
        epoch = self.outbox.stock.epoch
        turn = Turn(
            epoch=epoch,
            boot_id=BOOT,
            now_ms=self.now,
            parcels=[parcel for _, parcel in self.unstored],
            acked={lane: self.upto.get((epoch, lane), 0) for lane in LANES},
            room=dict.fromkeys(LANES, WINDOW if connected else 0),
        )
        try:
            self.outbox.turn(turn)
        except OutboxUnavailable:
            return False
        self.stored += [number for number, _ in self.unstored]
        self.unstored = []
        return True

    def deliver(self, share=1.0):
        """Some of what is numbered reaches the backend, which journals it; acknowledgements come later."""
        stock = self.outbox.stock
        for lane in LANES:
            stream = (stock.epoch, lane)
            for record in self.outbox.load(lane, stock.lanes[lane].acked + 1, WINDOW):
                if self.dice.random() >= share:
                    break
                if record.seq == self.upto.get(stream, 0) + 1:
                    self.upto[stream] = record.last
                    self.take(decode_up(record.payload))

    def take(self, message):
        assert not isinstance(message, Skip)
        first = message.base_ms
        self.taken += [first + second for second in message.readings.second]

    def drain(self, flushes=200):
        for _ in range(flushes):
            self.flush(parcels=0)
            self.deliver()
            if not self.outbox.stock.records and self.outbox.stock.epoch == self.home:
                return
        pytest.fail(f"not drained: {self.outbox.stock}")

    @property
    def home(self):
        """The epoch of the outbox's own file."""
        top = self.outbox._top
        return self.outbox.stock.epoch if top is not None and top.path.name == "outbox.db" else None

    def spares(self):
        return sorted(path.name for path in self.folder.glob("spare-*"))


def test_a_gateway_that_starts_on_a_full_card_hands_on_from_memory_and_settles_when_there_is_room(
    tmp_path, card
):
    card.full = True
    world = World(tmp_path)
    assert not world.outbox.writable
    for _ in range(20):
        assert world.flush()
        world.deliver()
    assert world.taken == list(range(20))
    assert list(tmp_path.iterdir()) == []
    card.full = False
    world.flush(milliseconds=LOOK_MS)
    assert world.outbox.writable and len(world.spares()) >= 1, "what is on its way keeps its numbers"
    world.deliver()
    world.drain()
    assert world.spares() == [] and world.taken == world.stored


def test_what_the_card_held_before_comes_out_after_what_was_in_memory(tmp_path, card):
    world = World(tmp_path)
    world.flush(parcels=3, connected=False)
    world.outbox.close()
    card.full = True
    world.now += 60_000
    world.open()
    assert not world.outbox.writable
    world.flush(parcels=2)
    world.deliver()
    assert world.taken == [3, 4]
    card.full = False
    world.flush(parcels=0, milliseconds=LOOK_MS)
    world.drain()
    assert sorted(world.taken) == [0, 1, 2, 3, 4]


def test_a_card_that_fills_up_is_given_some_seconds_and_nothing_is_lost_meanwhile(tmp_path, card):
    world = World(tmp_path)
    world.flush()
    card.full = True
    failed = 0
    while not world.flush():
        failed += 1
    assert failed == RETREAT_MS // 500 and not world.outbox.writable
    card.full = False
    world.flush(milliseconds=LOOK_MS)
    world.deliver()
    world.drain()
    assert sorted(world.taken) == world.stored == list(range(failed + 3))


def test_a_copy_goes_on_after_a_kill_with_the_numbers_it_had(tmp_path, card):
    """What was sent from memory and not yet acknowledged must come again under the same sequence."""
    card.full = True
    world = World(tmp_path)
    world.flush(parcels=5)
    world.deliver(share=0.7)
    card.full = False
    world.flush(parcels=0, connected=False, milliseconds=LOOK_MS)
    assert world.spares()
    world.open()  # the process was killed and started again
    for _ in range(5):
        world.flush()
        world.deliver()
    world.drain()
    assert sorted(world.taken) == world.stored


def test_memory_is_kept_on_a_graceful_end_where_there_is_room_and_counted_where_not(tmp_path, card):
    card.full = True
    world = World(tmp_path)
    world.flush(parcels=4, connected=False)
    with capture_logs() as lines:
        world.outbox.close()
    assert [line["records"] for line in lines if line["event"] == "lost with the memory"] == [4]
    world.open()
    world.flush(parcels=4, connected=False)
    card.full = False
    world.outbox.close()
    world.open()
    world.flush(parcels=0)
    world.deliver()
    world.drain()
    assert world.taken == [4, 5, 6, 7]


def test_a_newer_gateways_file_is_no_full_card(tmp_path, card):
    world = World(tmp_path)
    world.outbox._current._database.execute("PRAGMA user_version = 99")
    world.outbox.close()
    with pytest.raises(OutboxTooNew):
        world.open()


@pytest.mark.parametrize("cause", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_card_that_takes_no_lock_file_still_admits_one_gateway_only(tmp_path, monkeypatch, cause):
    real = os.open

    def refuse(path, flags, *more):
        if flags & os.O_CREAT:
            raise OSError(cause, os.strerror(cause))
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)
    with only_one(tmp_path), pytest.raises(AlreadyRunning), only_one(tmp_path):
        pass


def test_little_room_is_no_room(tmp_path, card, monkeypatch):
    card.full = True
    world = World(tmp_path)
    card.full = False
    few = type("Usage", (), {"free": 500_000})
    monkeypatch.setattr("gateway.standby.shutil.disk_usage", lambda _folder: few)
    world.flush(milliseconds=LOOK_MS)
    assert not world.outbox.writable
    few.free = 50_000_000
    world.flush(milliseconds=LOOK_MS)
    assert world.outbox.writable


def test_a_card_that_comes_and_goes_is_not_filled_with_spares(tmp_path, card):
    world = World(tmp_path)
    for _ in range(3 * MAX_SPARES):
        card.full = True
        while not world.flush(connected=False):
            pass
        card.full = False
        world.flush(connected=False, milliseconds=LOOK_MS)
    assert len(list(tmp_path.glob("spare-*.db"))) <= MAX_SPARES


@pytest.mark.parametrize("seed", range(15))
def test_whatever_the_card_does_every_batch_arrives_once(tmp_path, card, seed):
    dice = Random(seed)
    world = World(tmp_path, seed)
    connected = True
    for _ in range(300):
        if dice.random() < 0.03:
            card.full = not card.full
        if dice.random() < 0.03:
            connected = not connected
        if dice.random() < 0.01 and not card.full and world.outbox.writable:
            world.open()  # killed; the new process finds what was committed
        world.flush(dice.choice((0, 1, 1, 2)), connected, dice.choice((100, 500, 500, 3_000)))
        if dice.random() < 0.02:
            world.outbox.coalesce(BOOT, world.now)
        if connected:
            world.deliver(dice.choice((0.0, 0.7, 1.0)))
    card.full = False
    world.flush(milliseconds=LOOK_MS)
    world.drain()
    assert not world.unstored and sorted(world.taken) == sorted(world.stored)
    assert world.spares() == []
