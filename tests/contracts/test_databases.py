"""What every engine promises of a transaction; and PostgreSQL's ways to fail: lost, stopped, overtaken."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.storage import migrations as migration_module
from backend.storage.migrations import migration_files
from backend.storage.postgres import engine as engine_module
from backend.storage.postgres import line as line_module
from backend.storage.postgres import migrations as postgres_migrations
from backend.storage.postgres.engine import PostgresDatabase
from backend.storage.postgres.line import Address, Line
from backend.storage.postgres.migrations import migrate
from backend.storage.session import Database, Session, StorageConflict, StorageError, StorageRetry
from simulators.postgres import drop_database, make_database, tell

only_postgres = pytest.mark.parametrize("engine", ["postgres"])
Raw = Callable[[Session, str], list[tuple]]


def save_store(session: Session, store_id: str = "s1", name: str = "Shop") -> int:
    return session.run("save_store", store_id=store_id, name=name, timezone="UTC")


def save_zone(session: Session, store_id: str = "s1", zone_id: str = "a") -> int:
    return session.run("save_zone", store_id=store_id, zone_id=zone_id, name="A", categories="[]")


def stores(session: Session) -> list[str]:
    return [row["store_id"] for row in session.rows("stores")]


async def test_a_transaction_is_all_or_nothing(state: Database) -> None:
    def half(session: Session) -> None:
        save_store(session)
        raise LookupError("halfway")

    with pytest.raises(LookupError):
        await state.write(half)
    assert await state.read(stores) == []
    assert await state.write(save_store) == 1
    assert await state.write(save_zone) == 1
    assert await state.read(stores) == ["s1"]


async def test_a_long_question_does_not_hold_up_another(state: Database) -> None:
    answered, asked = threading.Event(), threading.Event()

    def long(session: Session) -> bool:
        stores(session)
        asked.set()
        return answered.wait(20)

    waiting = asyncio.create_task(state.read(long))
    await asyncio.to_thread(asked.wait, 20)
    async with asyncio.timeout(10):
        assert await state.read(stores) == []
    answered.set()
    assert await waiting


def add_token(session: Session) -> None:
    session.run("add_token", token_hash=b"1", name="n", role="admin", created_at=1)


@pytest.mark.parametrize(
    "contradiction",
    [
        save_zone,
        lambda session: [add_token(session) for _ in range(2)],
        lambda session: session.run("add_token", token_hash=b"2", name="n", role="nobody", created_at=1),
        lambda session: session.run("save_store", store_id="s1", name=None, timezone="UTC"),
    ],
    ids=["reference", "key", "check", "null"],
)
async def test_a_contradiction_is_a_conflict(state: Database, contradiction) -> None:
    with pytest.raises(StorageConflict):
        await state.write(contradiction)
    assert await state.write(save_store) == 1, "the database goes on"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda s: s.run("no such query"),
        lambda s: s.run("save_store", store_id="s1"),
        lambda s: s.run("save_store", store_id="\ud800", name="", timezone=""),
        lambda s: s.run("add_token", token_hash=b"1", name="n", role="admin", created_at=2**70),
    ],
    ids=["query", "parameter", "surrogate", "size"],
)
async def test_our_own_mistakes_are_not_blamed_on_the_database(state: Database, mistake) -> None:
    with pytest.raises(Exception) as caught:
        await state.write(mistake)
    assert not isinstance(caught.value, StorageError)
    await state.write(save_store)


async def test_a_view_cannot_write_and_sees_what_is_committed(state: Database) -> None:
    with pytest.raises(StorageError):
        await state.read(save_store)
    await state.write(save_store)
    assert await state.read(stores) == await asyncio.to_thread(state.view, stores) == ["s1"]


async def test_a_view_stays_as_it_began(state: Database) -> None:
    await state.write(save_store)
    looked, written = threading.Event(), threading.Event()

    def look_twice(session: Session) -> tuple[list[str], list[str]]:
        before = stores(session)
        looked.set()
        assert written.wait(10)
        return before, stores(session)

    looking = asyncio.create_task(state.read(look_twice))
    await asyncio.to_thread(looked.wait, 10)
    await state.write(lambda session: save_store(session, "s2"))
    written.set()
    assert await looking == (["s1"], ["s1"])


async def test_a_row_is_read_by_name_and_by_place(state: Database) -> None:
    report = {"version": 3, "state": "applied", "at": 7}
    await state.write(lambda session: session.run("save_configuration_report", gateway="s1/g1", **report))
    row = await state.read(lambda session: session.row("configuration_report", gateway="s1/g1"))
    assert row is not None
    assert (row["version"], row[1], len(row)) == (3, "applied", 3)
    assert dict(row) == report
    assert tuple(row) == (3, "applied", 7)
    assert await state.read(lambda session: session.row("configuration_report", gateway="s1/g2")) is None


async def test_numbers_are_of_the_same_kind(state: Database, raw: Raw) -> None:
    """Truth is 0 or 1, a sum of integers an integer, an average a float; whoever writes JSON would tell."""
    sql = "select 1 = 1, 1 = 2, sum(n), avg(n) from (select cast(1 as bigint) as n union select 2) as numbers"
    [found] = await state.read(lambda session: raw(session, sql))
    assert found == (1, 0, 3, 1.5)
    assert [type(value) for value in found] == [int, int, int, float]


async def test_many_rows_may_be_made_while_they_are_written(state: Database) -> None:
    """Whoever makes the rows may ask the same session meanwhile."""

    def write(session: Session) -> list[str]:
        session.many(
            "save_store",
            ({"store_id": f"s{n}", "name": str(len(stores(session))), "timezone": "UTC"} for n in range(3)),
        )
        session.many("save_store", [])
        return stores(session)

    assert await state.write(write) == ["s0", "s1", "s2"]


async def test_each_row_tells_whether_it_changed_anything(state: Database) -> None:
    def write(session: Session) -> list[bool]:
        keys = ["one", "two", "one"]
        assert session.changed("number_key", []) == []
        return session.changed("number_key", [{"beacon_key": key} for key in keys])

    assert await state.write(write) == [True, True, False]
    assert await state.write(write) == [False, False, False]


async def test_changed_rows_are_counted(state: Database) -> None:
    def write(session: Session) -> list[int]:
        for number in range(3):
            session.run("add_token", token_hash=bytes([number]), name="n", role="admin", created_at=1)
        return [session.run("revoke_token", name="n", at=2), session.run("revoke_token", name="n", at=3)]

    assert await state.write(write) == [3, 0]


# What only PostgreSQL does --------------------------------------------------------------------------------


def pid(session: Session) -> int:
    return int(session.line.ask("select pg_backend_pid()")[0][0])


@only_postgres
async def test_a_lost_connection_fails_one_write_and_no_read(
    state: Database, database_url: str, raw: Raw
) -> None:
    await state.write(save_store)
    for ask in (state.write, state.read, state.read):
        await asyncio.to_thread(tell, database_url, f"select pg_terminate_backend({await ask(pid)})")
    with pytest.raises(StorageError) as lost:
        await state.write(lambda session: save_store(session, "s2"))
    assert not isinstance(lost.value, StorageConflict | StorageRetry)
    assert await state.read(stores) == ["s1"]
    await state.write(lambda session: save_store(session, "s2"))
    assert await state.read(stores) == ["s1", "s2"]


@only_postgres
async def test_a_connection_lost_in_the_middle_writes_nothing(state: Database, database_url: str) -> None:
    def half(session: Session) -> None:
        save_store(session)
        tell(database_url, f"select pg_terminate_backend({pid(session)})")
        save_store(session, "s2")

    with pytest.raises(StorageError):
        await state.write(half)
    assert await state.read(stores) == []


@only_postgres
@pytest.mark.parametrize("again", [True, False])
async def test_work_that_was_overtaken_begins_again_or_says_so(
    open_area, state: Database, again: bool
) -> None:
    await state.write(save_store)
    runs = []

    async with open_area("state") as elsewhere:

        def rename(session: Session) -> None:
            name = session.rows("stores")[0]["name"]
            if not runs:
                overtaken = asyncio.run_coroutine_threadsafe(
                    elsewhere.write(lambda other: save_store(other, "s1", name + "!")), loop
                )
                overtaken.result(10)
            runs.append(name)
            save_store(session, "s1", name + "?")

        loop = asyncio.get_running_loop()
        if again:
            await state.write(rename)
        else:
            with pytest.raises(StorageRetry):
                await state.write(rename, again=False)
    names = [row["name"] for row in await state.read(lambda session: session.rows("stores"))]
    assert (runs, names) == ((["Shop", "Shop!"], ["Shop!?"]) if again else (["Shop"], ["Shop!"]))


@only_postgres
async def test_two_that_wait_for_each_other_both_come_through(open_area, state: Database) -> None:
    for name in ("s1", "s2"):
        await state.write(lambda session, name=name: save_store(session, name))
    barrier = threading.Barrier(2)
    met = []

    def both(first: str, second: str) -> Callable[[Session], None]:
        def write(session: Session) -> None:
            save_store(session, first, f"{first} first")
            if len(met) < 2:
                met.append(first)
                barrier.wait(10)
            save_store(session, second, f"{first} first")

        return write

    async with open_area("state") as elsewhere:
        await asyncio.gather(state.write(both("s1", "s2")), elsewhere.write(both("s2", "s1")))
    names = {row["name"] for row in await state.read(lambda session: session.rows("stores"))}
    assert len(names) == 1, "one came after the other"


@only_postgres
async def test_who_goes_on_after_a_failed_statement_commits_nothing(state: Database) -> None:
    def swallow(session: Session) -> None:
        save_store(session)
        try:
            save_zone(session, "nowhere")
        except Exception as error:  # noqa: BLE001 - the engine's own, whichever it is
            assert "zones" in str(error)

    with pytest.raises(StorageError, match="rolled back"):
        await state.write(swallow)
    assert await state.read(stores) == []


async def test_a_commit_waits_for_the_disk_whatever_the_roles_default(database_url: str) -> None:
    name = database_url.partition("?")[0].rpartition("/")[2]
    await asyncio.to_thread(tell, database_url, f"alter database {name} set synchronous_commit = off")
    async with PostgresDatabase(database_url, "state") as state:
        assert (await state.write(lambda session: session.line.ask("show synchronous_commit")))[0][0] == "on"


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


def lock_is_free(url: str) -> bool:
    line = Line(Address(url, "state"))
    try:
        line.open()
        return bool(line.ask("select pg_try_advisory_lock(7, 7)")[0][0])
    finally:
        line.close()


@pytest.mark.timeout(60)
async def test_sessions_that_froze_are_forgotten(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's machine slept, say, and ended them as it awoke: nobody may wait for their answer."""
    monkeypatch.setattr(line_module, "ANSWER_S", 0.3)
    monkeypatch.setattr(engine_module, "PULSE_S", 3600.0)
    async with PostgresDatabase(database_url, "state") as state:
        await state.write(save_store)
        frozen = {await ask(pid) for ask in (state.write, *[state.read] * 4)}
        try:
            for session in frozen:
                os.kill(session, signal.SIGSTOP)
            with pytest.raises(StorageError):
                await state.write(lambda session: save_store(session, "s2"))
            async with asyncio.timeout(20):
                assert [await state.read(stores) for _ in range(4)] == [["s1"]] * 4
            for session in frozen:
                await asyncio.to_thread(tell, database_url, f"select pg_terminate_backend({session})")
        finally:
            for session in frozen:
                os.kill(session, signal.SIGCONT)
        async with asyncio.timeout(20):
            await state.write(lambda session: save_store(session, "s3"))
            assert await state.read(stores) == ["s1", "s3"]


async def test_a_stopped_process_lets_go_of_its_locks_and_a_living_one_keeps_them(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_module, "IDLE_MS", 400)
    monkeypatch.setattr(engine_module, "PULSE_S", 0.1)
    async with PostgresDatabase(database_url, "state") as state:
        await state.write(lambda session: session.line.ask("select pg_advisory_lock(7, 7)"))
        await asyncio.sleep(1.0)
        assert not await asyncio.to_thread(lock_is_free, database_url)
        monkeypatch.setattr(engine_module, "PULSE_S", 3600.0)
        await asyncio.sleep(0.2)

        def freed() -> bool:
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(lock_is_free, database_url).result()

        await eventually(freed)


# Opening --------------------------------------------------------------------------------------------------


def test_processes_that_start_together_migrate_once(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        addresses = [Address(empty_url, area) for area in ("journal", "state")] * 2
        list(pool.map(migrate, addresses))
    line = Line(Address(empty_url, "state"))
    line.open()
    assert [row[0] for row in line.ask("select number from schema_version order by number")] == [
        file.number for file in migration_files("state")
    ]
    line.close()


def test_a_database_of_a_newer_program_is_left_alone(database_url: str) -> None:
    tell(database_url, "insert into schema_version values (9000, '9000_later.sql')")
    with pytest.raises(StorageError, match="schema 9000"):
        migrate(Address(database_url, "state"))


def test_a_migration_that_fails_leaves_nothing_half_done(
    empty_url: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "0001_good.sql").write_text("create table one (x integer);")
    (tmp_path / "state" / "0002_bad.sql").write_text(
        "create table two (x integer);create table one (x integer);"
    )
    monkeypatch.setattr(migration_module, "SQL_FOLDER", tmp_path)
    monkeypatch.setattr(postgres_migrations, "POSTGRES_FOLDER", tmp_path / "by hand")
    (tmp_path / "by hand").mkdir()
    (tmp_path / "by hand" / "sqlite_words.sql").write_text("select 1")
    with pytest.raises(StorageError, match="already exists"):
        migrate(Address(empty_url, "state"))
    line = Line(Address(empty_url, "state"))
    line.open()
    tables = line.ask(
        "select tablename from pg_tables where schemaname = 'footfall_state' order by tablename"
    )
    assert [row[0] for row in tables] == ["one", "schema_version"]
    line.close()


def test_a_database_that_sorts_by_a_language_is_refused(postgres_server: str) -> None:
    tell(postgres_server, "drop database if exists sorted")
    made = "create database sorted template template0 encoding 'LATIN1' locale 'C'"
    tell(postgres_server, made)
    try:
        with pytest.raises(StorageError, match="template0 encoding 'UTF8' locale 'C'"):
            migrate(Address(postgres_server.replace("/postgres?", "/sorted?"), "state"))
    finally:
        drop_database(postgres_server, "sorted")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (
            "postgresql://footfall:hush@127.0.0.1:1/footfall",
            r"127\.0\.0\.1/footfall, state: .*refused|Connect",
        ),
        ("postgresql://footfall:hush@nowhere.invalid/footfall", r"nowhere\.invalid/footfall"),
    ],
)
async def test_a_server_that_is_not_there_is_named_and_its_password_is_not(url: str, told: str) -> None:
    with pytest.raises(StorageError, match=told) as refused:
        async with PostgresDatabase(url, "state"):
            pass
    assert "hush" not in str(refused.value)


async def test_a_database_that_is_not_there_is_named(postgres_server: str) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        async with PostgresDatabase(postgres_server.replace("/postgres?", "/nowhere?"), "state"):
            pass


def test_databases_are_made_for_tests_and_end_with_them(postgres_server: str) -> None:
    url = make_database(postgres_server, "brief")
    drop_database(postgres_server, "brief")
    with pytest.raises(Exception, match="brief"):
        tell(url, "select 1")
