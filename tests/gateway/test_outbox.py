"""The outbox: lanes, skips, limits, damage, and SIGKILL at any instant."""

import itertools
import json
import os
import random
import resource
import sqlite3
import time
from contextlib import contextmanager

import pytest

from gateway.outbox import FRESH_MS, RECORD_OVERHEAD, Loss, Outbox, OutboxUnavailable, Parcel, Span, Turn
from sdk_bridge.wire.codec import decode_up
from sdk_bridge.wire.messages import Skip, SkipCounts

BOOT = "0f0e0d0c-0000-4000-8000-000000000001"
EARLIER = "0f0e0d0c-0000-4000-8000-000000000000"
ALL = {"live": 64, "backlog": 64}


@pytest.fixture
def open_outbox(tmp_path):
    opened = []
    epochs = (f"{number:016x}" for number in itertools.count(1))

    def make(max_bytes=10**7, name="outbox.db"):
        outbox = Outbox(
            tmp_path / name,
            max_bytes=max_bytes,
            new_epoch=lambda: next(epochs),
            now_ms=itertools.count(1).__next__,
        )
        opened.append(outbox)
        return outbox

    yield make
    for outbox in opened:
        outbox.close()


def parcel(text, at_ms=0, boot_id=BOOT, size=0, readings=3):
    return Parcel(text.encode().ljust(size, b"."), boot_id, at_ms, readings)


def turn(outbox, now_ms=0, **more):
    return outbox.turn(Turn(epoch=outbox.stock.epoch, boot_id=BOOT, now_ms=now_ms, **more))


def sent(outbox, lane, first=1):
    return [
        (record.seq, record.payload.rstrip(b".").decode("latin1")) for record in outbox.load(lane, first, 999)
    ]


def skips(outbox, lane):
    return [
        (record.seq, decode_up(record.payload))
        for record in outbox.load(lane, 1, 999)
        if record.payload[:1] != b"." and b"skip" in record.payload
    ]


def test_fresh_records_go_live_at_once(open_outbox):
    outbox = open_outbox()
    stock = turn(outbox, parcels=[parcel("a"), parcel("b")], room=ALL)
    assert stock.lanes == {"live": Span(0, 2), "backlog": Span(0, 0)}
    assert sent(outbox, "live") == [(1, "a"), (2, "b")]


def test_what_waited_thirty_seconds_goes_to_the_backlog_and_what_is_fresh_does_not_wait_for_it(open_outbox):
    outbox = open_outbox()
    for second in range(100):
        turn(outbox, second * 1000, parcels=[parcel(f"{second}", second * 1000)])
    turn(outbox, 100_000, room={"live": 64, "backlog": 8})
    assert sent(outbox, "backlog") == [(n + 1, f"{n}") for n in range(8)]
    fresh = [n for n in range(100) if 100_000 - n * 1000 < FRESH_MS]
    assert sent(outbox, "live") == [(i + 1, f"{n}") for i, n in enumerate(fresh)]


def test_another_boots_records_are_never_fresh(open_outbox):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel("old", boot_id=EARLIER)], room=ALL)
    assert sent(outbox, "backlog") == [(1, "old")] and not sent(outbox, "live")
    assert outbox.load("backlog", 1, 1)[0].boot_id == EARLIER


def test_a_heartbeat_comes_after_what_is_fresh_or_not_at_all(open_outbox):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel("a"), parcel("b")], heartbeat=b"beat", room={"live": 2})
    turn(outbox, heartbeat=b"beat", room={"live": 0})
    turn(outbox, heartbeat=b"beat", room={"live": 1})
    assert sent(outbox, "live") == [(1, "a"), (2, "b"), (3, "beat")]


def test_acknowledged_records_are_gone_and_their_numbers_are_not_reused(open_outbox):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel("a"), parcel("b"), parcel("c")], room=ALL)
    stock = turn(outbox, acked={"live": 2})
    assert stock.lanes["live"] == Span(2, 3)
    assert (stock.records, stock.bytes) == (1, 1 + RECORD_OVERHEAD)
    assert turn(outbox, acked={"live": 3}).records == 0
    turn(outbox, parcels=[parcel("d")], room=ALL)
    assert sent(outbox, "live") == [(4, "d")]


def test_numbers_and_contents_survive_reopening(open_outbox):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel("a"), parcel("b")], room={"live": 1})
    before = outbox.stock
    outbox.close()
    again = open_outbox()
    assert again.stock == before
    assert sent(again, "live") == [(1, "a")]
    turn(again, room=ALL)
    assert sent(again, "live") == [(1, "a"), (2, "b")]


def test_acknowledgements_of_a_former_epoch_delete_nothing(open_outbox):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel("a")], room=ALL)
    outbox.turn(Turn(epoch="feedfeedfeedfeed", boot_id=BOOT, now_ms=0, acked={"live": 1}))
    assert sent(outbox, "live") == [(1, "a")]


def test_over_its_limit_it_drops_the_oldest_unsent_and_one_skip_counts_them(open_outbox):
    outbox = open_outbox(max_bytes=20_000)
    for number in range(100):
        turn(outbox, number, parcels=[parcel(f"{number}", number, size=872, readings=2)])
        assert outbox.stock.bytes <= 20_000
    kept = outbox.stock.records - 1
    turn(outbox, 10**6, room=ALL)
    records = outbox.load("backlog", 1, 999)
    first = decode_up(records[0].payload)
    assert first == Skip(1, "outbox-full", SkipCounts(100 - kept, 2 * (100 - kept)))
    assert [int(r.payload.rstrip(b".")) for r in records[1:]] == list(range(100 - kept, 100))
    assert [r.seq for r in records] == list(range(1, kept + 2))


def test_with_nothing_unsent_left_even_numbered_records_become_one_skip(open_outbox):
    outbox = open_outbox(max_bytes=10_000)
    for number in range(8):
        turn(outbox, parcels=[parcel(f"{number}", size=1000)], room=ALL)
    turn(outbox, acked={"live": 2})
    turn(outbox, parcels=[parcel("big", size=4000)], room=ALL)
    assert outbox.stock.bytes <= 10_000
    [(seq, skip)] = skips(outbox, "live")
    assert (seq, skip) == (3, Skip(8, "outbox-full", SkipCounts(6, 18)))
    assert [r.seq for r in outbox.load("live", 3, 99)] == [3, 9]


def test_a_skip_begins_where_the_receiver_already_is(open_outbox):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel(f"{n}") for n in range(9)], room=ALL)
    outbox.skip("live", 2, 8, "packet-size")
    turn(outbox, acked={"live": 5})
    assert [(r.seq, r.last) for r in outbox.load("live", 6, 99)] == [(6, 8), (9, 9)]
    assert turn(outbox, acked={"live": 8}).records == 1


def test_what_could_not_be_stored_is_reported_by_a_skip(open_outbox):
    outbox = open_outbox()
    turn(outbox, lost=Loss(4, 17), room=ALL)
    assert skips(outbox, "live") == [(1, Skip(1, "disk-full", SkipCounts(4, 17)))]


def test_a_new_epoch_renumbers_what_is_left_and_drops_stale_heartbeats(open_outbox):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel("a"), parcel("b")], heartbeat=b"beat", room=ALL)
    turn(outbox, acked={"live": 1})
    old = outbox.stock.epoch
    stock = outbox.renew("receiver-forgot", 7, (BOOT, 0))
    assert stock.epoch != old and stock.lanes["live"] == Span(0, 0)
    turn(outbox, room=ALL)
    assert sent(outbox, "live")[0] == (1, "b")
    assert skips(outbox, "live") == [(2, Skip(2, "receiver-forgot", SkipCounts(7, 0)))]
    assert turn(outbox, acked={"live": 2}).bytes == 0


def test_anchors_are_kept_while_a_record_of_their_boot_is(open_outbox):
    outbox = open_outbox()
    outbox.learn_anchor(EARLIER, 1_700_000_000_000)
    turn(outbox, parcels=[parcel("old", boot_id=EARLIER)], room=ALL)
    outbox.learn_anchor(BOOT, 1_700_000_100_000)
    outbox.close()
    again = open_outbox()
    assert again.anchors == {EARLIER: 1_700_000_000_000, BOOT: 1_700_000_100_000}
    turn(again, acked={"backlog": 1})
    again.learn_anchor(BOOT, 1_700_000_100_001)
    again.close()
    assert open_outbox().anchors == {BOOT: 1_700_000_100_001}


@pytest.mark.parametrize("damage", ["no database at all", "torn pages"])
def test_a_corrupt_file_is_moved_aside_and_a_new_life_begins(open_outbox, tmp_path, damage):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel(f"{n}", size=3000) for n in range(50)], room=ALL)
    epoch = outbox.stock.epoch
    outbox.close()
    path = tmp_path / "outbox.db"
    content = path.read_bytes()
    path.write_bytes(
        b"x" * 9000 if damage == "no database at all" else content[:4096] + os.urandom(len(content) - 4096)
    )
    again = open_outbox()
    assert again.stock.epoch != epoch and again.stock.records == 0
    assert [aside.exists() for aside in again.moved_aside] == [True]
    turn(again, parcels=[parcel("new")], room=ALL)
    assert skips(again, "live") == [(1, Skip(1, "outbox-corrupt", SkipCounts(0, 0)))], "told once"
    turn(again, room=ALL)
    assert sent(again, "live")[1:] == [(2, "new")]


def test_damage_found_in_operation_begins_a_new_life_too(open_outbox, tmp_path):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel(f"{n}", size=3000) for n in range(50)], room=ALL)
    outbox._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    outbox._database.execute("PRAGMA cache_size = 1")
    with (tmp_path / "outbox.db").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(200_000))
    epoch = outbox.stock.epoch
    turn(outbox, parcels=[parcel("new")], room=ALL)
    assert outbox.stock.epoch != epoch and len(outbox.moved_aside) == 1
    assert skips(outbox, "live") == [(1, Skip(1, "outbox-corrupt", SkipCounts(0, 0)))]
    assert sent(outbox, "live")[1:] == [(2, "new")]


def test_only_the_newest_corrupt_files_are_kept(open_outbox, tmp_path):
    for _ in range(4):
        (tmp_path / "outbox.db").write_bytes(b"no database" * 1000)
        open_outbox().close()
        time.sleep(0)
    assert len(list(tmp_path.glob("outbox.db.corrupt-*"))) <= 2


@contextmanager
def full_disk(size):
    """No file of this process may grow beyond `size`, as on a full card."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_and_recovers(open_outbox):
    outbox = open_outbox()
    turn(outbox, parcels=[parcel("before")], room=ALL)
    with full_disk(100_000):
        with pytest.raises(OutboxUnavailable):
            for _ in range(50):
                turn(outbox, parcels=[parcel("lost", size=50_000)])
        kept = outbox.stock
        with pytest.raises(OutboxUnavailable):
            turn(outbox, parcels=[parcel("lost", size=50_000)])
        assert outbox.stock == kept
    turn(outbox, parcels=[parcel("after")], room=ALL)
    assert sent(outbox, "live")[0] == (1, "before") and sent(outbox, "live")[-1][1] == "after"
    rows = outbox._database.execute("SELECT count(*), sum(length(payload)) FROM record").fetchone()
    assert (outbox.stock.records, outbox.stock.bytes) == (rows[0], rows[1] + rows[0] * RECORD_OVERHEAD)


def test_a_file_of_a_newer_gateway_is_left_alone(open_outbox, tmp_path):
    open_outbox().close()
    with sqlite3.connect(tmp_path / "outbox.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(OutboxUnavailable, match="newer"):
        open_outbox()


_CHILD = """
import json, random, sys
from gateway.outbox import *
path, life = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(life)
say = lambda *words: (sys.stdout.write(json.dumps(words) + "\\n"), sys.stdout.flush())
outbox = Outbox(path, max_bytes=10**8, new_epoch=lambda: "e" * 16, now_ms=lambda: life)
acked = {lane: span.acked for lane, span in outbox.stock.lanes.items()}
for n in range(10**6):
    now = life * 10**6 + n * 1000
    room = chance.choice([{}, {"live": 5}, {"live": 5, "backlog": 9}])
    name = f"{life}-{n}"
    parcel = Parcel(name.encode().ljust(chance.choice([20, 9000]), b"."), "boot", now, 1)
    beat = b"beat" if chance.random() < 0.2 else None
    stock = outbox.turn(Turn("e" * 16, "boot", now, [parcel], beat, dict(acked), room))
    say("stored", name)
    for lane in LANES:
        for record in outbox.load(lane, acked[lane] + 1, 64):
            say("sent", lane, record.seq, record.payload.rstrip(b".").decode())
        if chance.random() < 0.4:
            acked[lane] = min(stock.lanes[lane].last, acked[lane] + chance.randint(0, 8))
            say("acked", lane, acked[lane])
"""


def test_sigkill_at_any_instant_loses_nothing_and_renumbers_nothing(tmp_path, child):
    """Thirty lives of one outbox, each killed in the middle of whatever it was doing."""
    path = tmp_path / "outbox.db"
    chance = random.Random(7)
    stored: set[str] = set()
    numbered: dict[tuple[str, int], str] = {}
    acked = {"live": 0, "backlog": 0}

    def saw(lane, seq, content):
        assert numbered.setdefault((lane, seq), content) == content, f"{lane} {seq} was renumbered"

    for life in range(30):
        with child("from pathlib import Path\n" + _CHILD, path, life) as (process, printed):
            lines = [printed.readline()]  # it lives, and has committed once
            time.sleep(chance.uniform(0, 0.08))
            process.kill()
            lines += printed
        for line in lines:
            if not line.endswith("\n"):
                continue
            what, *facts = json.loads(line)
            if what == "stored":
                stored.add(facts[0])
            elif what == "sent":
                saw(*facts)
            else:
                acked[facts[0]] = max(acked[facts[0]], facts[1])
    outbox = Outbox(path, max_bytes=10**8, new_epoch=lambda: "f" * 16, now_ms=lambda: 0)
    assert outbox.stock.epoch == "e" * 16 and not outbox.moved_aside
    while outbox.stock.waiting:
        outbox.turn(Turn("e" * 16, "boot", 10**12, room={"backlog": 64}))
    for lane, span in outbox.stock.lanes.items():
        assert span.acked <= acked[lane]
        records = outbox.load(lane, span.acked + 1, 10**6)
        assert [record.seq for record in records] == list(range(span.acked + 1, span.last + 1))
        for record in records:
            saw(lane, record.seq, record.payload.rstrip(b".").decode())
    outbox.close()
    carried = [content for content in numbered.values() if content != "beat"]
    assert len(stored) > 100 and sorted(carried) == sorted(set(carried))
    assert stored <= set(carried), "something acknowledged to the caller is gone"
