"""What the gateway's tests share: a clock to turn by hand, a receiver with custody, brokers, waiting."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import pytest

from sdk_bridge.mqtt import Broker, Connection, Message, MqttUnavailable, connect
from sdk_bridge.wire.codec import decode_status, decode_up, encode
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Ack, Batch, Heartbeat, Skip
from sdk_bridge.wire.topics import GatewayAddress
from simulators.broker import find_mosquitto, start_broker

ADDRESS = GatewayAddress("demo-shop", "door")


@dataclass
class HandClock:
    """A clock that stands still unless `running`; `skip` moves it on."""

    boot_id: str = "0f0e0d0c-0000-4000-8000-000000000001"
    now: int = 1_000_000
    is_synchronised: bool = False
    unix_zero: int = 1_700_000_000_000
    running: bool = True
    started: float = field(default_factory=time.monotonic)

    def boot_ms(self) -> int:
        return self.now + (int((time.monotonic() - self.started) * 1000) if self.running else 0)

    def unix_ms(self) -> int:
        return self.unix_zero + self.boot_ms()

    def synchronised(self) -> bool:
        return self.is_synchronised

    def skip(self, milliseconds: int) -> None:
        self.now += milliseconds


class Receiver:
    """A backend in small: takes the next sequence of each (epoch, lane), ignores the rest, acknowledges.

    `taken` is what it has committed, in order; it survives `mute` (the process is away) and the broker.
    """

    def __init__(self, port: int, address: GatewayAddress = ADDRESS) -> None:
        self.broker = Broker("127.0.0.1", port, f"receiver-{time.monotonic_ns()}")
        self.address = address
        self.upto: dict[tuple[str, str], int] = {}
        self.taken: list[tuple[Envelope, Batch | Heartbeat | Skip]] = []
        self.arrivals: list[tuple[float, Envelope]] = []
        self.statuses: list[tuple[bool, str]] = []
        self.duplicates = 0
        self.gaps = 0
        self.muted = False
        self.connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Receiver":
        self._task = asyncio.create_task(self._serve())
        await until(lambda: self.connection is not None)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def batches(self, lane: str | None = None) -> list[Batch]:
        return [m for e, m in self.taken if isinstance(m, Batch) and lane in (None, e.lane)]

    def heartbeats(self) -> list[Heartbeat]:
        return [message for _, message in self.taken if isinstance(message, Heartbeat)]

    def skips(self) -> list[tuple[Envelope, Skip]]:
        return [(envelope, message) for envelope, message in self.taken if isinstance(message, Skip)]

    def publish(self, leaf: str, payload: bytes) -> None:
        assert self.connection is not None
        self.connection.publish(self.address.topic(leaf), payload, qos=0)

    def acknowledge(self, epoch: str, lane: str, *, gap: bool) -> None:
        upto = self.upto.get((epoch, lane), 0)
        self.publish("down/ack", encode(Ack(epoch, lane, upto, gap, int(time.time() * 1000))))

    def announce(self) -> None:
        """What a backend says when it comes back: to everybody it knows, what it has."""
        for epoch, lane in self.upto:
            self.acknowledge(epoch, lane, gap=True)

    async def _serve(self) -> None:
        while True:
            with contextlib.suppress(MqttUnavailable, OSError):
                async with connect(self.broker, self._on_message) as connection:
                    await connection.subscribe([self.address.topic("up"), self.address.topic("status")])
                    self.connection = connection
                    self.announce()
                    await connection.closed()
            await asyncio.sleep(0.05)

    def _on_message(self, connection: Connection, message: Message) -> None:
        connection.acknowledge(message)
        self.connection = connection
        if self.muted:
            return
        if message.topic.endswith("/status"):
            status = decode_status(message.payload)
            self.statuses.append((status.online, status.epoch))
            return
        envelope = Envelope.from_properties(message.properties)
        self.arrivals.append((time.monotonic(), envelope))
        self._take(envelope, decode_up(message.payload))

    def _take(self, envelope: Envelope, content: Batch | Heartbeat | Skip) -> None:
        stream = (envelope.epoch, envelope.lane)
        upto = self.upto.get(stream, 0)
        gap = envelope.seq > upto + 1
        self.gaps += gap
        self.duplicates += envelope.seq <= upto
        if envelope.seq == upto + 1:
            self.upto[stream] = content.to if isinstance(content, Skip) else envelope.seq
            self.taken.append((envelope, content))
        self.acknowledge(*stream, gap=gap)


async def until(condition, seconds: float = 15.0) -> None:
    """Waits for the condition; fails the test when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"in {seconds:g} s the condition did not come true", pytrace=True)
        await asyncio.sleep(0.01)


@pytest.fixture
def wait_until():
    return until


@pytest.fixture
def hand_clock():
    return HandClock


@pytest.fixture
def receiver_on():
    return Receiver


@pytest.fixture(
    params=[
        pytest.param(
            "mosquitto",
            marks=pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
        ),
        "iotcore",
    ]
)
async def broker(request, tmp_path):
    """A real broker of each kind."""
    running = await start_broker(tmp_path / "broker", kind=request.param)
    async with running:
        yield running


@pytest.fixture
async def any_broker(tmp_path):
    """The best broker there is."""
    running = await start_broker(tmp_path / "broker")
    async with running:
        yield running
