"""The plug is pulled at any write or sync: only what was synced is still there, and of the rest any part."""

import itertools
import random
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

import gateway.outbox
from gateway.outbox import LANES, Outbox, Parcel, Turn
from sdk_bridge.wire.codec import decode_up, encode
from sdk_bridge.wire.messages import Batch, Readings

apsw = pytest.importorskip("apsw")

BOOT = "0f0e0d0c-0000-4000-8000-000000000001"
SECTOR = 512  # disks write this much at a time, in whatever order
LIVES = 40


class PowerCut(Exception):
    """The machine is off."""


class Disk:
    """What has been written to each file, and what of it has been synced. Off at operation `cut_at`."""

    def __init__(self):
        self.synced: dict[str, bytearray] = {}
        self.unsynced: dict[str, list] = {}
        self.operations = 0
        self.syncs = 0
        self.bytes = 0
        self.cut_at = None
        self.connections = []

    def operate(self):
        self.operations += 1
        if self.cut_at is not None and self.operations >= self.cut_at:
            raise PowerCut

    def open(self, name):
        if name not in self.synced:
            there = Path(name).read_bytes() if Path(name).exists() else b""
            self.synced[name], self.unsynced[name] = bytearray(there), []

    def write(self, name, data, offset):
        self.bytes += len(data)
        self.unsynced[name].append((offset, data))

    def truncate(self, name, size):
        self.unsynced[name].append((size, None))

    def sync(self, name):
        self.syncs += 1
        for change in self.unsynced[name]:
            _apply(self.synced[name], change)
        self.unsynced[name].clear()

    def delete(self, name):
        self.synced.pop(name, None)
        self.unsynced.pop(name, None)

    def after_the_cut(self, folder, dice):
        """Writes what a machine finds that is switched on again; of what was not synced any sectors."""
        folder.mkdir()
        survive = dice.choice([0.0, 0.5, 1.0])
        for name, content in self.synced.items():
            left = bytearray(content)
            for change in self.unsynced[name]:
                for part in _sectors(change):
                    if dice.random() < survive:
                        _apply(left, part)
            (folder / Path(name).name).write_bytes(left)
        self.cut_at = None  # the dead process may close its files now; nobody looks at them
        for connection in self.connections:
            connection.close()


def _sectors(change):
    offset, data = change
    if data is None:
        return [change]
    return [(offset + at, data[at : at + SECTOR]) for at in range(0, len(data), SECTOR)]


def _apply(content, change):
    offset, data = change
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class DiskVFS(apsw.VFS):
    """The usual file system, with every write and sync told to a Disk."""

    numbers = itertools.count()

    def __init__(self, disk):
        self.disk = disk
        self.label = f"disk{next(self.numbers)}"
        super().__init__(self.label, base="")

    def xOpen(self, name, flags):
        return DiskFile(self.disk, name, flags)

    def xDelete(self, name, sync_folder):
        self.disk.operate()
        super().xDelete(name, sync_folder)
        self.disk.delete(name)


class DiskFile(apsw.VFSFile):
    def __init__(self, disk, name, flags):
        self.disk = disk
        self.path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        disk.open(self.path)
        super().__init__("", name, flags)

    def xWrite(self, data, offset):
        self.disk.operate()
        self.disk.write(self.path, bytes(data), offset)
        super().xWrite(data, offset)

    def xTruncate(self, size):
        self.disk.operate()
        self.disk.truncate(self.path, size)
        super().xTruncate(size)

    def xSync(self, flags):
        self.disk.operate()
        self.disk.sync(self.path)


class ApswConnection:
    """As much of a sqlite3.Connection as the outbox uses, over apsw and a Disk."""

    def __init__(self, path, disk):
        self.vfs = DiskVFS(disk)
        self.raw = apsw.Connection(str(path), vfs=self.vfs.label)
        disk.connections.append(self.raw)

    def execute(self, statement, values=()):
        cursor = self.raw.cursor()
        try:
            cursor.execute(statement, values)
        except apsw.Error as error:
            raise PowerCut from error  # the outbox's ROLLBACK after the cut
        return Rows(cursor.fetchall(), self.raw.changes(), self.raw.last_insert_rowid())

    def close(self):
        self.raw.close()


class Rows(list):
    """A statement's answer."""

    def __init__(self, rows, rowcount, lastrowid):
        super().__init__(rows)
        self.rowcount = rowcount
        self.lastrowid = lastrowid

    def fetchall(self):
        return list(self)

    def fetchone(self):
        return self[0] if self else None


def on_disk(disk, path):
    """An outbox whose every write goes through the disk; the code under test is the gateway's own."""
    names = {name: getattr(sqlite3, name) for name in ("DatabaseError", "OperationalError", "Error")}
    gateway.outbox.sqlite3 = SimpleNamespace(connect=lambda where, **_: ApswConnection(where, disk), **names)
    try:
        return open_outbox(path)
    finally:
        gateway.outbox.sqlite3 = sqlite3


EPOCHS = (f"{number:016x}" for number in itertools.count(1))


def open_outbox(path):
    return Outbox(path, max_bytes=10**9, new_epoch=lambda: next(EPOCHS), now_ms=lambda: 0)


def parcel(serial, now_ms):
    readings = Readings([0, 1], [0, 0], [3, 3], [60, 61], [55, 56])
    keys = [f"eddystone-eid:{n:016x}" for n in range(2)]
    return Parcel(encode(Batch(BOOT, serial * 1000, keys, readings)), BOOT, now_ms, 2)


def serials_in(payload):
    message = decode_up(payload)
    if not isinstance(message, Batch):
        return []
    return [message.base_ms // 1000 + second for second in message.readings.second[::2]]


class Ledger:
    """What the outbox has told its caller, which a cut must not take back."""

    def __init__(self):
        self.serial = 0
        self.now_ms = 0
        self.stored: set[int] = set()
        self.acknowledged: set[int] = set()
        self.sent: dict[tuple[str, int], bytes] = {}
        self.acked = dict.fromkeys(LANES, 0)
        self.pending: set[int] = set()  # acknowledged by a turn that the cut interrupted: either is right

    def work(self, outbox, dice):
        """Turns without end: store, number, load, acknowledge, and now and then join or skip."""
        while True:
            self.now_ms += dice.choice([500, 1000, 40_000])
            fresh = [parcel(self.serial + n, self.now_ms) for n in range(dice.choice([0, 1, 1, 3]))]
            serials = range(self.serial, self.serial + len(fresh))
            self.serial += len(fresh)
            acked = {
                lane: min(span.last, span.acked + dice.choice([0, 0, 5]))
                for lane, span in outbox.stock.lanes.items()
            }
            room = dice.choice([{}, {"live": 4}, {"live": 4, "backlog": 6}])
            self.pending = self._covered(outbox, acked)
            turn = Turn(outbox.stock.epoch, BOOT, self.now_ms, fresh, acked=acked, room=room)
            outbox.turn(turn)
            self.stored.update(serials)
            self.acknowledged |= self.pending
            self.acked = {lane: max(self.acked[lane], acked[lane]) for lane in LANES}
            self.send(outbox)
            if dice.random() < 0.2:
                outbox.coalesce(BOOT, self.now_ms)

    def send(self, outbox):
        for lane in LANES:
            for record in outbox.load(lane, outbox.stock.lanes[lane].acked + 1, 99):
                before = self.sent.setdefault((lane, record.seq), record.payload)
                assert before == record.payload, f"{lane} {record.seq} was sent with other contents"

    def _covered(self, outbox, acked):
        return {
            serial
            for lane in LANES
            for record in outbox.load(lane, outbox.stock.lanes[lane].acked + 1, 99)
            if record.last <= acked[lane]
            for serial in serials_in(record.payload)
        }

    def check(self, outbox):
        """Against a machine that has been switched on again."""
        for lane in LANES:
            assert outbox.stock.lanes[lane].acked >= self.acked[lane], "an acknowledged record came back"
        for (lane, seq), payload in self.sent.items():
            if seq > outbox.stock.lanes[lane].acked:
                [record] = outbox.load(lane, seq, 1)
                assert (record.seq, record.payload) == (seq, payload), f"{lane} {seq} was renumbered"
        found = everything_in(outbox)
        assert len(found) == len(set(found)), "something is there twice"
        assert self.stored - self.acknowledged - self.pending <= set(found), "something stored is gone"
        assert not self.acknowledged & set(found), "something acknowledged came back"
        self.acked = {lane: outbox.stock.lanes[lane].acked for lane in LANES}
        self.acknowledged |= self.pending - set(found)
        self.stored |= set(found)


def everything_in(outbox):
    rows = outbox._database.execute("SELECT payload FROM record WHERE reason IS NULL").fetchall()
    books = outbox._database.execute(
        "SELECT count(*), coalesce(sum(length(payload)), 0) FROM record"
    ).fetchone()
    assert books == (
        outbox.stock.records,
        outbox.stock.bytes - outbox.stock.records * gateway.outbox.RECORD_OVERHEAD,
    )
    return [serial for (payload,) in rows for serial in serials_in(payload)]


@pytest.mark.parametrize("seed", [1, 2])
def test_power_cuts_lose_nothing_stored_bring_nothing_back_and_renumber_nothing(tmp_path, seed):
    """Forty lives of one outbox; each ends at a random write or sync, and the next begins on what is left."""
    dice, ledger = random.Random(seed), Ledger()
    folder, epochs = tmp_path / "life0", set()
    folder.mkdir()
    for life in range(1, LIVES + 1):
        disk = Disk()
        disk.cut_at = dice.randint(1, 600)
        try:
            outbox = on_disk(disk, folder / "outbox.db")
            ledger.work(outbox, dice)
        except PowerCut:
            pass
        folder = tmp_path / f"life{life}"
        disk.after_the_cut(folder, dice)
        outbox = open_outbox(folder / "outbox.db")
        assert not outbox.moved_aside
        epochs.add(outbox.stock.epoch)
        ledger.check(outbox)
        ledger.send(outbox)
        outbox.close()
    assert len(epochs) == 1
    assert len(ledger.stored) > 600 and len(ledger.acknowledged) > 200
