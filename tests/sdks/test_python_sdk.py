"""Segment's Python SDK, unmodified, against a backend with its database on disk."""

import asyncio
import datetime

import pytest
from segment import analytics

pytestmark = pytest.mark.asyncio(loop_scope="session")
WHEN = datetime.datetime(2025, 1, 2, 3, 4, 5, 678_000, tzinfo=datetime.UTC)


def sdk(source, host, **settings):
    """A client that collects what it gave up."""
    failures = []
    given = {"max_retries": 5, "upload_interval": 0.05, **settings}
    client = analytics.Client(
        source.write_key, host=host, on_error=lambda error, _batch: failures.append(error), **given
    )
    return client, failures


@pytest.mark.parametrize("packed", [False, True])
async def test_every_call_arrives_once_and_makes_a_profile(backend, door, packed, every_call):
    source = backend.open_source("server")
    client, failures = sdk(source, door.url, gzip=packed)
    user, visitor = f"p-u{packed:d}", f"p-a{packed:d}"
    client.page(
        anonymous_id=visitor, category="Docs", name="Home", properties={"url": "https://shop.example/"}
    )
    client.track(anonymous_id=visitor, event="Product Viewed", properties={"price": 9.5})
    client.identify(user, {"email": "anna@example.org"}, anonymous_id=visitor)
    client.screen(user, "App", "Start")
    client.group(user, "club", {"name": "Club"})
    client.track(user, "Order Completed", {"total": 19.0, "currency": "EUR"}, timestamp=WHEN)
    client.alias(f"p-b{packed:d}", user)
    await asyncio.to_thread(client.shutdown)
    assert failures == []
    assert all(post.body.startswith(b"\x1f\x8b") == packed for post in door.posts)
    events = {(event.kind, event.name): event for event in await backend.stored(source, 7)}
    assert set(events) == every_call
    assert all(event.context["library"]["name"] == "analytics-python" for event in events.values())
    assert events["track", "Order Completed"].occurred_at == int(WHEN.timestamp() * 1000)
    assert events["page", "Home"].properties["category"] == "Docs"
    assert events["alias", None].previous_id == f"p-b{packed:d}"
    person = backend.profile("user_id", user)
    assert person["traits"] == {"email": "anna@example.org"}
    assert person["identified"]
    assert backend.profile("anonymous_id", visitor)["profile_id"] == person["profile_id"]
    assert backend.dead_letters(source) == []


async def test_what_went_wrong_on_the_way_comes_again_and_is_stored_once(backend, doors):
    async def through(fault):
        source, door = backend.open_source("server"), await doors()
        door.faults.extend([fault, fault])
        door.retry_after = "1" if fault == "429" else None
        client, failures = sdk(source, door.url)
        for number in range(5):
            client.track("p-u3", "Tick", {"n": number})
        await asyncio.to_thread(client.shutdown)
        assert (fault, failures, door.outcomes[:2], door.outcomes[-1]) == (fault, [], [fault, fault], "200")
        stored = sorted(event.properties["n"] for event in await backend.stored(source, 5))
        assert (fault, stored) == (fault, [0, 1, 2, 3, 4])

    await asyncio.gather(*map(through, ("503", "429", "408", "reset", "lost answer")))


async def test_one_bad_event_does_not_cost_the_others(backend, door):
    source = backend.open_source("server")
    client, failures = sdk(source, door.url)
    client.track("p-u5", "Bad", message_id="m" * 120)
    client.track("p-u5", "Good")
    await asyncio.to_thread(client.shutdown)
    assert failures == []
    assert [event.name for event in await backend.stored(source, 1)] == ["Good"]
    assert len(backend.dead_letters(source)) == 1
