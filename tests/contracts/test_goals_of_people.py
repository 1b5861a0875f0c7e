"""What a browser did in other hands is nobody's goal and nobody's purchase, on both engines."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from backend.campaigns.model import parse_campaign
from backend.fold import Fold
from backend.storage import profiles
from backend.storage.offers import goal_reached_at
from sdk_bridge.wire.app_events import AppEvent

NOON = 1_750_075_200_000
HOUR = 3_600_000
DAY = 24 * HOUR
LOGIN, LOGOUT = NOON, NOON + 2 * HOUR
CAMPAIGN = parse_campaign(
    json.dumps(
        {
            "campaign_id": "c1",
            "name": "Coffee",
            "trigger": {"type": "event", "name": "Asked"},
            "offer": {"title": "Hello", "body": "Coffee"},
            "goal": {"event": "Order Completed"},
        }
    ).encode()
)


def event(kind: str, at: int, **more) -> AppEvent:
    return AppEvent(kind, f"{kind}{at}", "site", at, at, anonymous_id="visitor-1", **more)


def bought(at: int) -> AppEvent:
    properties = {"order_id": f"o{at}", "total": 20, "currency": "EUR"}
    return event("track", at, name="Order Completed", properties=properties)


@asynccontextmanager
async def folding(journal, state) -> AsyncIterator[Fold]:
    """A fold that runs."""
    fold = Fold(journal, state, lambda: NOON + DAY, on_listening=lambda _: None)
    await fold.load()
    task = asyncio.create_task(fold.run())
    yield fold
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("at", "counts"),
    [
        (LOGIN + HOUR, True),
        (LOGIN - 29 * DAY, True),
        (LOGIN - 31 * DAY, False),
        (LOGOUT, True),
        (LOGOUT + HOUR, False),
    ],
    ids=["while logged in", "shortly before", "long before", "at the logout", "after the logout"],
)
async def test_a_goal_is_reached_by_what_is_the_persons(journal, state, at, counts):
    login = event("identify", LOGIN, user_id="anna", proven=True)
    async with folding(journal, state) as fold:
        await journal.append_events([login, event("logout", LOGOUT), bought(at)])
        assert await fold.caught_up("", 20)

    def found(session):
        person = profiles.resolve(session, "user_id", "anna")
        asked = json.dumps(profiles.profiles_of_person(session, person))
        goals = session.rows("goal_events_of", profiles=asked, name="Order Completed", since=at)
        orders = session.rows("orders_since", profiles=asked, since=at)
        return goal_reached_at(session, CAMPAIGN, person, at), len(goals), len(orders)

    assert await state.read(found) == ((at, 1, 1) if counts else (None, 0, 0))


async def test_what_a_guest_does_after_the_hundredth_logout_is_nobodys(journal, state):
    async with folding(journal, state) as fold:
        for shift in range(100):
            at = NOON + shift * 60_000
            login = event("identify", at, user_id="anna", proven=True)
            await journal.append_events([login, event("logout", at + 1), event("page", at + 2)])
            assert await fold.caught_up("", 20)

    def found(session):
        person = profiles.resolve(session, "user_id", "anna")
        return session.rows("events_of_person", profile_id=person, before=2**53, limit=1)[0]["occurred_at"]

    assert await state.read(found) == at + 1
