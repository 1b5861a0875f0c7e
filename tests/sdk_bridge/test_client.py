"""The typed client against a real bridge: nothing lost, nothing doubled, whatever the bridge answers."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sdk_bridge.client import MAX_EVENT_BYTES, BridgeClient, ClientSettings, Who
from sdk_bridge.server.proof import user_hash
from sdk_bridge.wire.app_events import PushAddress
from simulators.bridge_alone import SECRET, MemoryJournal, RunningBridge, running_bridge

ANNA = Who("anna", "a1", user_hash(SECRET, "anna"))
FAST = ClientSettings(first_retry_s=0.01, longest_retry_s=0.05, linger_s=5)


@pytest.fixture
async def bridge() -> AsyncIterator[RunningBridge]:
    async with running_bridge() as running:
        yield running


def client(url: str, **options: Any) -> BridgeClient:
    return BridgeClient(url, "app-key", **{"settings": FAST, **options})


async def test_every_call_arrives_as_meant(bridge: RunningBridge) -> None:
    address = PushAddress("token", "t1")
    async with client(bridge.url) as phone:
        sent = [
            phone.identify(ANNA, {"city": "Graz"}),
            phone.track(ANNA, "Product Viewed", {"sku": "7"}),
            phone.page(ANNA, "Shoes"),
            phone.register_device(ANNA, "d1", "android", address, "altbeacon:" + "ab" * 20),
            phone.consent(ANNA, {"proximity": True}),
            phone.push_received("p1"),
            phone.push_opened("p1"),
            phone.logout("d1"),
        ]
        await phone.flush(5)
        assert list(phone.acknowledged) == sent
    events = [bridge.journal.of(message_id) for message_id in sent]
    kinds = [event.kind for event in events if event]
    assert kinds == [
        "identify", "track", "page", "device", "consent", "push_receipt", "push_receipt", "logout"
    ]  # fmt: skip
    assert [event.proven for event in events if event] == [True] * 5 + [False] * 3
    device = events[3]
    assert device is not None
    assert (device.push_address, device.platform) == (address, "android")


async def test_calls_travel_in_batches_and_in_order(bridge: RunningBridge) -> None:
    async with client(bridge.url) as phone:
        for number in range(250):
            phone.track(ANNA, "Tick", {"n": number})
        await phone.flush(5)
    assert [event.properties["n"] for event in bridge.journal.events] == list(range(250))
    assert bridge.journal.appends == 3


async def test_a_busy_bridge_is_asked_again_and_answers_once_count_once(bridge: RunningBridge) -> None:
    bridge.journal.busy = 3
    async with client(bridge.url) as phone:
        phone.track(ANNA, "Once")
        await phone.flush(5)
        assert (phone.tally.retries, len(phone.acknowledged)) == (3, 1)
    assert len(bridge.journal.events) == 1


async def test_an_answer_lost_on_its_way_doubles_nothing() -> None:
    """The bridge commits, the answer never comes: the client sends again under the same message id."""
    journal = MemoryJournal()
    async with (
        running_bridge(journal=journal) as bridge,
        lossy_proxy(bridge.url, losing=3) as url,
        client(url) as phone,
    ):
        sent = [phone.track(ANNA, "Tick", {"n": number}) for number in range(5)]
        await phone.flush(5)
        assert list(phone.acknowledged) == sent
    assert [event.message_id for event in journal.events] == sent
    assert journal.appends > 1


async def test_what_is_unsent_survives_the_process(bridge: RunningBridge, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    hurried = ClientSettings(first_retry_s=0.01, linger_s=0)
    async with client("http://127.0.0.1:9", queue_path=path, settings=hurried) as phone:
        sent = [phone.track(ANNA, "Offline", {"n": number}) for number in range(3)]
        assert phone.queued == 3
    assert bridge.journal.events == []
    async with client(bridge.url, queue_path=path) as phone:
        await phone.flush(5)
        assert list(phone.acknowledged) == sent
    assert [event.message_id for event in bridge.journal.events] == sent


async def test_a_full_queue_drops_the_oldest_and_counts_them(bridge: RunningBridge) -> None:
    ids = itertools.count()
    settings = ClientSettings(
        queue_limit=10, first_retry_s=0.01, linger_s=0, new_id=lambda: f"id-{next(ids)}"
    )
    async with client("http://127.0.0.1:9", settings=settings) as phone:
        for _ in range(25):
            phone.track(ANNA, "Offline")
        assert (phone.queued, phone.tally.dropped_full) == (10, 15)


@pytest.mark.parametrize(
    ("status", "again"),
    [(408, True), (410, True), (429, True), (460, True), (500, True), (503, True), (504, True),
     (400, False), (401, False), (403, False), (404, False), (301, False), (501, False), (505, False)],
)  # fmt: skip
async def test_which_answers_are_final(status: int, again: bool) -> None:
    answers = [status, 200]

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=answers.pop(0) if answers else 200, headers={"Location": "/"})

    async with serving(answer) as url, client(url) as phone:
        phone.track(ANNA, "x")
        await phone.flush(5)
        assert (phone.tally.retries, phone.tally.refused) == (int(again), int(not again))
        assert len(phone.acknowledged) == again


async def test_retry_after_is_honoured() -> None:
    seen: list[float] = []
    loop = asyncio.get_running_loop()

    async def answer(_: web.Request) -> web.Response:
        seen.append(loop.time())
        status = 429 if len(seen) == 1 else 200
        return web.Response(status=status, headers={"Retry-After": "1"})

    async with serving(answer) as url, client(url) as phone:
        phone.track(ANNA, "x")
        await phone.flush(5)
    assert seen[1] - seen[0] >= 1.0


async def test_a_call_too_large_for_the_bridge_is_told_to_its_maker(bridge: RunningBridge) -> None:
    async with client(bridge.url) as phone:
        with pytest.raises(ValueError, match="bytes"):
            phone.track(ANNA, "x", {"text": "y" * MAX_EVENT_BYTES})
        for number in range(40):
            phone.track(ANNA, "Large", {"text": "y" * 30_000, "n": number})
        await phone.flush(5)
    assert [event.properties["n"] for event in bridge.journal.events] == list(range(40))


async def test_a_shared_session_stays_open(bridge: RunningBridge) -> None:
    async with aiohttp.ClientSession() as session:
        async with client(bridge.url, session=session) as phone:
            phone.track(ANNA, "x")
        assert not session.closed
    assert len(bridge.journal.events) == 1


def serving(handler: Any) -> Any:
    return _Served(handler)


def lossy_proxy(target: str, losing: int) -> Any:
    """Passes requests on, but loses the first answers."""
    left = [losing]

    async def handler(request: web.Request) -> web.Response:
        headers = {"Authorization": request.headers["Authorization"]}
        async with (
            aiohttp.ClientSession() as session,
            session.post(target + request.path, data=await request.read(), headers=headers) as answer,
        ):
            status, body = answer.status, await answer.read()
        if left[0] > 0:
            left[0] -= 1
            if request.transport is not None:
                request.transport.abort()
        return web.Response(status=status, body=body)

    return _Served(handler)


class _Served:
    def __init__(self, handler: Any) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
