"""The schedule of faults, and each fault against our BlueZ with unmodified bleak."""

import asyncio
import contextlib
import itertools
import time

import pytest
from bleak.exc import BleakError

from simulators.bluez import FakeBluez
from simulators.bluez_adapter import Cure
from simulators.bus import PrivateBus
from simulators.faults import KINDS, Fault, Pace, inflict, schedule


def test_the_same_seed_is_the_same_schedule():
    assert schedule(1, 1000) == schedule(1, 1000)
    assert schedule(1, 1000) != schedule(2, 1000)


def test_faults_never_overlap_and_leave_time_to_recover():
    faults = schedule(3, 1000, ("hci0", "hci1"), Pace(lasting=(0.1, 0.5), calm=(1.0, 2.0)))
    assert len(faults) == 1000
    for (before, fault), (after, _) in itertools.pairwise(faults):
        assert 0.1 <= fault.seconds <= 0.5
        assert after - before - fault.seconds >= 1.0 - 0.002
    assert {fault.kind for _, fault in faults[: len(KINDS)]} == set(KINDS)
    assert {fault.adapter for _, fault in faults} == {"hci0", "hci1"}


def test_a_schedule_may_be_of_some_kinds_only():
    assert {fault.kind for _, fault in schedule(1, 50, kinds=("hang", "stall"))} == {"hang", "stall"}


@pytest.mark.parametrize("kind", KINDS)
async def test_each_fault_stops_a_scan_and_a_new_one_hears_again(
    bluez: FakeBluez, bus: PrivateBus, ears, kind
):
    fault = Fault(kind, "hci0", 0.05, Cure.RESCAN)
    scanner = ears.scanner()
    await scanner.start()
    assert await _advertise(bluez)
    during = []

    async def sleep(seconds: float) -> None:
        during.append(await _advertise(bluez))
        await asyncio.sleep(seconds)

    await inflict(fault, bluez, bus, sleep)
    assert during == [False]
    with contextlib.suppress(BleakError, OSError, EOFError):
        await asyncio.wait_for(scanner.stop(), 1)
    await _scan_again(ears)
    before = len(ears.heard)
    assert await _advertise(bluez)
    await bluez.drain()
    assert len(ears.heard) == before + 1


async def _advertise(bluez: FakeBluez) -> bool:
    return await bluez.advertise("hci0", "C0:00:00:00:00:01", manufacturer_data={1: b"a"}, rssi=-60)


async def _scan_again(ears) -> None:
    deadline = time.monotonic() + 5
    while True:
        try:
            await ears.scanner().start()
        except (BleakError, OSError, EOFError):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        else:
            return
