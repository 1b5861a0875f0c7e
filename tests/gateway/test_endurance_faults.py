"""Short cuts of `make test-faults`: each kind of radio fault, some dozen kills, and a last rung."""

import asyncio
import time

import pytest

from gateway.scanner import ScanSettings
from simulators.bluez import FakeBluez
from simulators.bluez_adapter import BluezSettings, Cure
from simulators.bus import private_bus
from simulators.endurance.kills import run_kills
from simulators.endurance.lanes import LEAKED_FILES, run_lanes
from simulators.endurance.radio import ADDRESSES, SHOPS, Ears, advertise, default_settings, side_by_side
from simulators.faults import KINDS
from simulators.systemd import FakeSystemd

SEED = 20  # of which eight lanes of two faults have every kind between them, but none that takes long
pytestmark = pytest.mark.e2e


async def test_radio_faults_are_recovered_from_and_kills_lose_and_double_nothing(tmp_path):
    (tmp_path / "radio").mkdir()
    lines = []
    async with asyncio.TaskGroup() as tasks:
        heard = tasks.create_task(run_lanes(tmp_path / "radio", 16, 8, SEED, lines.append, silence_s=2))
        held = tasks.create_task(run_kills(tmp_path / "kills", 24, 3, SEED, lines.append))
    recoveries, reckoning = heard.result(), held.result()
    assert {kind.partition(" ")[0] for kind in recoveries.seconds} == set(KINDS)
    assert recoveries.within_limit == recoveries.count == 16, recoveries.table()
    assert recoveries.leaked_files <= LEAKED_FILES
    assert reckoning.is_clean, reckoning
    assert reckoning.kills["gateway"] == 24 and reckoning.kills["receiver"] > 0
    assert reckoning.held >= reckoning.committed > 1000


@pytest.mark.parametrize("shop", SHOPS)
def test_the_long_run_takes_the_gateway_as_it_comes(shop):
    settings = default_settings(SHOPS[shop])
    assert settings.silence_ms == 90_000 and settings.restart_bluetoothd
    assert settings.expected_ms == (30_000 if shop == "fixed beacon" else None)


@pytest.fixture
async def stuck(monkeypatch):
    """A radio that only a new bluetoothd can cure, the gateway's scanner, and systemd."""
    settings = BluezSettings(busy_after_restart_s=0.5)
    async with (
        private_bus() as bus,
        FakeBluez(bus.address, settings=settings) as bluez,
        FakeSystemd(bus.address, bluez) as systemd,
    ):
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        ears = Ears(ScanSettings(("hci0",), 300, 30_000, restart_bluetoothd=True))
        async with side_by_side(ears.run(), advertise(bluez, ADDRESSES[:1])):
            assert await ears.hear(time.monotonic())
            yield ears, bluez, systemd


async def test_systemd_restarts_a_bluetoothd_that_nothing_else_cures(stuck):
    ears, bluez, systemd = stuck
    bluez.stall("hci0", Cure.DAEMON_RESTART)
    began = time.monotonic()
    heard_at = await ears.hear(began)
    assert heard_at is not None and heard_at - began < 20
    assert systemd.restarts == 1 and ears.given_up == 0


async def test_without_permission_the_gateway_gives_up_and_begins_anew(stuck, wait_until):
    ears, bluez, systemd = stuck
    systemd.permits = False
    bluez.stall("hci0", Cure.DAEMON_RESTART)
    await wait_until(lambda: ears.given_up == 1, 20)
    assert systemd.restarts == 0


async def test_a_bluetoothd_that_hangs_for_good_is_replaced(stuck, monkeypatch):
    ears, bluez, systemd = stuck
    monkeypatch.setattr("gateway.bluez.START_SECONDS", 0.5)
    monkeypatch.setattr("gateway.bluez.STOP_SECONDS", 0.5)
    bluez.hang()
    began = time.monotonic()
    heard_at = await ears.hear(began)
    assert heard_at is not None and heard_at - began < 10
    assert systemd.restarts == 1 and ears.given_up == 0
