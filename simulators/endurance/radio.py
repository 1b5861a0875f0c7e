"""One lane of radio faults: the gateway's own scanner, over unmodified bleak, on a BlueZ that keeps failing.

A process of its own, for bleak knows one message bus a process; a JSON line on standard output tells of each
fault and, last, of the lane. `python -m simulators.endurance.radio SEED COUNT SHOP [SILENCE_SECONDS]`.
The gateway is as it comes: the settings are the configuration's defaults, unless SILENCE_SECONDS shortens the
watchdog for a test that has no time.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import structlog

from gateway.bluez import BleakRadio, BluezWatch
from gateway.config import read
from gateway.scanner import Condition, RadiosLost, Scanner, ScanSettings
from simulators.bluez import FakeBluez
from simulators.bluez_adapter import Cure
from simulators.bus import PrivateBus, private_bus
from simulators.endurance.figures import open_files, resident_bytes
from simulators.faults import EVERY_KIND, Fault, Pace, inflict, schedule
from simulators.systemd import FakeSystemd

ADAPTER = "hci0"
ADDRESSES = tuple(f"C0:00:00:00:00:{number:02X}" for number in range(1, 13))
UUID = "abababab-abab-abab-abab-abababababab"
BEACON = {0x004C: bytes.fromhex("0215" + "ab" * 16 + "00010002c5")}
ADVERT_SECONDS = 0.05
PACE = Pace(lasting=(0.05, 3.0), calm=(1.5, 2.5))  # a crowd is one when it was heard for a moment
STALLS = (Cure.RESCAN, Cure.POWER_CYCLE, Cure.DAEMON_RESTART)
LIMIT_SECONDS = 60.0  # within which a radio must be heard again
GIVEN_UP_SECONDS = 180.0  # then the lane goes on to the next fault
PROCESS_START_SECONDS = 2.0  # systemd's RestartSec, where the last rung ended the gateway


@dataclass(frozen=True, slots=True)
class Shop:
    """What is on the air, whether the gateway's configuration lists it, and what its stalls may need."""

    addresses: Sequence[str]
    fixed_beacons: Sequence[str]
    cures: Sequence[Cure]


SHOPS = {
    "fixed beacon": Shop(ADDRESSES[:1], (f"ibeacon:{UUID}:1:2",), STALLS),
    "crowd": Shop(ADDRESSES, (), STALLS),
    # Of a single tag's silence nobody can say whether it is a fault, so bluetoothd is left alone.
    "single tag": Shop(ADDRESSES[:1], (), (Cure.RESCAN, Cure.POWER_CYCLE)),
}


def default_settings(shop: Shop) -> ScanSettings:
    """Of a configuration that says nothing of Bluetooth."""
    table = {
        "store": "endurance",
        "gateway": "lane",
        "data_dir": "data",
        "zone_beacons": {"keys": list(shop.fixed_beacons)},
    }
    return read(table, Path("gateway.toml")).scanning


class Ears:
    """The gateway's scanner for one adapter, begun again as systemd would where it gave up."""

    def __init__(self, settings: ScanSettings) -> None:
        self.heard_at = 0.0
        self.given_up = 0
        self._settings = settings
        self._begin()

    async def run(self) -> None:
        while True:
            tasks = [asyncio.create_task(self._watch.run()), asyncio.create_task(self._scanner.run())]
            try:
                await asyncio.gather(*tasks)
            except RadiosLost:
                self.given_up += 1
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(PROCESS_START_SECONDS)
            self._begin()

    async def hear(self, since: float) -> float | None:
        """When something was heard after `since`; None where it was given up."""
        while self.heard_at <= since:
            if time.monotonic() > since + GIVEN_UP_SECONDS:
                return None
            await asyncio.sleep(0.01)
        return self.heard_at

    def _begin(self) -> None:
        self._watch = BluezWatch((ADAPTER,), self._learned)
        self._scanner = Scanner(self._settings, BleakRadio(self._watch), self._heard, _boot_ms)

    def _learned(self, adapter: str, condition: Condition) -> None:
        self._scanner.learned(adapter, condition)

    def _heard(
        self, _address: str, _manufacturer: Mapping[int, bytes], _service: Mapping[str, bytes], _rssi: int
    ) -> None:
        self.heard_at = time.monotonic()


async def play(seed: int, count: int, shop: Shop, settings: ScanSettings) -> None:
    """Plays `count` faults, a line each, and a last one for the lane."""
    async with (
        private_bus() as bus,
        FakeBluez(bus.address) as bluez,
        FakeSystemd(bus.address, bluez) as systemd,
    ):
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = bus.address
        ears = Ears(settings)
        async with side_by_side(ears.run(), advertise(bluez, shop.addresses)):
            await ears.hear(time.monotonic())
            files = open_files()
            over_s = 0.0
            for at_s, fault in schedule(seed, count, (ADAPTER,), PACE, EVERY_KIND, shop.cures):
                await asyncio.sleep(at_s - over_s)
                over_s = at_s + fault.seconds
                _tell(**await _befall(fault, bluez, bus, systemd, ears))
            _tell(
                given_up=ears.given_up,
                bluetoothd_restarts=systemd.restarts,
                more_files=open_files() - files,
                resident_bytes=resident_bytes(),
            )


async def _befall(
    fault: Fault, bluez: FakeBluez, bus: PrivateBus, systemd: FakeSystemd, ears: Ears
) -> dict[str, object]:
    """One fault, from its first moment until the radio is heard again."""
    began = time.monotonic()
    async with asyncio.timeout(GIVEN_UP_SECONDS):
        await inflict(fault, bluez, bus)
        await systemd.start()
    heard_at = await ears.hear(time.monotonic())
    recovered_s = None if heard_at is None else round(heard_at - began, 3)
    kind = f"{fault.kind} ({fault.cure.name.lower()})" if fault.kind == "stall" else fault.kind
    return {"kind": kind, "lasted_s": fault.seconds, "recovered_s": recovered_s}


async def advertise(bluez: FakeBluez, addresses: Sequence[str]) -> None:
    """Devices that never stop sending, in turn."""
    for number, address in enumerate(cycle(addresses)):
        await bluez.advertise(ADAPTER, address, manufacturer_data=BEACON, rssi=-50 - number % 2)
        await asyncio.sleep(ADVERT_SECONDS)


@asynccontextmanager
async def side_by_side(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs the works until the block ends."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _boot_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    seed, count, name, *silence_s = sys.argv[1:]
    settings = default_settings(SHOPS[name])
    if silence_s:
        settings = replace(settings, silence_ms=int(silence_s[0]) * 1000)
    asyncio.run(play(int(seed), int(count), SHOPS[name], settings))
