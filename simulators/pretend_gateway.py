"""A gateway without a radio or a disk, for backends that are stopped and killed: go-back-N, and counts."""

import asyncio
import time
from contextlib import suppress

from backend.clock import unix_ms
from sdk_bridge import mqtt
from sdk_bridge.wire.codec import decode_ack, encode
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Batch, Readings
from sdk_bridge.wire.topics import GatewayAddress

BOOT = "0f0e0d0c-0000-4000-8000-00000000fa57"
WINDOW = 64
RESEND_S = 1.0
RECONNECT_S = 0.3
BEAT_S = 0.1


class PretendGateway:
    """Hears the same beacons `every_s`, one advert each, and hands that on until it is acknowledged.

    More beacons may come near (`meet`). Times are seconds of the monotonic clock.
    """

    def __init__(
        self, address: GatewayAddress, broker: mqtt.Broker, keys: list[str], *, every_s: float = 0.5
    ) -> None:
        self._address = address
        self._broker = broker
        self._keys = list(keys)
        self._every_s = every_s
        self._epoch = f"{time.time_ns():016x}"[:16]
        self._batches: list[bytes] = []
        self._heard_at: list[float] = []
        self._acknowledged = 0
        self._next = 1
        self._progress_at = 0.0
        self.hearing = True
        self.adverts = 0
        """How many it has heard."""

    def meet(self, key: str) -> None:
        """From now on it hears this beacon as well."""
        self._keys.append(key)

    @property
    def acknowledged_of(self) -> float:
        """When the newest batch that was acknowledged had been heard; 0 for none."""
        return self._heard_at[self._acknowledged - 1] if self._acknowledged else 0.0

    @property
    def delivered(self) -> bool:
        """Whether everything is acknowledged."""
        return self._acknowledged == len(self._batches)

    async def stay(self) -> None:
        """Until it is cancelled, whatever becomes of the broker."""
        while True:
            with suppress(mqtt.MqttUnavailable, TimeoutError):
                await self.run()
            self._progress_at = 0.0
            await asyncio.sleep(RECONNECT_S)

    async def run(self) -> None:
        """Until it is cancelled, or the connection ends. Raises MqttUnavailable."""
        async with mqtt.connect(self._broker, self._on_message) as connection:
            await connection.subscribe([self._address.topic("down/ack")])
            while connection.is_open:
                self._hear()
                self._send(connection)
                await asyncio.sleep(BEAT_S)

    def _hear(self) -> None:
        now = time.monotonic()
        if self.hearing and (not self._heard_at or now - self._heard_at[-1] >= self._every_s):
            self._batches.append(self._batch())
            self._heard_at.append(now)
            self.adverts += len(self._keys)

    def _batch(self) -> bytes:
        count = len(self._keys)
        readings = Readings(list(range(count)), [0] * count, [1] * count, [55] * count, [55] * count)
        return encode(Batch(BOOT, _boot_ms(), self._keys, readings))

    def _send(self, connection: mqtt.Connection) -> None:
        if time.monotonic() - self._progress_at > RESEND_S:
            self._next, self._progress_at = self._acknowledged + 1, time.monotonic()
        while self._next <= min(len(self._batches), self._acknowledged + WINDOW):
            envelope = Envelope("live", self._epoch, self._next, unix_ms(), BOOT, _boot_ms())
            payload = self._batches[self._next - 1]
            if not connection.publish(self._address.topic("up"), payload, properties=envelope.properties()):
                return
            self._next += 1

    def _on_message(self, connection: mqtt.Connection, message: mqtt.Message) -> None:
        connection.acknowledge(message)
        ack = decode_ack(message.payload)
        if ack.epoch != self._epoch or ack.lane != "live":
            return
        if ack.upto > self._acknowledged:
            self._acknowledged, self._progress_at = ack.upto, time.monotonic()
        if ack.gap:
            self._next = self._acknowledged + 1


def _boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
