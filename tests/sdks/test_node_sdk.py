"""Segment's Node SDK, unmodified, in a real Node, against a backend with its database on disk."""

import asyncio
import datetime
import json
from collections import Counter

import pytest

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("sdk_modules"),
]
WHEN = "2025-01-02T03:04:05.678Z"
QUICK = {"flushInterval": 50, "maxRetries": 5}


@pytest.fixture
def play(node, request):
    """Lets the SDK make these calls, close, and tell what it has seen."""

    async def run(source, host, calls, **settings):
        given = {"writeKey": source.write_key, "host": host, "settings": QUICK | settings, "calls": calls}
        folder = request.path.parent
        told = await asyncio.to_thread(node.run, "node_sdk.mjs", folder=folder, given=json.dumps(given))
        return json.loads(told)

    return run


async def test_every_call_arrives_once_and_makes_a_profile(backend, door, play, every_call):
    source = backend.open_source("server")
    seen = await play(
        source,
        door.url,
        [
            ("page", {"anonymousId": "n-a1", "name": "Home", "properties": {"url": "https://shop.example/"}}),
            ("track", {"anonymousId": "n-a1", "event": "Product Viewed", "properties": {"price": 9.5}}),
            ("identify", {"userId": "n-u1", "anonymousId": "n-a1", "traits": {"email": "anna@example.org"}}),
            ("screen", {"userId": "n-u1", "category": "App", "name": "Start"}),
            ("group", {"userId": "n-u1", "groupId": "club", "traits": {"name": "Club"}}),
            ("track", {"userId": "n-u1", "event": "Order Completed", "timestamp": WHEN,
                       "properties": {"total": 19.0, "currency": "EUR"}}),
            ("alias", {"userId": "n-u1", "previousId": "n-a2"}),
        ],
    )  # fmt: skip
    assert (seen["failures"], seen["statuses"], seen["batches"]) == ([], [200], [7])
    events = {(event.kind, event.name): event for event in await backend.stored(source, 7)}
    assert set(events) == every_call
    assert {event.message_id for event in events.values()} == set(seen["messageIds"])
    assert all(event.context["library"]["name"] == "@segment/analytics-node" for event in events.values())
    when = datetime.datetime.fromisoformat(WHEN)
    assert events["track", "Order Completed"].occurred_at == int(when.timestamp() * 1000)
    assert events["screen", "Start"].properties["category"] == "App"
    assert events["alias", None].previous_id == "n-a2"
    person = backend.profile("user_id", "n-u1")
    assert person["traits"] == {"email": "anna@example.org"}
    assert person["identified"]
    assert backend.profile("anonymous_id", "n-a1")["profile_id"] == person["profile_id"]
    assert backend.dead_letters(source) == []


async def test_a_thousand_calls_come_in_batches(backend, door, play):
    source = backend.open_source("server")
    calls = [("track", {"userId": "n-u2", "event": "Tick", "properties": {"n": n}}) for n in range(1000)]
    seen = await play(source, door.url, calls, flushAt=100)
    assert (seen["failures"], seen["batches"]) == ([], [100] * 10)
    events = await backend.stored(source, 1000)
    assert Counter(event.properties["n"] for event in events) == Counter(range(1000))


async def test_what_went_wrong_on_the_way_comes_again_and_is_stored_once(backend, doors, play):
    async def through(fault):
        source, door = backend.open_source("server"), await doors()
        door.faults.extend([fault, fault])
        door.retry_after = "1" if fault == "429" else None
        calls = [("track", {"userId": "n-u3", "event": "Tick", "properties": {"n": n}}) for n in range(5)]
        seen = await play(source, door.url, calls)
        assert (fault, seen["failures"], door.outcomes) == (fault, [], [fault, fault, "200"])
        stored = [event.message_id for event in await backend.stored(source, 5)]
        assert (fault, sorted(stored)) == (fault, sorted(seen["messageIds"]))

    await asyncio.gather(*map(through, ("503", "429", "408", "reset", "lost answer")))


async def test_a_refused_key_is_told_to_the_program_and_not_tried_again(backend, door, play):
    source = backend.open_source("server")
    unknown = type(source)("nobody", "ffw_unknown", "")
    seen = await play(unknown, door.url, [("track", {"userId": "n-u4", "event": "Tick"})])
    assert (seen["statuses"], seen["failures"]) == ([401], ["Error: [401] Unauthorized"])


async def test_one_bad_event_does_not_cost_the_others(backend, door, play):
    source = backend.open_source("server")
    bad = {"userId": "n-u5", "event": "Bad", "messageId": "m" * 120}
    seen = await play(source, door.url, [("track", bad), ("track", {"userId": "n-u5", "event": "Good"})])
    assert (seen["statuses"], seen["failures"]) == ([200], [])
    assert [event.name for event in await backend.stored(source, 1)] == ["Good"]
    assert len(backend.dead_letters(source)) == 1
