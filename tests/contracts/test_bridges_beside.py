"""A fold whose journal is appended to by another process, which tells it nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from backend import fold as folding
from backend.fold import Fold
from backend.storage import profiles
from backend.storage.entries import BEGINNING
from backend.storage.journal import Journal
from sdk_bridge.wire.app_events import AppEvent

NOON = 1_750_075_200_000
NEVER_S = 3_600.0


@asynccontextmanager
async def running(work) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def seen(number: int) -> AppEvent:
    who = {"user_id": f"user-{number}", "proven": True}
    return AppEvent("track", f"m{number}", "web", NOON, NOON, name="Seen", **who)


async def is_known(state, number: int) -> bool:
    return await state.read(lambda s: profiles.resolve(s, "user_id", f"user-{number}")) is not None


async def test_whoever_reads_on_knows_how_much_is_left(open_area):
    async with open_area("journal") as ours, open_area("journal") as theirs:
        journal, bridge = (Journal(file, lambda: NOON) for file in (ours, theirs))
        await asyncio.gather(journal.load(), bridge.load())
        async with running(bridge.run()):
            for number in range(3):
                await bridge.append_events([seen(number)])
        assert len(await journal.after(BEGINNING, 1)) == 1
        assert journal.head == bridge.head


async def test_an_idle_fold_does_not_wait_for_its_tick(open_area, monkeypatch):
    """Segments follow an event within 100 ms, whoever took it in; the tick comes four times a second."""
    monkeypatch.setattr(folding, "TICK_S", NEVER_S)
    async with (
        open_area("journal") as ours,
        open_area("journal") as theirs,
        open_area("state") as state,
    ):
        journal, bridge = (Journal(file, lambda: NOON) for file in (ours, theirs))
        fold = Fold(journal, state, lambda: NOON, on_listening=lambda _: None)
        await asyncio.gather(journal.load(), bridge.load(), fold.load())
        async with running(journal.run()), running(bridge.run()), running(fold.run()), asyncio.timeout(20):
            for number in range(3):
                await bridge.append_events([seen(number)])
                while not await is_known(state, number):  # noqa: ASYNC110 - another process tells nobody
                    await asyncio.sleep(0.01)
