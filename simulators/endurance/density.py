"""A crowd: beacons by the thousand through the gateway's scanner, listener and outbox; memory and CPU."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from gateway.allow import AllowList
from gateway.app import Listener
from gateway.outbox import LANES, Outbox, Parcel, Turn
from gateway.presence import Presence
from gateway.scanner import Condition, Heard, Hearing, RadioError, Scanner, ScanSettings, Stop
from sdk_bridge.wire.codec import encode
from simulators.endurance.clock import SimulatedClock
from simulators.endurance.figures import resident_bytes

APPLE = 0x004C
PROXIMITY_UUID = bytes(range(16))
FLUSH_MS = 500  # as the gateway does
WARM_UP = 0.1  # of the run: caches fill and the allocator finds its level; then memory may not grow
FLAT = 0.05
LIMIT_BYTES = 150 * 1024 * 1024
SAMPLES = 60
STRANGERS_A_SECOND = 5  # radio addresses never seen before, as a street with phones has them
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Crowd:
    """`beacons` at `rate_hz` for `seconds`; in real time each tenth of a second waits for its turn."""

    beacons: int = 1000
    rate_hz: int = 10
    seconds: int = 3600
    is_real_time: bool = False
    seed: int = 1


@dataclass(slots=True)
class CrowdFigures:
    """Memory samples are bytes, after the warm-up; CPU seconds are this process's own."""

    adverts: int = 0
    forgotten: int = 0
    dropped: int = 0
    readings: int = 0
    batches: int = 0
    cpu_s: float = 0.0
    seconds: int = 0
    memory: list[int] = field(default_factory=list)

    @property
    def swing(self) -> float:
        """By how much the memory went away from its middle, as a share of it."""
        middle = (max(self.memory) + min(self.memory)) / 2
        return (max(self.memory) - middle) / middle

    @property
    def cpu_share(self) -> float:
        """Of one core, had the time been real."""
        return self.cpu_s / self.seconds

    @property
    def is_flat(self) -> bool:
        return self.swing <= FLAT and max(self.memory) < LIMIT_BYTES


class Antenna:
    """A radio that has no D-Bus behind it; satisfies gateway.scanner.Radio."""

    def __init__(self) -> None:
        self.heard: Heard | None = None

    async def scan(self, adapter: str, heard: Heard) -> Stop:
        self.heard = heard
        return self._stop

    async def power(self, adapter: str, on: bool) -> None:
        raise RadioError(f"{adapter} has no switch")

    async def restart_bluetoothd(self) -> None:
        raise RadioError("there is no bluetoothd")

    async def _stop(self) -> None:
        self.heard = None


async def run_crowd(crowd: Crowd, folder: Path, say: Callable[[str], None]) -> CrowdFigures:
    """Plays the crowd; every batch goes through an outbox in `folder`, whose commits are real."""
    gateway = _Gateway(crowd, folder)
    figures = CrowdFigures(seconds=crowd.seconds)
    scanning = asyncio.create_task(gateway.scanner.run())
    cpu, began = time.process_time(), time.monotonic()
    try:
        for second in range(1, crowd.seconds + 1):
            for tenth in range(10):
                ahead = began + second - 0.9 + tenth / 10 - time.monotonic()
                await asyncio.sleep(max(0.0, ahead) if crowd.is_real_time else 0)
                gateway.tenth(tenth)
            if second % max(1, crowd.seconds // SAMPLES) == 0:
                if second > crowd.seconds * WARM_UP:
                    figures.memory.append(resident_bytes())
                say(f"{second}/{crowd.seconds} s, {resident_bytes() / 2**20:.1f} MB resident")
    finally:
        scanning.cancel()
        await asyncio.gather(scanning, return_exceptions=True)
        gateway.outbox.close()
    figures.cpu_s = time.process_time() - cpu
    gateway.tell(figures)
    return figures


class _Gateway:
    """The parts of a gateway between the radio's callback and the card, without D-Bus and broker."""

    def __init__(self, crowd: Crowd, folder: Path) -> None:
        self._crowd = crowd
        self._clock = SimulatedClock()
        self._dice = Random(crowd.seed)
        self._adverts = [_advert(number) for number in range(crowd.beacons)]
        self._strangers = itertools.count(1)
        allow = AllowList.of(ibeacons=[PROXIMITY_UUID.hex()])
        hearing = Hearing(frozenset(), 30_000, self._clock.boot_ms())
        self._listener = Listener(allow, Presence(), hearing, self._clock)
        self._antenna = Antenna()
        settings = ScanSettings(("hci0",), 90_000, None, restart_bluetoothd=False)
        self.scanner = Scanner(settings, self._antenna, self._listener.heard, self._clock.boot_ms)
        self.scanner.learned("hci0", Condition.READY)
        epochs = (f"{number:016x}" for number in itertools.count(1))
        self.outbox = Outbox(
            folder / "outbox.db",
            max_bytes=MAX_BYTES,
            new_epoch=lambda: next(epochs),
            now_ms=self._clock.unix_ms,
        )
        self._readings = 0
        self._batches = 0

    def tenth(self, tenth: int) -> None:
        """A tenth of a second: adverts, and twice a second a flush."""
        self._clock.now += 100
        heard = self._antenna.heard
        if heard is None:
            return  # the scanner has not begun yet
        share = self._crowd.rate_hz / 10
        for address, data in self._adverts:
            if share >= 1 or self._dice.random() < share:
                heard(address, data, {}, -45 - tenth - len(data))
        if tenth % (10 // STRANGERS_A_SECOND) == 0:
            heard(*self._stranger())
        if self._clock.now % FLUSH_MS == 0:
            self._flush()

    def tell(self, figures: CrowdFigures) -> None:
        figures.adverts = self._listener.adverts
        figures.forgotten = self._listener.forgotten
        figures.dropped = self._listener.dropped
        figures.readings, figures.batches = self._readings, self._batches

    def _stranger(self) -> tuple[str, dict[int, bytes], dict[str, bytes], int]:
        number = next(self._strangers)
        address = ":".join(f"{octet:02X}" for octet in (0xC1, *number.to_bytes(5, "big")))
        return address, {APPLE: b"\x02\x15" + self._dice.randbytes(20) + b"\xc5"}, {}, -80

    def _flush(self) -> None:
        """Stores what is over, and acknowledges what was stored before, as a backend does in time."""
        now = self._clock.now
        parcels = [
            Parcel(encode(batch), batch.boot_id, now, len(batch.readings.beacon))
            for batch in self._listener.close()
        ]
        self._batches += len(parcels)
        self._readings += sum(parcel.readings for parcel in parcels)
        stock = self.outbox.stock
        acked = {lane: stock.lanes[lane].last for lane in LANES}
        self.outbox.turn(Turn(stock.epoch, self._clock.boot_id, now, parcels, acked=acked, room={"live": 64}))


def _advert(number: int) -> tuple[str, dict[int, bytes]]:
    address = ":".join(f"{octet:02X}" for octet in (0xC0, *number.to_bytes(5, "big")))
    return address, {APPLE: b"\x02\x15" + PROXIMITY_UUID + number.to_bytes(4, "big") + b"\xc5"}
