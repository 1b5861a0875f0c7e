"""Campaigns that compete for a moment, learned of apart: the highest priority wins, on both engines."""

import asyncio
from contextlib import suppress

import msgspec
import pytest

from backend.campaigns.model import parse_campaign
from backend.fold import Fold
from backend.push.model import Finish, PushState
from backend.storage import campaigns as campaign_rows
from backend.storage.offers import SendChecks, objection_to
from backend.storage.pushes import PushStore
from sdk_bridge.wire.app_events import AppEvent, PushAddress

NOON = 1_750_075_200_000
USER = {"user_id": "anna", "proven": True}
BROWSER = {"anonymous_id": "browser"}
PRIORITIES = {"low": 0, "high": 9, "same": 0}


def campaign(name: str) -> dict[str, object]:
    return {
        "campaign_id": name,
        "name": name,
        "state": "live",
        "trigger": {"type": "event", "name": name},
        "offer": {"title": name, "body": "b", "life_s": 3_600},
        "guardrails": {"quiet_hours": None, "cooldown_s": 0, "priority": PRIORITIES[name]},
    }


class Person:
    """Anna with a phone, and a browser that may become hers."""

    def __init__(self, state, journal, fold, raw) -> None:
        self.state, self.journal, self.fold, self.raw = state, journal, fold, raw
        self.store = PushStore(state, objection_to)
        self.numbers = 0

    async def tell(self, kind: str, at: int, **more) -> None:
        """Each event in a transaction of its own."""
        self.numbers += 1
        event = AppEvent(kind, f"m{self.numbers}", "app", at, at, **more)
        await self.journal.append_events([event])
        assert await self.fold.caught_up("", 20)

    async def reachable(self, device: str, **who) -> None:
        address = PushAddress("token", f"token-{device}")
        await self.tell("device", NOON - 9, device_id=device, push_address=address, platform="ios", **who)
        await self.tell("consent", NOON - 8, consent={"proximity": True, "push": True}, **who)

    async def decisions(self) -> list[tuple]:
        sql = "select campaign_id, verdict, reason from decisions order by decision_id"
        return [tuple(row) for row in await self.state.read(lambda s: self.raw(s, sql))]

    async def objections(self) -> dict[str, object]:
        """What speaks against each queued push, as its sender is told right before it leaves."""
        claimed = await self.store.claim("me", NOON + 9_000, 9)
        checks = SendChecks(self.state)
        return {push.campaign_id: await checks.may_send(push, NOON + 9_000) for push in claimed}


@pytest.fixture
async def anna(state, journal, raw):
    def set_up(session) -> None:
        for name in PRIORITIES:
            campaign_rows.save_campaign(session, parse_campaign(msgspec.json.encode(campaign(name))), NOON)

    await state.write(set_up)
    fold = Fold(journal, state, lambda: NOON + 4_000, on_listening=lambda _: None)
    await fold.load()
    task = asyncio.create_task(fold.run())
    person = Person(state, journal, fold, raw)
    await person.reachable("phone", **USER)
    yield person
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("apart_ms", "reason"), [(500, "priority: high"), (2_000, "priority: high"), (2_001, "eligible")]
)
async def test_what_comes_after_the_winner_gets_nothing_within_the_moment(anna, apart_ms, reason):
    await anna.tell("track", NOON, name="high", **USER)
    await anna.tell("track", NOON + apart_ms, name="low", **USER)
    assert await anna.decisions() == [
        ("high", "sent", "eligible"),
        ("low", "sent" if reason == "eligible" else "suppressed", reason),
    ]


@pytest.mark.parametrize(("apart_ms", "objection"), [(500, "priority: high"), (2_001, None)])
async def test_what_came_before_the_winner_and_still_waits_is_stopped(anna, apart_ms, objection):
    await anna.tell("track", NOON, name="low", **USER)
    await anna.tell("track", NOON + apart_ms, name="high", **USER)
    assert [verdict for _, verdict, _ in await anna.decisions()] == ["sent", "sent"]
    assert await anna.objections() == {"low": objection, "high": None}


@pytest.mark.parametrize("first", ["low", "high"])
async def test_the_browser_that_turns_out_to_be_hers_competes_too(anna, first):
    """Two profiles won a moment each, and are one person before either push leaves."""
    await anna.reachable("tablet", **BROWSER)
    by = {"low": USER, "high": BROWSER}
    other = "high" if first == "low" else "low"
    await anna.tell("track", NOON, name=first, **by[first])
    await anna.tell("track", NOON + 500, name=other, **by[other])
    assert [verdict for _, verdict, _ in await anna.decisions()] == ["sent", "sent"]
    await anna.tell("identify", NOON + 900, **USER, **BROWSER)
    found = await anna.objections()
    assert found["low"] == "priority: high"


async def test_a_winner_whose_push_was_stopped_stops_nobody(anna):
    await anna.tell("track", NOON, name="high", **USER)
    [push] = await anna.store.claim("me", NOON + 5_000, 9)
    await anna.store.settle([Finish(push, PushState.SUPPRESSED, "no longer there")], NOON + 5_000)
    await anna.tell("track", NOON + 500, name="low", **USER)
    assert (await anna.decisions())[1] == ("low", "sent", "eligible")


async def test_equals_that_are_learned_apart_do_not_compete(anna):
    await anna.tell("track", NOON, name="low", **USER)
    await anna.tell("track", NOON + 500, name="same", **USER)
    assert await anna.objections() == {"low": None, "same": None}
