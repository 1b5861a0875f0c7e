"""A gateway without a radio: the real outbox and uplink, noting in a file whatever the outbox has committed.

It is made to be killed. `python -m simulators.endurance.sender FOLDER GATEWAY PORT RATE`; a rate of 0 only
hands on what is left.
"""

import asyncio
import os
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from gateway.log import configure
from gateway.outbox import Parcel, Stock, Turn
from gateway.standby import Standby
from gateway.uplink import Uplink
from sdk_bridge.mqtt import Broker
from sdk_bridge.wire.codec import encode
from sdk_bridge.wire.messages import Batch, Heartbeat, Readings
from sdk_bridge.wire.topics import GatewayAddress
from simulators.broker import HOST

STORE = "endurance"
VERSION = "endurance"
KEYS = tuple(f"ibeacon:11111111-2222-4333-8444-555555555555:1:{minor}" for minor in range(40))
FASTER = 8  # the clock's pace: what is fresh for 30 s turns into backlog, and is joined, within a short run
UNNOTED = (
    10  # seconds that a killed process may have committed without a note of it; its heir leaves them out
)
MAX_BYTES = 64 * 1024 * 1024
FLUSH_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class FastClock:
    """The machine's clock since its boot, several times as fast; the same in every life."""

    boot_id: str = "0f0e0d0c-0000-4000-8000-00000000fa57"

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * FASTER // 1_000_000

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def synchronised(self) -> bool:
        return False


class Notes:
    """The serial numbers of all seconds that were committed, one a line; survives a kill."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, serials: list[int]) -> None:
        os.write(self._file, "".join(f"{serial}\n" for serial in serials).encode())

    @staticmethod
    def read(path: Path) -> list[int]:
        """What has been noted; a line that the kill cut short is none."""
        text = path.read_text("ascii") if path.exists() else ""
        return [int(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class NotingOutbox(Standby):
    """The outbox, which notes what a turn has committed as soon as it has."""

    def __init__(self, notes: Notes, path: Path, **more: Any) -> None:
        super().__init__(path, **more)
        self._notes = notes

    def turn(self, turn: Turn) -> Stock:
        stock = super().turn(turn)
        if turn.parcels:
            self._notes.add([serial_of(parcel) for parcel in turn.parcels])
        return stock


def parcel_of(serial: int, clock: FastClock) -> Parcel:
    """One second of all beacons. Its serial number is its time, which joining batches keeps."""
    count = len(KEYS)
    readings = Readings(list(range(count)), [0] * count, [3] * count, [60] * count, [55] * count)
    payload = encode(Batch(clock.boot_id, serial * 1000, list(KEYS), readings))
    return Parcel(payload, clock.boot_id, clock.boot_ms(), serial)


def serial_of(parcel: Parcel) -> int:
    return parcel.readings


async def send(folder: Path, gateway: str, port: int, rate: float) -> None:
    """Stores `rate` seconds a second, at random moments, and hands them on, until it is killed."""
    clock, dice = FastClock(), Random()
    serial = _first_serial(folder)
    outbox = NotingOutbox(
        Notes(folder / "notes"),
        folder / "outbox.db",
        max_bytes=MAX_BYTES,
        new_epoch=lambda: secrets.token_hex(8),
        now_ms=clock.unix_ms,
    )
    broker = Broker(HOST, port, f"{gateway}-{secrets.token_hex(4)}")
    uplink = Uplink(
        GatewayAddress(STORE, gateway),
        broker,
        outbox,
        clock,
        pulse=lambda stock: _pulse(clock, stock),
        version=VERSION,
        random=dice,
    )
    running = asyncio.create_task(uplink.run())
    while not running.done():
        parcels = [parcel_of(serial + n, clock) for n in range(dice.choice((1, 1, 2)) if rate else 0)]
        serial += len(parcels)
        await uplink.store(parcels)
        await asyncio.sleep(dice.expovariate(rate) if rate else FLUSH_SECONDS)
    running.result()


def _first_serial(folder: Path) -> int:
    """Where this life begins to count, written down at once.

    A life may be killed after a commit and before its first note. Were it counted by its notes alone, its
    heir would give the same numbers to other seconds, and the reckoning would take them for duplicates, as it
    did once in some four thousand kills.
    """
    taken = [*Notes.read(folder / "notes"), *Notes.read(folder / "lives")]
    first = max(taken, default=0) + UNNOTED
    Notes(folder / "lives").add([first])
    return first


def _pulse(clock: FastClock, stock: Stock) -> Heartbeat:
    now = clock.boot_ms()
    return Heartbeat(clock.boot_id, now, "hearing", 0, 0, 0, 0, stock.records, stock.bytes, False, VERSION)


if __name__ == "__main__":
    configure("warning", "json", version=VERSION, gateway=sys.argv[2])
    asyncio.run(send(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
