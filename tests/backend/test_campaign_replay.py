"""A whole day that comes again, from every gateway and every app, changes nothing and sends nothing."""

import random

import pytest

from backend import ingest as ingest_module
from backend.custody import Custody
from backend.ingest import Ingest
from backend.push.model import Accepted, settle
from backend.storage.offers import SendChecks
from backend.storage.pushes import PushStore
from sdk_bridge import mqtt
from sdk_bridge.wire import codec
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Batch, Heartbeat, Readings
from sdk_bridge.wire.topics import GatewayAddress

EPOCH, BOOT = "0123456789abcdef", "11111111-2222-3333-4444-555555555555"
PEOPLE = {f"u{number}": f"altbeacon:{number:040}" for number in range(6)}
PARTS_OF_DAY = 8
SECONDS_A_PART = 60


@pytest.fixture
async def ingest(live_shop, fake_mqtt, monkeypatch, running, eventually):
    """The real ingest before the shop's journal; who is listened for comes from the fold."""
    shop, fake = live_shop, fake_mqtt()
    monkeypatch.setattr(ingest_module.mqtt, "connect", fake.connect)
    made = Ingest(mqtt.Broker("nowhere", 1, "backend"), shop.journal, Custody({}), shop.clock)
    made.fake = fake
    async with running(made.run()):
        await eventually(lambda: made.connected)
        yield made


class Day:
    """What the gateways publish and the apps send, kept word by word."""

    def __init__(self, shop, ingest) -> None:
        self.shop, self.ingest = shop, ingest
        self.published: list[tuple] = []
        self.posted: list = []
        self.left = 0
        self._sequences: dict[str, int] = {}

    def publish(self, gateway: str, message) -> None:
        seq = self._sequences[gateway] = self._sequences.get(gateway, 0) + 1
        envelope = Envelope(seq=seq, lane="live", epoch=EPOCH, boot_id=BOOT, boot_ms=5_000)
        topic = GatewayAddress("s1", gateway).topic("up")
        self.published.append((topic, codec.encode(message), tuple(envelope.properties())))
        self.ingest.fake.connections[0].receive(*self.published[-1])

    async def post(self, *events) -> None:
        self.posted.append(list(events))
        await self.shop.journal.append_events(list(events))

    async def settle(self) -> None:
        await self.ingest.drain()
        await self.shop.folded()
        self.ingest.listening = self.shop.heard[-1]


async def play(day: Day, chance: random.Random) -> None:
    shop = day.shop
    append, shop.journal.append_events = shop.journal.append_events, _kept(day, shop.journal.append_events)
    for user, beacon in PEOPLE.items():
        await shop.person(user, beacon)
    shop.journal.append_events = append
    await day.settle()
    for _part in range(PARTS_OF_DAY):
        for second in range(SECONDS_A_PART):
            shop.clock.forward(1_000)
            base = shop.clock() - 1_000
            for number, gateway in enumerate(("g-a", "g-b")):
                near = [key for n, key in enumerate(PEOPLE.values()) if (n + second // 25) % 2 == number]
                many = len(near)
                readings = Readings(list(range(many)), [0] * many, [1] * many, [60] * many, [60] * many)
                day.publish(gateway, Batch("", base, near, readings))
                if second % 10 == 0:
                    beat = Heartbeat(BOOT, 5_000 + second, "hearing", 10, 1, 0, 0, 0, 0, True, "1.0.0")
                    day.publish(gateway, beat)
            if second % 3 == 0:
                await day.post(*_some_events(shop, chance))
            await day.ingest.drain()
            if second % 20 == 0:
                await day.settle()
                day.left += await send_all(shop)
        await day.settle()
        shop.clock.forward(1_800_000)
        for gateway in ("g-a", "g-b"):
            day.publish(gateway, Heartbeat(BOOT, 5_000, "hearing", 10, 1, 0, 0, 0, 0, True, "1.0.0"))
        await day.settle()


def _kept(day: Day, append):
    async def keeping(events) -> int:
        day.posted.append(list(events))
        return await append(events)

    return keeping


def _some_events(shop, chance: random.Random) -> list:
    user = chance.choice(sorted(PEOPLE))
    page = shop.event("page", name="Start", anonymous_id=f"browser-{chance.randrange(9)}", source="web")
    viewed = shop.event("track", name="Product Viewed", user_id=user, properties={"product_id": "p1"})
    cart = shop.event("track", name="Cart", user_id=user)
    login = shop.event("identify", user_id=user, anonymous_id=f"browser-{user}", source="web")
    bought = shop.event("track", name="Order Completed", user_id=user, properties={"order_id": f"o{user}"})
    return [page, chance.choice([viewed, cart, login, bought]), chance.choice([viewed, cart])]


async def dump(shop) -> dict[str, list[tuple]]:
    """Every row of every table."""

    def read(session) -> dict[str, list[tuple]]:
        run = session._connection.execute
        tables = [
            row[0]
            for row in run("select name from sqlite_master where type = 'table' and name not like 'sqlite%'")
        ]
        return {table: sorted(map(repr, map(tuple, run(f"select * from {table}")))) for table in tables}

    return await shop.state.read(read)


async def send_all(shop) -> int:
    """What would leave now, by the sender's own questions; it all arrives."""
    queue, checks, left = PushStore(shop.state), SendChecks(shop.state), 0
    pushes = await queue.claim("sender", shop.clock(), 999)
    for push in pushes:
        if await checks.may_send(push, shop.clock()) is None:
            sending = await queue.mark_sending([push], shop.clock())
            taken = [settle(one, Accepted("taken"), shop.clock(), 0.0) for one in sending]
            left += await queue.settle(taken, shop.clock())
    return left


async def test_a_day_that_comes_again_changes_nothing_and_sends_nothing(live_shop, ingest):
    shop, day = live_shop, Day(live_shop, ingest)
    rules = {"max_total": 99, "cooldown_s": 0, "max_per_day": 99, "max_per_week": 99, "quiet_hours": None}
    await shop.campaign("here", dwell_s=5, guardrails=rules)
    await shop.campaign("there", dwell_s=8, zone="b", guardrails={**rules, "priority": 3})
    await play(day, random.Random(5))
    assert len(day.published) + sum(map(len, day.posted)) > 1_400
    assert day.left > 20
    assert await send_all(shop) == 0
    before, head = await dump(shop), shop.journal.head
    for topic, payload, properties in day.published:
        ingest.fake.connections[0].receive(topic, payload, properties)
    fresh = [await shop.journal.append_events(events) for events in day.posted]
    await day.settle()
    assert sum(fresh) == 0
    assert shop.journal.head == head, "nothing of it reaches the journal a second time"
    assert await dump(shop) == before
    assert await send_all(shop) == 0
    assert len(before["decisions"]) > 50
