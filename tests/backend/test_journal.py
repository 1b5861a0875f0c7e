"""The journal: group commits, SIGKILL at any time, message ids, bounds, a full disk, a poisoned group."""

import asyncio
import random
import sqlite3
import textwrap

import pytest

from backend.storage import letters
from backend.storage.database import SqliteFile, open_for_writing
from backend.storage.entries import BEGINNING, EVENTS_AN_ENTRY, EVENTS_TOGETHER, Cursor, Entry
from backend.storage.group import LANES_A_GATEWAY
from backend.storage.journal import (
    HOUR_MS,
    MAX_WAITING,
    MAX_WAITING_BYTES,
    GatewayAppend,
    Journal,
    LaneKey,
    message_hash,
)
from backend.storage.letters import NewLetter
from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.wire.app_events import AppEvent, decode_events

NOON = 1_750_075_200_000
EPOCH = "0123456789abcdef"
LANE = LaneKey("s1/g1", EPOCH, "live")


def append(first: int, upto: int | None = None, lane: LaneKey = LANE, **more) -> GatewayAppend:
    more.setdefault("payload", f"{lane.gateway} {first}".encode())
    return GatewayAppend(lane, first, upto or first, NOON, 7, **more)


def event(message_id: str, at: int = NOON, **more) -> AppEvent:
    defaults = {"source": "web", "occurred_at": at, "original_at": at, "received_at": NOON, "user_id": "u1"}
    return AppEvent(kind="track", message_id=message_id, **{**defaults, **more})


async def everything(journal: Journal) -> list[Entry]:
    cursor, found = BEGINNING, []
    while page := await journal.after(cursor, 1_000):
        found += page
        cursor = cursor.past(page[-1])
    return found


async def column(file: SqliteFile, sql: str) -> list:
    return await file.read(lambda s: [row[0] for row in s._connection.execute(sql)])


# Gateways' sequences --------------------------------------------------------------------------------------


async def test_entries_come_out_in_the_order_they_went_in(journal):
    for seq in range(1, 4):
        assert await journal.append_gateway(append(seq)) == seq
    await journal.append_events([event("m1")])
    entries = await journal.after(BEGINNING, 10)
    assert [entry.kind for entry in entries] == ["gateway"] * 3 + ["app"]
    assert [entry.payload for entry in entries[:3]] == [b"s1/g1 1", b"s1/g1 2", b"s1/g1 3"]
    assert journal.head == Cursor({0: entries[-1].position})
    assert [entry.position for entry in await journal.after(BEGINNING.past(entries[1]), 1)] == [
        entries[2].position
    ]


@pytest.mark.parametrize(("first", "answer"), [(1, 2), (2, 2), (3, 3), (4, 2), (99, 2)])
async def test_only_the_next_in_line_is_kept_and_the_answer_is_how_far_the_lane_is(journal, first, answer):
    await journal.append_gateway(append(1))
    await journal.append_gateway(append(2))
    assert await journal.append_gateway(append(first)) == answer
    assert len(await journal.after(BEGINNING, 10)) == answer


async def test_what_was_sent_ahead_fails_with_what_it_follows(journal):
    """The first fails to commit, and its followers are in other groups: none of them may get past it."""
    followers = [asyncio.create_task(journal.append_gateway(append(seq))) for seq in (2, 3, 4)]
    assert await asyncio.gather(*followers) == [0, 0, 0]
    assert await journal.after(BEGINNING, 10) == []


async def test_a_skip_moves_the_lane_past_what_will_never_come(journal):
    assert await journal.append_gateway(append(1, upto=500)) == 500
    assert await journal.append_gateway(append(501)) == 501


async def test_lanes_epochs_and_gateways_are_apart_and_survive_a_restart(journal, journal_file, clock):
    lanes = [
        LANE,
        LaneKey("s1/g1", EPOCH, "backlog"),
        LaneKey("s1/g1", "ff" * 8, "live"),
        LaneKey("s1/g2", EPOCH, "live"),
    ]
    for count, lane in enumerate(lanes, start=1):
        for seq in range(1, count + 1):
            await journal.append_gateway(append(seq, lane=lane))
    again = Journal(journal_file, clock)
    assert await again.load() == dict(zip(lanes, [1, 2, 3, 4], strict=True))
    assert again.head == journal.head == Cursor({0: 10})


async def test_what_may_not_be_kept_consumes_its_sequence_and_is_counted(journal, journal_file):
    await journal.append_gateway(append(1, payload=None, forgotten={"no consent": 5}))
    await journal.append_gateway(append(2, payload=None, forgotten={"no consent": 7}))
    await journal.append_gateway(
        append(3, payload=None, buried=NewLetter(NOON, "s1/g1", "unreadable", b"??", "message"))
    )
    assert (await journal.load())[LANE] == 3
    assert await journal.after(BEGINNING, 10) == []
    assert await column(journal_file, "select adverts from forgotten") == [12]
    assert await column(journal_file, "select payload from dead_letters") == [b"??"]


async def test_a_repeated_message_is_not_counted_twice(journal, journal_file):
    for _ in range(3):
        await journal.append_gateway(append(1, forgotten={"no consent": 5}))
    assert await column(journal_file, "select adverts from forgotten") == [5]


async def test_positions_are_never_given_twice(journal, journal_file, clock):
    await journal.append_gateway(append(1))
    head = journal.head
    await journal.delete_folded(head)
    again = Journal(journal_file, clock)
    await again.load()
    assert again.head == head
    await journal.append_gateway(append(2))
    assert journal.head.behind(head) == 0 and head.behind(journal.head) == 1


async def test_a_gateway_that_begins_epochs_for_ever_fills_no_disk(journal, journal_file):
    for number in range(3 * LANES_A_GATEWAY):
        lane = LaneKey("s1/g1", f"{number:016x}", "live")
        await journal.append_gateway(GatewayAppend(lane, 1, 1, NOON + number, 7, payload=b"x"))
    kept = await column(journal_file, "select epoch from lanes order by epoch")
    assert kept == [f"{number:016x}" for number in range(2 * LANES_A_GATEWAY, 3 * LANES_A_GATEWAY)]


# App events -----------------------------------------------------------------------------------------------


async def test_a_message_id_counts_once(journal):
    assert await journal.append_events([event("m1"), event("m2"), event("m1")]) == 2
    assert await journal.append_events([event("m2"), event("m3")]) == 1
    stored = [
        one.message_id for entry in await journal.after(BEGINNING, 10) for one in decode_events(entry.payload)
    ]
    assert sorted(stored) == ["m1", "m2", "m3"]


async def test_what_may_not_be_kept_any_more_fails_alone_and_may_come_again(journal_file, clock, running):
    """The question is asked in the commit; whoever shares it is kept."""
    journal = Journal(journal_file, clock)
    late, good = (
        asyncio.create_task(journal.append_events([event(name)], still=lambda may=may: may))
        for name, may in (("m1", False), ("m2", True))
    )
    await asyncio.sleep(0)  # both wait for one commit
    async with running(journal.run()):
        with pytest.raises(JournalBusy):
            await late
        assert await good == 1
        assert await journal.append_events([event("m1"), event("m2")]) == 1


async def test_a_message_that_comes_twice_into_one_commit_counts_once(journal_file, clock, running):
    journal = Journal(journal_file, clock)
    calls = [[event("m1"), event("m2")], [event("m2"), event("m1", source="app"), event("m3")], [event("m3")]]
    waiting = [asyncio.create_task(journal.append_events(call)) for call in calls]
    await asyncio.sleep(0)
    async with running(journal.run()):
        assert await asyncio.gather(*waiting) == [2, 2, 0]
    entries = await journal.after(BEGINNING, 10)
    assert sum(len(decode_events(entry.payload)) for entry in entries) == 4


async def test_the_same_id_of_another_source_is_another_message(journal):
    assert await journal.append_events([event("m1"), event("m1", source="app")]) == 2


async def test_nothing_new_leaves_no_entry(journal):
    await journal.append_events([event("m1")])
    head = journal.head
    assert await journal.append_events([event("m1")]) == 0
    assert await journal.append_events([]) == 0
    assert journal.head == head


async def test_a_request_is_one_entry_in_its_order_whoever_it_is_about(journal):
    people = [("m1", "u1"), ("m2", None), ("m3", "u2"), ("m4", "u1")]
    await journal.append_events([event(name, user_id=user, anonymous_id="a1") for name, user in people])
    [entry] = await journal.after(BEGINNING, 10)
    assert [one.message_id for one in decode_events(entry.payload)] == ["m1", "m2", "m3", "m4"]


async def test_requests_of_one_source_and_moment_share_an_entry(journal_file, clock, running):
    journal = Journal(journal_file, clock)
    calls = [
        [event("m1"), event("m2", original_at=0)],
        [event("m1", source="app")],
        [event("m3", received_at=NOON + 999), event("m2", original_at=0)],
        [event("m4", received_at=NOON + 60_000)],
    ]
    waiting = [asyncio.create_task(journal.append_events(call)) for call in calls]
    await asyncio.sleep(0)
    async with running(journal.run()):
        assert await asyncio.gather(*waiting) == [2, 1, 1, 1]
    found = [
        (entry.source, entry.received_at, [one.message_id for one in decode_events(entry.payload)])
        for entry in await journal.after(BEGINNING, 10)
    ]
    assert sorted(found) == [
        ("app", NOON, ["m1"]),
        ("web", NOON, ["m1", "m2", "m3"]),
        ("web", NOON + 60_000, ["m4"]),
    ]


async def test_more_events_than_the_fold_takes_at_once_become_several_entries(journal):
    names = [f"m{number}" for number in range(2 * EVENTS_TOGETHER + 1)]
    await journal.append_events([event(name) for name in names])
    entries = [decode_events(entry.payload) for entry in await journal.after(BEGINNING, 10)]
    assert [len(events) for events in entries] == [EVENTS_TOGETHER, EVENTS_TOGETHER, 1]
    assert [one.message_id for events in entries for one in events] == names
    assert EVENTS_TOGETHER <= EVENTS_AN_ENTRY


DAYS = 24 * HOUR_MS


@pytest.mark.parametrize("their_clock", [0, -2 * HOUR_MS, -30 * DAYS, 2 * HOUR_MS, 300 * DAYS])
@pytest.mark.parametrize(("later", "new"), [(0, 0), (6 * DAYS, 0), (7 * DAYS, 0), (9 * DAYS + HOUR_MS, 1)])
async def test_for_seven_days_a_message_counts_once_whatever_its_own_clock_says(
    journal, clock, their_clock, later, new
):
    if their_clock > 0 and later > 8 * DAYS and their_clock < DAYS:
        later += their_clock  # an id of the near future is kept until then
    await journal.append_events([event("m1", clock() + their_clock)])
    clock.forward(later)
    await journal.forget_old_messages()
    again = event("m1", NOON + their_clock)
    assert await journal.append_events([again]) == new


@pytest.mark.parametrize(("later", "new"), [(2 * HOUR_MS, 0), (7 * DAYS, 0), (9 * DAYS, 1)])
async def test_a_message_without_a_time_of_its_own_counts_once_too(journal, clock, later, new):
    await journal.append_events([event("m1", original_at=0, received_at=clock())])
    clock.forward(later)
    await journal.forget_old_messages()
    again = event("m1", clock(), original_at=0, received_at=clock())
    assert await journal.append_events([again]) == new


async def test_ids_of_an_earlier_version_are_known(tmp_path, clock, running):
    """The third migration meets what the first left."""
    path = tmp_path / "earlier.db"
    open_for_writing(path, "journal").close()
    with sqlite3.connect(path) as old:
        old.execute("drop table recent_message_ids")
        old.execute("drop table sorted_message_ids")
        old.execute("drop table message_ids")
        old.execute(
            "create table message_ids (hour integer not null, hash integer not null, received_hour integer"
            " not null, primary key (hour, hash))"
        )
        hour = NOON // HOUR_MS
        old.execute("insert into message_ids values (?, ?, ?)", (hour, message_hash("web", "m1"), hour))
        old.execute("pragma user_version = 2")
    async with SqliteFile(path, "journal") as file:
        journal = Journal(file, clock)
        async with running(journal.run()):
            assert await journal.append_events([event("m1"), event("m2")]) == 1


async def test_forgetting_says_how_many(journal, clock):
    await journal.append_events([event(f"m{number}") for number in range(5)])
    assert await journal.forget_old_messages() == 0
    clock.forward(9 * DAYS)
    assert await journal.forget_old_messages() == 5


# Dead letters, back-pressure, faults ----------------------------------------------------------------------


async def test_dead_letters_are_bounded_and_the_newest_stay(journal, journal_file, monkeypatch):
    monkeypatch.setattr(letters, "LETTERS_KEPT", 10)
    for number in range(25):
        await journal.bury(NewLetter(NOON, "o" * 999, "r" * 9999, str(number).encode(), "message"))
    assert await column(journal_file, "select payload from dead_letters") == [
        b"%d" % n for n in range(15, 25)
    ]
    assert await column(journal_file, "select max(length(origin)) from dead_letters") == [200]
    assert await column(journal_file, "select max(length(reason)) from dead_letters") == [500]
    assert await column(journal_file, "select fell_out from dead_letter_room") == [15]
    assert letters.LETTERS_KEPT <= 10_000


async def test_dead_letters_are_bounded_in_bytes_too(journal, journal_file, monkeypatch):
    monkeypatch.setattr(letters, "BYTES_KEPT", 1_000)
    for size in (300, 300, 300, 300, 2_000, 10):
        await journal.bury(NewLetter(NOON, "s1/g1", "unreadable", bytes(size), "message"))
    room = await journal_file.read(letters.room)
    assert await column(journal_file, "select length(payload) from dead_letters") == [10]
    assert (room.letters, room.bytes, room.fell_out) == (1, 10, 5)


async def test_many_senders_share_a_commit(journal_file, clock, running):
    journal = Journal(journal_file, clock)
    commits = 0
    write = journal_file.write

    async def counted(work):
        nonlocal commits
        commits += 1
        return await write(work)

    journal_file.write = counted
    lanes = [LaneKey(f"s1/g{number}", EPOCH, "live") for number in range(200)]
    waiting = [asyncio.create_task(journal.append_gateway(append(1, lane=lane))) for lane in lanes]
    await asyncio.sleep(0)
    async with running(journal.run()):
        assert await asyncio.gather(*waiting) == [1] * 200
    assert commits == 1


async def test_a_disk_that_stalls_shows_as_back_pressure_not_as_memory(journal_file, clock, running):
    journal = Journal(journal_file, clock)
    waiting = [asyncio.create_task(journal.append_gateway(append(1))) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(JournalBusy):
        await journal.append_gateway(append(1))
    async with running(journal.run()):
        assert await asyncio.gather(*waiting) == [1] * MAX_WAITING
        assert await journal.append_gateway(append(2)) == 2


async def test_large_messages_count_by_their_bytes(journal_file, clock, running):
    journal = Journal(journal_file, clock)
    large = append(1, payload=bytes(MAX_WAITING_BYTES // 4))
    waiting = [asyncio.create_task(journal.append_gateway(large)) for _ in range(4)]
    await asyncio.sleep(0)
    for refused in (large, append(1)):
        with pytest.raises(JournalBusy):
            await journal.append_gateway(refused)
    async with running(journal.run()):
        await asyncio.gather(*waiting)
        assert await journal.append_gateway(append(2)) == 2


async def test_a_full_disk_refuses_everybody_and_passes(journal, journal_file, eventually):
    def limit(pages: int):
        return lambda s: s._connection.execute(f"pragma max_page_count = {pages}").fetchone()[0]

    await journal_file.write(limit(1))  # SQLite raises it to what is in use
    kept, refused = 0, 0
    while refused < 3:
        try:
            kept = await journal.append_gateway(append(kept + 1, payload=bytes(20_000)))
        except JournalBusy:
            refused += 1
    assert (await journal.load())[LANE] == kept if kept else True
    with pytest.raises(JournalBusy):
        await journal.append_events([event("m1", properties={"text": "x" * 20_000})])
    await journal_file.write(limit(1_000_000))
    assert await journal.append_gateway(append(kept + 1, payload=bytes(20_000))) == kept + 1
    assert await journal.append_events([event("m1", properties={"text": "x" * 20_000})]) == 1


async def test_one_poisoned_work_does_not_fail_its_group(journal_file, clock, running):
    journal = Journal(journal_file, clock)
    works = [
        journal.append_events([event("good 1")]),
        journal.append_events([event("poison", original_at=2**80)]),
        journal.append_gateway(append(1)),
        journal.append_events([event("poison", properties={"n": 2**70})]),
        journal.append_events([event("good 2")]),
    ]
    waiting = [asyncio.create_task(work) for work in works]
    await asyncio.sleep(0)
    async with running(journal.run()):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [result if isinstance(result, int) else "refused" for result in results] == [
        1,
        "refused",
        1,
        "refused",
        1,
    ]
    assert not any(isinstance(result, JournalBusy) for result in results), "coming again would not help"


async def test_a_sender_that_goes_away_does_no_harm(journal_file, clock, running):
    journal = Journal(journal_file, clock)
    leaving = asyncio.create_task(journal.append_gateway(append(1)))
    staying = asyncio.create_task(journal.append_gateway(append(2)))
    await asyncio.sleep(0)
    leaving.cancel()
    async with running(journal.run()):
        assert await staying == 2


async def test_whoever_waits_is_woken_by_a_commit(journal):
    journal.appended.clear()
    await journal.append_gateway(append(1))
    assert journal.appended.is_set()


# SIGKILL --------------------------------------------------------------------------------------------------

CHILD = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from backend.storage.database import SqliteFile, open_for_writing
    from backend.storage.journal import GatewayAppend, Journal, LaneKey
    from sdk_bridge.wire.app_events import AppEvent

    NOW = 1_750_075_200_000

    async def gateway(journal, lane, upto):
        while True:
            upto += 1
            append = GatewayAppend(lane, upto, upto, NOW, 1, payload=f"{lane.gateway} {upto}".encode(),
                                   forgotten={"no consent": 1})
            assert await journal.append_gateway(append) == upto
            print(f"{lane.gateway} {upto}", flush=True)

    async def app(journal, number):
        while True:
            number += 1
            event = AppEvent("track", f"m{number}", source="web", occurred_at=NOW, received_at=NOW)
            await journal.append_events([event])
            print(f"app {number}", flush=True)

    async def main(path, sent):
        async with SqliteFile(Path(path), "journal") as file:
            journal = Journal(file, lambda: NOW)
            known = await journal.load()
            lanes = [LaneKey(f"s1/g{n}", "0123456789abcdef", "live") for n in range(4)]
            works = [gateway(journal, lane, known.get(lane, 0)) for lane in lanes]
            await asyncio.gather(journal.run(), app(journal, sent), *works)

    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
""")
KILLS = 20


async def test_whatever_was_acknowledged_is_there_once_after_every_kill(tmp_path, clock, said_until_killed):
    path, seed = tmp_path / "journal.db", 20_250_616
    chance, acknowledged = random.Random(seed), {"app": 0}
    for _ in range(KILLS):
        told = (str(path), str(acknowledged["app"]))
        for line in said_until_killed(CHILD, *told, lines=chance.randrange(0, 120)):
            name, upto = line.split()
            acknowledged[name] = int(upto)
    async with SqliteFile(path, "journal") as file:
        journal = Journal(file, clock)
        lanes = await journal.load()
        entries = await everything(journal)
        forgotten = await column(file, "select sum(adverts) from forgotten")
        assert await column(file, "pragma integrity_check") == ["ok"]
    told = [entry.payload.decode() for entry in entries if entry.kind == "gateway"]
    for lane, upto in lanes.items():
        assert upto >= acknowledged[lane.gateway]
        assert [one for one in told if one.startswith(lane.gateway + " ")] == [
            f"{lane.gateway} {seq}" for seq in range(1, upto + 1)
        ]
    assert forgotten == [len(told)]
    ids = [one.message_id for entry in entries if entry.kind == "app" for one in decode_events(entry.payload)]
    assert ids == [f"m{number}" for number in range(1, len(ids) + 1)]
    assert len(ids) >= acknowledged["app"] > KILLS
