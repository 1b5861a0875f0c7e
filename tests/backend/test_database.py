"""One SQLite file: transactions, errors in our words, migrations, several processes, damage."""

import asyncio
import errno
import fcntl
import re
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from backend.storage import database, migrations, turns
from backend.storage.database import (
    TIDIED_AFTER,
    SqliteFile,
    StorageConflict,
    StorageError,
    open_for_writing,
    transaction,
    view,
)
from backend.storage.queries import named_queries


def zones(session) -> list[str]:
    return [row["zone_id"] for row in session.rows("zones")]


def save_store(session, store_id: str = "s1") -> int:
    return session.run("save_store", store_id=store_id, name="Shop", timezone="UTC")


def save_zone(session, store_id: str = "s1", zone_id: str = "a") -> int:
    return session.run("save_zone", store_id=store_id, zone_id=zone_id, name="A", categories="[]")


async def test_a_transaction_is_all_or_nothing(state):
    def half(session) -> None:
        save_store(session)
        raise LookupError("halfway")

    with pytest.raises(LookupError):
        await state.write(half)
    assert await state.read(lambda s: s.rows("stores")) == []
    await state.write(save_store)
    await state.write(save_zone)
    assert await state.read(zones) == ["a"]


async def test_a_contradiction_is_a_conflict(state):
    with pytest.raises(StorageConflict, match="FOREIGN KEY"):
        await state.write(save_zone)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda s: s.run("no such query"),
        lambda s: s.run("save_store", store_id="s1"),
        lambda s: s.run("save_store", store_id=2**70, name="", timezone=""),
        lambda s: s.run("save_store", store_id="\ud800", name="", timezone=""),
    ],
)
async def test_our_own_mistakes_are_not_blamed_on_the_disk(state, mistake):
    with pytest.raises(Exception) as caught:
        await state.write(mistake)
    assert not isinstance(caught.value, StorageError)
    await state.write(save_store)


async def test_reading_never_waits_for_the_writer_and_cannot_write(state):
    blocked, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(session) -> None:
        save_store(session)
        loop.call_soon_threadsafe(blocked.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)

    writing = asyncio.create_task(state.write(slow))
    await blocked.wait()
    assert await state.read(lambda s: s.rows("stores")) == []
    go_on.set()
    await writing
    assert len(await state.read(lambda s: s.rows("stores"))) == 1
    with pytest.raises(StorageError, match="readonly"):
        await state.read(save_store)


async def test_commits_are_durable_and_freed_pages_are_wiped(state):
    def pragmas(session) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        return [session._connection.execute(f"pragma {name}").fetchone()[0] for name in names]

    assert await state.write(pragmas) == ["wal", 2, 1, 1]


async def test_what_is_accepted_moves_into_the_file_without_a_commit_that_waits_for_it(journal_file):
    """Else each thousandth page some commit would copy all that came since the one before it."""
    entry = {"partition": 0, "kind": "app", "source": "web", "lane": None, "boot_offset": None}

    async def append(turn: int) -> None:
        await journal_file.write(
            lambda s: s.run("append_entry", **entry, received_at=turn, payload=bytes(40_000))
        )

    await journal_file.alone(lambda connection: connection.execute("pragma wal_autocheckpoint = 0"))
    for turn in range(100):
        await append(turn)
    async with asyncio.timeout(10):
        while journal_file.path.stat().st_size < 60 * 40_000:
            await append(100)
            await asyncio.sleep(0.005)
    assert await journal_file.read(lambda s: s.row("heads")["position"]) >= 100


async def test_a_commit_beside_the_closing_is_told_as_what_it_is(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def work(session) -> int:
        begun.set()
        assert go_on.wait(10)
        return session.run("count_forgotten", gateway="g", reason="r", adverts=1)

    async with SqliteFile(tmp_path / "journal.db", "journal") as file:
        for _ in range(TIDIED_AFTER["journal"] - 1):
            await file.write(lambda session: None)
        last = asyncio.create_task(file.write(work))
        assert await asyncio.to_thread(begun.wait, 10)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert await last == 1


async def test_a_full_disk_is_told_as_such_and_does_not_last(state):
    def limit(pages: int):
        return lambda s: s._connection.execute(f"pragma max_page_count = {pages}").fetchone()[0]

    await state.write(limit(1))  # SQLite raises it to what is in use
    with pytest.raises(StorageError, match="full"):
        for number in range(10_000):
            await state.write(lambda s, number=number: save_store(s, f"s{number}" * 50))
    await state.write(limit(1_000_000))
    await state.write(save_store)


async def test_a_damaged_file_is_the_disks_fault_not_the_entrys(tmp_path):
    path = tmp_path / "state.db"
    connection = open_for_writing(path, "state")
    for number in range(200):
        transaction(connection, "state", lambda s, number=number: save_store(s, f"store-{number}" * 20))
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    with pytest.raises(StorageError):
        async with SqliteFile(path, "state") as damaged:
            await damaged.read(lambda s: s.rows("stores"))


@pytest.mark.parametrize("content", [b"this is not a database, and long enough to be looked at" * 100])
async def test_what_is_no_database_is_refused_by_name(tmp_path, content):
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"state\.db: file is not a database"):
        async with SqliteFile(path, "state"):
            pass


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        async with SqliteFile(tmp_path / "file" / "state.db", "state"):
            pass


async def test_a_locked_file_is_told_after_the_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_MS", 10)
    async with SqliteFile(tmp_path / "state.db", "state") as second:
        locker = open_for_writing(second.path, "state")
        locker.execute("begin immediate")
        with pytest.raises(StorageError, match="locked"):
            await second.write(save_store)
        locker.execute("rollback")
        await second.write(save_store)
        locker.close()


@pytest.mark.parametrize("area", ["journal", "state"])
def test_migrations_are_applied_once(tmp_path, area):
    for _ in range(2):
        connection = open_for_writing(tmp_path / "file.db", area)
        assert connection.execute("pragma user_version").fetchone()[0] >= 1
        connection.close()


def test_a_file_of_a_newer_program_is_left_alone(tmp_path):
    connection = open_for_writing(tmp_path / "state.db", "state")
    connection.execute("pragma user_version = 9000")
    connection.close()
    with pytest.raises(StorageError, match="schema 9000"):
        open_for_writing(tmp_path / "state.db", "state")


def test_a_migration_that_fails_leaves_nothing_half_done(tmp_path, monkeypatch):
    folder = tmp_path / "sqlite"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "0001_good.sql").write_text(
        "create table one (x); -- a word;\ncreate table two (x);\n"
    )
    (folder / "state" / "0002_bad.sql").write_text("create table three (x);\ncreate table one (x);\n")
    monkeypatch.setattr(migrations, "SQL_FOLDER", folder)
    with pytest.raises(StorageError, match="already exists"):
        open_for_writing(tmp_path / "state.db", "state")
    found = sqlite3.connect(tmp_path / "state.db")
    names = {row[0] for row in found.execute("select name from sqlite_master")}
    assert names == {"one", "two"}
    assert found.execute("pragma user_version").fetchone()[0] == 1


def test_processes_that_start_together_migrate_once(tmp_path):
    code = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from backend.storage.database import open_for_writing
        time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
        open_for_writing(Path(sys.argv[1]), "state").close()
    """)

    for attempt in range(3):
        start = str(time.time() + 0.5)
        children = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path / f"{attempt}.db"), start], stderr=subprocess.PIPE
            )
            for _ in range(4)
        ]
        for child in children:
            _, error = child.communicate(timeout=30)
            assert child.returncode == 0, error.decode()


WITHOUT_A_REST = """
import asyncio, itertools, sys
from pathlib import Path
from backend.storage.database import SqliteFile

async def main():
    commits = itertools.count(1)
    async with SqliteFile(Path(sys.argv[1]), "state") as file:
        async def one():
            while True:
                number = next(commits)
                name = {"store_id": "s1", "name": str(number), "timezone": "UTC"}
                await file.write(lambda session: session.run("save_store", **name))
                if number == 1:
                    print("began", flush=True)
        await asyncio.gather(*(one() for _ in range(4)))  # the next one waits before the last has ended

asyncio.run(main())
"""


async def test_a_process_that_commits_without_a_rest_keeps_no_other_waiting(new_file, child):
    """SQLite's own waiting asks again after a while, and misses the moment: thousands of commits passed."""

    def commits(session) -> int:
        return max(int(row["name"]) for row in session.rows("stores"))

    missed = []
    with child(WITHOUT_A_REST, new_file("state")) as (_, lines):
        assert lines.readline() == "began\n"
        async with SqliteFile(new_file("state"), "state") as state:
            for _ in range(100):
                before = await state.read(commits)
                missed.append(await state.write(lambda s: (save_zone(s), commits(s))[1]) - before)
    assert sum(missed) > 0, "nobody was ever in the way"
    assert sum(missed) <= 10 * len(missed), missed  # 1 each, and thousands where nobody has a turn


async def test_a_process_that_is_stopped_in_its_turn_is_named_after_a_while(state, monkeypatch):
    monkeypatch.setattr(turns, "PATIENCE_S", 0.05)
    with state.path.open("rb") as another:  # a file of its own is as good as a process of its own
        fcntl.flock(another, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"state\.db: another process has had its turn"):
            await state.write(save_store)
        fcntl.flock(another, fcntl.LOCK_UN)
        await state.write(save_store)


async def test_a_file_system_without_locks_is_told_as_the_disks_fault(state, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as broken:
        broken.setattr(turns.fcntl, "flock", none)
        with pytest.raises(StorageError, match=r"state\.db.*No locks available"):
            await state.write(save_store)
    await state.write(save_store)


def test_another_process_may_look_on(tmp_path):
    connection = open_for_writing(tmp_path / "state.db", "state")
    transaction(connection, "state", save_store)
    connection.execute("begin immediate")
    assert len(view(tmp_path / "state.db", "state", lambda s: s.rows("stores"))) == 1
    connection.close()


@pytest.mark.parametrize("area", ["journal", "state"])
def test_every_named_query_is_good_sql(tmp_path, area):
    """Prepared against the real schema, so that a typing error is found here and not in the night."""
    connection = open_for_writing(tmp_path / "file.db", area)
    queries = named_queries(area)
    assert len(queries) > 5
    for name, sql in queries.items():
        names = set(re.findall(r"(?<!:):(\w+)", sql))
        connection.execute("begin")
        try:
            connection.execute(f"explain {sql}", dict.fromkeys(names, 0)).fetchall()
        except sqlite3.Error as error:
            pytest.fail(f"{area}/{name}: {error}")
        finally:
            connection.execute("rollback")
    connection.close()


@pytest.mark.parametrize(
    "query",
    [
        *("save_presence", "end_presence", "move_fold", "key_number"),
        *("end_zone_visit", "pause_visit", "end_visit", "end_fence_visit"),
    ],
)
def test_what_follows_each_reading_goes_through_no_table(tmp_path, query):
    """Visits that are over are kept for years; whoever leaves must not be looked for among them all."""
    connection = open_for_writing(tmp_path / "state.db", "state")
    sql = named_queries("state")[query]
    names = dict.fromkeys(re.findall(r"(?<!:):(\w+)", sql))
    plan = [row[3] for row in connection.execute(f"explain query plan {sql}", names)]
    assert [step for step in plan if step.startswith("SCAN") and step != "SCAN fold"] == []
    connection.close()
