"""A private bus with our BlueZ on it, and unmodified bleak scanners that count what they hear."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from bleak import BleakScanner
from bleak.backends.bluezdbus import manager
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from simulators.bluez import FakeBluez
from simulators.bus import PrivateBus, private_bus

ACTIVE = {"DuplicateData": True, "RSSI": -127}


@dataclass
class Ears:
    """What bleak's callback was given, without the −127 that tells of the end of a discovery."""

    heard: list[tuple[str, AdvertisementData]] = field(default_factory=list)
    invalidated: int = 0

    def __call__(self, device: BLEDevice, data: AdvertisementData) -> None:
        if data.rssi == -127:
            self.invalidated += 1
        else:
            self.heard.append((device.address, data))

    def scanner(self, adapter: str = "hci0", filters: dict | None = None) -> BleakScanner:
        bluez = {"adapter": adapter, "filters": ACTIVE if filters is None else filters}
        return BleakScanner(self, bluez=bluez)

    def passive(self, *patterns: tuple, adapter: str = "hci0") -> BleakScanner:
        bluez = {"adapter": adapter, "or_patterns": list(patterns)}
        return BleakScanner(self, scanning_mode="passive", bluez=bluez)

    @property
    def rssi(self) -> list[int]:
        return [data.rssi for _, data in self.heard]


@pytest.fixture
async def bus(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PrivateBus]:
    async with private_bus() as bus:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        yield bus
        await _leave_bus()


@pytest.fixture
async def bluez(bus: PrivateBus) -> AsyncIterator[FakeBluez]:
    async with FakeBluez(bus.address, ("hci0", "hci1")) as bluez:
        yield bluez


@pytest.fixture
def ears() -> Ears:
    return Ears()


async def _leave_bus() -> None:
    """bleak keeps one connection a loop for good; this loop ends with the test."""

    if asyncio.get_running_loop() in manager._global_instances:
        shared = manager._global_instances.pop(asyncio.get_running_loop())
        if shared._bus is not None and shared._bus.connected:
            shared._bus.disconnect()
            await asyncio.wait({shared._bus_watcher_task})


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    return wait_until


async def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Polls until the condition holds; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)
