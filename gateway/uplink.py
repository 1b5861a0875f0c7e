"""Hands the outbox on over MQTT and takes the acknowledgements; nothing leaves the outbox without one.

One connection at a time, opened again with back-off; on each the window of both lanes starts again after the
last acknowledged sequence. Batches go to the outbox first, whether there is a connection or not.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Protocol, TypeVar

import structlog

from gateway.clock import Clock
from gateway.gobackn import Window, Word
from gateway.outbox import (
    LANES,
    NO_LOSS,
    Loss,
    OutboxUnavailable,
    Parcel,
    Record,
    Stock,
    Turn,
)
from sdk_bridge.mqtt import Broker, Connection, Message, MqttUnavailable, Will, connect
from sdk_bridge.wire.codec import WireError, decode_ack, encode
from sdk_bridge.wire.envelope import Envelope
from sdk_bridge.wire.messages import Ack, Heartbeat, Lane, Status
from sdk_bridge.wire.topics import GatewayAddress

HEARTBEAT_MS: Final = (
    3_000  # the backend calls a gateway's zones unknown after 8 s of nothing: two may go astray
)
ACK_DELAY_MS: Final = 500  # with the flush's half second, acknowledged records are gone within one
MAX_ACK_BYTES: Final = 256  # an acknowledgement has some 60; nothing bigger is decoded
MAX_UNSTORED: Final = 256  # batches kept in memory while the disk is full: four minutes of a busy shop
FIRST_RETRY_SECONDS: Final = 0.2
LAST_RETRY_SECONDS: Final = 10.0
SETTLED_SECONDS: Final = 2.0  # a connection this old was a good one: after it the first wait is short again
PACKET_OVERHEAD: Final = 64  # fixed header, identifiers and lengths of a PUBLISH beside its variable parts
IDLE_SECONDS: Final = 1.0  # looks again even if nothing tells it to: rows grow stale, paho's queue empties
ANCHOR_DRIFT_MS: Final = 1_000  # a better anchor than the one known is written down from this on

BACKLOG_WINDOW: Final = (
    8  # records of up to 8 KiB: a queue of 64 was seen to hold live ones up for 8 s on 0.5 Mbit/s
)
COALESCE_MS: Final = 60_000  # joining what waits more often would leave more of it for next time
COALESCE_FROM: Final = 64  # records that wait; half a minute of a shop is no outage

T = TypeVar("T")
log = structlog.get_logger()


class Store(Protocol):
    """What the uplink asks of an outbox. Any method may raise OutboxUnavailable, or begin another epoch."""

    moved_aside: list[Path]

    @property
    def stock(self) -> Stock: ...
    @property
    def anchors(self) -> dict[str, int]: ...
    @property
    def writable(self) -> bool: ...
    def turn(self, turn: Turn) -> Stock: ...
    def load(self, lane: Lane, first: int, limit: int) -> list[Record]: ...
    def oldest(self) -> tuple[str, int] | None: ...
    def skip(self, lane: Lane, first: int, last: int, reason: str) -> None: ...
    def renew(self, reason: str, forgotten: int, at: tuple[str, int]) -> Stock: ...
    def coalesce(self, boot_id: str, now_ms: int) -> bool: ...
    def learn_anchor(self, boot_id: str, unix_ms: int) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Counts:
    """What went astray since the start; for heartbeats and tests."""

    bad_acks: int = 0
    foreign_messages: int = 0
    lost: Loss = NO_LOSS
    connections: int = 0


@dataclass(slots=True)
class _Unstored:
    """Batches that the disk would not take yet, and the count of those given up since."""

    parcels: deque[Parcel] = field(default_factory=deque)
    lost: Loss = NO_LOSS

    def add(self, parcels: Sequence[Parcel]) -> Loss:
        """Takes the batches; what fell out at the other end."""
        self.parcels.extend(parcels)
        fallen = [self.parcels.popleft() for _ in range(len(self.parcels) - MAX_UNSTORED)]
        loss = Loss(len(fallen), sum(parcel.readings for parcel in fallen))
        self.lost = _sum(self.lost, loss)
        return loss

    def take(self) -> tuple[list[Parcel], Loss]:
        """All of it, to be stored now."""
        taken = list(self.parcels), self.lost
        self.parcels.clear()
        self.lost = NO_LOSS
        return taken

    def put_back(self, parcels: Sequence[Parcel], lost: Loss) -> None:
        """It could not be stored after all."""
        self.parcels.extendleft(reversed(parcels))
        self.lost = _sum(self.lost, lost)


class Uplink:
    """The way from this gateway to the backend. `pulse` makes the heartbeat from the outbox's stock.

    `store` and `run` may be called side by side; the outbox runs in a thread of its own.
    """

    def __init__(
        self,
        address: GatewayAddress,
        broker: Broker,
        outbox: Store,
        clock: Clock,
        *,
        pulse: Callable[[Stock], Heartbeat],
        version: str,
        random: Random,
    ) -> None:
        self._address = address
        self._broker = broker
        self._outbox = outbox
        self._clock = clock
        self._pulse = pulse
        self._version = version
        self._random = random
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._turning = asyncio.Lock()
        self._wake = asyncio.Event()
        self._connection: Connection | None = None
        self._unstored = _Unstored()
        self._beat_at = 0
        self._ack_at: int | None = None
        self._coalesce_at = 0
        self._best_anchor = 0
        self._spent: int | None = None
        self._told_aside = 0
        self.counts = Counts()
        self.on_configuration: Callable[[bytes], None] | None = None
        """Takes the messages of `down/config`; to be set before `run`, by a gateway that is enrolled."""
        self.committed_ms = clock.boot_ms()  # when the outbox last took all there was
        self.acknowledged_ms: int | None = None  # when the backend last said a word about our epoch
        self._take_up(outbox.stock)

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def connection_number(self) -> int:
        """Counts the connections; another number, and everything retained is to be said again."""
        return self.counts.connections

    @property
    def stock(self) -> Stock:
        return self._outbox.stock

    @property
    def writable(self) -> bool:
        """Whether what is stored goes to the card, and not to memory."""
        return self._outbox.writable

    @property
    def unstored(self) -> int:
        """Batches in memory because the disk does not take them."""
        return len(self._unstored.parcels)

    def anchor(self, boot_id: str) -> int | None:
        """The unix time at which that boot's clock read zero, as far as it is known."""
        return self._outbox.anchors.get(boot_id)

    def publish_retained(self, topic: str, payload: bytes, *, qos: int) -> bool:
        """Something beside the outbox, for others than the backend; False where nobody could take it."""
        connection = self._connection
        return connection is not None and connection.publish(topic, payload, qos=qos, retain=True)

    async def oldest(self) -> tuple[str, int] | None:
        """The boot and its milliseconds of the oldest record. Raises OutboxUnavailable."""
        return await self._do(self._outbox.oldest)

    # The outbox's side.

    async def store(self, parcels: Sequence[Parcel]) -> None:
        """Makes the batches durable and, where there is a connection, has them sent.

        While the disk is full they wait in memory, and beyond 256 the oldest is lost and counted. To be
        called twice a second, also with nothing: heartbeats and the deletion of what was acknowledged ride
        on it.
        """
        dropped = self._unstored.add(parcels)
        if dropped.batches:
            self.counts.lost = _sum(self.counts.lost, dropped)
            log.error("batches lost", batches=self.counts.lost.batches, readings=self.counts.lost.readings)
        self._anchor_from_own_clock()
        now = self._clock.boot_ms()
        beat = now >= self._beat_at and self._room("live", now) > 0
        acks_wait = self._ack_at is not None and now - self._ack_at >= ACK_DELAY_MS
        try:
            if self._unstored.parcels or self._unstored.lost.batches or beat or acks_wait:
                await self._turn(beat=beat)
            self.committed_ms = now
            if now >= self._coalesce_at and self._outbox.stock.waiting >= COALESCE_FROM:
                await self._coalesce(now)
        except OutboxUnavailable as error:
            log.warning("outbox unavailable", cause=str(error), waiting=len(self._unstored.parcels))

    async def close(self) -> None:
        """Closes the outbox when its thread has done what was asked of it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._outbox.close)
        self._thread.shutdown()

    async def _turn(self, *, beat: bool = False) -> None:
        async with self._turning:
            now = self._clock.boot_ms()
            parcels, lost = self._unstored.take()
            turn = Turn(
                epoch=self._epoch,
                boot_id=self._clock.boot_id,
                now_ms=now,
                parcels=parcels,
                heartbeat=encode(self._pulse(self._outbox.stock)) if beat else None,
                acked={lane: window.acked for lane, window in self._windows.items()},
                room={lane: self._room(lane, now) for lane in LANES},
                lost=lost,
            )
            before = self._outbox.stock
            try:
                stock = await self._do(lambda: self._outbox.turn(turn))
            except OutboxUnavailable:
                self._unstored.put_back(parcels, lost)
                raise
            self._ack_at = None if self._windows_are_stored(stock) else now
            if beat and stock.epoch == before.epoch:  # in a new life, say at once how things stand
                self._beat_at = now + HEARTBEAT_MS
        if stock.lanes != before.lanes:
            self._wake.set()

    async def _coalesce(self, now: int) -> None:
        """A commit a minute, after what is fresh was stored; at once again only where much has piled up."""
        self._coalesce_at = now + COALESCE_MS
        if await self._do(lambda: self._outbox.coalesce(self._clock.boot_id, now)):
            self._coalesce_at = now

    def _windows_are_stored(self, stock: Stock) -> bool:
        return all(stock.lanes[lane].acked >= window.acked for lane, window in self._windows.items())

    def _room(self, lane: Lane, now: int) -> int:
        """A backlog is numbered by half windows: one commit for several records, not one for each."""
        window = self._windows[lane]
        if lane == "live":
            return window.room(now)
        return min(window.room(now), BACKLOG_WINDOW) if window.outstanding <= BACKLOG_WINDOW // 2 else 0

    async def _do(self, call: Callable[[], T]) -> T:
        """Runs a call of the outbox in its thread; what it committed counts even if nobody waits for it."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        finally:
            self._follow(self._outbox.stock)

    async def _do_in(self, epoch: str, call: Callable[[], object]) -> None:
        """Runs a call that is about sequences of this epoch, unless the outbox has another by then."""
        await self._do(lambda: call() if self._outbox.stock.epoch == epoch else None)

    def _follow(self, stock: Stock) -> None:
        """Windows after the outbox: new sequences, or a new life."""
        if stock.epoch != self._epoch:
            self._take_up(stock)
            if self._connection is not None:
                self._open_windows(self._connection)
        now = self._clock.boot_ms()
        for lane, window in self._windows.items():
            window.given(stock.lanes[lane].last, now)

    def _take_up(self, stock: Stock) -> None:
        self._epoch = stock.epoch
        self._spent = None  # said of another epoch
        self._windows = {lane: Window(*stock.lanes[lane]) for lane in LANES}
        for path in self._outbox.moved_aside[self._told_aside :]:
            log.error("outbox was corrupt and begins anew", kept_as=path.name)
        self._told_aside = len(self._outbox.moved_aside)

    def _anchor_from_own_clock(self) -> None:
        if self._clock.synchronised():
            self._learn_anchor(self._clock.unix_ms() - self._clock.boot_ms())

    def _learn_anchor(self, unix_ms: int) -> None:
        """Written down when first known and when it proves to be off; in the outbox's thread."""
        boot_id = self._clock.boot_id
        known = self._outbox.anchors.get(boot_id)
        if unix_ms <= 0 or (known is not None and abs(unix_ms - known) < ANCHOR_DRIFT_MS):
            return
        self._outbox.anchors[boot_id] = unix_ms

        def write() -> None:
            try:
                self._outbox.learn_anchor(boot_id, unix_ms)
            except OutboxUnavailable as error:
                log.warning("anchor not kept", cause=str(error))

        self._thread.submit(write)

    # The broker's side.

    async def run(self) -> None:
        """Connects and hands on, again and again, until cancelled."""
        failures = 0
        while True:
            began = self._clock.boot_ms()
            try:
                await self._once()
            except (MqttUnavailable, OSError) as error:
                log.warning("no broker", cause=str(error))
            if self._clock.boot_ms() - began >= SETTLED_SECONDS * 1000:
                failures = 0
            await asyncio.sleep(backoff_seconds(failures, self._random))
            failures += 1

    async def _once(self) -> None:
        will = Will(self._address.topic("status"), self._status(online=False))
        async with connect(self._broker, self._on_message, will=will, receive_maximum=32) as connection:
            await connection.subscribe(self._heard_topics())
            self.counts.connections += 1
            log.info("connected", epoch=self._epoch, limit=connection.maximum_packet_bytes)
            try:
                self._connection = connection
                self._beat_at = self._clock.boot_ms()
                self._best_anchor = 0
                self._open_windows(connection)
                log.warning("disconnected", cause=await self._until_closed(connection))
            finally:
                self._connection = None
                for window in self._windows.values():
                    window.disconnected()
                connection.publish(self._address.topic("status"), self._status(online=False), retain=True)

    def _heard_topics(self) -> list[str]:
        topics = [self._address.topic("down/ack")]
        return topics if self.on_configuration is None else [*topics, self._address.topic("down/config")]

    async def _until_closed(self, connection: Connection) -> str:
        closed = asyncio.create_task(connection.closed())
        pump = asyncio.create_task(self._pump(connection))
        try:
            await asyncio.wait({closed, pump}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
            return await closed
        finally:
            for task in (pump, closed):
                task.cancel()
            await asyncio.gather(pump, closed, return_exceptions=True)

    def _open_windows(self, connection: Connection) -> None:
        """Says who is there, and starts both lanes again after what was acknowledged."""
        connection.publish(self._address.topic("status"), self._status(online=True), retain=True)
        for window in self._windows.values():
            window.connected(self._clock.boot_ms())
        self._wake.set()

    def _status(self, online: bool) -> bytes:
        return encode(Status(online, self._epoch, self._version))

    async def _pump(self, connection: Connection) -> None:
        while connection.is_open:
            self._wake.clear()
            try:
                if self._spent is not None:
                    await self._renew(self._spent)
                for lane in LANES:
                    await self._send_due(connection, lane)
                if self._may_number():
                    await self._turn()  # wakes us when it is done
            except OutboxUnavailable as error:
                log.warning("outbox unavailable", cause=str(error))
            await self._idle()

    def _may_number(self) -> bool:
        """Whether some of what waits might go now; what is fresh goes with the next flush anyway."""
        now = self._clock.boot_ms()
        return self._outbox.stock.waiting > 0 and self._room("backlog", now) > 0

    async def _renew(self, forgotten: int) -> None:
        async with self._turning:
            at = (self._clock.boot_id, self._clock.boot_ms())
            renew = lambda: self._outbox.renew("receiver-forgot", forgotten, at)  # noqa: E731
            await self._do_in(self._epoch, renew)
            self._spent = None

    async def _idle(self) -> None:
        deadlines = [window.deadline for window in self._windows.values() if window.deadline is not None]
        seconds = (min(deadlines) - self._clock.boot_ms()) / 1000 if deadlines else IDLE_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(seconds, 0.01), IDLE_SECONDS)):
                await self._wake.wait()

    async def _send_due(self, connection: Connection, lane: Lane) -> None:
        window = self._windows[lane]
        due = window.due(self._clock.boot_ms())
        if not due:
            return
        records = await self._do(lambda: self._outbox.load(lane, due.start, len(due)))
        for record in records:
            if window is not self._windows[lane] or not await self._send(connection, lane, record):
                return
            window.sent(record.last, self._clock.boot_ms())

    async def _send(self, connection: Connection, lane: Lane, record: Record) -> bool:
        """Whether the connection took it. What no packet of this broker can carry becomes a skip."""
        topic, epoch = self._address.topic("up"), self._epoch
        properties = self._envelope(lane, record).properties()
        size = len(record.payload) + len(topic) + sum(len(k) + len(v) + 5 for k, v in properties)
        limit = connection.maximum_packet_bytes
        if limit is not None and size + PACKET_OVERHEAD > limit:
            log.error("batch exceeds the broker's packet size", bytes=size, limit=limit, lane=lane)
            skip = lambda: self._outbox.skip(lane, record.seq, record.last, "packet-size")  # noqa: E731
            await self._do_in(epoch, skip)
            self._wake.set()
            return False
        return connection.publish(topic, record.payload, properties=properties)

    def _envelope(self, lane: Lane, record: Record) -> Envelope:
        here = self._clock.boot_id
        known = self._clock.synchronised()
        return Envelope(
            lane=lane,
            epoch=self._epoch,
            seq=record.seq,
            sent_at=self._clock.unix_ms() if known else 0,
            boot_id=here,
            boot_ms=self._clock.boot_ms(),
            anchor=None if record.boot_id == here else self._outbox.anchors.get(record.boot_id),
        )

    def _on_message(self, connection: Connection, message: Message) -> None:
        connection.acknowledge(message)
        if self.on_configuration is not None and message.topic == self._address.topic("down/config"):
            self.on_configuration(message.payload)
            return
        if message.topic != self._address.topic("down/ack"):
            self.counts.foreign_messages += 1
            return
        try:
            ack = _read_ack(message.payload)
        except WireError as error:
            self.counts.bad_acks += 1
            log.warning("bad acknowledgement", cause=str(error)[:200])
            return
        if ack.epoch == self._epoch:
            self._take(ack)

    def _take(self, ack: Ack) -> None:
        now = self.acknowledged_ms = self._clock.boot_ms()
        if (
            not self._clock.synchronised()
        ):  # the answer took its time, so the latest of the guesses is nearest
            self._best_anchor = max(self._best_anchor, ack.server_ms - now)
            self._learn_anchor(self._best_anchor)
        window = self._windows[ack.lane]
        acked = window.acked
        word = window.acknowledge(ack.upto, ack.gap, now)
        if word in (Word.WE_FORGOT, Word.THEY_FORGOT):
            log.error("epoch spent", lane=ack.lane, word=word.name.lower(), acked=acked, upto=ack.upto)
            self._spent = max(0, acked - ack.upto)
            self._wake.set()
        if window.acked > acked and self._ack_at is None:
            self._ack_at = now
        if word is not Word.NOTHING:
            self._wake.set()


def backoff_seconds(failures: int, random: Random) -> float:
    """How long to wait before connecting again: 0.2 s doubling to 10 s, of which half is chance.

    A broker that restarts must not meet a whole chain's gateways in the same instant.
    """
    longest = min(FIRST_RETRY_SECONDS * (1 << min(failures, 10)), LAST_RETRY_SECONDS)
    return longest * (0.5 + random.random() / 2)


def _read_ack(payload: bytes) -> Ack:
    if len(payload) > MAX_ACK_BYTES:
        raise WireError(f"{len(payload)} bytes are no acknowledgement")
    return decode_ack(payload)


def _sum(one: Loss, other: Loss) -> Loss:
    return Loss(one.batches + other.batches, one.readings + other.readings)
