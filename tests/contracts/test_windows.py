"""Windows of segments run out by themselves, on both engines, however seldom the fold looks otherwise."""

import asyncio
import json
from contextlib import suppress

from backend import fold as folding
from backend.clock import unix_ms
from backend.fold import Fold
from backend.segments.model import parse_definition
from backend.storage import segments
from sdk_bridge.wire.app_events import AppEvent

CONDITION = {"type": "event", "name": "Asked", "at_least": 1, "within_s": 2}
WITHIN_S = 10.0


async def eventually(state, holds) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await state.read(holds):  # noqa: ASYNC110 - the fold decides, on a thread of its own
            await asyncio.sleep(0.02)


async def test_whoever_is_in_for_two_seconds_leaves_though_nothing_happens(journal, state, monkeypatch):
    monkeypatch.setattr(folding, "TICK_S", 60.0)
    definition = parse_definition(json.dumps({"name": "Askers", "condition": CONDITION}).encode())
    await state.write(lambda session: segments.save_segment(session, "askers", definition, 1, "tester"))
    fold = Fold(journal, state, unix_ms, on_listening=lambda _: None)
    await fold.load()
    task = asyncio.create_task(fold.run())
    try:
        await eventually(state, lambda s: segments.segment(s, "askers").state == "live")
        now = unix_ms()
        asked = AppEvent("track", "m1", "shop", now, now, name="Asked", user_id="anna", proven=True)
        await journal.append_events([asked])
        await eventually(state, lambda s: segments.count_members(s, "askers") == 1)
        await eventually(state, lambda s: segments.count_members(s, "askers") == 0)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
