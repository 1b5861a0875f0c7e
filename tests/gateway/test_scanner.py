"""Radios that fail in every known way: ladder and hearing as tables, then bleak over a simulated BlueZ."""

import asyncio
import contextlib
import gc
import itertools
import time

import pytest

from gateway.bluez import BleakRadio, BluezWatch
from gateway.scanner import (
    DOWN_MS,
    FAILING_MS,
    GRACE_MS,
    HEARD_MS,
    LADDER,
    LAST_RETRY_MS,
    POWER_ON_MS,
    Condition,
    Hearing,
    Ladder,
    Remedy,
    Scanner,
    ScanSettings,
    Step,
)
from simulators.bluez import FakeBluez
from simulators.bluez_adapter import BluezSettings, Cure
from simulators.bus import private_bus

SILENCE_MS = 90_000
NEW = Remedy.NEW_SCANNER


def ready(now=0):
    ladder = Ladder(SILENCE_MS, now)
    ladder.learned(Condition.READY, now)
    return ladder


def scanning(now=0):
    ladder = ready(now)
    ladder.started(now)
    return ladder


def climb(ladder, now, *, may_give_up, scans):
    """The remedies in order, when each is tried in vain as soon as it is due; `scans` if a scan can start."""
    remedies = []
    while len(remedies) < len(LADDER) + 2 and Remedy.GIVE_UP not in remedies:
        rung = ladder.rung
        step = ladder.next(now, may_give_up=may_give_up)
        now = max(now, step.at_ms)
        if step.remedy is None:
            continue
        if ladder.rung != rung:
            remedies.append(step.remedy)
        if scans:
            ladder.started(now)
        else:
            ladder.failed(now)
    return remedies, now


def test_a_scan_that_hears_is_left_alone_and_one_that_is_silent_climbs_to_the_top():
    ladder = scanning()
    ladder.heard(50_000)
    assert ladder.next(139_999, may_give_up=True) == Step(None, 140_000)
    remedies, _ = climb(ladder, 140_000, may_give_up=True, scans=True)
    assert remedies == list(LADDER)


def test_where_silence_may_be_peace_the_ladder_begins_again_below_the_top():
    remedies, _ = climb(scanning(), 0, may_give_up=False, scans=True)
    gentle = {Remedy.NEW_SCANNER, Remedy.POWER_CYCLE}
    assert set(remedies) == gentle and remedies.count(Remedy.POWER_CYCLE) >= 2


def test_an_adapter_that_is_there_and_cannot_scan_is_given_up_after_a_minute():
    remedies, now = climb(ready(), 0, may_give_up=True, scans=False)
    assert remedies == [remedy for remedy in LADDER if remedy is not NEW]
    assert now == pytest.approx(len(remedies) * FAILING_MS, abs=len(remedies) * LAST_RETRY_MS)


@pytest.mark.parametrize("condition", [Condition.UNKNOWN, Condition.ABSENT])
def test_an_adapter_that_is_away_is_tried_for_and_never_given_up(condition):
    ladder = ready()
    ladder.learned(condition, 0)
    now, tries = 0, 0
    while now < 3_600_000:
        step = ladder.next(now, may_give_up=True)
        if step.remedy is None:
            now = step.at_ms
            continue
        assert step.remedy is NEW and ladder.rung == 0
        ladder.failed(now)
        tries += 1
    assert tries == pytest.approx(3_600_000 / LAST_RETRY_MS, rel=0.1)


@pytest.mark.parametrize("condition", [Condition.UNKNOWN, Condition.ABSENT, Condition.OFF])
def test_bad_news_ends_a_scan_that_nothing_else_would_end(condition):
    ladder = scanning()
    ladder.learned(condition, 1_000)
    assert not ladder.scanning
    assert ladder.next(1_000, may_give_up=False).remedy is not None


def test_good_news_is_acted_on_at_once():
    ladder = ready()
    ladder.learned(Condition.ABSENT, 0)
    for _ in range(9):
        ladder.failed(1_000)
    assert ladder.next(1_001, may_give_up=False).remedy is None
    ladder.learned(Condition.READY, 1_002)
    assert ladder.next(1_002, may_give_up=False) == Step(NEW, 1_002)


def test_a_radio_that_was_switched_off_is_switched_on_every_ten_seconds():
    ladder = scanning()
    ladder.learned(Condition.OFF, 0)
    now, tried_at = 0, []
    while now < 35_000:
        step = ladder.next(now, may_give_up=True)
        if step.remedy is Remedy.POWER_ON:
            tried_at.append(now)
        if step.remedy is None:
            now = step.at_ms
        else:
            ladder.failed(now)
    assert len(tried_at) == 4 and all(b - a >= POWER_ON_MS for a, b in itertools.pairwise(tried_at))


def test_ten_seconds_of_in_progress_after_a_restart_climb_nothing():
    ladder = scanning()
    ladder.learned(Condition.ABSENT, 0)
    ladder.learned(Condition.READY, 300)
    now = 300
    while now < 10_300:
        step = ladder.next(now, may_give_up=True)
        now = max(now, step.at_ms)
        if step.remedy is not None:
            ladder.failed(now)
    assert ladder.rung == 0


def test_an_advert_leads_back_to_the_ground():
    ladder = scanning()
    assert ladder.next(SILENCE_MS, may_give_up=True).remedy is NEW
    ladder.started(SILENCE_MS)
    ladder.heard(SILENCE_MS + 5)
    assert ladder.rung == 0


FIXED, OTHER, TAG = "ibeacon:fixed", "ibeacon:other", "ibeacon:tag"


@pytest.mark.parametrize(
    ("fixed", "heard", "now", "scanning", "state"),
    [
        ((), [], 1_000, True, "starting"),
        ((), [], 1_000, False, "starting"),
        ((), [], GRACE_MS, True, "quiet"),
        ((), [], GRACE_MS, False, "deaf"),
        ((), [(1_000, TAG)], 2_000, True, "hearing"),
        ((), [(1_000, None)], 2_000, True, "quiet"),  # strangers only
        ((), [(1_000, TAG)], 1_000 + HEARD_MS, True, "quiet"),
        ((FIXED,), [(1_000, FIXED)], 2_000, True, "quiet"),
        ((FIXED,), [(1_000, FIXED), (1_500, TAG)], 2_000, True, "hearing"),
        ((FIXED,), [(1_000, FIXED)], 30_999, True, "quiet"),
        ((FIXED,), [(1_000, FIXED)], 31_000, True, "deaf"),
        ((FIXED,), [(1_000, FIXED), (30_900, TAG)], 31_000, True, "deaf"),  # the shelf's beacon is gone
        ((FIXED, OTHER), [(1_000, FIXED), (30_900, OTHER)], 31_000, True, "quiet"),  # one battery is empty
        ((FIXED,), [], 29_999, True, "starting"),
        ((FIXED,), [], 30_000, True, "deaf"),  # configured, and never heard
        ((FIXED,), [(39_000, FIXED), (39_500, TAG)], 40_000, False, "deaf"),  # no scan for too long
    ],
)
def test_what_the_heartbeat_says(fixed, heard, now, scanning, state):
    hearing = Hearing(frozenset(fixed), 30_000, 0)
    for at, key in heard:
        hearing.advert(at)
        if key is not None:
            hearing.beacon(key, at, relayed=True)
    assert hearing.state(now, scanning) == state


def test_a_restart_of_bluetoothd_is_no_deafness():
    hearing = Hearing(frozenset({FIXED}), 30_000, 0)
    hearing.advert(20_000)
    hearing.beacon(FIXED, 20_000, relayed=False)
    hearing.state(20_000, True)
    assert hearing.state(20_000 + DOWN_MS, False) == "quiet"
    assert hearing.state(20_001 + DOWN_MS, False) == "deaf"
    assert hearing.state(20_002 + DOWN_MS, True) == "quiet"


# Over D-Bus: unmodified bleak, a real dbus-daemon, a simulated bluetoothd.

TAGS = {0x004C: bytes.fromhex("0215" + "ab" * 16 + "00010002c5")}


class Air:
    """A beacon that never stops sending, and the scanner that should hear it."""

    def __init__(self, bluez, adapters, silence_ms):
        self.bluez = bluez
        self.heard_at = dict.fromkeys(adapters, 0)
        self.count = 0
        self.senders = []
        self.watch = BluezWatch(adapters, self.learned)
        settings = ScanSettings(adapters, silence_ms, expects=True)
        self.scanner = Scanner(
            settings, BleakRadio(self.watch), self.heard, lambda: time.monotonic_ns() // 10**6
        )

    def learned(self, name, condition):
        self.scanner.learned(name, condition)

    def heard(self, address, manufacturer, _service, _rssi):
        assert manufacturer == TAGS
        self.count += 1
        self.heard_at[f"hci{int(address[-1])}"] = time.monotonic()

    async def send(self, adapter):
        rssi = -50
        while True:
            rssi = -50 if rssi == -51 else -51
            await self.bluez.advertise(
                adapter, f"C0:00:00:00:00:0{adapter[-1]}", manufacturer_data=TAGS, rssi=rssi
            )
            await asyncio.sleep(0.02)

    async def hears(self, adapter="hci0", seconds=20.0):
        """Waits for an advert that comes after now."""
        since, deadline = time.monotonic(), time.monotonic() + seconds
        while self.heard_at[adapter] <= since:
            assert time.monotonic() < deadline, f"{adapter} hears nothing after {seconds:g} s"
            await asyncio.sleep(0.01)
        return time.monotonic() - since


@pytest.fixture
def on_air(monkeypatch):
    @contextlib.asynccontextmanager
    async def make(adapters=("hci0",), silence_ms=SILENCE_MS):
        settings = BluezSettings(busy_after_restart_s=0.5)
        async with private_bus() as bus:
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
            async with FakeBluez(bus.address, adapters=adapters, settings=settings) as bluez:
                air = Air(bluez, adapters, silence_ms)
                tasks = [asyncio.create_task(air.send(adapter)) for adapter in adapters]
                tasks += [asyncio.create_task(air.watch.run()), asyncio.create_task(air.scanner.run())]
                try:
                    for adapter in adapters:
                        await air.hears(adapter)
                    yield air, bluez, bus
                finally:
                    for task in tasks:
                        task.cancel()
                    ends = await asyncio.gather(*tasks, return_exceptions=True)
                    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
                    gc.collect()  # futures that dbus-fast left with a broken bus's error speak up here

    return make


async def test_it_hears_again_after_bluetoothd_restarted(on_air):
    async with on_air() as (air, bluez, _):
        await bluez.restart_daemon()
        assert await air.hears() < 5


async def test_it_hears_again_after_bluetoothd_was_down(on_air, wait_until):
    async with on_air() as (air, bluez, _):
        await bluez.stop_daemon()
        await wait_until(lambda: not air.scanner.scanning)
        await bluez.start_daemon()
        assert await air.hears() < 5


async def test_it_hears_again_after_an_adapter_was_replugged(on_air, wait_until):
    async with on_air() as (air, bluez, _):
        await bluez.unplug("hci0")
        await wait_until(lambda: not air.scanner.scanning)
        await bluez.replug("hci0")
        assert await air.hears() < 5


async def test_it_switches_a_radio_on_that_was_switched_off(on_air):
    async with on_air() as (air, bluez, _):
        await bluez.power("hci0", False)
        assert await air.hears() < 5


async def test_it_hears_again_after_the_message_bus_died(on_air, wait_until):
    async with on_air() as (air, bluez, bus):
        await bus.kill()
        await wait_until(lambda: not air.scanner.scanning)
        await bus.start()
        await bluez.stop_daemon()
        await bluez.start_daemon()
        assert await air.hears() < 8


@pytest.mark.parametrize("cure", [Cure.RESCAN, Cure.POWER_CYCLE])
async def test_discovery_that_is_silently_stuck_is_cured(on_air, cure):
    async with on_air(silence_ms=300) as (air, bluez, _):
        bluez.stall("hci0", cure)
        assert await air.hears() < 10


async def test_a_daemon_that_never_replies_blocks_nothing_for_ever(on_air, monkeypatch):
    monkeypatch.setattr("gateway.bluez.START_SECONDS", 0.3)
    monkeypatch.setattr("gateway.bluez.STOP_SECONDS", 0.3)
    monkeypatch.setattr("gateway.bluez.CALL_SECONDS", 0.3)
    monkeypatch.setattr("gateway.scanner.FAILING_MS", 500)
    async with on_air(silence_ms=300) as (air, bluez, _):
        bluez.hang()
        await asyncio.sleep(1.5)  # several rungs, each of which waits for an answer that does not come
        await bluez.unhang()
        assert await air.hears() < 15


async def test_one_adapters_fault_leaves_the_other_listening(on_air):
    async with on_air(adapters=("hci0", "hci1")) as (air, bluez, _):
        await bluez.unplug("hci0")
        await air.hears("hci1")
        await bluez.replug("hci0")
        await air.hears("hci0")


async def test_after_restarts_an_advert_is_heard_once_and_not_once_for_each_scanner(on_air):
    async with on_air() as (air, bluez, _):
        for _ in range(3):
            await bluez.restart_daemon()
            await air.hears()
        before, sent = air.count, 0
        for rssi in range(-80, -60):
            sent += await bluez.advertise("hci0", "C0:00:00:00:00:00", manufacturer_data=TAGS, rssi=rssi)
        await bluez.drain()
        assert sent == 20 and air.count - before < 30  # the other sender goes on beside it
