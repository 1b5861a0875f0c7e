"""Segment's own SDK, unmodified, against the bridge; skipped where it is not installed."""

import asyncio
import datetime
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from simulators.bridge_alone import RunningBridge, running_bridge

analytics = pytest.importorskip(
    "segment.analytics", reason="segment-analytics-python is not installed: its run against us is skipped"
)


@pytest.fixture
async def bridge() -> AsyncIterator[RunningBridge]:
    async with running_bridge() as running:
        yield running


def sdk(bridge: RunningBridge, **options: Any) -> Any:
    def failed(error: Exception, items: Any) -> None:
        errors.append(error)

    errors: list[Exception] = []
    client = analytics.Client("server-key", host=bridge.url, on_error=failed, upload_interval=0.05, **options)
    client.errors = errors
    return client


@pytest.mark.parametrize("packed", [False, True])
async def test_every_call_of_the_python_sdk_arrives(bridge: RunningBridge, packed: bool) -> None:
    client = sdk(bridge, gzip=packed)
    when = datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    client.identify("u1", {"email": "anna@example.org"})
    client.track("u1", "Order Completed", {"total": 9.5, "worst": math.nan}, timestamp=when)
    client.page("u1", "Docs", "Home", {"url": "https://shop.example"})
    client.screen("u1", "App", "Start")
    client.group("u1", "club", {"name": "Club"})
    client.alias("a1", "u1")
    await asyncio.to_thread(client.shutdown)
    assert client.errors == []
    found = {event.kind: event for event in bridge.journal.events}
    assert list(found) == ["identify", "track", "page", "screen", "group", "alias"]
    assert found["identify"].traits == {"email": "anna@example.org"}
    assert found["track"].occurred_at == int(when.timestamp() * 1000)
    assert found["track"].properties == {"total": 9.5, "worst": None}
    assert found["page"].properties["category"] == "Docs"
    assert (found["alias"].previous_id, found["alias"].user_id) == ("a1", "u1")
    assert all(event.proven and event.context["library"]["name"] for event in found.values())


async def test_a_busy_bridge_loses_nothing_of_the_python_sdk(bridge: RunningBridge) -> None:
    bridge.journal.busy = 2
    client = sdk(bridge, max_retries=5)
    for number in range(250):
        client.track("u1", "Product Viewed", {"n": number})
    await asyncio.to_thread(client.shutdown)
    assert client.errors == []
    assert [event.properties["n"] for event in bridge.journal.events] == list(range(250))
