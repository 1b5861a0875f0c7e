"""The contract of the journal on both engines: sequences, message ids, positions, cursors, many writers."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.storage import group
from backend.storage.entries import BEGINNING, EVENTS_AN_ENTRY, EVENTS_TOGETHER, Cursor, Entry, event_id
from backend.storage.group import LANES_A_GATEWAY
from backend.storage.journal import (
    HOUR_MS,
    MESSAGE_DAYS,
    GatewayAppend,
    Journal,
    LaneKey,
    may_have_more,
)
from backend.storage.letters import NewLetter
from backend.storage.session import Database
from sdk_bridge.wire.app_events import AppEvent, decode_events
from sdk_bridge.wire.topics import PARTITIONS, partition_of

NOON = 1_750_075_200_000
LANE = LaneKey("s1/g1", "0123456789abcdef", "live")


def append(first: int, upto: int | None = None, lane: LaneKey = LANE, **more) -> GatewayAppend:
    more.setdefault("payload", f"{lane.gateway} {first}".encode())
    more.setdefault("partition", 7)
    more.setdefault("received_at", NOON + first)
    return GatewayAppend(lane, first, upto or first, **more)


def event(message_id: str, at: int = NOON, **more) -> AppEvent:
    defaults = {"source": "web", "occurred_at": at, "original_at": at, "received_at": NOON, "user_id": "u1"}
    return AppEvent(kind="track", message_id=message_id, **{**defaults, **more})


def in_partition(partition: int) -> str:
    """A user whose events belong to a partition."""
    return next(name for name in map(str, range(10_000)) if partition_of(name) == partition)


async def everything(journal: Journal, page: int = 100) -> list[Entry]:
    cursor, found = BEGINNING, []
    while entries := await journal.after(cursor, page):
        found += entries
        for entry in entries:
            cursor = cursor.past(entry)
    return found


async def test_a_partitions_entries_come_out_in_the_order_they_went_in(journal: Journal) -> None:
    for seq in range(1, 6):
        assert await journal.append_gateway(append(seq)) == seq
    entries = await everything(journal, page=2)
    assert [entry.payload for entry in entries] == [f"s1/g1 {seq}".encode() for seq in range(1, 6)]
    assert [entry.position for entry in entries] == list(range(entries[0].position, entries[0].position + 5))
    first = entries[0]
    assert (first.kind, first.source, first.lane, first.partition) == ("gateway", "s1/g1", "live", 7)
    assert (first.boot_offset, first.received_at) == (None, NOON + 1)


@pytest.mark.parametrize(("first", "answer"), [(1, 2), (2, 2), (3, 3), (4, 2), (99, 2)])
async def test_only_the_next_in_line_is_kept(journal: Journal, first: int, answer: int) -> None:
    for seq in (1, 2):
        await journal.append_gateway(append(seq))
    assert await journal.append_gateway(append(first)) == answer
    assert len(await everything(journal)) == answer


async def test_what_two_processes_take_in_at_once_is_kept_once(open_area, engine, monkeypatch) -> None:
    """As one takes a gateway over from the other, which does not know it yet."""
    if engine == "sqlite":
        pytest.skip("one transaction at a time writes to a file")
    async with open_area("journal") as one, open_area("journal") as other, asyncio.TaskGroup() as tasks:
        ours, theirs = (Journal(file, lambda: NOON) for file in (one, other))
        running = [tasks.create_task(journal.run()) for journal in (ours, theirs)]
        loop, in_between = asyncio.get_running_loop(), list[int]()
        read = group._positions

        def read_and_wait(session, lanes):
            found = read(session, lanes)
            if in_between:
                theirs_too = theirs.append_gateway(append(in_between.pop()))
                asyncio.run_coroutine_threadsafe(theirs_too, loop).result(20)
            return found

        monkeypatch.setattr(group, "_positions", read_and_wait)
        for seq in (1, 2):  # of a lane that nobody knew, and of one that is known
            in_between.append(seq)
            assert await ours.append_gateway(append(seq)) == seq
            assert [entry.payload for entry in await everything(ours)][seq - 1 :] == [append(seq).payload]
        for task in running:
            task.cancel()


async def test_lanes_survive_a_restart_and_so_does_the_head(journal: Journal, journal_file: Database) -> None:
    lanes = [LANE, LaneKey("s1/g1", "ff" * 8, "live"), LaneKey("s1/g2", LANE.epoch, "backlog")]
    for count, lane in enumerate(lanes, start=1):
        for seq in range(1, count + 1):
            await journal.append_gateway(append(seq, lane=lane, partition=count))
    again = Journal(journal_file, lambda: NOON)
    assert await again.load() == dict(zip(lanes, [1, 2, 3], strict=True))
    assert again.head == journal.head
    assert BEGINNING.behind(again.head) == 6


async def test_what_may_not_be_kept_consumes_its_sequence_and_is_counted(
    journal: Journal, journal_file
) -> None:
    await journal.append_gateway(append(1, payload=None, forgotten={"no consent": 5}))
    await journal.append_gateway(
        append(2, upto=9, payload=None, forgotten={"no consent": 7, "eid_unresolved": 1})
    )
    assert (await journal.load())[LANE] == 9
    assert await everything(journal) == []
    forgotten = await journal_file.read(lambda s: [dict(row) for row in s.rows("forgotten_by_gateway")])
    assert forgotten == [{"gateway": "s1/g1", "adverts": 13}]
    row = await journal_file.read(lambda s: s.row("unresolved_adverts"))
    assert row[0] == 1


async def test_a_message_id_counts_once(journal: Journal) -> None:
    assert await journal.append_events([event("m1"), event("m2"), event("m1")]) == 2
    assert await journal.append_events([event("m2"), event("m3"), event("m2", source="app")]) == 2
    assert await journal.append_events([]) == 0
    stored = [one.message_id for entry in await everything(journal) for one in decode_events(entry.payload)]
    assert sorted(stored) == ["m1", "m2", "m2", "m3"]


@pytest.mark.parametrize("engine", ["postgres"])
async def test_one_call_of_many_people_is_kept_whole(journal: Journal) -> None:
    """An entry for each partition, more than one statement takes; where one process folds all, it is one."""
    events = [event(f"m{number}", user_id=in_partition(number % 50)) for number in range(100)]
    assert await journal.append_events(events) == 100
    entries = await everything(journal)
    assert sorted(entry.partition for entry in entries) == list(range(50))
    for entry in entries:
        assert [one.message_id for one in decode_events(entry.payload)] == [
            f"m{entry.partition}",
            f"m{entry.partition + 50}",
        ]


async def test_ids_are_forgotten_after_their_days_and_no_sooner(journal_file: Database) -> None:
    clock = [NOON]
    journal = Journal(journal_file, lambda: clock[0])
    running = asyncio.create_task(journal.run())
    await journal.append_events([event("m1"), event("ahead", at=NOON + 300 * 24 * HOUR_MS)])
    clock[0] += MESSAGE_DAYS * 24 * HOUR_MS
    assert await journal.forget_old_messages() == 0
    clock[0] += 2 * HOUR_MS
    assert await journal.forget_old_messages() == 2
    assert await journal.append_events([event("m1")]) == 1
    running.cancel()


async def test_the_fold_gets_no_more_at_once_than_others_can_wait_for(journal: Journal, monkeypatch) -> None:
    """Bytes of app events count, gateways' do not; what is next comes however large it is."""
    large = [event(f"m{number}", properties={"text": "x" * 1_000}) for number in range(6)]
    for one in large[:3]:
        await journal.append_events([one])
    for seq in (1, 2):
        await journal.append_gateway(append(seq, payload=bytes(9_000), partition=partition_of("u1")))
    for one in large[3:]:
        await journal.append_events([one])
    seen: dict[int, list[int]] = {}
    for most in (1, 2_000, 1_000_000):
        monkeypatch.setattr("backend.storage.journal.FOLDED_BYTES", most)
        cursor, sizes = BEGINNING, []
        while entries := await journal.after(cursor, 100):
            sizes.append(len(entries))
            for entry in entries:
                cursor = cursor.past(entry)
        seen[most] = sizes
    assert [sum(sizes) for sizes in seen.values()] == [8, 8, 8]
    assert max(seen[1]) <= 3 and max(seen[2_000]) <= 4 and seen[1_000_000] == [8]


async def test_whether_more_may_follow_shows_in_what_came(journal: Journal, monkeypatch) -> None:
    """Whoever took less than there is must not wait for the next append."""
    for number in range(6):
        await journal.append_events([event(f"m{number}", properties={"text": "x" * 100 * number})])
    for most in (1, 150, 400, 10_000):
        monkeypatch.setattr("backend.storage.journal.FOLDED_BYTES", most)
        for limit in (1, 2, 5, 6, 100):
            cursor, left = BEGINNING, 6
            while left:
                entries = await journal.after(cursor, limit)
                left -= len(entries)
                assert may_have_more(entries, limit) or not left
                for entry in entries:
                    cursor = cursor.past(entry)
            assert not may_have_more(await journal.after(cursor, limit), limit)


async def test_what_is_folded_goes_in_pieces(journal: Journal, monkeypatch) -> None:
    monkeypatch.setattr("backend.storage.journal.DELETED_BYTES", 100)
    for seq in range(1, 10):
        await journal.append_gateway(append(seq, payload=bytes(60)))
    entries = await everything(journal)
    await journal.delete_folded(BEGINNING.past(entries[6]))
    assert await everything(journal) == entries[7:]


async def test_dead_letters_are_kept_newest_first(journal: Journal, journal_file: Database) -> None:
    for number in range(3):
        letter = NewLetter(NOON + number, "web\0", f"no\0 {number}", b"\0\1", "batch", source="web")
        await journal.bury(letter)
    letters = await journal_file.read(
        lambda s: s.rows("dead_letters_newest", limit=2, before=None, reason=None, origin=None)
    )
    assert [(row["origin"], row["reason"], row["bytes"]) for row in letters] == [
        ("web", "no 2", 2),
        ("web", "no 1", 2),
    ]


async def test_what_is_folded_goes_and_its_position_never_comes_again(journal: Journal, journal_file) -> None:
    for seq in (1, 2, 3):
        await journal.append_gateway(append(seq))
    first, second, third = await everything(journal)
    for _ in range(2):
        await journal.delete_folded(BEGINNING.past(first).past(second))
        assert await everything(journal) == [third]
    await journal.delete_folded(journal.head)
    again = Journal(journal_file, lambda: NOON)
    await again.load()
    assert again.head == journal.head
    await journal.append_gateway(append(4))
    [fourth] = await everything(journal)
    assert fourth.position == third.position + 1


async def test_a_gateway_that_begins_epochs_for_ever_fills_no_disk(journal: Journal) -> None:
    for number in range(LANES_A_GATEWAY + 3):
        lane = LaneKey("s1/g1", f"{number:016x}", "live")
        await journal.append_gateway(append(1, lane=lane, received_at=NOON + number))
    kept = sorted(int(lane.epoch, 16) for lane in await journal.load())
    assert kept == list(range(3, LANES_A_GATEWAY + 3))


async def test_a_work_at_fault_fails_alone(journal: Journal) -> None:
    good = [journal.append_gateway(append(seq)) for seq in (1, 2)]
    bad = journal.append_gateway(append(1, lane=LaneKey("s1/g2", LANE.epoch, "live"), partition=None))
    answers = await asyncio.gather(*good, bad, return_exceptions=True)
    assert answers[:2] == [1, 2]
    assert isinstance(answers[2], Exception)
    assert [entry.payload for entry in await everything(journal)] == [b"s1/g1 1", b"s1/g1 2"]


# Cursors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["postgres"])
async def test_every_partition_is_read_however_small_the_page(journal: Journal) -> None:
    chance = random.Random(5)
    sent: dict[int, list[str]] = {}
    for number in range(60):
        partition = chance.choice([0, 3, 63])
        sent.setdefault(partition, []).append(f"m{number}")
        await journal.append_events(
            [event(f"m{number}", user_id=in_partition(partition), received_at=NOON + chance.randrange(1000))]
        )
    for page in (1, 7, 100):
        found: dict[int, list[str]] = {}
        for entry in await everything(journal, page):
            found.setdefault(entry.partition, []).extend(
                one.message_id for one in decode_events(entry.payload)
            )
        assert found == sent


async def test_events_have_numbers_of_their_own_in_every_partition(journal: Journal) -> None:
    for partition in (0, 1, 63):
        names = [f"{partition}-{number}" for number in range(EVENTS_TOGETHER + 3)]
        await journal.append_events([event(name, user_id=in_partition(partition)) for name in names])
    entries = await everything(journal)
    ids = [event_id(entry, at) for entry in entries for at in range(len(decode_events(entry.payload)))]
    assert len(entries) == 6
    assert len(set(ids)) == len(ids) == 3 * (EVENTS_TOGETHER + 3)
    for partition in (0, 1, 63):
        own = [event_id(entry, 0) for entry in entries if entry.partition == partition]
        assert own == sorted(own)


_positions = st.dictionaries(st.integers(0, PARTITIONS - 1), st.integers(0, 2**45 - 1), max_size=5)


@given(_positions, _positions)
def test_a_cursor_covers_what_it_is_not_behind(one: dict[int, int], other: dict[int, int]) -> None:
    here, there = Cursor(one), Cursor(other)
    assert here.covers(there) == all(one.get(line, 0) >= at for line, at in other.items())
    reached = Cursor({**one, **other})
    assert reached.covers(there)
    assert {move["line"]: move["position"] for move in reached.moves(here)} == {
        line: at for line, at in other.items() if at != one.get(line, 0)
    }


@given(st.integers(0, 2**45 - 1), st.integers(0, PARTITIONS - 1), st.integers(0, EVENTS_AN_ENTRY - 1))
def test_a_number_names_one_event_and_fits(position: int, partition: int, index: int) -> None:
    number = event_id(Entry(position, partition, "app", "web", None, None, NOON, b""), index)
    rest, found = divmod(number, EVENTS_AN_ENTRY)
    assert (*divmod(rest, PARTITIONS), found) == (position, partition, index)
    assert number < 2**63


# Several processes, which only PostgreSQL has ---------------------------------------------------------------


@pytest.mark.parametrize("engine", ["postgres"])
async def test_several_writers_leave_no_gap_and_a_reader_misses_nothing(open_area: Callable) -> None:
    """Positions are in the order of commits: what a reader has passed, nothing comes up behind."""
    async with AsyncExitStack() as stack:
        files = [await stack.enter_async_context(open_area("journal")) for _ in range(3)]
        journals = [Journal(file, lambda: NOON) for file in files]
        running = [asyncio.create_task(journal.run()) for journal in journals]
        users = [in_partition(partition) for partition in (1, 2, 3)]

        async def write(number: int, journal: Journal) -> None:
            chance = random.Random(number)
            for turn in range(25):
                chance.shuffle(users)
                batch = [event(f"{number}-{turn}-{user}", user_id=user) for user in users]
                assert await journal.append_events(batch) == 3

        cursor, seen = BEGINNING, []
        writing = asyncio.gather(*(write(number, journal) for number, journal in enumerate(journals)))
        while True:
            done = writing.done()
            for entry in await journals[0].after(cursor, 5):
                assert entry.position == cursor.positions[entry.partition] + 1, "no gap, nothing passed over"
                cursor = cursor.past(entry)
                seen += [one.message_id for one in decode_events(entry.payload)]
            head = await journals[0].load() or journals[0].head
            if done and cursor.covers(journals[0].head):
                break
        await writing
        assert head is not None
        assert len(seen) == len(set(seen)) == 3 * 25 * 3
        for task in running:
            task.cancel()


@pytest.mark.parametrize("engine", ["postgres"])
async def test_the_same_message_through_two_bridges_counts_once(open_area: Callable) -> None:
    async with open_area("journal") as one, open_area("journal") as other:
        journals = [Journal(one, lambda: NOON), Journal(other, lambda: NOON)]
        running = [asyncio.create_task(journal.run()) for journal in journals]
        batch = [event(f"m{number}") for number in range(50)]
        counted = await asyncio.gather(
            *(journal.append_events(batch) for journal in journals for _ in range(3))
        )
        assert sum(counted) == 50
        for task in running:
            task.cancel()
