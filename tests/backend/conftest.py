"""A shop for the backend's tests: a clock to set, two files, a journal that runs, an MQTT that obeys."""

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import structlog

from backend.campaigns.model import parse_campaign
from backend.fold import Fold
from backend.storage import campaigns as campaign_rows
from backend.storage import registry
from backend.storage.database import SqliteFile
from backend.storage.journal import GatewayAppend, Journal, LaneKey
from sdk_bridge import mqtt
from sdk_bridge.wire import codec
from sdk_bridge.wire.app_events import AppEvent, PushAddress
from sdk_bridge.wire.codec import decode_ack
from sdk_bridge.wire.messages import Ack, Batch, Heartbeat, Readings
from sdk_bridge.wire.topics import GatewayAddress

NOON = 1_750_075_200_000  # 16 June 2025, 12:00 UTC
EPOCH = "0123456789abcdef"
BOOT = "11111111-2222-3333-4444-555555555555"


@dataclass
class SetClock:
    """A clock that stands still until it is told."""

    now: int = NOON

    def __call__(self) -> int:
        return self.now

    def forward(self, milliseconds: int) -> None:
        self.now += milliseconds


@dataclass
class FakeConnection:
    """What the ingest sees of a connection; the test reads the acknowledgements and ends it."""

    on_message: Callable
    over: asyncio.Future = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    acks: list[tuple[str, Ack]] = field(default_factory=list)
    freed: int = 0
    filters: Sequence[str] = ()

    @property
    def is_open(self) -> bool:
        return not self.over.done()

    async def subscribe(self, filters: Sequence[str], qos: int = 1) -> None:
        self.filters = filters

    async def closed(self) -> str:
        return await self.over

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, **_more) -> bool:
        assert qos == 0
        self.acks.append((topic, decode_ack(payload)))
        return self.is_open

    def acknowledge(self, _message: mqtt.Message) -> None:
        self.freed += 1

    def receive(self, topic: str, payload: bytes, properties: Sequence[tuple[str, str]] = ()) -> None:
        self.on_message(self, mqtt.Message(topic, payload, tuple(properties), False, 1, 1))


class FakeMqtt:
    """Stands in for `sdk_bridge.mqtt.connect`."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.refuse = False

    @asynccontextmanager
    async def connect(self, _broker, on_message, **_more):
        if self.refuse:
            raise mqtt.MqttUnavailable("refused")
        connection = FakeConnection(on_message)
        self.connections.append(connection)
        try:
            yield connection
        finally:
            if connection.is_open:
                connection.over.set_result("closed by us")


async def _eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True, scope="session")
def plain_logs():
    """A traceback drawn with frames and colours takes half a second."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(),
        ]
    )


@pytest.fixture
def eventually():
    """Waits for a condition, with a deadline."""
    return _eventually


@pytest.fixture
def said_until_killed(child):
    """The lines that a Python script prints before SIGKILL comes behind so many of them."""

    def run(script: str, *arguments: str, lines: int) -> list[str]:
        said: list[str] = []
        with child(script, *arguments) as (process, printed):
            for number, line in enumerate(printed):
                if line.endswith("\n"):  # the kill may have cut the last one
                    said.append(line)
                if number == lines:
                    process.kill()
        assert process.exitcode == -signal.SIGKILL
        return said

    return run


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def fake_mqtt() -> type[FakeMqtt]:
    return FakeMqtt


@asynccontextmanager
async def _running(work):
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def running():
    """Runs a coroutine beside the test, and ends it; what it raised meanwhile is raised."""
    return _running


@pytest.fixture
async def journal_file(new_file):
    async with SqliteFile(new_file("journal"), "journal") as file:
        yield file


@pytest.fixture
async def state(new_file):
    async with SqliteFile(new_file("state"), "state") as file:
        yield file


@pytest.fixture
async def journal(journal_file, clock):
    journal = Journal(journal_file, clock)
    await journal.load()
    async with _running(journal.run()):
        yield journal


class Shop:
    """One shop, `s1`, with zones `a` and `b` and a gateway in each; people, campaigns, and a fold."""

    def __init__(
        self, journal: Journal, journal_file: SqliteFile, state: SqliteFile, clock: SetClock
    ) -> None:
        self.journal, self.journal_file, self.state, self.clock = journal, journal_file, state, clock
        self.heard: list = []
        self.fold = self.new_fold()
        self._messages = 0
        self._sequences: dict[tuple[str, str], int] = {}

    def new_fold(self) -> Fold:
        return Fold(self.journal, self.state, self.clock, on_listening=self.heard.append)

    async def set_up(self) -> None:
        def write(session) -> None:
            session.run("save_store", store_id="s1", name="Shop", timezone="Europe/Vienna")
            for zone in ("a", "b"):
                session.run("save_zone", store_id="s1", zone_id=zone, name=f"Zone {zone}", categories="[]")
                session.run(
                    "save_gateway",
                    store_id="s1",
                    gateway_id=f"g-{zone}",
                    zone_id=zone,
                    name=zone,
                    x_m=None,
                    y_m=None,
                )

        await self.state.write(write)
        await self.fold.load()

    async def campaign(
        self, campaign_id: str = "c1", *, state: str = "live", dwell_s: float = 5, **more
    ) -> None:
        """`guardrails` and `offer` replace what a campaign has by default."""
        guardrails = more.get("guardrails", {})
        offer = {"title": "Hello {{ profile.name }}", "body": "In {{ zone.name }}", **more.get("offer", {})}
        definition = {
            "campaign_id": campaign_id,
            "name": campaign_id,
            "trigger": {
                "type": "zone_dwelt",
                "store_id": "s1",
                "zone_id": more.get("zone", "a"),
                "dwell_s": dwell_s,
            },
            "offer": offer,
            "guardrails": guardrails,
            "state": state,
        }
        campaign = parse_campaign(codec.msgspec.json.encode(definition))
        await self.state.write(lambda s: campaign_rows.save_campaign(s, campaign, self.clock()))
        self.fold.refresh()

    def event(self, kind: str, **more) -> AppEvent:
        self._messages += 1
        defaults = {
            "message_id": f"m{self._messages}",
            "source": "app",
            "occurred_at": self.clock(),
            "received_at": self.clock(),
            "proven": True,
        }
        return AppEvent(kind=kind, **{**defaults, **more})

    async def person(self, user: str, beacon: str | None = None, **more) -> None:
        """Someone with a phone that takes pushes, who agreed to everything, and carries a beacon."""
        consent = more.get("consent", {"proximity": True, "push": True})
        phone = f"phone-{user}"
        await self.journal.append_events(
            [
                self.event(
                    "identify", user_id=user, device_id=phone, traits={"name": user, **more.get("traits", {})}
                ),
                self.event(
                    "device",
                    user_id=user,
                    device_id=phone,
                    platform="android",
                    push_address=PushAddress("token", f"token-{user}"),
                    beacon_key=beacon,
                ),
                self.event("consent", user_id=user, device_id=phone, consent=consent),
            ]
        )

    async def append(self, message, gateway: str = "g-a", **more) -> None:
        """Journals a gateway's message as the ingest would."""
        lane = more.get("lane", "live")
        first = self._sequences.get((gateway, lane), 0) + 1
        self._sequences[gateway, lane] = first
        payload = message if isinstance(message, bytes) else codec.encode(message)
        append = GatewayAppend(
            LaneKey(f"s1/{gateway}", EPOCH, lane),
            first,
            first,
            more.get("received_at", self.clock()),
            GatewayAddress("s1", gateway).partition,
            boot_offset=more.get("boot_offset", 0),
            payload=payload,
        )
        assert await self.journal.append_gateway(append) == first

    async def hear(
        self, beacon: str, gateway: str = "g-a", *, loss: int = 60, seconds: int = 1, **more
    ) -> None:
        """Goes forward second by second; in each the gateway hears the beacon once, and says so."""
        for _ in range(seconds):
            self.clock.forward(1000)
            base = more.pop("at", None) or self.clock() - 500
            await self.append(reading(beacon, base, loss), gateway, **more)

    async def heartbeat(self, gateway: str = "g-a") -> None:
        await self.append(
            Heartbeat(BOOT, 1, "hearing", 10, 1, 0, 0, 0, 0, True, "1.0.0"), gateway, boot_offset=None
        )

    async def folded(self) -> None:
        """Waits until the fold has everything. Needs `fold.run` beside it."""
        await _eventually(lambda: self.fold.position == self.journal.head)

    async def rows(self, sql: str) -> list[dict]:
        """What the state's file holds, read as anybody could."""
        return await self.state.read(lambda s: [dict(row) for row in s._connection.execute(sql)])

    async def column(self, sql: str) -> list:
        return [next(iter(row.values())) for row in await self.rows(sql)]


def reading(beacon: str, base_ms: int, loss: int = 60, count: int = 1) -> Batch:
    """One second of one beacon; `base_ms` is its middle, in unix time where the boot id is empty."""
    return Batch("", base_ms - 500, [beacon], Readings([0], [0], [count], [loss], [loss]))


@pytest.fixture
async def shop(journal, journal_file, state, clock) -> Shop:
    shop = Shop(journal, journal_file, state, clock)
    await shop.set_up()
    return shop


@pytest.fixture
async def live_shop(shop):
    """A shop whose fold runs."""
    async with _running(shop.fold.run()):
        yield shop


@pytest.fixture
def make_token(state, clock):
    """An API token of a role."""

    async def make(role: str, name: str = "") -> str:
        return await state.write(lambda s: registry.create_token(s, name or role, role, clock()))

    return make
