"""The gateway as one process: radio to outbox to broker, joined here and nowhere else.

What a SIGKILL or the plug costs: observations that are not in the outbox yet. A second is closed when it is
over, by a flush every half second, and committed with fsync; so what is lost is the unfinished second and at
most half a second more, 1.5 s in all. What was closed is never lost, renumbered or sent under another name.

What it costs the card: one commit (one fsync) for each second in which anything was heard; heartbeats and the
deletion of what was acknowledged ride on it. In a busy shop that is 3,600 commits an hour; in an empty one,
1,200 for heartbeats while connected and as many for their deletion. An outage adds one a minute, which joins
what waits into larger batches.
"""

import asyncio
import errno
import fcntl
import os
import secrets
import signal
import socket
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias

import structlog

from gateway import VERSION, status
from gateway.aggregate import Aggregator
from gateway.allow import AllowList
from gateway.beacons import REMEMBERED, EddystoneEtlm, EddystoneTlm, Identity, decode_all
from gateway.bluez import BleakRadio, BluezWatch
from gateway.clock import Clock
from gateway.config import Config, ConfigError
from gateway.health import HealthDesk
from gateway.homeassistant import HomeAssistant
from gateway.homeassistant import Reading as HomeReading
from gateway.log import set_level, tell_held_back
from gateway.membership import Membership
from gateway.outbox import OutboxUnavailable, Parcel, Stock
from gateway.presence import Presence
from gateway.remote import Health
from gateway.scanner import Condition, Hearing, Scanner
from gateway.standby import Standby
from gateway.uplink import Store, Uplink
from gateway.watchdog import Flow, starves
from sdk_bridge.mqtt import Broker
from sdk_bridge.wire.codec import encode
from sdk_bridge.wire.messages import Batch, Heartbeat

FLUSH_SECONDS: Final = 0.5
EXPIRE_MS: Final = 1_000  # presence is asked about once a second for who has gone
MAX_QUEUED: Final = 10_000  # adverts between two flushes: twenty times what a radio delivers in half a second
MAX_COUNT: Final = 2**32  # the wire's largest count

log = structlog.get_logger()


class AlreadyRunning(RuntimeError):
    """Another gateway process holds the data folder."""


Advert: TypeAlias = tuple[str, Mapping[int, bytes], Mapping[str, bytes], int, int]
"""Radio address, manufacturer data, service data, RSSI in dBm, and when (boot ms). A bare tuple: a thousand
beacons make ten thousand a second.
"""


class Listener:
    """Adverts to batches. `heard` is what the radio calls, and only queues; `drain` does the rest.

    An exception in bleak's callback would be swallowed there; one in `drain` ends the process.
    """

    def __init__(self, allow: AllowList, presence: Presence, hearing: Hearing, clock: Clock) -> None:
        self.hearing = hearing
        self.adverts = 0
        self.forgotten = 0
        self._overrun = 0
        self._allow = allow
        self._presence = presence
        self._clock = clock
        self._boot_ms = clock.boot_ms
        self._verdicts: dict[str, bool] = {}
        self._aggregator = Aggregator()
        self._health = HealthDesk()
        self._queue: deque[Advert] = deque()
        self._expired_ms = 0

    def adopt(self, config: Config) -> None:
        """Another configuration from now on; what is in range stays so."""
        self._allow = config.allow
        self._verdicts.clear()
        self._presence.adopt(config.presence)
        if not self.hearing.expects(config.fixed_beacons, config.fixed_silence_ms):
            self.hearing = Hearing(config.fixed_beacons, config.fixed_silence_ms, self._clock.boot_ms())

    def is_near(self, key: str) -> bool:
        """Whether the beacon is in range."""
        return self._presence.is_near(key)

    @property
    def dropped(self) -> int:
        """Adverts for which there was no room."""
        return self._overrun + self._aggregator.dropped

    def heard(
        self, address: str, manufacturer: Mapping[int, bytes], service: Mapping[str, bytes], rssi: int
    ) -> None:
        if len(self._queue) >= MAX_QUEUED:
            self._overrun += 1
            return
        self._queue.append((address, manufacturer, service, rssi, self._boot_ms()))

    def close(self, *, flush: bool = False) -> list[Batch]:
        """What was heard in the seconds that are over; with `flush` also in the present one."""
        self.drain()
        now = self._clock.boot_ms()
        if now - self._expired_ms >= EXPIRE_MS:
            self._expired_ms = now
            for key in self._presence.expire(now):
                self._aggregator.note_range(key, now, False)
        return self._aggregator.close(now, self._clock.boot_id, flush=flush)

    def drain(self) -> None:
        """Works off the queue."""
        queue = self._queue
        while queue:
            self._take(*queue.popleft())

    def _take(
        self,
        address: str,
        manufacturer: Mapping[int, bytes],
        service: Mapping[str, bytes],
        rssi: int,
        at_ms: int,
    ) -> None:
        self.adverts += 1
        self.hearing.last_advert_ms = at_ms
        relayed = False
        for frame in decode_all(manufacturer, service):
            if isinstance(frame, EddystoneTlm):
                relayed |= self._telemetry(address, at_ms, frame)
            elif not relayed and not isinstance(frame, EddystoneEtlm):  # a device with two names counts once
                relayed = self._identity(address, frame, rssi, at_ms)
        if not relayed:
            self.forgotten += 1

    def _identity(self, address: str, beacon: Identity, rssi: int, at_ms: int) -> bool:
        key = beacon.key
        allowed = self._verdicts.get(key)
        if allowed is None:
            allowed = self._judge(beacon)
        self.hearing.beacon(key, at_ms, allowed)
        if not allowed:
            return False
        self._health.name(address, key)
        self._aggregator.add(key, at_ms, rssi)
        if self._presence.heard(key, at_ms, rssi):
            self._aggregator.note_range(key, at_ms, True)
        return True

    def _judge(self, beacon: Identity) -> bool:
        """The allow-list's word, remembered: beacons repeat all day."""
        if len(self._verdicts) >= REMEMBERED:
            self._verdicts.clear()
        allowed = self._verdicts[beacon.key] = self._allow.allows(beacon)
        return allowed

    def _telemetry(self, address: str, at_ms: int, report: EddystoneTlm) -> bool:
        key = self._health.told(address, report)
        if key is None:
            return False
        self._aggregator.note_health(key, at_ms, report)
        return True


class Gateway:
    """Everything joined; made by `open_gateway`."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        outbox: Store,
        random: Random,
        membership: Membership | None = None,
    ) -> None:
        self._clock = clock
        self._config = config
        self._membership = membership
        hearing = Hearing(config.fixed_beacons, config.fixed_silence_ms, clock.boot_ms())
        self._listener = Listener(config.allow, Presence(config.presence), hearing, clock)
        self._watch = BluezWatch(config.bluetooth.adapters, self._learned)
        self._scanner = Scanner(config.scanning, BleakRadio(self._watch), self._listener.heard, clock.boot_ms)
        self._uplink = Uplink(
            config.address,
            _broker(config, membership),
            outbox,
            clock,
            pulse=self._pulse,
            version=VERSION,
            random=random,
        )
        address, folder = config.address, config.data_dir
        self.desk = status.StatusDesk(
            address, VERSION, clock, self._uplink, self._reading, config.outbox_bytes
        )
        self._home = HomeAssistant(
            config.home_assistant, address, VERSION, clock, self._uplink, self._home_reading, folder
        )
        if membership is not None:
            self._uplink.on_configuration = membership.remote.receive
            membership.remote.apply = self.adopt
            membership.remote.health = self._state_of_health

    def adopt(self, config: Config) -> None:
        """Another configuration, without a restart; who we are and how to reach the broker stay."""
        self._listener.adopt(config)
        self._scanner.adopt(config.scanning)
        set_level(config.log.level)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, or until a worker dies, whose error is raised; what was heard is kept either way."""
        radio = [asyncio.create_task(worker) for worker in (self._watch.run(), self._scanner.run())]
        radio += [asyncio.create_task(worker) for worker in self._workers_beside()]
        keep = asyncio.create_task(self._keep(stop))
        uplink = asyncio.create_task(self._uplink.run())
        try:
            done, _ = await asyncio.wait({*radio, keep, uplink}, return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await _cancel(*radio)
            await asyncio.wait({keep})
            await self._uplink.store(self._parcels(flush=True))
        finally:
            await _cancel(*radio, keep, uplink)
            await self._uplink.close()
        for worker in done:
            worker.result()

    async def _keep(self, stop: asyncio.Event) -> None:
        """Twice a second: what is over goes to the outbox. Never cancelled in the middle of a commit."""
        _tell_systemd("READY=1")
        while not stop.is_set():
            await self._uplink.store(self._parcels())
            self._home.look()
            self._feed_watchdog()
            tell_held_back()
            await sleep_unless(stop, FLUSH_SECONDS)

    def _feed_watchdog(self) -> None:
        since_commit = self._clock.boot_ms() - self._uplink.committed_ms
        cause = starves(Flow(since_commit, self._scanner.overdue_ms()))
        if cause is None:
            _tell_systemd("WATCHDOG=1")
        else:
            log.error("watchdog is not fed", cause=cause)

    def _workers_beside(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What runs beside radio and uplink, as far as it is configured."""
        yield status.serve(self.desk, self._config.data_dir)
        if self._membership is not None:
            yield self._membership.run()
        if self._config.metrics is not None:
            from gateway import metrics  # noqa: PLC0415 - most gateways need no Prometheus

            yield metrics.serve(self._config.metrics.host, self._config.metrics.port, self.desk.status)

    def _parcels(self, *, flush: bool = False) -> list[Parcel]:
        now = self._clock.boot_ms()
        return [
            Parcel(encode(batch), batch.boot_id, now, len(batch.readings.beacon))
            for batch in self._listener.close(flush=flush)
        ]

    def _pulse(self, stock: Stock) -> Heartbeat:
        now = self._clock.boot_ms()
        listener = self._listener
        version, state = self._membership.remote.report if self._membership else (0, "")
        return Heartbeat(
            boot_id=self._clock.boot_id,
            at_ms=now,
            scan=listener.hearing.state(now, self._scanner.scanning),
            last_advert_age_ms=self._last_advert_age_ms(now),
            adverts=listener.adverts % MAX_COUNT,
            forgotten=listener.forgotten % MAX_COUNT,
            dropped=(listener.dropped + self._uplink.counts.lost.readings) % MAX_COUNT,
            outbox_batches=stock.records,
            outbox_bytes=min(stock.bytes, MAX_COUNT),
            clock_synchronised=self._clock.synchronised(),
            version=VERSION,
            config_version=version,
            config_state=state,
            outbox_writable=self._uplink.writable,
        )

    def _reading(self) -> status.Reading:
        listener, membership = self._listener, self._membership
        version, state = membership.remote.report if membership else (0, "")
        return status.Reading(
            scan=listener.hearing.state(self._clock.boot_ms(), self._scanner.scanning),
            last_advert_ms=listener.hearing.last_advert_ms,
            adapters=self._scanner.views(),
            adverts=listener.adverts,
            forgotten=listener.forgotten,
            dropped=listener.dropped,
            certificate_until_ms=self._certificate_until(),
            configuration=status.ConfigurationStatus(version, state),
        )

    def _certificate_until(self) -> int | None:
        if self._membership is not None:
            return self._membership.keeper.identity.life.not_after
        tls = self._config.mqtt.tls
        return None if tls is None or tls.certificate is None else status.certificate_until(tls.certificate)

    def _home_reading(self) -> HomeReading:
        listener, beacons = self._listener, self._config.home_assistant.beacons
        return HomeReading(
            scan=listener.hearing.state(self._clock.boot_ms(), self._scanner.scanning),
            adverts=listener.adverts,
            outbox=self._uplink.stock.records,
            near=frozenset(beacon.key for beacon in beacons if listener.is_near(beacon.key)),
        )

    def _last_advert_age_ms(self, now: int) -> int | None:
        heard_ms = self._listener.hearing.last_advert_ms
        return None if heard_ms is None else max(0, now - heard_ms)

    def _state_of_health(self) -> Health:
        now, listener = self._clock.boot_ms(), self._listener
        return Health(
            scan=listener.hearing.state(now, self._scanner.scanning),
            connected=self._uplink.connected,
            last_advert_age_ms=self._last_advert_age_ms(now),
            relayed=listener.adverts - listener.forgotten,
        )

    def _learned(self, adapter: str, condition: Condition) -> None:
        self._scanner.learned(adapter, condition)


async def serve(config: Config, clock: Clock, path: Path) -> None:
    """Runs the gateway until SIGTERM or SIGINT; `path` is the file that `config` was read from.

    Raises AlreadyRunning, ConfigError, IdentityUnusable, OutboxUnavailable, RadiosLost, or whatever a worker
    died of.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    random = Random()
    with only_one(config.data_dir):
        membership = Membership.of(path, config, clock, random)
        if membership is not None:
            config = membership.remote.start()
            set_level(config.log.level)
        outbox = Standby(
            config.data_dir / "outbox.db",
            max_bytes=config.outbox_bytes,
            new_epoch=lambda: secrets.token_hex(8),
            now_ms=clock.unix_ms,
        )
        await Gateway(config, clock, outbox, random, membership).run(stop)
    log.info("gateway stopped")


def _broker(config: Config, membership: Membership | None) -> Broker:
    """The identity's, or the file's. Raises ConfigError where neither names one.

    The client id is new in every process: two processes with one id evict each other for ever.
    """
    address, mqtt = config.address, config.mqtt
    client_id = f"{address.store}-{address.gateway}-{secrets.token_hex(4)}"
    if membership is not None:
        return membership.broker(client_id)
    if mqtt.host is None:
        raise ConfigError(
            "`mqtt.host` is missing, and the gateway is not enrolled; see `footfall-gateway enroll`"
        )
    return Broker(
        host=mqtt.host,
        port=mqtt.port,
        client_id=client_id,
        username=mqtt.username,
        password=mqtt.password,
        tls=mqtt.tls,
    )


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds the data folder; the kernel lets go of it however the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lockable(folder)
    except OSError as error:
        raise OutboxUnavailable(f"{folder}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise AlreadyRunning(f"{folder} is in use by another gateway process") from error
    finally:
        os.close(handle)


def _lockable(folder: Path) -> int:
    """The lock's file, or the folder itself where the card takes no file. Raises OSError."""
    try:
        return os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return  # the usual case


def _tell_systemd(word: str) -> None:
    """sd_notify(3): ready, and alive; gateway/watchdog.py says when that may be said."""
    name = os.environ.get("NOTIFY_SOCKET")
    if not name:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.setblocking(False)  # a systemd that does not read must not hold up the radio
        try:
            notify.sendto(word.encode(), "\0" + name[1:] if name.startswith("@") else name)
        except OSError as error:
            log.warning("systemd does not listen", cause=str(error))
