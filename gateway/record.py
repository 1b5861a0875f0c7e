"""Recording: the radio into a capture, deciding along the way exactly as the gateway would.

The recorder runs the gateway's own `Listener` on a clock that it sets itself, so the moments in the file are
the very moments at which was decided, and a replay comes to the same batches, bit by bit.
"""

import asyncio
import hashlib
import os
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from gateway import VERSION
from gateway.allow import AllowList
from gateway.app import FLUSH_SECONDS, MAX_QUEUED, Advert, Listener, sleep_unless
from gateway.beacons import EddystoneEtlm, EddystoneTlm, decode_all
from gateway.bluez import BleakRadio, BluezWatch
from gateway.capture import CaptureHeader, CaptureWriter
from gateway.clock import Clock
from gateway.config import Config
from gateway.presence import Presence, PresenceSettings
from gateway.scanner import Condition, Hearing, Scanner
from sdk_bridge.wire.codec import encode
from sdk_bridge.wire.messages import Batch
from sdk_bridge.wire.topics import GatewayAddress

MAX_DEVICES: Final = 8192  # twice what the gateway remembers names for, so no number changes too early
SYNC_SECONDS: Final = 30.0  # what a pulled plug costs at most; oftener would wear the card

log = structlog.get_logger()


class CaptureNotWritten(RuntimeError):
    """The capture cannot be begun or continued; the text is one line. What was written stays readable."""


@dataclass(slots=True)
class HeldClock:
    """A boot clock that stands where it is put. Satisfies gateway.clock.Clock; it knows no wall time."""

    boot_id: str
    now: int = 0

    def boot_ms(self) -> int:
        return self.now

    def unix_ms(self) -> int:
        return 0

    def synchronised(self) -> bool:
        return False


@dataclass(slots=True)
class Decisions:
    """What was decided, counted; `digest` names all batches together, so two runs can be compared."""

    batches: int = 0
    readings: int = 0
    entered: int = 0
    left: int = 0
    _hash: Any = field(default_factory=hashlib.sha256, repr=False)

    def add(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self.batches += 1
            self.readings += len(batch.readings.beacon)
            self.entered += sum(change.near for change in batch.ranges)
            self.left += sum(not change.near for change in batch.ranges)
            self._hash.update(encode(batch))

    @property
    def digest(self) -> str:
        """SHA-256 over the encoded batches in order, in hexadecimal."""
        return str(self._hash.hexdigest())


class Recorder:
    """Takes what the radio gives, keeps what this gateway relays, and decides as it would.

    `heard` is what the radio calls; `close` is to be called twice a second. Other adverts are counted.
    """

    def __init__(
        self, writer: CaptureWriter, allow: AllowList, presence: PresenceSettings, clock: Clock
    ) -> None:
        self.decisions = Decisions()
        self.recorded = 0
        self.forgotten = 0
        self.dropped = 0
        self._writer = writer
        self._allow = allow
        self._clock = clock
        self._held = HeldClock(clock.boot_id)
        hearing = Hearing(frozenset(), 1, clock.boot_ms())
        self._listener = Listener(allow, Presence(presence), hearing, self._held)
        self._queue: deque[Advert] = deque()
        self._devices = _Numbers()

    def heard(
        self, address: str, manufacturer: Mapping[int, bytes], service: Mapping[str, bytes], rssi: int
    ) -> None:
        if len(self._queue) >= MAX_QUEUED:
            self.dropped += 1
            self._writer.count(dropped=1)
            return
        self._queue.append((address, manufacturer, service, rssi, self._clock.boot_ms()))

    def close(self, *, flush: bool = False) -> list[Batch]:
        """What the gateway would have taken out now; with `flush` the unfinished second too."""
        while self._queue:
            self._take(*self._queue.popleft())
        self._held.now = self._clock.boot_ms()
        self._writer.close(self._held.now, flush=flush)
        batches = self._listener.close(flush=flush)
        self.decisions.add(batches)
        return batches

    def _take(
        self,
        address: str,
        manufacturer: Mapping[int, bytes],
        service: Mapping[str, bytes],
        rssi: int,
        at_ms: int,
    ) -> None:
        before = self._listener.forgotten
        self._held.now = at_ms
        self._listener.heard(address, manufacturer, service, rssi)
        self._listener.drain()
        if self._listener.forgotten != before:
            self.forgotten += 1
            self._writer.count(forgotten=1)
            return
        self.recorded += 1
        ours = {company: data for company, data in manufacturer.items() if self._relays({company: data}, {})}
        named = {uuid: data for uuid, data in service.items() if self._relays({}, {uuid: data})}
        self._writer.advert(at_ms, self._devices.of(address), ours, named, rssi)

    def _relays(self, manufacturer: Mapping[int, bytes], service: Mapping[str, bytes]) -> bool:
        """Whether this part of an advert counts; whatever else a device says is nobody's business."""
        return any(
            isinstance(frame, EddystoneTlm)
            or (not isinstance(frame, EddystoneEtlm) and self._allow.allows(frame))
            for frame in decode_all(manufacturer, service)
        )


class _Numbers:
    """A number for each radio address; a device not heard for long gets another one."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, int] = OrderedDict()
        self._next = 1

    def of(self, address: str) -> int:
        number = self._known.get(address)
        if number is not None:
            self._known.move_to_end(address)
            return number
        if len(self._known) >= MAX_DEVICES:
            self._known.popitem(last=False)
        number = self._known[address] = self._next
        self._next += 1
        return number


def fingerprint(allow: AllowList, presence: PresenceSettings) -> str:
    """Of everything that decides, 16 hexadecimal digits: two captures with one fingerprint compare."""
    lists = [
        sorted(entry.hex() for entry in allow.ibeacon_uuids),
        sorted(entry.hex() for entry in allow.eddystone_namespaces),
        sorted(entry.hex() for entry in allow.altbeacon_prefixes),
        sorted(allow.url_prefixes),
        allow.eid,
    ]
    return hashlib.sha256(msgspec.json.encode([lists, presence])).hexdigest()[:16]


def header_of(
    address: GatewayAddress, allow: AllowList, presence: PresenceSettings, clock: Clock
) -> CaptureHeader:
    """A capture that begins now."""
    return CaptureHeader(
        boot_id=clock.boot_id,
        started_ms=clock.boot_ms(),
        unix_ms=clock.unix_ms() if clock.synchronised() else 0,
        store=address.store,
        gateway=address.gateway,
        version=VERSION,
        settings=fingerprint(allow, presence),
    )


def create(path: Path) -> FileIO:
    """A new file that only its owner can read, for it tells of customers. Raises CaptureNotWritten."""
    try:
        return FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except FileExistsError as error:
        raise CaptureNotWritten(f"{path} is there already; name another file") from error
    except OSError as error:
        raise CaptureNotWritten(f"{path}: {error.strerror}") from error


async def record(
    config: Config, clock: Clock, file: FileIO, stop: asyncio.Event, *, max_bytes: int
) -> Recorder:
    """Listens with the configured radios until `stop` or the file is full; the figures of what came.

    Raises CaptureNotWritten, RadiosLost. The caller holds the data folder, so that no gateway runs beside.
    """
    writer = CaptureWriter(header_of(config.address, config.allow, config.presence, clock))
    recorder = Recorder(writer, config.allow, config.presence, clock)

    def learned(adapter: str, condition: Condition) -> None:
        scanner.learned(adapter, condition)

    watch = BluezWatch(config.bluetooth.adapters, learned)
    settings = replace(config.scanning, restart_bluetoothd=False)  # a recording asks nobody for rights
    scanner = Scanner(settings, BleakRadio(watch), recorder.heard, clock.boot_ms)
    disk = _Disk(file, max_bytes)
    radio = {asyncio.create_task(watch.run()), asyncio.create_task(scanner.run())}
    try:
        while not stop.is_set() and not disk.full:
            _raise_if_dead(radio)
            recorder.close()
            await disk.write(writer.take())
            await sleep_unless(stop, FLUSH_SECONDS)
    finally:
        for task in radio:
            task.cancel()
        await asyncio.gather(*radio, return_exceptions=True)
        recorder.close(flush=True)
        await disk.write(writer.take(), last=True)
    return recorder


def _raise_if_dead(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


class _Disk:
    """The file, written and synced in a thread, so that a slow card delays no advert's time."""

    def __init__(self, file: FileIO, max_bytes: int) -> None:
        self._file = file
        self._left = max_bytes
        self._synced = asyncio.get_running_loop().time()

    @property
    def full(self) -> bool:
        return self._left <= 0

    async def write(self, data: bytes, *, last: bool = False) -> None:
        now = asyncio.get_running_loop().time()
        due = last or now - self._synced >= SYNC_SECONDS
        if due:
            self._synced = now
        if data or due:
            self._left -= len(data)
            await asyncio.to_thread(self._write, data, due)

    def _write(self, data: bytes, sync: bool) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise CaptureNotWritten(f"the capture cannot be written: {error.strerror}") from error
