"""The phones: they register, hear of pushes, report and open them, and notice every push that comes twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from sdk_bridge.client import ClientSettings
from sdk_bridge.wire.app_events import PushAddress
from simulators.bridge_alone import SECRET, RunningBridge, running_bridge
from simulators.phones import AppSource, Habits, PhoneFleet, PhoneOwner

TAG = "ibeacon:2f234454-cf6d-4a0f-adf2-f4911ba9ffa6:1:"
EAGER = Habits(opens=1.0, opens_after_s=(0.0, 0.01))


@dataclass
class Fcm:
    """The part of the FCM simulator that phones know: addresses, and a log of messages over a websocket."""

    registered: list[dict[str, str]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    sockets: set[web.WebSocketResponse] = field(default_factory=set)
    asked_since: list[int] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    url: str = ""

    async def send(self, value: str, push_id: str | None, kind: str = "token") -> None:
        data = {"push_id": push_id} if push_id else {}
        line = {"line": len(self.lines) + 1, "kind": kind, "value": value, "accepted_at": 1}
        self.lines.append({**line, "message": {"data": data}})
        async with self.news:
            self.news.notify_all()

    async def register(self, request: web.Request) -> web.Response:
        self.registered += await request.json()
        return web.json_response({"ok": True})

    async def deliveries(self, request: web.Request) -> web.WebSocketResponse:
        line = int(request.query["since"])
        self.asked_since.append(line)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.add(socket)
        sending = asyncio.create_task(self._stream(socket, line))
        async for message in socket:
            assert message.type is WSMsgType.TEXT
        sending.cancel()
        self.sockets.discard(socket)
        return socket

    async def _stream(self, socket: web.WebSocketResponse, line: int) -> None:
        while True:
            for text in self.lines[line:]:
                await socket.send_str(json.dumps(text))
                line += 1
            async with self.news:
                if len(self.lines) == line:
                    await self.news.wait()


@pytest.fixture
async def fcm() -> AsyncIterator[Fcm]:
    fake, app = Fcm(), web.Application()
    app.add_routes([web.post("/sim/register", fake.register), web.get("/sim/deliveries", fake.deliveries)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def bridge() -> AsyncIterator[RunningBridge]:
    async with running_bridge() as running:
        yield running


def owners(count: int) -> list[PhoneOwner]:
    return [
        PhoneOwner(
            user_id=f"shopper-{number}",
            device_id=f"phone-{number}",
            push_address=PushAddress("token", f"t{number}"),
            beacon_key=f"{TAG}{number}",
            consent={"proximity": number % 2 == 0, "push": True},
            traits={"firstName": f"Shopper {number}"},
        )
        for number in range(count)
    ]


def fleet(
    bridge: RunningBridge, fcm: Fcm, habits: Habits = EAGER, seed: int = 7, count: int = 3
) -> PhoneFleet:
    settings = ClientSettings(first_retry_s=0.01, longest_retry_s=0.05)
    source = AppSource(bridge.url, "app-key", SECRET)
    return PhoneFleet(owners(count), source, fcm.url, habits=habits, seed=seed, settings=settings)


async def until(what: Callable[[], object], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not what():  # noqa: ASYNC110 - the figures of a fleet give no event
            await asyncio.sleep(0.005)


async def test_phones_introduce_themselves(bridge: RunningBridge, fcm: Fcm) -> None:
    async with fleet(bridge, fcm) as phones:
        assert await phones.settle()
        assert sorted(phones.acknowledged) == sorted(event.message_id for event in bridge.journal.events)
    assert [entry["value"] for entry in fcm.registered] == ["t0", "t1", "t2"]
    of_one = [event for event in bridge.journal.events if event.user_id == "shopper-1"]
    assert [event.kind for event in of_one] == ["identify", "device", "consent"]
    assert all(event.proven for event in of_one)
    assert of_one[1].beacon_key == f"{TAG}1"
    assert of_one[2].consent == {"proximity": False, "push": True}
    assert phones.refused == 0


async def test_a_push_is_reported_received_and_then_opened(bridge: RunningBridge, fcm: Fcm) -> None:
    async with fleet(bridge, fcm) as phones:
        await fcm.send("t1", "push-1")
        await fcm.send("stranger", "push-2")
        await fcm.send("t2", None)
        await until(lambda: phones.opened == 1)
        assert await phones.settle()
    receipts = [
        (event.push_id, event.receipt) for event in bridge.journal.events if event.kind == "push_receipt"
    ]
    assert receipts == [("push-1", "received"), ("push-1", "opened")]
    assert (phones.received, phones.opened, phones.duplicates) == (1, 1, 0)


async def test_a_push_shown_twice_is_a_duplicate(bridge: RunningBridge, fcm: Fcm) -> None:
    async with fleet(bridge, fcm) as phones:
        for value in ("t1", "t1", "t2"):
            await fcm.send(value, "push-1")
        await until(lambda: phones.duplicates == 1)
        await until(lambda: phones.received == 2)


async def test_after_a_broken_connection_no_delivery_is_missed_or_doubled(
    bridge: RunningBridge, fcm: Fcm
) -> None:
    async with fleet(bridge, fcm) as phones:
        await fcm.send("t0", "push-1")
        await until(lambda: phones.received == 1)
        for socket in list(fcm.sockets):
            await socket.close()
        await fcm.send("t0", "push-2")
        await until(lambda: phones.received == 2)
        assert fcm.asked_since == [0, 1]
        assert phones.duplicates == 0


async def test_the_same_seed_opens_the_same_pushes(bridge: RunningBridge, fcm: Fcm) -> None:
    for number in range(40):
        await fcm.send(f"t{number % 3}", f"push-{number}")
    habits = Habits(opens=0.5, opens_after_s=(0.0, 0.01))
    opened = []
    for seed in (1, 1, 2):
        async with fleet(bridge, fcm, habits, seed) as phones:
            await until(lambda phones=phones: phones.received == 40)
            assert await phones.settle()
            opened.append({push_id for phone in phones for push_id in phone.opened})
    assert opened[0] == opened[1] != opened[2]
    assert 8 <= len(opened[0]) <= 32


async def test_settling_gives_up_when_the_bridge_is_away(bridge: RunningBridge, fcm: Fcm) -> None:
    bridge.journal.busy = 10_000
    async with fleet(bridge, fcm, count=1) as phones:
        assert not await phones.settle(within_s=0.2)
        bridge.journal.busy = 0
        assert await phones.settle()
