"""Two folds share one state: who goes from one's partition to the other's, and whom both meet at once."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import pytest

from backend.fold import Fold
from backend.storage.journal import GatewayAppend, Journal, LaneKey
from backend.storage.ownership import Holding
from backend.storage.postgres.engine import PostgresDatabase
from backend.storage.session import Session
from sdk_bridge.wire import codec
from sdk_bridge.wire.app_events import AppEvent
from sdk_bridge.wire.messages import Batch, Readings
from sdk_bridge.wire.topics import PARTITIONS, partition_of

NOON = 1_750_075_200_000
TAG = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:7"


@dataclass
class Owned:
    """A share that a test gives out."""

    holding: Holding


@dataclass
class Two:
    state: PostgresDatabase
    journal: Journal
    folds: list[Fold]
    owned: list[Owned]
    now: list[int]
    sequences: dict[str, int]
    tasks: list[asyncio.Task]

    async def hears(self, store: str, seconds: int) -> None:
        """The tag, once a second."""
        for _ in range(seconds):
            self.now[0] += 1000
            self.sequences[store] = seq = self.sequences.get(store, 0) + 1
            batch = Batch("", self.now[0] - 900, [TAG], Readings([0], [0], [3], [50], [48]))
            lane = LaneKey(f"{store}/g", "e" * 16, "live")
            append = GatewayAppend(lane, seq, seq, self.now[0], partition_of(store), 0, codec.encode(batch))
            assert await self.journal.append_gateway(append) == seq
            assert await self.folds[0].caught_up("", within_s=10)

    async def tells(self, kind: str, **more: object) -> None:
        await self.journal.append_events([event(kind, self.now[0], **more)])
        assert await self.folds[0].caught_up("", within_s=10)

    async def rows(self, sql: str) -> list[tuple]:
        return await self.state.read(lambda session: [tuple(row) for row in session.line.ask(sql)])


def event(kind: str, at: int, **more: object) -> AppEvent:
    told = {"source": "app", "occurred_at": at, "original_at": at, "received_at": at, "proven": True}
    return AppEvent(kind=kind, message_id=os.urandom(8).hex(), **{**told, **more})


def set_up(session: Session) -> None:
    for store in ("s0", "s1"):
        session.run("save_store", store_id=store, name=store, timezone="Europe/Vienna")
        session.run("save_zone", store_id=store, zone_id="a", name="a", categories="[]")
        where = {"store_id": store, "gateway_id": "g", "zone_id": "a", "name": "g"}
        session.run("save_gateway", **where, x_m=None, y_m=None)


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[Two]:
    theirs = {partition_of("s1")}
    ours = set(range(PARTITIONS)) - theirs
    async with AsyncExitStack() as stack:
        states = [await stack.enter_async_context(PostgresDatabase(database_url, "state")) for _ in range(2)]
        file = await stack.enter_async_context(PostgresDatabase(database_url, "journal"))
        await states[0].write(set_up)
        now = [NOON]
        journal = Journal(file, lambda: now[0])
        await journal.load()
        owned = [Owned(Holding(dict.fromkeys(share, 0))) for share in (ours, theirs)]
        others = Journal(file, lambda: now[0])
        folds = [
            Fold(own, state, lambda: now[0], on_listening=lambda _: None, ownership=share)
            for own, state, share in zip((journal, others), states, owned, strict=True)
        ]
        for fold in folds:
            await fold.load()
        tasks = [asyncio.create_task(part) for part in (journal.run(), *(fold.run() for fold in folds))]
        made = Two(states[0], journal, folds, owned, now, {}, tasks)
        await made.tells("device", user_id="anna", device_id="d", beacon_key=TAG)
        await made.tells("consent", user_id="anna", consent={"proximity": True})
        for fold in folds:
            fold.refresh()  # as a beat does
        await asyncio.sleep(0.5)
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task


VISITS = "select store_id, left_at is not null from zone_visits order by visit_id"
STORES = "select store_id, left_at is not null from visits order by visit_id"


async def test_who_goes_to_a_store_of_another_replica_is_in_one_store_at_a_time(two: Two) -> None:
    await two.hears("s0", 4)
    assert await two.rows(VISITS) == [("s0", 0)]
    await two.hears("s1", 4)
    assert await two.rows(VISITS) == [("s0", 1), ("s1", 0)]
    assert await two.rows(STORES) == [("s0", 1), ("s1", 0)]
    assert await two.rows("select store_id, partition from presences") == [("s1", partition_of("s1"))]
    await eventually(lambda: two.rows("select * from handovers"), [])
    await two.hears("s0", 4)
    assert await two.rows(VISITS) == [("s0", 1), ("s1", 1), ("s0", 0)]
    assert await two.rows(STORES) == [("s0", 1), ("s1", 1), ("s0", 0)]


async def test_who_is_there_stays_there_when_the_partition_changes_hands(two: Two) -> None:
    await two.hears("s1", 4)
    two.now[0] += 30_000
    everything = Holding(dict.fromkeys(range(PARTITIONS), 0))
    two.owned[1].holding = Holding({})
    two.owned[0].holding = everything
    await asyncio.sleep(1)
    assert await two.rows(VISITS) == [("s1", 0)]
    await two.hears("s1", 2)
    assert await two.rows(VISITS) == [("s1", 0)]


async def test_an_old_epoch_commits_nothing(two: Two) -> None:
    await two.state.write(lambda session: session.line.tell("update fold set epoch = 1"))
    batch = event("track", two.now[0], user_id="anna", name="Seen")
    await two.journal.append_events([batch])
    await asyncio.sleep(1)
    assert await two.rows("select count(*) from events where name = 'Seen'") == [(0,)]
    two.owned[0].holding = Holding(dict.fromkeys(two.owned[0].holding.epochs, 1))
    await eventually(lambda: two.rows("select count(*) from events where name = 'Seen'"), [(1,)])


async def test_strangers_whom_both_meet_at_once_become_one_person_and_no_event_is_lost(two: Two) -> None:
    other = next(f"u{number}" for number in range(10_000) if partition_of(f"u{number}") == partition_of("s1"))
    events = []
    for number in range(60):
        name = f"a{number}"
        events.append(event("track", two.now[0], anonymous_id=name, name="Seen"))
        events.append(event("identify", two.now[0], user_id=other, anonymous_id=name))
    await asyncio.gather(*(two.journal.append_events([one]) for one in events))
    assert await two.folds[0].caught_up("", within_s=30)
    assert await two.rows("select count(*) from events where name = 'Seen' or kind = 'identify'") == [(120,)]
    letters = "select count(*) from footfall_journal.dead_letters"
    assert await two.rows(letters) == [(0,)]
    roots = "select count(*) from profiles where merged_into is null"
    assert await two.rows(roots) == [(2,)], "anna, and the one that all of them are"


async def eventually(ask: Callable, wanted: object) -> None:
    async with asyncio.timeout(15):
        while await ask() != wanted:  # noqa: ASYNC110 - another fold has no event for us
            await asyncio.sleep(0.05)


async def test_hundreds_of_questions_at_once_are_not_taken_for_a_fold_that_is_behind(two: Two) -> None:
    [[anna]] = await two.rows("select profile_id from profiles where id_type = 'user_id'")
    assert all(await asyncio.gather(*(two.folds[0].caught_up(anna) for _ in range(600))))
