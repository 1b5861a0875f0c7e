"""Radios that fail in every known way: ladder and hearing as tables, then bleak over a simulated BlueZ."""

import asyncio
import contextlib
import gc
import itertools
import time

import pytest

from gateway.bluez import BleakRadio, BluezWatch
from gateway.scanner import (
    CROWD,
    CROWD_GONE_MS,
    CROWD_MS,
    DOWN_MS,
    FAILING_MS,
    GRACE_MS,
    HEARD_MS,
    LADDER,
    LAST_RETRY_MS,
    PEACE_CYCLE_MS,
    PEACE_MS,
    POWER_ON_MS,
    Condition,
    Crowd,
    Hearing,
    Ladder,
    Patience,
    Remedy,
    Scanner,
    ScanSettings,
    Step,
)
from simulators.bluez import FakeBluez
from simulators.bluez_adapter import BluezSettings, Cure
from simulators.bus import private_bus

SILENCE_MS = 90_000
PATIENCE = Patience.of(SILENCE_MS, 30_000)
NEW = Remedy.NEW_SCANNER
CYCLE = Remedy.POWER_CYCLE
COST_MS = {CYCLE: 1_000, Remedy.RESTART_BLUETOOTHD: 12_000}  # off and on; a new daemon and its InProgress
FAULT = {"certain": True, "alone": True}
NIGHT = {"certain": False, "alone": True}


def ready(now=0, patience=PATIENCE):
    ladder = Ladder(patience, now)
    ladder.learned(Condition.READY, now)
    return ladder


def scanning(now=0, patience=PATIENCE):
    ladder = ready(now, patience)
    ladder.started(now)
    return ladder


def climb(ladder, until_ms, *, scans=True, **evidence):
    """(When, remedy) in order until the time or the end, each tried in vain; `scans` if a scan can start."""
    now, remedies = 0, []
    while True:
        rung = ladder.rung
        step = ladder.next(now, **evidence)
        now = max(now, step.at_ms)
        if now >= until_ms:
            return remedies
        if step.remedy is None:
            continue
        if ladder.rung != rung:
            remedies.append((now, step.remedy))
        if step.remedy is Remedy.GIVE_UP:
            return remedies
        if scans:
            now += COST_MS.get(step.remedy, 0)
            ladder.started(now)
        else:
            ladder.failed(now)


def test_a_scan_that_hears_is_left_alone_and_one_that_is_silent_climbs_to_the_top():
    ladder = scanning()
    ladder.heard(50_000)
    assert ladder.next(69_999, **FAULT) == Step(None, 70_000)
    assert ladder.next(70_000, **FAULT).remedy is NEW
    remedies = climb(scanning(), 3_600_000, **FAULT)
    first = [remedy for _, remedy in remedies[: len(LADDER)]]
    assert first == [*LADDER[:-1], NEW], "nobody gives up within the first minute"
    assert [remedy for _, remedy in remedies[len(LADDER) :]] == list(LADDER)


@pytest.mark.parametrize(
    ("silence_s", "expected_s", "within_s"),
    [(90, 30, 55), (90, None, 55), (3600, 30, 55), (10, 30, 45), (90, 5, 55), (90, 60, 120)],
)
def test_every_remedy_has_been_tried_within_a_minute_whatever_the_watchdogs_setting(
    silence_s, expected_s, within_s
):
    """Longer only where somebody grants their fixed beacons more than the default half minute."""
    patience = Patience.of(silence_s * 1000, expected_s and expected_s * 1000)
    remedies = climb(scanning(patience=patience), 600_000, **FAULT)
    at_ms = next(at for at, remedy in remedies if remedy is Remedy.RESTART_BLUETOOTHD)
    assert at_ms + COST_MS[Remedy.RESTART_BLUETOOTHD] < within_s * 1000
    assert at_ms + COST_MS[Remedy.RESTART_BLUETOOTHD] < 60_000 or expected_s > 30


def test_after_the_first_climb_the_ladder_is_climbed_at_leisure():
    remedies = climb(scanning(), 3_600_000, **FAULT)
    later = [at for at, _ in remedies[len(LADDER) :]]
    assert all(b - a >= SILENCE_MS for a, b in itertools.pairwise(later))
    assert remedies[-1][1] is Remedy.GIVE_UP and remedies[-1][0] > 600_000


def test_where_others_hear_nothing_is_torn_down_for_one():
    remedies = climb(scanning(), 3_600_000, certain=True, alone=False)
    assert {remedy for _, remedy in remedies} == {NEW, CYCLE}


def test_a_quiet_night_costs_new_scanners_and_few_power_cycles():
    """A stall that a new scan cures ends within a minute even then."""
    hours = 12
    remedies = climb(scanning(), hours * 3_600_000, **NIGHT)
    assert {remedy for _, remedy in remedies} == {NEW, CYCLE}
    times = [at for at, _ in remedies]
    assert all(b - a <= PEACE_MS + COST_MS[CYCLE] < 60_000 for a, b in itertools.pairwise(times))
    cycles = [at for at, remedy in remedies if remedy is CYCLE]
    assert cycles[0] + COST_MS[CYCLE] < 60_000, "the first silence is met as a fault would be"
    assert len(cycles) <= 1 + hours * 3_600_000 // PEACE_CYCLE_MS


def test_passers_by_bring_no_more_power_cycles():
    """Each ends a silence and begins another."""
    ladder, cycles = scanning(), 0
    for minute in range(60):
        now = minute * 60_000
        ladder.heard(now + 1)
        while now < (minute + 1) * 60_000:
            step = ladder.next(now, **NIGHT)
            now = max(now, step.at_ms)
            if step.remedy is not None:
                cycles += step.remedy is CYCLE
                ladder.started(now)
    assert cycles <= 60 * 60_000 // PEACE_CYCLE_MS + 1


def test_a_power_cycle_that_helped_may_come_again_at_once():
    ladder, now = scanning(), 0
    for _ in range(5):
        for wanted in (NEW, NEW, CYCLE):
            now = ladder.next(now, **NIGHT).at_ms
            assert ladder.next(now, **NIGHT).remedy is wanted
            ladder.started(now)
        now += 100
        ladder.heard(now)


def test_a_night_that_was_peaceful_is_over_when_there_is_evidence():
    ladder = scanning()
    climb(ladder, 3_600_000, **NIGHT)
    ladder.next(4_000_000, **NIGHT)
    ladder.started(4_000_000)
    seen = set()
    for hour in range(20):
        seen.add(ladder.next(5_000_000 + hour * 3_600_000, **FAULT).remedy)
        ladder.started(5_000_000 + hour * 3_600_000)
    assert seen == set(LADDER)


def test_an_adapter_that_is_there_and_cannot_scan_is_given_up_after_a_minute():
    remedies = climb(ready(), 3_600_000, scans=False, **FAULT)
    assert [remedy for _, remedy in remedies] == [remedy for remedy in LADDER if remedy is not NEW]
    wanted = len(remedies) * FAILING_MS
    assert remedies[-1][0] == pytest.approx(wanted, abs=len(remedies) * LAST_RETRY_MS)


def test_a_daemon_that_does_not_answer_is_renewed_at_once_and_once():
    ladder = scanning()
    assert ladder.next(20_000, **FAULT).remedy is NEW
    ladder.failed(40_000, unanswered=True)
    assert ladder.next(40_000, **FAULT).remedy is Remedy.RESTART_BLUETOOTHD
    ladder.failed(40_100)
    ladder.failed(55_000, unanswered=True)
    assert ladder.next(55_100, **FAULT).remedy is not Remedy.RESTART_BLUETOOTHD
    ladder.started(60_000)
    ladder.heard(60_100)
    ladder.failed(75_000, unanswered=True)
    assert ladder.next(75_000, **FAULT).remedy is Remedy.RESTART_BLUETOOTHD


def test_a_daemon_that_does_not_answer_is_left_alone_while_another_radio_hears():
    ladder = scanning()
    ladder.failed(40_000, unanswered=True)
    assert ladder.next(40_000, certain=True, alone=False).remedy is not Remedy.RESTART_BLUETOOTHD


@pytest.mark.parametrize(
    ("devices", "every_ms", "silent_ms", "vanished"),
    [
        (12, 50, 0, True),
        (12, 50, 30_000, True),
        (12, 50, CROWD_GONE_MS, False),  # by now it has left, or nothing helps
        (CROWD, 1_000, 1_000, True),
        (CROWD - 1, 50, 30_000, False),  # a family
        (1, 50, 30_000, False),
        (40, 2_500, 30_000, False),  # people who leave one by one
    ],
)
def test_a_crowd_that_falls_silent_at_a_blow_is_told_from_people_who_leave(
    devices, every_ms, silent_ms, vanished
):
    crowd, now = Crowd(), 0
    for number in range(max(devices, CROWD_MS // every_ms)):
        now = 1_000_000 + number * every_ms
        crowd.heard(f"device {number % devices}", now)
    assert crowd.has_vanished(now + silent_ms) is vanished


def test_a_crowd_of_long_ago_is_none():
    crowd = Crowd()
    for number in range(20):
        crowd.heard(f"device {number}", number)
    crowd.heard("device 0", 3 * CROWD_MS)
    assert not crowd.has_vanished(3 * CROWD_MS + 1)


@pytest.mark.parametrize("condition", [Condition.UNKNOWN, Condition.ABSENT])
def test_an_adapter_that_is_away_is_tried_for_and_never_given_up(condition):
    ladder = ready()
    ladder.learned(condition, 0)
    now, tries = 0, 0
    while now < 3_600_000:
        step = ladder.next(now, **FAULT)
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
    assert ladder.next(1_000, **NIGHT).remedy is not None


def test_good_news_is_acted_on_at_once():
    ladder = ready()
    ladder.learned(Condition.ABSENT, 0)
    for _ in range(9):
        ladder.failed(1_000)
    assert ladder.next(1_001, **NIGHT).remedy is None
    ladder.learned(Condition.READY, 1_002)
    assert ladder.next(1_002, **NIGHT) == Step(NEW, 1_002)


def test_a_radio_that_was_switched_off_is_switched_on_every_ten_seconds():
    ladder = scanning()
    ladder.learned(Condition.OFF, 0)
    now, tried_at = 0, []
    while now < 35_000:
        step = ladder.next(now, **FAULT)
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
        step = ladder.next(now, **FAULT)
        now = max(now, step.at_ms)
        if step.remedy is not None:
            ladder.failed(now)
    assert ladder.rung == 0


def test_an_advert_leads_back_to_the_ground():
    ladder = scanning()
    assert ladder.next(SILENCE_MS, **FAULT).remedy is NEW
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


class HandRadio:
    """A radio that hears what the test says."""

    heard = None
    cycles = 0

    async def scan(self, _adapter, heard):
        self.heard = heard

        async def stop():
            self.heard = None

        return stop

    async def power(self, _adapter, on):
        self.cycles += on


async def test_what_was_heard_before_a_fault_leads_back_to_the_ground(wait_until):
    """Else the next silence would be met with the patience of the one before."""
    radio, settings = HandRadio(), ScanSettings(("hci0",), 30, 30_000, restart_bluetoothd=False)
    scanner = Scanner(settings, radio, lambda *_: None, lambda: time.monotonic_ns() // 10**6)
    running = asyncio.create_task(scanner.run())
    try:
        scanner.learned("hci0", Condition.READY)
        await wait_until(lambda: scanner.views()[0].rung > 0 and radio.heard is not None)
        await asyncio.sleep(0.01)
        radio.heard("C0:00:00:00:00:01", {}, {}, -60)
        scanner.learned("hci0", Condition.ABSENT)
        assert scanner.views()[0].rung == 0
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_silence_after_a_cure_is_met_as_promptly_as_the_first(wait_until, monkeypatch):
    """A radio that was heard again must not be waited for as if the night went on."""
    monkeypatch.setattr("gateway.scanner.POWER_OFF_SECONDS", 0)
    monkeypatch.setattr("gateway.scanner.FIRST_PATIENCE_MS", 200)
    monkeypatch.setattr("gateway.scanner.NEXT_PATIENCE_MS", 100)
    radio, settings = HandRadio(), ScanSettings(("hci0",), 20_000, None, restart_bluetoothd=False)
    scanner = Scanner(settings, radio, lambda *_: None, lambda: time.monotonic_ns() // 10**6)
    running = asyncio.create_task(scanner.run())
    try:
        scanner.learned("hci0", Condition.READY)
        await wait_until(lambda: radio.cycles == 1 and scanner.scanning)
        await asyncio.sleep(0.05)  # the supervisor has begun to wait in peace, for 20 s
        radio.heard("C0:00:00:00:00:01", {}, {}, -60)
        await wait_until(lambda: radio.cycles == 2, 5)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_each_stall_that_a_power_cycle_cures_gets_one_also_in_a_shop_that_may_be_quiet(
    wait_until, monkeypatch
):
    monkeypatch.setattr("gateway.scanner.POWER_OFF_SECONDS", 0)
    monkeypatch.setattr("gateway.scanner.FIRST_PATIENCE_MS", 200)
    monkeypatch.setattr("gateway.scanner.NEXT_PATIENCE_MS", 100)
    radio, settings = HandRadio(), ScanSettings(("hci0",), 1_000, None, restart_bluetoothd=False)
    scanner = Scanner(settings, radio, lambda *_: None, lambda: time.monotonic_ns() // 10**6)
    running = asyncio.create_task(scanner.run())
    try:
        scanner.learned("hci0", Condition.READY)
        for stall in range(1, 4):
            await wait_until(lambda stall=stall: radio.cycles == stall and scanner.scanning)
            for _ in range(30):  # cured, and heard for longer than any patience
                await asyncio.sleep(0.01)
                radio.heard("C0:00:00:00:00:01", {}, {}, -60)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


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
        settings = ScanSettings(adapters, silence_ms, 30_000, restart_bluetoothd=False)
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
