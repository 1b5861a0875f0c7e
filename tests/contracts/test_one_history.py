"""One history folded on both engines ends in the same rows, table by table."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from backend import ids
from backend.campaigns.model import parse_campaign
from backend.fold import Fold
from backend.storage import campaigns as campaign_rows
from backend.storage.database import Database, SqliteFile
from backend.storage.entries import BEGINNING
from backend.storage.journal import GatewayAppend, Journal, LaneKey
from backend.storage.postgres.engine import PostgresDatabase
from backend.storage.session import Session
from sdk_bridge.wire import codec
from sdk_bridge.wire.app_events import AppEvent, PushAddress
from sdk_bridge.wire.messages import Batch, Heartbeat, Readings
from sdk_bridge.wire.topics import partition_of

NOON = 1_750_075_200_000
TAG = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:7"
SHELF = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:100:1"
NOT_COMPARED = {"fold", "schema_version", "sqlite_sequence"}
Raw = Callable[[Session, str], list[tuple]]


def set_up(session: Session) -> None:
    session.run("save_store", store_id="s1", name="Shop", timezone="Europe/Vienna")
    for zone in "ab":
        session.run("save_zone", store_id="s1", zone_id=zone, name=f"Zone {zone}", categories="[]")
        where = {"store_id": "s1", "gateway_id": f"g-{zone}", "zone_id": zone, "name": zone}
        session.run("save_gateway", **where, x_m=None, y_m=2.5)
    session.run("save_beacon", beacon_key=SHELF, role="zone", store_id="s1", zone_id="a")
    definition = {
        "campaign_id": "c1",
        "name": "c1",
        "trigger": {"type": "zone_dwelt", "store_id": "s1", "zone_id": "a", "dwell_s": 3},
        "offer": {"title": "Hello {{ profile.name }}", "body": "In {{ zone.name }}"},
        "state": "live",
    }
    campaign_rows.save_campaign(session, parse_campaign(msgspec.json.encode(definition)), NOON)


def app_events() -> list[AppEvent]:
    """A visitor becomes Anna, on a phone that was Bruno's; both speak for their consent; one changes it."""
    told = itertools.count(1)

    def event(kind: str, **more: Any) -> AppEvent:
        number = next(told)
        at = NOON - 60_000 + number * 100
        more.setdefault("proven", "user_id" in more)
        return AppEvent(
            kind=kind,
            message_id=f"m{number}",
            source="app",
            occurred_at=at,
            original_at=at,
            received_at=at,
            **more,
        )

    phone = {"device_id": "phone"}
    token, fid = PushAddress("token", "t1"), PushAddress("fid", "f1")
    return [
        event("page", anonymous_id="a1", name="Shoes", properties={"path": "/shoes", "price": 19.5}),
        event("track", anonymous_id="a1", name="Product Viewed", properties={"product_id": "p1", "ok": True}),
        event("identify", user_id="bruno", **phone, traits={"name": "Bruno", "age": 40}),
        event("device", user_id="bruno", **phone, platform="android", push_address=token),
        event("consent", user_id="bruno", consent={"proximity": True, "push": True}),
        event("logout", user_id="bruno", **phone),
        event("identify", user_id="anna", anonymous_id="a1", **phone, traits={"name": "Anna", "gone": None}),
        event("device", user_id="anna", **phone, platform="android", push_address=token, beacon_key=TAG),
        event("device", user_id="anna", device_id="tablet", platform="ios", push_address=fid),
        event("consent", user_id="anna", **phone, consent={"proximity": True, "push": True, "email": False}),
        event("alias", user_id="anna", previous_id="a2", **phone),
        event("track", user_id="anna", name="Order Completed", properties={"order_id": "o1", "total": 59.9}),
        event("group", user_id="anna", name="club", traits={"tier": "gold"}),
        event("consent", user_id="bruno", consent={"push": False}),
    ]  # fmt: skip


async def tell(journal: Journal) -> None:
    """The whole history into the journal, each entry later than the one before."""
    for event in app_events():
        assert await journal.append_events([event]) == 1
    sequences = {"g-a": 0, "g-b": 0}

    async def hears(gateway: str, message: Any, second: int, lane: str = "live") -> None:
        sequences[gateway] += 1
        first = sequences[gateway]
        at = NOON + second * 1000 + (gateway == "g-b")
        append = GatewayAppend(
            LaneKey(f"s1/{gateway}", "e" * 16, lane),
            first,
            first,
            at,
            partition_of("s1"),
            0,
            codec.encode(message),
        )
        assert await journal.append_gateway(append) == first

    for second in range(20):
        near, far = ("g-a", "g-b") if second < 10 else ("g-b", "g-a")
        base = NOON + second * 1000 - 900
        for gateway, loss in ((near, 55), (far, 85)):
            readings = Readings([0, 1], [0, 0], [3, 2], [loss, 60], [loss - 2, 58])
            await hears(gateway, Batch("", base, [TAG, SHELF], readings), second)
    await hears("g-a", Heartbeat("b" * 8, 1, "hearing", 10, 1, 0, 0, 0, 0, True, "1.0.0"), 21)
    for second in (60, 61):
        await hears("g-b", Heartbeat("b" * 8, 1, "hearing", 10, 1, 0, 0, 0, 0, True, "1.0.0"), second)


def tables(session: Session, raw: Raw, engine: str) -> dict[str, list[dict[str, Any]]]:
    """Every row, but for the numbers that an engine gave it."""
    listed = {
        "sqlite": "select name from sqlite_master where type = 'table' order by name",
        "postgres": "select tablename from pg_tables where schemaname = 'footfall_state' order by tablename",
    }
    found = {}
    for (table,) in raw(session, listed[engine]):
        if table in NOT_COMPARED:
            continue
        columns = [row[0] for row in raw(session, COLUMNS[engine].format(table=table))]
        kept = [
            name
            for name in columns
            if not name.endswith(("_id", "_number")) or not is_number(session, raw, table, name)
        ]
        rows = raw(session, f"select {', '.join(kept)} from {table}")
        found[table] = sorted((dict(zip(kept, row, strict=True)) for row in rows), key=repr)
    return found


COLUMNS = {
    "sqlite": "select name from pragma_table_info('{table}') order by name",
    "postgres": "select attname from pg_attribute where attrelid = '{table}'::regclass and attnum > 0"
    " and not attisdropped order by attname",
}


def is_number(session: Session, raw: Raw, table: str, column: str) -> bool:
    return any(isinstance(row[0], int) for row in raw(session, f"select {column} from {table}"))


async def history_on(stack: AsyncExitStack, journal_file: Database, state: Database) -> None:
    await state.write(set_up)
    journal = Journal(journal_file, lambda: NOON)
    await journal.load()
    fold = Fold(journal, state, lambda: NOON + 70_000, on_listening=lambda _: None)
    await fold.load()
    for part in (journal.run(), fold.run()):
        stack.push_async_callback(_end, asyncio.create_task(part))
        if part.__qualname__ == "Journal.run":
            await tell(journal)
    assert await fold.caught_up("anybody", within_s=60)
    assert BEGINNING.behind(journal.head) == len(app_events()) + 43


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def both(tmp_path: Path, database_url: str) -> AsyncIterator[dict[str, tuple[Database, Database]]]:
    async with AsyncExitStack() as stack:
        yield {
            name: (await stack.enter_async_context(journal), await stack.enter_async_context(state))
            for name, journal, state in (
                ("sqlite", SqliteFile(tmp_path / "j.db", "journal"), SqliteFile(tmp_path / "s.db", "state")),
                (
                    "postgres",
                    PostgresDatabase(database_url, "journal"),
                    PostgresDatabase(database_url, "state"),
                ),
            )
        }


def counted(numbers: Iterator[int], size: int) -> bytes:
    """In the place of chance, the same for both engines: ten bytes for each number."""
    return b"".join(next(numbers).to_bytes(10, "big") for _ in range(size // 10))


async def test_one_history_makes_the_same_rows_on_both_engines(
    both: dict[str, tuple[Database, Database]], raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = {}
    for engine, (journal_file, state) in both.items():
        numbers = itertools.count(1)
        monkeypatch.setattr(ids, "os", SimpleNamespace(urandom=partial(counted, numbers)))
        monkeypatch.setattr(ids, "_tails", [])
        async with AsyncExitStack() as stack:
            await history_on(stack, journal_file, state)
        ended[engine] = await state.read(lambda session, engine=engine: tables(session, raw, engine))
    ours, theirs = ended["sqlite"], ended["postgres"]
    assert set(ours) == set(theirs)
    for table, rows in ours.items():
        assert rows == theirs[table], table
    told = {table for table, rows in ours.items() if rows}
    assert told >= {"profiles", "identity_edges", "traits", "consents", "devices", "push_addresses", "events"}
    assert told >= {"sightings", "zone_visits", "gateway_health", "decisions", "pushes"}
