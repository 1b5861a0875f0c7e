"""Message ids on their way from the log to the table: each known at every moment, whoever fails or dies."""

import asyncio
import random
import sqlite3
import sys
import textwrap
from array import array
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.storage import message_ids, table_filter
from backend.storage.database import SqliteFile, open_for_writing, transaction
from backend.storage.entries import BEGINNING
from backend.storage.journal import HOUR_MS, Journal
from backend.storage.message_ids import RecentFirst
from backend.storage.session import Session
from sdk_bridge.wire.app_events import AppEvent, decode_events

NOON = 1_750_075_200_000
TABLES = ("message_ids", "recent_message_ids", "sorted_message_ids")


class PowerCut(Exception):
    """Ends a transaction before its commit."""


def event(name: str, **more) -> AppEvent:
    times = {"occurred_at": NOON, "original_at": NOON, "received_at": NOON}
    return AppEvent("track", name, source="web", **{**times, **more})


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A handful is many."""
    for name, size in {"RECENT_IDS": 6, "RECENT_RUNS": 5, "PORTION": 2}.items():
        monkeypatch.setattr(message_ids, name, size)
    for name, size in {"SLOTS": 16, "FULL": 5, "HOURS": 2}.items():
        monkeypatch.setattr(table_filter, name, size)


def ids_in(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """Every id in the file, as often as it is there."""
    kept = connection.execute("select hour, hash from message_ids").fetchall()
    for table in ("recent_message_ids", "sorted_message_ids"):
        for hour, hashes in connection.execute(f"select hour, hashes from {table}"):
            kept += [(hour, int.from_bytes(hashes[at : at + 8], sys.byteorder, signed=True))
                     for at in range(0, len(hashes), 8)]  # fmt: skip
    return [tuple(one) for one in kept]


# Any order of commits, failures, restarts, and another process ---------------------------------------------

ids = st.lists(st.tuples(st.integers(0, 2), st.integers(-8, 12)), max_size=6)
who = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("take"), who, st.booleans(), ids),
    st.tuples(st.just("settle"), who, st.booleans(), st.booleans()),
    st.tuples(st.just("restart"), who, st.just(False), st.none()),
)


@dataclass
class Processes:
    """Two, each with its connection and its memory; and what has to be known."""

    connections: list[sqlite3.Connection]
    memories: list[RecentFirst] = field(default_factory=lambda: [RecentFirst(), RecentFirst()])
    taken: set[tuple[int, int]] = field(default_factory=set)

    def take(self, number: int, fails: bool, sent: list[tuple[int, int]]) -> None:
        asked: dict[int, list[int]] = {}
        for hour, number_of_id in sent:
            asked.setdefault(hour, []).append(number_of_id)

        def work(session: Session) -> set[tuple[int, int]]:
            known = self.memories[number].known(session, asked)
            assert {(hour, one) for hour in known for one in known[hour]} == self.taken & set(sent)
            fresh = {hour: sorted(set(hashes) - known[hour]) for hour, hashes in asked.items()}
            self.memories[number].remember(session, {(hour, 7): new for hour, new in fresh.items() if new})
            return {(hour, one) for hour, new in fresh.items() for one in new}

        self.taken |= self._commit(number, fails, work) or set()

    def settle(self, number: int, fails: bool, whole: bool) -> None:
        self._commit(number, fails, lambda session: self.memories[number].settle(session, whole=whole))

    def restart(self, number: int, *_) -> None:
        self.memories[number] = RecentFirst()

    def _commit(self, number: int, fails: bool, work):
        def cut(session: Session):
            result = work(session)
            if fails:
                raise PowerCut
            return result

        try:
            return transaction(self.connections[number], "journal", cut)
        except PowerCut:
            return None


@contextmanager
def two_processes():
    with TemporaryDirectory() as folder, ExitStack() as open_files:
        connections = [open_for_writing(Path(folder) / "journal.db", "journal") for _ in range(2)]
        for connection in connections:
            open_files.callback(connection.close)
            connection.execute("pragma synchronous = off")
        yield Processes(connections)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=60))
def test_each_id_is_known_and_kept_once_whatever_happens(history):
    with two_processes() as processes:
        for name, *told in history:
            getattr(processes, name)(*told)
            assert Counter(ids_in(processes.connections[0])) == Counter(processes.taken)
        for number in (0, 1):
            processes.take(number, False, sorted(processes.taken))


@pytest.mark.parametrize("mover", (0, 1))
def test_who_asked_while_the_table_had_none_knows_what_gets_there(mover):
    """Whoever moves it, and whether it was seen on its way or not."""
    with two_processes() as processes:
        processes.take(0, False, [(0, 1)])
        for start in range(2, 60, 4):
            processes.take(1, False, [(hour, one) for hour in (0, 1, 2) for one in range(start, start + 4)])
            for _ in range(12):
                processes.settle(mover, False, True)
        for number in (0, 1):
            processes.take(number, False, [*sorted(processes.taken), (0, 60), (1, 61)])


def test_a_stranger_who_names_many_hours_takes_nobody_elses_from_the_filter(monkeypatch):
    monkeypatch.setattr(table_filter, "HOURS", 8)
    known = table_filter.TableFilter()
    known.begin(0)
    known.add(0, array("q", [1, 2, 3]))
    for hour in range(1, 50):
        known.begin(hour)
    assert 0 in known
    assert 49 in known
    assert sum(hour in known for hour in range(50)) == 8
    assert known.possible([1, 2, 3]) == [1, 2, 3]


# In the journal -------------------------------------------------------------------------------------------


async def sizes(file: SqliteFile) -> dict[str, int]:
    """Ids in the table, and bytes on their way there."""
    asked = "select (select count(*) from message_ids), (select coalesce(sum(length(hashes)), 0) from {}), " \
            "(select coalesce(sum(length(hashes)), 0) from {})"  # fmt: skip
    row = await file.read(lambda s: s._connection.execute(asked.format(*TABLES[1:])).fetchone())
    return dict(zip(TABLES, row, strict=True))


async def test_many_move_by_themselves_and_memory_does_not_grow(journal, journal_file):
    for number in range(200):
        assert await journal.append_events([event(f"m{number}-{one}") for one in range(3)]) == 3

    async def settled() -> bool:
        found = await sizes(journal_file)
        return found["message_ids"] >= 590 and not found["sorted_message_ids"]

    async with asyncio.timeout(10):
        while not await settled():  # noqa: ASYNC110 - the journal does so behind its answers
            await asyncio.sleep(0.01)
    memory = journal._ids
    assert len(memory._recent) + len(memory._moving) <= 3 * message_ids.RECENT_IDS
    assert await journal.append_events([event(f"m{number}-1") for number in range(200)]) == 0


async def test_whoever_waits_is_not_kept_waiting_but_ids_do_not_pile_up(journal_file, clock, running):
    """Two hundred requests in a row, each waiting before the one before it is answered."""
    journal = Journal(journal_file, clock)

    async def one(number: int) -> int:
        return await journal.append_events([event(f"m{number}-{at}") for at in range(20)])

    async with running(journal.run()):
        waiting = {asyncio.create_task(one(number)) for number in range(20)}
        for number in range(20, 200):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result() for task in done} == {20}
            waiting.add(asyncio.create_task(one(number)))
        assert {task.result() for task in (await asyncio.wait(waiting))[0]} == {20}
    assert (await sizes(journal_file))["message_ids"] >= 200 * 20 // 2


async def test_a_disk_that_fails_while_ids_move_loses_none(journal, journal_file, monkeypatch):
    settle, failures = RecentFirst.settle, iter(range(1, 1_000))

    def failing(self, session, *, whole=False):
        more = settle(self, session, whole=whole)
        if next(failures) % 2:
            raise sqlite3.OperationalError("disk I/O error")
        return more

    monkeypatch.setattr(RecentFirst, "settle", failing)
    for number in range(60):
        assert await journal.append_events([event(f"m{number}"), event(f"n{number}")]) == 2
    again = [event(f"{letter}{number}") for number in range(60) for letter in "mn"]
    assert await journal.append_events(again) == 0
    assert (await sizes(journal_file))["message_ids"] > 0


async def test_what_is_forgotten_is_forgotten_wherever_it_is(journal, journal_file, clock):
    await journal.append_events([event(f"m{number}") for number in range(20)])
    await journal.append_events([event("n1")])
    assert await journal.forget_old_messages() == 0
    assert await sizes(journal_file) == dict(zip(TABLES, (21, 0, 0), strict=True))
    await journal.append_events([event("n2"), event("n3", original_at=0)])
    clock.forward(9 * 24 * HOUR_MS)
    assert await journal.forget_old_messages() == 23
    assert await journal.append_events([event("n1"), event("m3")]) == 2


# SIGKILL --------------------------------------------------------------------------------------------------

CHILD = textwrap.dedent("""
    import asyncio, random, sys
    from pathlib import Path
    from backend.storage import message_ids, table_filter
    from backend.storage.database import SqliteFile
    from backend.storage.journal import Journal
    from sdk_bridge.wire.app_events import AppEvent

    NOW = 1_750_075_200_000
    message_ids.RECENT_IDS, message_ids.RECENT_RUNS, message_ids.PORTION = 40, 20, 4
    table_filter.SLOTS = table_filter.FULL = 64

    def event(number):
        at = 0 if number % 3 == 0 else NOW - number % 7 * 3_600_000
        return AppEvent("track", f"m{number}", source="web", occurred_at=NOW, original_at=at, received_at=NOW)

    async def phone(journal, chance, upto, turn):
        while True:
            new = list(range(upto + turn, upto + turn + 9, 3))
            again = [chance.randrange(1, upto + 1) for _ in range(3)]
            await journal.append_events([event(number) for number in new + again])
            print(*new, flush=True)
            upto += 9

    async def main(path, upto, seed):
        async with SqliteFile(Path(path), "journal") as file:
            journal = Journal(file, lambda: NOW)
            phones = [phone(journal, random.Random(seed + turn), upto, turn) for turn in range(3)]
            await asyncio.gather(journal.run(), *phones)

    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
""")
KILLS = 12


async def test_killed_at_any_moment_each_event_is_there_once(tmp_path, clock, running, said_until_killed):
    path, chance, answered = tmp_path / "journal.db", random.Random(20_261_122), {1}
    moving = 0
    for turn in range(KILLS):
        told = (str(path), str(max(answered)), str(turn))
        for line in said_until_killed(CHILD, *told, lines=chance.randrange(10, 150)):
            answered.update(map(int, line.split()))
        with closing(sqlite3.connect(path)) as connection:
            moving += connection.execute("select count(*) > 0 from sorted_message_ids").fetchone()[0]
            twice = [one for one, times in Counter(ids_in(connection)).items() if times > 1]
            assert twice == []
    assert moving, "none was killed while it moved ids: the test says nothing"
    async with SqliteFile(path, "journal") as file:
        journal = Journal(file, clock)
        entries = await journal.after(BEGINNING, 1_000_000)
        while more := await journal.after(BEGINNING.past(entries[-1]), 1_000_000):
            entries += more
        stored = [one for entry in entries for one in decode_events(entry.payload)]
        names = Counter(one.message_id for one in stored)
        assert max(names.values()) == 1
        assert {f"m{number}" for number in answered - {1}} <= set(names)
        async with running(journal.run()):
            assert await journal.append_events(stored) == 0
