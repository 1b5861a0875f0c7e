"""Events are folded where whoever waits for their person's events looks, on both engines."""

import asyncio
from contextlib import suppress

import pytest

from backend.fold import Fold
from backend.storage.journal import partition_of_event
from backend.storage.profiles import partitions_of_person, resolve
from sdk_bridge.wire.app_events import AppEvent, ExternalId
from sdk_bridge.wire.topics import partition_of

NOON = 1_750_075_200_000
MAIL, CARD, PHONE = (
    ExternalId("email", "anna@example.com"),
    ExternalId("loyalty_id", "L-4711"),
    ExternalId("phone", "+43660123"),
)


def event(**who) -> AppEvent:
    return AppEvent("track", "m1", "import", NOON, NOON, name="Order Completed", **who)


@pytest.mark.parametrize(
    ("who", "named"),
    [
        ({"user_id": "u1", "anonymous_id": "a1", "external_ids": [MAIL]}, "u1"),
        ({"anonymous_id": "a1", "device_id": "d1", "external_ids": [MAIL]}, "a1"),
        ({"device_id": "d1", "external_ids": [MAIL]}, "d1"),
        ({"external_ids": [PHONE, CARD, MAIL]}, "anna@example.com"),
        ({"external_ids": [PHONE, CARD]}, "L-4711"),
        ({"external_ids": [ExternalId("email", "zoe@example.com"), MAIL]}, "anna@example.com"),
        ({}, "import"),
    ],
)
def test_the_partition_is_that_of_what_is_trusted_most(who, named):
    assert partition_of_event(event(**who)) == partition_of(named)


@pytest.mark.parametrize("one", [MAIL, CARD, PHONE], ids=lambda one: one.type)
async def test_whoever_waits_for_a_person_waits_for_their_partition(journal, state, one):
    told = event(external_ids=[one])
    fold = Fold(journal, state, lambda: NOON, on_listening=lambda _: None)
    await fold.load()
    task = asyncio.create_task(fold.run())
    await journal.append_events([told])
    assert await fold.caught_up("", 20)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    person = await state.read(lambda session: resolve(session, one.type, one.id))
    waited_for = await state.read(lambda session: partitions_of_person(session, person))
    assert partition_of_event(told) in waited_for
